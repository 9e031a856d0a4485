//! What a request says about its agent's configuration, as files of the session and wishes of its turns.
//!
//! Owns those files and the merging of servers of tools. The user's own files are never touched: the agent keeps its home,
//! its login and its history, and gets the rest by flags and parameters.

use super::effect::Discover;
use super::{AgentKind, Sessions, SessionsOptions};
use crate::wire::sessions::{McpServer, SessionRecord, SessionRequest};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

/// What the session's turns have besides what they were given.
#[derive(Debug, Default)]
pub struct Materialised {
    /// For the agent's handler.
    pub metadata: Map<String, Value>,
    /// Where the agent finds its configuration, if not at home.
    pub env: Vec<(&'static str, String)>,
}

/// Writes a session's configuration.
pub fn materialise(
    request: &SessionRequest<'_>,
    kind: AgentKind,
    record: &SessionRecord,
    folder: &Path,
    sessions: &Sessions,
) -> io::Result<Materialised> {
    match kind {
        AgentKind::Claude => claude(request, record, folder, &sessions.options),
        AgentKind::Codex => codex(request, folder),
        AgentKind::Other | AgentKind::Plain => Ok(Materialised::default()),
    }
}

fn claude(
    request: &SessionRequest<'_>,
    record: &SessionRecord,
    folder: &Path,
    options: &SessionsOptions,
) -> io::Result<Materialised> {
    let config = &request.claude;
    let mut wishes = Map::new();
    let mut env = Vec::new();
    let mut put = |name: &str, value: Value| drop(wishes.insert(name.to_owned(), value));
    let discover = Discover::of(request.auto_discover.as_ref());
    if !discover.reads_sources() {
        put("setting_sources", "".into());
    } else if !config.bare {
        // As the user's own Claude Code does.
        put("setting_sources", "user,project,local".into());
    }
    if !discover.reads_instructions() {
        env.push(("CLAUDE_CODE_DISABLE_CLAUDE_MDS", "1".to_owned()));
    }
    if !discover.mcp {
        put("strict_mcp_config", true.into());
    }
    if let Some(settings) = config.settings_json {
        let mut settings: Map<String, Value> = serde_json::from_str(settings.get()).unwrap_or_default();
        settings.entry("skipDangerousModePermissionPrompt").or_insert(true.into());
        let path = folder.join("settings.json");
        write(&path, &Value::Object(settings).to_string())?;
        put("settings_file", path.to_string_lossy().into());
    }
    let is_elsewhere = !config.credentials_path.is_empty() || !config.memory_path.is_empty();
    if !config.claude_md.is_empty() {
        write(&folder.join("CLAUDE.md"), &config.claude_md)?;
        if !is_elsewhere {
            put("append_system_prompt", config.claude_md.as_str().into());
        }
    }
    let base = config.mcp_json.and_then(|base| serde_json::from_str(base.get()).ok()).unwrap_or_default();
    if let Some(servers) = claude_servers(base, &request.mcp_servers) {
        let path = folder.join(".mcp.json");
        write(&path, &Value::Object(servers).to_string())?;
        put("mcp_config", path.to_string_lossy().into());
    }
    if is_elsewhere {
        let trusted = request.work_dir.as_str();
        let onboarded =
            json!({"hasCompletedOnboarding": true, "projects": {trusted: {"hasTrustDialogAccepted": true}}});
        write(&folder.join(".claude.json"), &onboarded.to_string())?;
        let login = match config.credentials_path.as_str() {
            "" => options.home.as_ref().map(|home| home.join(".claude/.credentials.json")),
            path => Some(expanded(path, options)),
        };
        if let Some(login) = login.filter(|login| login.is_file()) {
            write(&folder.join(".credentials.json"), &fs::read_to_string(login)?)?;
        }
        if !config.memory_path.is_empty() {
            let host = expanded(&config.memory_path, options);
            let digest = Sha256::digest(host.to_string_lossy().as_bytes());
            fs::create_dir_all(folder.join("projects"))?;
            symlink(&host, folder.join("projects").join(short(&digest)))?;
        }
        env.push(("CLAUDE_CONFIG_DIR", folder.to_string_lossy().into_owned()));
    }
    if config.max_turns > 0 {
        put("max_turns", config.max_turns.into());
    }
    if !config.allowed_tools.is_empty() {
        put("allowed_tools", json!(config.allowed_tools));
    }
    if config.bare {
        put("bare", true.into());
    }
    if let Some(team) = &record.team {
        put("team", json!(team));
    }
    Ok(Materialised { metadata: Map::from_iter([("claude".to_owned(), Value::Object(wishes))]), env })
}

fn codex(request: &SessionRequest<'_>, folder: &Path) -> io::Result<Materialised> {
    let config = &request.codex;
    let approval = match config.approval_mode.as_str() {
        "auto-edit" => "on-request",
        "suggest" => "untrusted",
        _ => "never",
    };
    let mut wishes = Map::from_iter([("approval_policy".to_owned(), approval.into())]);
    let mut own: Map<String, Value> =
        config.config_toml.and_then(|own| serde_json::from_str(own.get()).ok()).unwrap_or_default();
    if !config.instructions.is_empty() {
        write(&folder.join("instructions.md"), &config.instructions)?;
        wishes.insert("instructions".to_owned(), config.instructions.as_str().into());
    }
    if config.config_toml.is_some() || !config.instructions.is_empty() || !request.mcp_servers.is_empty() {
        own.entry("model_reasoning_effort").or_insert("high".into());
    }
    if !Discover::of(request.auto_discover.as_ref()).agents_md {
        own.entry("project_doc_max_bytes").or_insert(0.into());
    }
    let servers = request.mcp_servers.iter().filter_map(|server| Some((server.name.clone(), codex_server(server)?)));
    let servers: Vec<(String, Value)> = servers.collect();
    if !servers.is_empty()
        && let Some(all) = own.entry("mcp_servers").or_insert_with(|| json!({})).as_object_mut()
    {
        all.extend(servers);
    }
    wishes.insert("config".to_owned(), Value::Object(own));
    Ok(Materialised { metadata: Map::from_iter([("codex".to_owned(), Value::Object(wishes))]), env: Vec::new() })
}

/// `.mcp.json` with the request's own servers; none where there are none.
fn claude_servers(mut base: Map<String, Value>, servers: &[McpServer]) -> Option<Map<String, Value>> {
    if base.is_empty() && servers.is_empty() {
        return None;
    }
    let all = base.entry("mcpServers").or_insert_with(|| json!({}));
    for server in servers {
        let mut one = Map::new();
        one.insert("type".to_owned(), server.r#type.as_str().into());
        if let Some(url) = url(&server.url) {
            one.insert("url".to_owned(), url.into());
        }
        if let Some((command, args)) = server.cmd.split_first() {
            one.insert("command".to_owned(), command.as_str().into());
            one.insert("args".to_owned(), json!(args));
        }
        if !server.env.is_empty() {
            one.insert("env".to_owned(), json!(server.env));
        }
        if let Some(token) = token(&server.token) {
            if server.r#type == "http" {
                one.insert("headers".to_owned(), json!({"Authorization": format!("Bearer {token}")}));
            }
            one.insert("token".to_owned(), token.into());
        }
        if let Some(all) = all.as_object_mut() {
            all.insert(server.name.clone(), Value::Object(one));
        }
    }
    // The gateway may stand in the base, too.
    if let Some(all) = all.as_object_mut() {
        for one in all.values_mut() {
            if let Some(Value::String(text)) = one.get_mut("url") {
                *text = text.replace(GATEWAY, "127.0.0.1");
            }
        }
    }
    Some(base)
}

fn codex_server(server: &McpServer) -> Option<Value> {
    if let Some((command, args)) = server.cmd.split_first() {
        return Some(json!({"command": command, "args": args, "env": server.env}));
    }
    let mut one = Map::from_iter([("url".to_owned(), url(&server.url)?.into())]);
    if let Some(token) = token(&server.token) {
        one.insert("http_headers".to_owned(), json!({"Authorization": format!("Bearer {token}")}));
    }
    Some(Value::Object(one))
}

/// The first 16 hexadecimal digits.
fn short(digest: &[u8]) -> String {
    let first = digest.iter().take(8).fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    format!("{first:016x}")
}

/// Stands for the machine that the server runs on.
const GATEWAY: &str = "${HOST_GATEWAY}";

/// Where a server of tools is, from here; `None` for a scheme that is no server's.
pub fn url(sent: &str) -> Option<String> {
    let known = ["http://", "https://", "ws://", "wss://"];
    let lower = sent.to_ascii_lowercase();
    known.iter().any(|scheme| lower.starts_with(scheme)).then(|| sent.replace(GATEWAY, "127.0.0.1"))
}

fn token(sent: &str) -> Option<String> {
    let token: String = sent.chars().filter(|c| !c.is_control()).collect();
    (!token.is_empty()).then_some(token)
}

/// A path with `~` and variables in their place; a variable that is not set is empty.
fn expanded(path: &str, options: &SessionsOptions) -> PathBuf {
    let variable = |name: &str| match name {
        "HOME" => options.home.as_deref().map(Path::as_os_str),
        _ => options.variables.0.get(OsStr::new(name)).map(OsString::as_os_str),
    };
    let mut all = OsString::new();
    let mut rest = path;
    if let Some(behind) = path.strip_prefix('~').filter(|rest| rest.is_empty() || rest.starts_with('/')) {
        all.push(variable("HOME").unwrap_or(OsStr::new("~")));
        rest = behind;
    }
    while let Some((before, behind)) = rest.split_once('$') {
        all.push(before);
        let in_braces = behind.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let (name, after) = in_braces.unwrap_or_else(|| {
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
            behind.split_at(behind.find(|c: char| !is_part(c)).unwrap_or(behind.len()))
        });
        if name.is_empty() {
            all.push("$");
        }
        all.push(variable(name).unwrap_or_default());
        rest = after;
    }
    all.push(rest);
    PathBuf::from(all)
}

/// They may hold keys.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_variables() {
        let variables = [("A", "/a"), ("KEY_1", "k")].map(|(name, value)| (name.into(), value.into()));
        let variables = super::super::Variables(std::sync::Arc::new(variables.into_iter().collect()));
        let options = SessionsOptions { home: Some("/home/u".into()), variables, ..SessionsOptions::default() };
        for (sent, path) in [
            ("~", "/home/u"),
            ("~/x", "/home/u/x"),
            ("~x/y", "~x/y"),
            ("$HOME/x", "/home/u/x"),
            ("${A}/$KEY_1.json", "/a/k.json"),
            ("/x/$NONE/y", "/x//y"),
            ("/x/$", "/x/$"),
            ("/x/${A", "/x/${A"),
            ("/plain", "/plain"),
        ] {
            assert_eq!(expanded(sent, &options).to_str(), Some(path), "{sent}");
        }
        assert!(!format!("{options:?}").contains("KEY_1"));
    }

    #[test]
    fn servers_are_merged() {
        let server = |json: Value| serde_json::from_value::<McpServer>(json).unwrap();
        let servers = [
            server(json!({"name": "a", "type": "http", "url": "http://${HOST_GATEWAY}:1/x", "token": "se\u{7}cret\n"})),
            server(json!({"name": "b", "type": "stdio", "cmd": ["run", "it", "now"], "env": {"A": "b"}})),
            server(json!({"name": "c", "type": "http", "url": "file:///etc/passwd"})),
            server(json!({"name": "d", "type": "websocket", "url": "wss://x"})),
        ];
        let base =
            json!({"mcpServers": {"base": {"url": "http://${HOST_GATEWAY}/"}, "b": {"command": "old"}}, "more": 1});
        let base = base.as_object().unwrap().clone();
        let merged = Value::Object(claude_servers(base, &servers).unwrap());
        assert_eq!(
            merged,
            json!({"more": 1, "mcpServers": {
                "base": {"url": "http://127.0.0.1/"},
                "a": {"type": "http", "url": "http://127.0.0.1:1/x", "token": "secret", "headers": {"Authorization": "Bearer secret"}},
                "b": {"type": "stdio", "command": "run", "args": ["it", "now"], "env": {"A": "b"}},
                "c": {"type": "http"},
                "d": {"type": "websocket", "url": "wss://x"},
            }})
        );
        assert_eq!(claude_servers(Map::new(), &[]), None);
        let for_codex: Vec<Option<Value>> = servers.iter().map(codex_server).collect();
        assert_eq!(
            for_codex,
            [
                Some(json!({"url": "http://127.0.0.1:1/x", "http_headers": {"Authorization": "Bearer secret"}})),
                Some(json!({"command": "run", "args": ["it", "now"], "env": {"A": "b"}})),
                None,
                Some(json!({"url": "wss://x"})),
            ]
        );
    }
}
