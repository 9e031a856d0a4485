//! Which directories an agent may work in.
//!
//! Owns the checks, their order and their sentences.

use std::io::ErrorKind;
use std::path::{Component, Path};

/// Directories with keys, below the server's home.
const SENSITIVE: [&str; 7] = [".ssh", ".gnupg", ".aws", ".kube", ".docker", ".config/gcloud", "Library/Keychains"];

/// Checks a working directory as it was sent.
///
/// # Errors
/// What is wrong with it.
pub fn check(sent: &str, home: Option<&Path>) -> Result<(), String> {
    let path = Path::new(sent);
    if !path.is_absolute() {
        return Err(format!("working directory must be absolute: {sent}"));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(format!("working directory cannot contain '..': {sent}"));
    }
    let metadata = path.metadata().map_err(|error| match error.kind() {
        ErrorKind::NotFound => format!("working directory does not exist: {sent}"),
        _ => format!("cannot stat working directory: {sent}: {error}"),
    })?;
    if !metadata.is_dir() {
        return Err(format!("working directory is not a directory: {sent}"));
    }
    let real = path.canonicalize().map_err(|error| format!("failed to resolve symlinks in {sent}: {error}"))?;
    if real == Path::new("/") {
        return Err("working directory cannot be the filesystem root".to_owned());
    }
    let Some(home) = home else { return Ok(()) };
    let home = home.canonicalize().unwrap_or_else(|_| home.to_owned());
    for name in SENSITIVE {
        let kept = home.join(name);
        if real.starts_with(&kept) || kept.starts_with(&real) {
            return Err(format!("working directory cannot be or contain sensitive directory: {name}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let home = root.join("home");
        for name in ["home/.ssh/deep", "home/work", "else/.ssh"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        std::fs::write(root.join("file"), "").unwrap();
        symlink(home.join(".ssh"), root.join("link")).unwrap();
        symlink(root.join("nowhere"), root.join("broken")).unwrap();
        symlink("/", root.join("root")).unwrap();
        let said = |path: &str| check(path, Some(&home)).err().unwrap_or_default();
        let at = |name: &str| format!("{}/{name}", root.display());
        assert_eq!(said("rel/../x"), "working directory must be absolute: rel/../x");
        assert_eq!(said("/no/../x"), "working directory cannot contain '..': /no/../x");
        assert_eq!(said("/no/such"), "working directory does not exist: /no/such");
        assert_eq!(said(&at("broken")), format!("working directory does not exist: {}", at("broken")));
        assert!(said(&at("file/x")).starts_with("cannot stat working directory: "));
        assert_eq!(said(&at("file")), format!("working directory is not a directory: {}", at("file")));
        assert_eq!(said("/"), "working directory cannot be the filesystem root");
        assert_eq!(said(&at("root")), "working directory cannot be the filesystem root");
        let ssh = "working directory cannot be or contain sensitive directory: .ssh";
        for path in ["home", "home/.ssh", "home/.ssh/deep", "link"] {
            assert_eq!(said(&at(path)), ssh, "{path}");
        }
        assert_eq!(said(&root.display().to_string()), ssh, "a parent of the home, too");
        std::fs::remove_dir_all(home.join(".ssh")).unwrap();
        assert_eq!(said(&at("home")), ssh, "also where it does not exist");
        assert_eq!(said(&at("home/work")), "");
        assert_eq!(said(&at("else/.ssh")), "");
        assert_eq!(check(&at("home"), None), Ok(()));
    }
}
