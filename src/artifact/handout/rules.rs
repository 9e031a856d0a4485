//! Which names of a watched directory are nobody's business.
//!
//! Owns the rules of one directory and where they come from, and the names that are never announced whatever the rules
//! say. Does not read directories.

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::io::{self, Read};
use std::path::Path;

/// The file with a directory's own rules.
pub(super) const RULES_FILE: &str = ".artifactignore";
/// More than this of a rules file is not read: each rule costs memory for as long as the session lasts.
const LONGEST: u64 = 256 << 10;
/// What is ignored where nobody said anything: directories only.
const USUAL: &str =
    "node_modules/\n.venv/\n.env/\nenv/\nvenv/\ndist/\n__pycache__/\n__pytest_cache__/\n.pytest_cache/\n";
/// What unfinished downloads are called. The same as in `artifact::download`.
const UNFINISHED_DOWNLOAD: &str = crate::artifact::download::TEMPORARY_PREFIX;

/// The rules of one directory.
pub(super) struct Rules(Gitignore);

impl Rules {
    /// Rules from text in the syntax of a `.gitignore`. Lines that are none are skipped with a warning.
    pub(super) fn from_text(text: &str) -> Self {
        let mut builder = GitignoreBuilder::new("");
        for (number, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
            if let Err(error) = builder.add_line(None, line) {
                tracing::warn!("line {} of the ignore rules is skipped: {error}", number + 1);
            }
        }
        Self(builder.build().unwrap_or_else(|error| {
            tracing::warn!("the ignore rules cannot be used, nothing is ignored: {error}");
            Gitignore::empty()
        }))
    }

    /// The rules of a directory for which the request gave none: its own file's, or the usual ones.
    pub(super) fn of_directory(directory: &Path) -> Self {
        match read(&directory.join(RULES_FILE)) {
            Ok(text) => Self::from_text(&text),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!("{}/{RULES_FILE} cannot be read: {error}", directory.display());
                }
                tracing::warn!(
                    "no ignore rules for {}: directories like node_modules/ and .venv/ are ignored",
                    directory.display()
                );
                Self::from_text(USUAL)
            }
        }
    }

    /// Whether a path relative to the directory is ignored, if nothing above it is.
    pub(super) fn ignores(&self, relative: &Path, is_directory: bool) -> bool {
        self.0.matched(relative, is_directory).is_ignore()
    }

    /// Whether a path, or a directory above it, is ignored.
    #[cfg(any(fuzzing, test))]
    pub(super) fn ignores_with_parents(&self, relative: &Path, is_directory: bool) -> bool {
        self.ignores(relative, is_directory)
            || relative
                .ancestors()
                .skip(1)
                .take_while(|above| !above.as_os_str().is_empty())
                .any(|above| self.ignores(above, true))
    }
}

fn read(path: &Path) -> io::Result<String> {
    let file = std::fs::OpenOptions::new().read(true).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut text = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut text)?;
    if text.len() > usize::try_from(LONGEST).unwrap_or(usize::MAX) {
        tracing::warn!("{} is longer than {LONGEST} bytes; the rest is not read", path.display());
        // The last line may be half a rule, which could ignore more than was meant.
        let end = text.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        text.truncate(end);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Whether a file of this name is never announced: rules, what editors leave for a moment, and unfinished downloads.
pub(super) fn is_private(name: &str) -> bool {
    if name == RULES_FILE || name.ends_with('~') || name.starts_with(UNFINISHED_DOWNLOAD) {
        return true;
    }
    let Some((before, extension)) = name.rsplit_once('.') else { return false };
    match extension {
        // Vim counts down from `swp`; `swf` is a film and comes too late in that row to be one of them.
        "swp" | "swo" | "swn" | "swm" | "swl" | "swk" | "swx" | "swpx" => true,
        "tmp" => before.contains(".subl"),
        _ => false,
    }
}

/// What the fuzzer calls: never panics, whatever the rules and the path are.
#[cfg(any(fuzzing, test))]
#[must_use]
pub fn fuzz_rules(text: &str, relative: &Path, is_directory: bool) -> bool {
    Rules::from_text(text).ignores_with_parents(relative, is_directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_usual_rules_are_about_directories() {
        let rules = Rules::from_text(USUAL);
        assert!(rules.ignores(Path::new("node_modules"), true));
        assert!(rules.ignores(Path::new("deep/dist"), true));
        assert!(rules.ignores_with_parents(Path::new("a/venv/b/c.txt"), false));
        for name in [".env", ".env.local", ".hidden", "dist", "..dots.txt"] {
            assert!(!rules.ignores(Path::new(name), false), "{name}");
        }
    }

    #[test]
    fn later_rules_win_and_anchors_hold() {
        let rules = Rules::from_text("*.log\n!keep.log\n/top\n# a remark\nsub/*.bin\n[\n");
        assert!(rules.ignores(Path::new("a/b.log"), false));
        assert!(!rules.ignores(Path::new("a/keep.log"), false));
        assert!(rules.ignores(Path::new("top"), false));
        assert!(!rules.ignores(Path::new("a/top"), false));
        assert!(rules.ignores(Path::new("sub/x.bin"), false));
        assert!(!rules.ignores(Path::new("x.bin"), false));
    }

    #[test]
    fn what_editors_leave_is_private() {
        for name in ["a.swp", ".a.swo", "a.txt~", "x.subl123.tmp", RULES_FILE, ".turnhost-download-1"] {
            assert!(is_private(name), "{name}");
        }
        for name in ["film.swf", "a.tmp", "~a", "swp", ".env", "..dots.txt", "a.swp.txt"] {
            assert!(!is_private(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_rules_and_no_path_panic(text in "(?s).{0,200}", path in "(?s).{0,60}", directory: bool) {
            let _ = fuzz_rules(&text, Path::new(&path), directory);
            let _ = is_private(&path);
        }

        #[test]
        fn a_name_ignores_itself_and_what_is_below(name in "[a-z]{1,8}", below in "[a-z]{1,8}") {
            let rules = Rules::from_text(&format!("{name}/\n"));
            prop_assert!(!rules.ignores_with_parents(Path::new(&name), false));
            prop_assert!(rules.ignores_with_parents(&Path::new(&name).join(&below), false));
        }
    }
}
