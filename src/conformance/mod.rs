//! Contracts that can be checked from outside: what a server of a protocol has to do, as named checks.
//!
//! Owns what a check is and the list of all of them; one file per protocol has the checks themselves. `manifest`
//! reads a bundle and `start` starts it; nothing is printed: each finding is told to whoever asked.
//!
//! A name never changes its meaning once it was released. Each has a paragraph in `docs/checks.md`, which is part of the
//! binary; a test compares the two.

pub mod dari;
pub mod handler;
pub mod manifest;
mod report;
pub mod runtimeuse;
pub mod sessions;
pub mod start;

pub use report::{Finding, Lines, Place, Report, Verdict};

/// One thing that a contract says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// Words with hyphens, the protocol first: `dari-first-turn`.
    pub name: &'static str,
    /// What has to be, in one sentence without a full stop.
    pub expected: &'static str,
}

/// The page with a paragraph for each check.
pub const PAGE: &str = include_str!("../../docs/checks.md");

/// Every check there is, by protocol, in the order in which they are made.
pub const ALL: &[(&str, &[Check])] = &[
    ("manifest", manifest::CHECKS),
    ("start", start::CHECKS),
    ("dari", dari::CHECKS),
    ("stop", start::AT_END),
    ("runtimeuse", runtimeuse::CHECKS),
    ("sessions", sessions::CHECKS),
    ("handler", handler::CHECKS),
];

/// What the page says about a check, without its heading.
#[must_use]
pub fn explained(name: &str) -> Option<&'static str> {
    let heading = format!("\n### {name}\n");
    let at = PAGE.find(&heading)? + heading.len();
    let rest = &PAGE[at..];
    Some(rest[..rest.find("\n#").unwrap_or(rest.len())].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_and_the_list_are_the_same() {
        let listed: Vec<&str> = ALL.iter().flat_map(|(_, checks)| checks.iter().map(|check| check.name)).collect();
        let on_page: Vec<&str> = PAGE.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        assert_eq!(on_page, listed);
        for name in listed {
            let paragraph = explained(name).unwrap();
            assert!(paragraph.len() > 60, "{name}: {paragraph}");
            assert!(!paragraph.contains("\n\n"), "{name} has more than one paragraph");
        }
        assert_eq!(explained("dari"), None);
    }

    #[test]
    fn names_begin_with_their_protocol() {
        for (protocol, checks) in ALL {
            for check in *checks {
                assert!(check.name.starts_with(&format!("{protocol}-")), "{}", check.name);
                assert!(!check.expected.ends_with('.'), "{}", check.name);
            }
        }
    }
}
