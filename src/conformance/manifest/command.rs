//! What the command of `dari.yml` means, as far as it can be known without running it.
//!
//! The platform may start it without a shell, in any folder, with its own `PATH`.

use super::Manifest;
use super::rules::Rules;
use super::tree::At;
use std::path::Path;

const FIELD: &str = "harness.customRuntimeServer.command";

/// What only a shell understands, when it is a word of its own or begins one.
const OF_A_SHELL: &[&str] = &["&&", "||", ";", "|", "&", ">", ">>", "<", "2>&1"];

/// Agents that call a model.
const CALLERS: &[&str] = &["openai", "claude", "codex"];

pub(super) fn look(rules: &mut Rules<'_>, manifest: &Manifest, at: At) {
    let words = &manifest.command;
    let is_shell = |word: &&String| {
        OF_A_SHELL.contains(&word.as_str()) || word.starts_with('$') || word.contains("$(") || word.contains("${")
    };
    if let Some(word) = words.iter().find(is_shell) {
        let message = "is for a shell, and the command may be started without one; put it into a script of the bundle";
        rules.wrong(at, FIELD, format!("`{word}` {message}"));
        return;
    }
    if let Some((name, _)) = words[0].split_once('=').filter(|(name, _)| !name.contains('/')) {
        rules.wrong(
            at,
            FIELD,
            format!("`{}` sets a variable as a shell does; put {name} into `sandbox.env`", words[0]),
        );
        return;
    }
    let program = Path::new(&words[0]);
    let in_bundle = rules.bundle.join(program);
    if words[0].contains('/') && program.is_relative() {
        if !in_bundle.is_file() {
            rules.wrong(at, FIELD, format!("`{}` is not in the bundle; add it, or name an absolute path", words[0]));
        } else if !crate::process::is_program(&in_bundle) {
            rules.wrong(at, FIELD, format!("`{0}` is not executable; `chmod +x {0}` makes it so", words[0]));
        }
    } else if program.is_absolute() && program.is_file() && !crate::process::is_program(program) {
        rules.wrong(at, FIELD, format!("`{0}` is not executable; `chmod +x {0}` makes it so", words[0]));
    }
    if program.file_name().is_some_and(|name| name == "turnhost") {
        turnhost(rules, manifest, at);
    }
}

/// Options of our own that cannot work in a sandbox.
fn turnhost(rules: &mut Rules<'_>, manifest: &Manifest, at: At) {
    let words = &manifest.command;
    if let Some(handler) = value(words, "--handler")
        && Path::new(handler).is_relative()
        && !rules.bundle.join(handler).is_file()
    {
        rules.wrong(at, FIELD, format!("the handler `{handler}` is not in the bundle; add it, or build it first"));
    }
    if let Some(port) = value(words, "--port") {
        rules.wrong(
            at,
            FIELD,
            format!("`--port {port}` hides the variable PORT, by which the platform says the port; remove it"),
        );
    }
    let has = |flag: &str| words.iter().any(|word| word == flag || word.starts_with(&format!("{flag}=")));
    if !has("--host") {
        rules.wrong(at, FIELD, "without `--host 0.0.0.0` nothing outside the sandbox reaches the server; add it");
    } else if !has("--no-auth") && !has("--token-file") && !manifest.secrets.iter().any(|name| name == "TURNHOST_TOKEN")
    {
        rules.wrong(
            at,
            FIELD,
            "a server that listens to others needs `--no-auth` or a token; the platform sends none, so add `--no-auth`",
        );
    }
    let agent = value(words, "--agent").unwrap_or("openai");
    if value(words, "--handler").is_none() && CALLERS.contains(&agent) && !manifest.internet {
        rules.wrong(
            at,
            FIELD,
            format!("the agent `{agent}` calls its model, but `sandbox.internet_access` is not true; set it"),
        );
    }
}

fn value<'w>(words: &'w [String], flag: &str) -> Option<&'w str> {
    let mut words = words.iter();
    loop {
        let word = words.next()?;
        if word == flag {
            return words.next().map(String::as_str);
        }
        if let Some(value) = word.strip_prefix(flag).and_then(|rest| rest.strip_prefix('=')) {
            return Some(value);
        }
    }
}
