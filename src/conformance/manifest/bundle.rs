//! The files beside `dari.yml`: what a platform takes with the bundle, and what it refuses.

use super::super::Place;
use super::rules::Rules;
use ignore::WalkBuilder;

/// No more files of a bundle are looked at.
const MOST: usize = 20_000;

/// Symbolic links are refused by the platform.
pub(super) fn look(rules: &mut Rules<'_>) {
    let walk = WalkBuilder::new(rules.bundle).hidden(false).require_git(false).follow_links(false).build();
    let entries = walk.filter_map(Result::ok).filter(|entry| entry.path_is_symlink()).take(MOST);
    for entry in entries.filter(|entry| !entry.path().components().any(|part| part.as_os_str() == ".git")).take(20) {
        let path = entry.path().strip_prefix(rules.bundle).unwrap_or(entry.path());
        rules.files.push(Place {
            file: path.display().to_string(),
            line: None,
            column: None,
            field: String::new(),
            message: "is a symbolic link, which the platform refuses; put the file itself there, or let git ignore it"
                .to_owned(),
        });
    }
}

/// What the builder of E2B cannot do, or would do at the wrong time.
pub(super) fn dockerfile(rules: &mut Rules<'_>, path: &str, provider: &str) {
    let text = std::fs::read_to_string(rules.bundle.join(path)).unwrap_or_default();
    let mut stages = 0;
    for (n, line) in text.lines().enumerate() {
        let word = line.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        stages += usize::from(word == "FROM");
        let message = match word.as_str() {
            "FROM" if stages == 2 && provider == "e2b" => {
                "begins a second stage, which E2B refuses; copy a ready binary instead"
            }
            "CMD" | "ENTRYPOINT" if provider == "e2b" => {
                "is run by E2B while the template is built, and its process would be part of it; remove the line, dari.yml has the command"
            }
            _ => continue,
        };
        rules.files.push(Place {
            file: path.to_owned(),
            line: u64::try_from(n + 1).ok(),
            column: None,
            field: word,
            message: message.to_owned(),
        });
    }
    if stages == 0 {
        rules.files.push(Place {
            file: path.to_owned(),
            line: None,
            column: None,
            field: String::new(),
            message: "has no FROM; a Dockerfile begins with one".to_owned(),
        });
    }
}
