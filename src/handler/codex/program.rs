//! Where the Codex CLI is.
//!
//! Owns the search. npm installs a wrapper that needs Node.js and starts the program beside it: that is started at once.

use super::CodexOptions;
use crate::process::{is_program, on_path};
use std::fs;
use std::path::{Path, PathBuf};

const MISSING: &str = "the codex agent requires the Codex CLI (`codex`) to be installed: npm install -g @openai/codex";

/// What npm calls this machine.
const PLATFORM: &str = if cfg!(target_arch = "aarch64") { "codex-linux-arm64" } else { "codex-linux-x64" };

/// The program to start.
///
/// # Errors
/// One sentence that says how to get it.
pub fn find(options: &CodexOptions) -> Result<PathBuf, String> {
    if let Some(program) = &options.program {
        let known = is_program(program).then(|| native(program));
        return known.ok_or_else(|| format!("--codex-program {}: not a program", program.display()));
    }
    let path = options.environment.get("PATH").unwrap_or_default();
    let found = on_path("codex", path).map(|program| native(&program));
    let found = found.or_else(|| in_package(&options.workspace.join("node_modules/@openai").join(PLATFORM)));
    found.ok_or_else(|| MISSING.to_owned())
}

/// The program that npm's wrapper would start, if this is the wrapper.
fn native(program: &Path) -> PathBuf {
    let wrapper = program.canonicalize().ok().filter(|real| real.ends_with("@openai/codex/bin/codex.js"));
    let package = wrapper.as_deref().and_then(Path::parent).and_then(Path::parent);
    let found = package.and_then(|package| {
        let inside = in_package(&package.join("node_modules/@openai").join(PLATFORM));
        inside.or_else(|| in_package(&package.parent()?.join(PLATFORM)))
    });
    // It is started in the workspace, and a relative path would begin there.
    found.or_else(|| std::path::absolute(program).ok()).unwrap_or_else(|| program.to_owned())
}

/// The program in a platform's package: below a folder that is named for the compiler's target.
fn in_package(package: &Path) -> Option<PathBuf> {
    let targets = fs::read_dir(package.join("vendor")).ok()?.flatten();
    let mut programs = targets.flat_map(|target| ["bin/codex", "codex/codex"].map(|place| target.path().join(place)));
    programs.find(|one| is_program(one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Environment;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    fn program(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn options(workspace: &Path, path: &Path) -> CodexOptions {
        CodexOptions {
            program: None,
            model: None,
            effort: None,
            sandbox: String::new(),
            start_timeout: Duration::ZERO,
            retry_limit: Duration::ZERO,
            stop_grace: Duration::ZERO,
            home: None,
            environment: Environment::empty().with("PATH", path),
            workspace: workspace.to_owned(),
        }
    }

    #[test]
    fn the_program_beside_the_wrapper_is_preferred() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let (bin, modules) = (folder.join("bin"), folder.join("node_modules/@openai"));
        let options = options(&folder, &bin);
        assert_eq!(find(&options).unwrap_err(), MISSING);

        let wrapper = modules.join("codex/bin/codex.js");
        program(&wrapper);
        fs::create_dir_all(&bin).unwrap();
        std::os::unix::fs::symlink(&wrapper, bin.join("codex")).unwrap();
        assert_eq!(find(&options).unwrap(), bin.join("codex"), "nothing else is there");

        let native = modules.join(PLATFORM).join("vendor/some-target/bin/codex");
        program(&native);
        assert_eq!(find(&options).unwrap(), native);
        let nested = modules.join("codex/node_modules/@openai").join(PLATFORM).join("vendor/t/bin/codex");
        program(&nested);
        assert_eq!(find(&options).unwrap(), nested);

        fs::remove_dir_all(&bin).unwrap();
        assert_eq!(find(&options).unwrap(), native, "in the workspace");
        program(&bin.join("codex"));
        assert_eq!(find(&options).unwrap(), bin.join("codex"), "a program of its own");
        let named = CodexOptions { program: Some(folder.join("nowhere")), ..options };
        assert!(find(&named).unwrap_err().starts_with("--codex-program "));
    }
}
