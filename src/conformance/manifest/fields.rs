//! The fields of `dari.yml` that every bundle has: who it is, what is started, and the sandbox around it.

use super::rules::{Fields, Rules};
use super::tree::{At, Node, Value};
use super::{Manifest, extras};

const TOP: &[&str] = &[
    "name",
    "harness",
    "instructions",
    "sandbox",
    "llm",
    "model_backend",
    "built_in_tools",
    "custom_tools",
    "skills",
    "extensions",
];
const HARNESS: &[&str] = &["kind", "protocol", "customRuntimeServer"];
const SERVER: &[&str] = &["command", "port", "health_path", "advance_path"];
const SANDBOX: &[&str] = &[
    "provider",
    "provider_api_key_secret",
    "internet_access",
    "runtimes",
    "packages",
    "setup",
    "dockerfile",
    "env",
    "secrets",
    "resources",
    "storage_binding",
];
/// A port that is taken in sandboxes of E2B.
const TAKEN: i128 = 49983;

/// What is to be started, and the place of the command; `None` if that much cannot be read.
pub(super) fn read(rules: &mut Rules<'_>, tree: &Node) -> Option<(Manifest, At)> {
    if matches!(tree.value, Value::Null) {
        rules.wrong(tree.at, "", "the file is empty; `turnhost init` writes a complete one");
        return None;
    }
    let top = rules.map(tree, "", TOP)?;
    if let Some(name) = rules.required(&top, "name", "my-agent") {
        rules.text(name, "name");
    }
    let harness =
        rules.required(&top, "harness", "{kind: customRuntimeServer, …}").and_then(|node| harness(rules, node));
    if let Some(node) = rules.required(&top, "instructions", "{system: prompts/system.md}") {
        instructions(rules, node);
    }
    let mut manifest = Manifest { bundle: rules.bundle.to_owned(), ..Manifest::default() };
    if let Some(node) = top.get("sandbox") {
        sandbox(rules, node, &mut manifest);
    }
    let is_pi = matches!(harness, Some(Harness::Pi));
    extras::read(rules, &top, is_pi);
    match harness? {
        Harness::Pi => Some((manifest, tree.at)),
        Harness::Server { command, at, port, health_path, advance_path } => {
            Some((Manifest { command, port, health_path, advance_path, ..manifest }, at))
        }
    }
}

enum Harness {
    Pi,
    Server { command: Vec<String>, at: At, port: u16, health_path: String, advance_path: String },
}

fn harness(rules: &mut Rules<'_>, node: &Node) -> Option<Harness> {
    if let Value::Text(word) = &node.value {
        if word == "pi" {
            return Some(Harness::Pi);
        }
        rules.wrong(
            node.at,
            "harness",
            format!("is `{word}`; it is `pi`, or a mapping with `kind: customRuntimeServer`"),
        );
        return None;
    }
    let harness = rules.map(node, "harness", HARNESS)?;
    let kind = rules.required(&harness, "kind", "customRuntimeServer");
    let kind = kind.and_then(|kind| rules.word(kind, "harness.kind", &["customRuntimeServer", "pi"]));
    if kind == Some("pi") {
        return Some(Harness::Pi);
    }
    if let Some(protocol) = rules.required(&harness, "protocol", "dari-runtime-v1") {
        rules.word(protocol, "harness.protocol", &["dari-runtime-v1"]);
    }
    let server = rules.required(&harness, "customRuntimeServer", "{command: …, port: 8787}")?;
    let server = rules.map(server, "harness.customRuntimeServer", SERVER)?;
    let command = rules.required(&server, "command", "/usr/local/bin/turnhost serve --agent claude");
    let command = command.and_then(|node| {
        let text = rules.text(node, &server.path("command"))?;
        let words = shlex::split(text).filter(|words| !words.is_empty());
        if words.is_none() {
            rules.wrong(node.at, &server.path("command"), "has a quote that is never closed; close it");
        }
        Some((words?, node.at))
    });
    let port = rules.required(&server, "port", "8787").and_then(|node| port(rules, node, &server.path("port")));
    let health_path = url_path(rules, &server, "health_path", "/health");
    let advance_path = url_path(rules, &server, "advance_path", "/runtime/advance");
    if health_path.is_some()
        && health_path == advance_path
        && let Some(at) = server.find("advance_path").or(server.find("health_path")).map(|(at, _)| at)
    {
        rules.wrong(at, &server.path("advance_path"), "is the health path too; give each its own");
    }
    let (command, at) = command?;
    Some(Harness::Server { command, at, port: port?, health_path: health_path?, advance_path: advance_path? })
}

fn port(rules: &mut Rules<'_>, node: &Node, field: &str) -> Option<u16> {
    let port = rules.whole(node, field, 1..=65535)?;
    if port == TAKEN {
        rules.wrong(node.at, field, format!("{TAKEN} is taken in sandboxes of E2B; take another, for example 8787"));
        return None;
    }
    u16::try_from(port).ok()
}

fn url_path(rules: &mut Rules<'_>, server: &Fields<'_>, key: &str, default: &str) -> Option<String> {
    let Some(node) = server.get(key) else {
        rules.notes.push(format!("{key} is not written out: {default} is assumed"));
        return Some(default.to_owned());
    };
    let field = server.path(key);
    let text = rules.text(node, &field)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.~".contains(c);
    if text.len() > 1 && text.starts_with('/') && !text.contains("//") && text.chars().all(plain) {
        return Some(text.to_owned());
    }
    rules.wrong(
        node.at,
        &field,
        format!("`{text}` is no path of a URL; it begins with a slash, for example `{default}`"),
    );
    None
}

fn instructions(rules: &mut Rules<'_>, node: &Node) {
    let Some(fields) = rules.map(node, "instructions", &["system"]) else { return };
    let Some(system) = rules.required(&fields, "system", "prompts/system.md") else { return };
    let Some(path) = rules.existing(system, "instructions.system") else { return };
    let text = std::fs::read(rules.bundle.join(path)).unwrap_or_default();
    match String::from_utf8(text) {
        Ok(text) if text.trim().is_empty() => {
            rules.wrong_file(
                system.at,
                "instructions.system",
                format!("`{path}` is empty; write the instructions into it"),
            );
        }
        Ok(_) => {}
        Err(_) => rules.wrong_file(system.at, "instructions.system", format!("`{path}` is not UTF-8; save it so")),
    }
    let is_markdown = path.rsplit_once('.').is_some_and(|(_, end)| matches!(end, "md" | "markdown"));
    if !is_markdown {
        rules.wrong(system.at, "instructions.system", format!("`{path}` is no Markdown file; name it with `.md`"));
    }
}

fn sandbox(rules: &mut Rules<'_>, node: &Node, manifest: &mut Manifest) {
    let Some(sandbox) = rules.map(node, "sandbox", SANDBOX) else { return };
    let provider = sandbox.get("provider").and_then(|node| rules.word(node, "sandbox.provider", &["e2b", "modal"]));
    let provider = provider.unwrap_or("e2b");
    if let Some(node) = sandbox.get("provider_api_key_secret") {
        rules.text(node, "sandbox.provider_api_key_secret");
    }
    if let Some(node) = sandbox.get("internet_access") {
        manifest.internet = rules.boolean(node, "sandbox.internet_access").unwrap_or_default();
    }
    if let Some(runtimes) = sandbox.get("runtimes").and_then(|node| rules.open_map(node, "sandbox.runtimes")) {
        for (_, name, version) in runtimes.entries() {
            rules.text(version, &runtimes.path(name));
        }
    }
    if let Some(packages) = sandbox.get("packages").and_then(|node| rules.map(node, "sandbox.packages", &["apt"]))
        && let Some(apt) = packages.get("apt")
    {
        rules.texts(apt, "sandbox.packages.apt");
    }
    if let Some(setup) = sandbox.get("setup").and_then(|node| rules.map(node, "sandbox.setup", &["script"]))
        && let Some(script) = rules.required(&setup, "script", "setup.sh")
        && let Some(path) = rules.existing(script, "sandbox.setup.script")
        && !crate::process::is_program(&rules.bundle.join(path))
    {
        rules.wrong_file(
            script.at,
            "sandbox.setup.script",
            format!("`{path}` is not executable; `chmod +x {path}` makes it so"),
        );
    }
    if let Some((at, node)) = sandbox.find("dockerfile") {
        let path = rules.existing(node, "sandbox.dockerfile");
        for other in ["runtimes", "packages", "setup"].into_iter().filter(|other| sandbox.get(other).is_some()) {
            rules.wrong(
                at,
                "sandbox.dockerfile",
                format!("excludes `sandbox.{other}`; do that in the Dockerfile, or remove one"),
            );
        }
        if let Some(path) = path {
            super::bundle::dockerfile(rules, path, provider);
        }
    }
    variables(rules, &sandbox, manifest);
    if let Some((at, _)) = sandbox.find("resources") {
        rules.wrong(at, "sandbox.resources", "its keys are not published; remove it");
    }
    if let Some(node) = sandbox.get("storage_binding")
        && rules.text(node, "sandbox.storage_binding").is_some()
        && provider != "e2b"
    {
        rules.wrong(
            node.at,
            "sandbox.storage_binding",
            "works with the provider `e2b` only; remove it, or change the provider",
        );
    }
}

fn variables(rules: &mut Rules<'_>, sandbox: &Fields<'_>, manifest: &mut Manifest) {
    if let Some(env) = sandbox.get("env").and_then(|node| rules.open_map(node, "sandbox.env")) {
        for (at, name, value) in env.entries() {
            let field = env.path(name);
            rules.variable(at, &field, name);
            let text = match &value.value {
                // A variable may be empty; a text elsewhere may not.
                Value::Text(text) => Some(text.as_str()),
                _ => rules.text(value, &field),
            };
            manifest.env.extend(text.map(|text| (name.to_owned(), text.to_owned())));
        }
    }
    let Some(node) = sandbox.get("secrets") else { return };
    for (n, at, name) in rules.texts(node, "sandbox.secrets") {
        let field = format!("sandbox.secrets[{n}]");
        rules.variable(at, &field, name);
        if manifest.env.contains_key(name) {
            rules.wrong(at, &field, format!("`{name}` is in `sandbox.env` too; a secret stands here only"));
        }
        manifest.secrets.push(name.to_owned());
    }
}
