//! Where Claude Code's program is.
//!
//! Owns the order of places. Every package of it brings the same native program, which needs no node.

use crate::process::{Environment, is_program, on_path};
use std::path::{Path, PathBuf};

/// Why no turn can work.
pub const MISSING: &str = "the Claude handler requires the Claude CLI (`claude`) to be installed.\n\
     Install it with: npm install -g @anthropic-ai/claude-code@2.1.329\n\
     or name it: --claude-program PATH";

/// The folders of a `node_modules` that hold the program, for this machine.
fn packages() -> [String; 3] {
    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    ["claude-code-linux", "claude-agent-sdk-linux", "claude-code-linux-musl"]
        .map(|name| format!("@anthropic-ai/{name}-{machine}/claude"))
}

/// Looks for it: on `PATH`, then in the packages of npm and PyPI that belong to the workspace and to what is on `PATH`.
pub fn find(environment: &Environment, workspace: &Path) -> Option<PathBuf> {
    let path = environment.get("PATH").unwrap_or_default().to_owned();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect();
    on_path("claude", &path).or_else(|| {
        let home = environment.get("HOME").map(PathBuf::from);
        let modules = workspace.ancestors().chain(home.as_deref()).map(|folder| folder.join("node_modules"));
        let prefixes = folders.iter().filter_map(|folder| folder.parent());
        let global = prefixes.clone().map(|prefix| prefix.join("lib/node_modules"));
        let of_npm = modules.chain(global).flat_map(|folder| packages().map(|package| folder.join(package)));
        let of_pypi = prefixes.flat_map(|prefix| {
            let versions = std::fs::read_dir(prefix.join("lib")).into_iter().flatten().flatten();
            let pythons = versions.filter(|entry| entry.file_name().to_string_lossy().starts_with("python3"));
            pythons.map(|entry| entry.path().join("site-packages/claude_agent_sdk/_bundled/claude")).collect::<Vec<_>>()
        });
        of_npm.chain(of_pypi).find(|file| is_program(file))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn places_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let place = |path: &str, mode: u32| {
            let file = root.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            file
        };
        let environment = Environment::empty().with("PATH", root.join("usr/bin")).with("HOME", root.join("home"));
        let workspace = root.join("work/deep");
        fs::create_dir_all(&workspace).unwrap();
        let found = || find(&environment, &workspace);
        assert_eq!(found(), None);
        let pypi = place("usr/lib/python3.12/site-packages/claude_agent_sdk/_bundled/claude", 0o755);
        assert_eq!(found(), Some(pypi));
        let global = place(&format!("usr/lib/node_modules/{}", packages()[1]), 0o755);
        assert_eq!(found(), Some(global));
        let local = place(&format!("work/node_modules/{}", packages()[0]), 0o755);
        assert_eq!(found(), Some(local.clone()));
        place("usr/bin/claude", 0o644);
        assert_eq!(found(), Some(local), "what may not be executed does not count");
        fs::remove_file(root.join("usr/bin/claude")).unwrap();
        let on_path = place("usr/bin/claude", 0o755);
        assert_eq!(found(), Some(on_path));
    }
}
