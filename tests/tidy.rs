//! Holds the shape of the house: what clippy has no rule for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends with a panic")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const LONGEST_FILE: usize = 500;
const LONGEST_FUNCTION: usize = 100;

/// Who may import whom. A room that is not named as a key is a leaf's or the command line's business below.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("redact", &["json", "model"]),
    ("model", &["redact"]),
    ("json", &["model"]),
    ("wire", &["model", "json"]),
    ("process", &["awake", "telemetry"]),
    ("awake", &[]),
    ("telemetry", &["json", "model", "outbound", "redact"]),
    ("outbound", &["redact"]),
    ("failpoint", &[]),
    ("artifact", &["model", "redact", "outbound", "awake", "telemetry"]),
    ("store", &["model", "wire", "failpoint", "telemetry"]),
    ("handler", &["model", "json", "redact", "wire", "process", "outbound", "telemetry"]),
    (
        "engine",
        &["model", "handler", "artifact", "process", "store", "redact", "telemetry", "outbound", "failpoint", "awake"],
    ),
    (
        "api",
        &[
            "model",
            "json",
            "redact",
            "wire",
            "engine",
            "artifact",
            "handler",
            "store",
            "telemetry",
            "failpoint",
            "awake",
        ],
    ),
    // A contract as it is seen from outside: nothing of the server that may be on the other side.
    ("conformance", &["model", "json", "redact", "wire", "process", "outbound"]),
    // What benches reach of the inner rooms.
    ("inside", &["api", "engine", "model", "process"]),
    ("config", &["api", "engine", "artifact", "handler", "outbound", "process", "redact", "store", "telemetry"]),
    (
        "cli",
        &[
            "api",
            "engine",
            "handler",
            "store",
            "model",
            "json",
            "wire",
            "redact",
            "process",
            "telemetry",
            "config",
            "conformance",
            "outbound",
            "failpoint",
        ],
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn sources() -> BTreeMap<String, String> {
    let src = root().join("src");
    let sources: BTreeMap<String, String> = files(&src, "rs")
        .into_iter()
        .map(|path| (path.strip_prefix(&src).unwrap().display().to_string(), fs::read_to_string(&path).unwrap()))
        .collect();
    assert!(sources.len() > 30, "only {} source files were found", sources.len());
    sources
}

fn is_test(name: &str) -> bool {
    name.ends_with("_tests.rs") || name.ends_with("/tests.rs") || name.contains("/tests/")
}

/// The lines of a file before its own test module.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().take_while(|line| *line != "#[cfg(test)]")
}

fn report(problems: Vec<String>, rule: &str) {
    assert!(problems.is_empty(), "{rule}:\n  {}", problems.join("\n  "));
}

#[test]
fn files_are_short() {
    let sources = sources();
    let long = sources.iter().filter(|(name, _)| !is_test(name)).filter_map(|(name, text)| {
        let lines = text.lines().count();
        (lines > LONGEST_FILE).then(|| format!("{name}: {lines} lines"))
    });
    report(long.collect(), "a file of over 500 lines is two ideas");
    let handlers = files(&root().join("handlers"), "py").into_iter().chain(files(&root().join("handlers"), "mjs"));
    let long = handlers.filter_map(|path| {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        (lines > LONGEST_FILE).then(|| format!("{}: {lines} lines", path.display()))
    });
    report(long.collect(), "a file of over 500 lines is two ideas");
}

#[test]
fn functions_are_short() {
    let mut long = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| !is_test(name)) {
        let lines: Vec<&str> = code(text).collect();
        for (start, line) in lines.iter().enumerate() {
            let indent = line.len() - line.trim_start().len();
            let words = line.trim_start();
            let begins = [
                "fn ",
                "pub fn ",
                "pub(crate) fn ",
                "pub(super) fn ",
                "async fn ",
                "pub async fn ",
                "pub(super) async fn ",
                "pub(crate) async fn ",
                "const fn ",
                "pub const fn ",
            ];
            if !begins.iter().any(|begin| words.starts_with(begin)) || words.ends_with(';') {
                continue;
            }
            let close = format!("{}}}", " ".repeat(indent));
            if let Some(length) = lines[start..].iter().position(|line| *line == close)
                && length > LONGEST_FUNCTION
            {
                long.push(format!("{name}:{}: {length} lines", start + 1));
            }
        }
    }
    report(long, "a function of over 100 lines");
}

#[test]
fn every_file_says_what_it_owns() {
    let silent = sources().into_iter().filter(|(name, text)| !is_test(name) && !text.starts_with("//!"));
    report(silent.map(|(name, _)| name).collect(), "a file without a //! at its top");
}

#[test]
fn names_say_something() {
    let empty = ["utils", "util", "helpers", "helper", "common", "manager", "misc"];
    let all = sources();
    let named = all.keys().filter(|name| {
        name.split(['/', '.'])
            .any(|part| empty.contains(&part) || empty.iter().any(|word| part.ends_with(&format!("_{word}"))))
    });
    report(named.cloned().collect(), "a name that says nothing");
}

#[test]
fn rooms_import_only_what_they_may() {
    let rules: BTreeMap<&str, &[&str]> = MAY_IMPORT.iter().copied().collect();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (name, text) in sources().iter().filter(|(name, _)| !is_test(name)) {
        let room = name.split(['/', '.']).next().unwrap();
        let Some(may) = rules.get(room) else {
            assert!(["lib", "main", "fuzz"].contains(&room), "{name}: no rule for this room");
            continue;
        };
        for (number, line) in code(text).enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for piece in line.split("crate::").skip(1) {
                let other: String = piece.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                seen += 1;
                if other != room && rules.contains_key(other.as_str()) && !may.contains(&other.as_str()) {
                    wrong.push(format!("{name}:{}: {room} imports {other}", number + 1));
                }
            }
        }
    }
    assert!(seen > 60, "only {seen} imports were found: the test does not see");
    report(wrong, "an import against the direction of the house");
}

#[test]
fn adapters_do_not_know_each_other() {
    let protocols = ["dari", "runtimeuse", "sessions", "v1"];
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        for one in protocols {
            let others = protocols.iter().filter(|other| **other != one);
            for other in others {
                if name.starts_with(&format!("api/{one}")) && text.contains(&format!("{other}::")) {
                    wrong.push(format!("{name} knows {other}"));
                }
            }
        }
    }
    report(wrong, "a protocol's adapter that knows another");
}

/// What may stand in one room only.
#[test]
fn some_things_have_one_place() {
    let rules: &[(&str, &[&str])] = &[
        ("Command::new(", &["process/"]),
        ("env::var", &["config/"]),
        ("StatusCode::", &["api/"]),
        ("actix_web", &["api/"]),
        // The file of `--agents` is JSON.
        ("serde", &["wire/", "api/", "json", "redact", "handler/", "cli/", "conformance/", "config/agents"]),
    ];
    let mut wrong = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| !is_test(name)) {
        for (number, line) in code(text).enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for (thing, places) in rules {
                if line.contains(thing) && !places.iter().any(|place| name.starts_with(place)) {
                    wrong.push(format!("{name}:{}: {thing}", number + 1));
                }
            }
        }
    }
    report(wrong, "something outside its room");
}

/// The engine knows no HTTP and no JSON; plain data cannot be serialised, waits for nothing and touches nothing.
#[test]
fn the_inner_rooms_are_plain() {
    let rules: &[(&str, &[&str])] = &[
        ("engine/", &["actix", "http::", "Http", "serde", "json::", "WebSocket"]),
        ("model/", &["serde", "tokio", "std::fs", "std::net", "std::env"]),
        ("wire/", &["tokio", "actix", "std::fs"]),
    ];
    let mut wrong = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| !is_test(name)) {
        for (room, strange) in rules.iter().filter(|(room, _)| name.starts_with(room)) {
            for (number, line) in code(text).enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
                for word in strange.iter().filter(|word| line.contains(**word)) {
                    wrong.push(format!("{name}:{}: {word} in {room}", number + 1));
                }
            }
        }
    }
    report(wrong, "something that an inner room must not know");
}

#[test]
fn lints_are_silenced_with_a_reason() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        let mut lines = text.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            let words = line.trim_start();
            if !(words.starts_with("#[allow(") || words.starts_with("#[expect(") || words.starts_with("#![allow(")) {
                continue;
            }
            let mut whole = line.to_owned();
            while !whole.trim_end().ends_with(']') {
                let Some((_, more)) = lines.next() else { break };
                whole.push_str(more);
            }
            if !whole.contains("reason =") {
                wrong.push(format!("{name}:{}", number + 1));
            }
        }
    }
    report(wrong, "a lint that is silenced without a reason");
}

#[test]
fn no_test_is_skipped() {
    let mut all: Vec<PathBuf> = files(&root().join("src"), "rs");
    all.extend(files(&root().join("tests"), "rs"));
    let word = ["#[ign", "ore"].concat();
    let wrong = all.into_iter().filter(|path| fs::read_to_string(path).unwrap().contains(&word));
    report(wrong.map(|path| path.display().to_string()).collect(), "a test that is skipped");
}

/// A name that fits no test would leave that test out of both halves of `make test`.
#[test]
fn what_is_measured_is_there() {
    let listed = fs::read_to_string(root().join("tests/measured")).unwrap();
    let names = listed.lines().filter(|line| !line.starts_with('#'));
    let is_there = |name: &str| {
        let (modules, function) = name.rsplit_once("::")?;
        let place = root().join("tests/it").join(modules.replace("::", "/"));
        let text = fs::read_to_string(place.with_extension("rs"))
            .or_else(|_| fs::read_to_string(place.join("mod.rs")))
            .ok()?;
        text.contains(&format!("fn {function}()")).then_some(())
    };
    let missing = names.filter(|name| is_there(name).is_none()).map(str::to_owned).collect();
    report(missing, "tests/measured names no test of tests/it");
}
