//! The fields of `dari.yml` that a server of its own mostly does without: models, tools, skills, extensions.

use super::rules::{Fields, Rules};
use super::tree::{Node, Value};

const MODEL: &[&str] = &["provider", "model", "base_url", "api_key_secret", "default", "options", "router_id"];
const PROVIDERS: &[&str] = &["openrouter", "openai", "anthropic"];
const BUILT_IN: &[&str] = &["read", "bash", "edit", "write", "grep", "find", "ls"];
const TOOL: &[&str] = &["name", "path", "kind", "runtime", "handler", "retries", "timeout_seconds", "description"];
/// The longest name of a skill.
const LONGEST: usize = 64;

pub(super) fn read(rules: &mut Rules<'_>, top: &Fields<'_>, is_pi: bool) {
    if is_pi {
        rules.required(top, "llm", "{provider: anthropic, model: …}");
    }
    for key in ["llm", "model_backend"] {
        if let Some(node) = top.get(key) {
            model(rules, node, key);
        }
    }
    if let Some(node) = top.get("built_in_tools")
        && let Some(items) = rules.list(node, "built_in_tools")
    {
        for (n, item) in items.iter().enumerate() {
            rules.word(item, &format!("built_in_tools[{n}]"), BUILT_IN);
        }
        rules.texts(node, "built_in_tools");
    }
    if let Some(node) = top.get("custom_tools") {
        each(rules, node, "custom_tools", TOOL, |rules, tool| {
            named(rules, tool);
            if let Some(path) = rules.required(tool, "path", "tools/search.py")
                && let Some(text) = rules.existing_or_folder(path, &tool.path("path"))
            {
                rules.beneath(path, &tool.path("path"), text, "tools/");
            }
            for (key, words) in [("kind", ["main", "external"]), ("runtime", ["typescript", "python"])] {
                if let Some(node) = tool.get(key) {
                    rules.word(node, &tool.path(key), &words);
                }
            }
            for key in ["handler", "description"] {
                if let Some(node) = tool.get(key) {
                    rules.text(node, &tool.path(key));
                }
            }
            for (key, least) in [("retries", 0), ("timeout_seconds", 1)] {
                if let Some(node) = tool.get(key) {
                    rules.whole(node, &tool.path(key), least..=86400);
                }
            }
        });
    }
    if let Some(node) = top.get("skills") {
        each(rules, node, "skills", &["name", "path"], skill);
    }
    if let Some((at, node)) = top.find("extensions") {
        let is_empty = matches!(&node.value, Value::List(items) if items.is_empty());
        if !is_pi && !is_empty {
            rules.wrong(at, "extensions", "are for the harness `pi` only; remove them");
        }
        each(rules, node, "extensions", &["name", "path"], |rules, extension| {
            named(rules, extension);
            if let Some(path) = rules.required(extension, "path", "extensions/mine") {
                rules.existing_or_folder(path, &extension.path("path"));
            }
        });
    }
}

fn model(rules: &mut Rules<'_>, node: &Node, key: &str) {
    let Some(model) = rules.map(node, key, MODEL) else { return };
    if let Some(node) = model.get("router_id") {
        if let Some(id) = rules.text(node, &model.path("router_id"))
            && !id.starts_with("rtr_")
        {
            rules.wrong(
                node.at,
                &model.path("router_id"),
                format!("`{id}` is no id of a router; it begins with `rtr_`"),
            );
        }
        for (at, other, _) in model.entries().filter(|(_, name, _)| *name != "router_id") {
            rules.wrong(at, &model.path(other), "cannot stand beside `router_id`; remove one");
        }
        return;
    }
    if let Some(node) = model.get("provider") {
        rules.word(node, &model.path("provider"), PROVIDERS);
    }
    for key in ["model", "base_url", "api_key_secret", "default"] {
        if let Some(node) = model.get(key) {
            rules.text(node, &model.path(key));
        }
    }
    if let Some((at, _)) = model.find("default")
        && model.get("options").is_none()
    {
        rules.wrong(at, &model.path("default"), "names one of `options`, which are missing; add them");
    }
}

fn skill(rules: &mut Rules<'_>, skill: &Fields<'_>) {
    if let Some(node) = rules.required(skill, "name", "my-skill")
        && let Some(name) = rules.text(node, &skill.path("name"))
    {
        let word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        if name.len() > LONGEST || !name.split('-').all(word) {
            let message = format!("has to be lower-case words with hyphens, at most {LONGEST} characters");
            rules.wrong(node.at, &skill.path("name"), format!("`{name}` {message}"));
        }
    }
    if let Some(node) = rules.required(skill, "path", "skills/my-skill")
        && let Some(path) = rules.existing_or_folder(node, &skill.path("path"))
    {
        rules.beneath(node, &skill.path("path"), path, "skills/");
        let place = rules.bundle.join(path);
        let file = if place.is_dir() { place.join("SKILL.md") } else { place };
        if !(file.is_file() && file.ends_with("SKILL.md")) {
            rules.wrong_file(node.at, &skill.path("path"), format!("`{path}` has no SKILL.md; add one"));
        }
    }
}

fn named(rules: &mut Rules<'_>, fields: &Fields<'_>) {
    if let Some(name) = rules.required(fields, "name", "my-name") {
        rules.text(name, &fields.path("name"));
    }
}

/// Every entry of a list of mappings.
fn each(rules: &mut Rules<'_>, node: &Node, field: &str, known: &[&str], look: impl Fn(&mut Rules<'_>, &Fields<'_>)) {
    for (n, item) in rules.list(node, field).unwrap_or_default().iter().enumerate() {
        if let Some(fields) = rules.map(item, &format!("{field}[{n}]"), known) {
            look(rules, &fields);
        }
    }
}

impl Rules<'_> {
    /// A path in the bundle of something that is there.
    fn existing_or_folder<'n>(&mut self, node: &'n Node, field: &str) -> Option<&'n str> {
        let text = self.path(node, field)?;
        if self.bundle.join(text).exists() {
            return Some(text);
        }
        self.wrong_file(node.at, field, format!("`{text}` is not in the bundle; add it, or name another"));
        None
    }

    fn beneath(&mut self, node: &Node, field: &str, path: &str, folder: &str) {
        if !path.starts_with(folder) {
            self.wrong(node.at, field, format!("`{path}` has to be under `{folder}`; move it"));
        }
    }
}
