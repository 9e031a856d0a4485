//! A root directory of the test's own: folders such as `/bundle` and `/workspace` that a server would look into can be
//! there, without being made on the machine that runs the tests.

use super::binary;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Folders of the machine that programs need.
const SYSTEM: [&str; 8] = ["/bin", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/usr"];

/// Mounts the shared folders into the new root, in a mount namespace that ends with the process, and becomes the
/// program. The first two arguments are the root and the folder to start in.
const ENTER: &str = r#"root=$1 folder=$2; shift 2
tools=/usr/sbin:/usr/bin:/sbin:/bin
chroot=$(PATH=$tools; command -v chroot) || exit 125
(
    PATH=$tools
    mount --make-rprivate / || exit 125
    for shared in $SHARED_FOLDERS; do mount --rbind "$shared" "$root$shared" || exit 125; done
) || exit 125
unset SHARED_FOLDERS
exec "$chroot" "$root" /bin/sh -c 'cd "$0" && exec "$@"' "$folder" "$@""#;

/// A root directory. The system's folders are in it, that of the binary under test, and the one for temporary files.
pub struct Root {
    folder: TempDir,
    shared: Vec<PathBuf>,
}

impl Root {
    pub fn new() -> Self {
        let folder = TempDir::new().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let binary = Path::new(binary()).parent().unwrap().to_owned();
        let mut shared: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).filter(|folder| folder.is_dir()).collect();
        for more in [std::env::temp_dir(), binary] {
            if !shared.iter().any(|known| more.starts_with(known)) {
                shared.push(more);
            }
        }
        let root = Self { folder, shared };
        for shared in &root.shared {
            fs::create_dir_all(root.outside(shared)).unwrap();
        }
        root
    }

    /// Writes a file below this root.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.outside(Path::new(path));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Makes a folder below this root.
    pub fn make(&self, folder: &str) {
        fs::create_dir_all(self.outside(Path::new(folder))).unwrap();
    }

    /// Where an absolute path of this root lies on the machine.
    fn outside(&self, path: &Path) -> PathBuf {
        self.folder.path().join(path.strip_prefix("/").unwrap())
    }

    /// The same command with this as its root, started in `folder`. Program and arguments must be in shared folders.
    pub fn command(&self, of: &Command, folder: &str) -> Command {
        let mut command = Command::new("/usr/bin/unshare");
        // As root a mount namespace is to be had for the asking; others become root in a user namespace first.
        command.arg(if nix::unistd::geteuid().is_root() { "-m" } else { "-rm" });
        command.args(["/bin/sh", "-c", ENTER, "sh"]).arg(self.folder.path()).arg(folder);
        command.arg(of.get_program()).args(of.get_args()).env_clear();
        command.envs(of.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let shared: Vec<_> = self.shared.iter().map(|folder| folder.to_str().unwrap()).collect();
        command.env("SHARED_FOLDERS", shared.join(" "));
        command
    }
}
