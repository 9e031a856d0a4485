//! What a request asks for, as the agent finds it: its environment, its arguments, its folder, its files.

use super::ends::{asked, scripted};
use super::{create, ended, lines, of, post};
use crate::support::Server;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// What an agent of this request shows of itself: `argv`, `env` or `cwd`.
async fn shown(server: &Server, what: &str, more: &Value) -> Value {
    let mut body = asked(&json!([["show", what], ["result"], ["exit", 0]]));
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let id = create(server, &body).await;
    let snapshot = ended(server, &id).await;
    let all = lines(server, &id).await;
    assert_eq!(snapshot["state"], "completed", "{all:?}");
    let text = of(&all, "agent_message")[0]["text"].as_str().unwrap();
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

const PASSED: [&str; 19] = [
    "USER",
    "LANG",
    "TERM",
    "SHELL",
    "TMPDIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "NODE_PATH",
    "NODE_OPTIONS",
    "NVM_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
];

/// Of the server's environment the list, of the request's all; the request wins.
#[tokio::test]
async fn the_environment() {
    let home = tempfile::tempdir().unwrap();
    let server = scripted(|command| {
        for name in PASSED {
            command.env(name, format!("own-{name}"));
        }
        command.env("TMPDIR", home.path());
        for name in ["ANTHROPIC_API_KEY", "OPENAI_API_KEY", "CODEX_API_KEY", "AWS_SECRET_ACCESS_KEY", "PLAIN", "LC_ALL"]
        {
            command.env(name, "not-for-the-agent");
        }
        command.env("HOME", home.path());
    });
    let env =
        shown(&server, "env", &json!({"env": {"LANG": "mine", "ADDED": "x y", "ANTHROPIC_API_KEY": "sk-mine"}})).await;
    let env: BTreeMap<String, String> = serde_json::from_value(env).unwrap();
    for name in PASSED.into_iter().filter(|name| !["LANG", "TMPDIR"].contains(name)) {
        // What the server itself holds to be a secret is not told.
        let value = if name.ends_with("TOKEN") { "[REDACTED]".to_owned() } else { format!("own-{name}") };
        assert_eq!(env.get(name), Some(&value), "{name}");
    }
    assert_eq!(env["HOME"], home.path().to_str().unwrap());
    // Values of the request's keys are taken out of what is told.
    for (name, value) in [("LANG", "mine"), ("ADDED", "x y"), ("ANTHROPIC_API_KEY", "[REDACTED]"), ("IS_SANDBOX", "1")]
    {
        assert!(env.contains_key(name), "{name}");
        if value != "[REDACTED]" {
            assert_eq!(env[name], value);
        }
    }
    assert!(env["PATH"].contains('/'));
    for name in ["OPENAI_API_KEY", "CODEX_API_KEY", "AWS_SECRET_ACCESS_KEY", "PLAIN", "LC_ALL", "TURNHOST_DATA_DIR"] {
        assert!(!env.contains_key(name), "{name}");
    }
    assert!(env.values().all(|value| !value.contains("not-for-the-agent")));
    let path = shown(&server, "env", &json!({"env": {"PATH": format!("/added:{}", env["PATH"])}})).await;
    assert!(path["PATH"].as_str().unwrap().starts_with("/added:"), "on this runtime it may be set");
}

/// The working directory: the one asked for, else the first mount that may be written, else the first.
#[tokio::test]
async fn the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    for name in ["a", "b", "c", "home"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    let at = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let server = scripted(|command| {
        command.current_dir(root.join("home")).env("HOME", root.join("home"));
    });
    let mount = |name: &str, mode: &str| json!({"host": at(name), "container": format!("/{name}"), "mode": mode, "type": "bind"});
    for (more, folder) in [
        (json!({}), at("home")),
        (json!({"work_dir": at("a")}), at("a")),
        (json!({"work_dir": at("a"), "mounts": [mount("b", "rw")]}), at("a")),
        (json!({"mounts": [mount("b", "ro"), mount("c", "rw")]}), at("c")),
        (json!({"mounts": [mount("b", "ro"), mount("c", "ro")]}), at("b")),
        (json!({"mounts": [{"host": "name", "type": "volume"}, mount("c", "")]}), at("c")),
        (json!({"volumes": ["nothing", format!("{}:/b:ro", at("b")), format!("{}:/c", at("c"))]}), at("c")),
        (json!({"mounts": [mount("b", "ro")], "volumes": [format!("{}:/a:rw", at("a"))]}), at("a")),
    ] {
        assert_eq!(shown(&server, "cwd", &more).await, folder, "{more}");
    }
}

fn has(argv: &Value, words: &[&str]) -> bool {
    let argv: Vec<&str> = argv.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    argv.windows(words.len()).any(|found| found == words)
}

/// Options of Claude become its arguments, and the prompt does not.
#[tokio::test]
async fn arguments_of_claude() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir_all(home.path().join(".claude/teams/t1")).unwrap();
    fs::write(home.path().join(".claude/teams/t1/config.json"), "{}").unwrap();
    let server = scripted(|command| {
        command.env("HOME", home.path());
    });
    let plain = shown(&server, "argv", &json!({})).await;
    assert!(has(&plain, &["--setting-sources", "user,project,local"]), "{plain}");
    for word in ["--max-turns", "--bare", "--settings", "--mcp-config", "--strict-mcp-config", "--resume"] {
        assert!(!has(&plain, &[word]), "{word}: {plain}");
    }
    assert!(!plain.to_string().contains("show"), "{plain}");
    let claude = json!({"max_turns": 5, "allowed_tools": ["Bash", "Read(./x)"], "bare": true, "output_format": "text",
                        "settings_json": {"a": 1}, "mcp_json": {"mcpServers": {"s": {"command": "x"}}}});
    let native = "5e551014-0000-4000-8000-00000000abcd";
    let team = json!({"name": "t1", "agent_name": "scout"});
    let argv = shown(&server, "argv", &json!({"claude": claude, "resume_session": native, "team": team})).await;
    for words in [
        &["--max-turns", "5"][..],
        &["--allowedTools=Bash"],
        &["--allowedTools=Read(./x)"],
        &["--bare"],
        &["--resume", native],
        &["--team-name", "t1"],
        &["--agent-name", "scout"],
        &["--agent-id", "scout@t1"],
    ] {
        assert!(has(&argv, words), "{words:?}: {argv}");
    }
    for (flag, file, holds) in
        [("--settings", "settings.json", r#""a":1"#), ("--mcp-config", ".mcp.json", r#""command":"x""#)]
    {
        let argv: Vec<&str> = argv.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        let path = argv[argv.iter().position(|word| *word == flag).unwrap() + 1];
        assert!(path.ends_with(file) && fs::read_to_string(path).unwrap().contains(holds), "{path}");
    }
    let all = server.get("/sessions").await.json();
    let teamed = all.as_array().unwrap().iter().find(|one| one.get("team_name").is_some()).unwrap();
    assert_eq!((&teamed["team_name"], &teamed["team_agent"]), (&json!("t1"), &json!("scout")));
    assert_eq!(teamed["tags"]["team"], "t1");
    assert_eq!(teamed["tags"]["team_agent"], "scout");
    let id = teamed["session_id"].as_str().unwrap();
    let info = server.get(&format!("/sessions/{id}/info")).await.json();
    assert_eq!(info["team"], json!({"name": "t1", "agent_name": "scout", "agent_id": "scout@t1"}));
}

/// What is discovered can be switched off, as far as the program has switches for it; the rest is told.
#[tokio::test]
async fn discovery() {
    let server = scripted(|_| {});
    let off = json!({"auto_discover": false});
    let argv = shown(&server, "argv", &off).await;
    assert!(has(&argv, &["--setting-sources", ""]) && has(&argv, &["--strict-mcp-config"]), "{argv}");
    assert_eq!(shown(&server, "env", &off).await["CLAUDE_CODE_DISABLE_CLAUDE_MDS"], "1");
    for on in [json!({"auto_discover": true}), json!({})] {
        let argv = shown(&server, "argv", &on).await;
        assert!(has(&argv, &["--setting-sources", "user,project,local"]) && !has(&argv, &["--strict-mcp-config"]));
        assert!(shown(&server, "env", &on).await.get("CLAUDE_CODE_DISABLE_CLAUDE_MDS").is_none());
    }
    let some = json!({"auto_discover": {"settings": true, "mcp": true}});
    let argv = shown(&server, "argv", &some).await;
    assert!(has(&argv, &["--setting-sources", "user,project,local"]) && !has(&argv, &["--strict-mcp-config"]));
    assert_eq!(shown(&server, "env", &some).await["CLAUDE_CODE_DISABLE_CLAUDE_MDS"], "1");
}

/// Fields that are taken and do nothing are named, each in a sentence.
#[tokio::test]
async fn warnings() {
    let server = scripted(|_| {});
    let here = "has no effect on runtime local";
    for (agent, more, expected) in [
        ("claude", json!({}), vec![]),
        ("claude", json!({"pty": true}), vec![format!("pty {here}")]),
        (
            "claude",
            json!({"container": {"image": "i", "memory": "1g", "cpus": "2", "network": "n", "security_opt": ["s"]}}),
            ["image", "memory", "cpus", "network", "security_opt"]
                .map(|name| format!("container.{name} {here}"))
                .to_vec(),
        ),
        ("claude", json!({"persist_session": true}), vec![format!("persist_session {here}")]),
        ("claude", json!({"claude": {"output_format": "text"}}), vec![format!("claude.output_format {here}")]),
        ("claude", json!({"auto_discover": false}), vec![]),
        (
            "claude",
            json!({"auto_discover": {"settings": true, "claude_md": true, "mcp": true, "agents": true}}),
            vec![format!("auto_discover.rules {here}: it is discovered")],
        ),
        ("codex", json!({"auto_discover": false}), vec![format!("auto_discover.config_toml {here}: it is discovered")]),
        (
            "codex",
            json!({"claude": {"claude_md": "x", "max_turns": 3}}),
            ["claude_md", "max_turns"].map(|name| format!("claude.{name} has no effect on agent codex")).to_vec(),
        ),
        (
            "claude",
            json!({"codex": {"instructions": "x", "approval_mode": "suggest"}}),
            ["instructions", "approval_mode"]
                .map(|name| format!("codex.{name} has no effect on agent claude"))
                .to_vec(),
        ),
        (
            "echo",
            json!({"mcp_servers": [{"name": "a"}], "resume_session": "x", "auto_discover": false}),
            ["mcp_servers", "resume_session", "auto_discover"]
                .map(|name| format!("{name} has no effect on agent echo"))
                .to_vec(),
        ),
        (
            "claude",
            json!({"mcp_servers": [{"name": "a", "type": "http", "url": "file:///x"}]}),
            vec!["mcp_servers.a.url has no effect: its scheme is not http, https, ws or wss".to_owned()],
        ),
    ] {
        let mut body = json!({"agent": agent, "interactive": true});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = post(&server, &body).await;
        assert_eq!(answer.status, 201, "{body}: {answer:?}");
        let expected = if expected.is_empty() { Value::Null } else { json!(expected) };
        assert_eq!(answer.json()["warnings"], expected, "{body}");
    }
}

/// Servers of tools as Claude is told of them: the request's own beside those of its file.
#[tokio::test]
async fn servers_of_tools() {
    let server = scripted(|_| {});
    let more = json!({
        "claude": {"mcp_json": {"mcpServers": {"base": {"url": "http://${HOST_GATEWAY}:1/"}, "twice": {"command": "old"}}}},
        "mcp_servers": [
            {"name": "web", "type": "http", "url": "http://${HOST_GATEWAY}:8000/mcp", "token": "to\u{7}ken\n"},
            {"name": "twice", "type": "stdio", "cmd": ["run", "it"], "env": {"A": "b"}},
            {"name": "sock", "type": "websocket", "url": "wss://x/y"},
            {"name": "bad", "type": "http", "url": "file:///etc/passwd"},
        ],
    });
    let mut body = asked(&json!([["result"], ["exit", 0]]));
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let id = create(&server, &body).await;
    let dir = ended(&server, &id).await["session_dir"].as_str().unwrap().to_owned();
    let written: Value = serde_json::from_str(&fs::read_to_string(Path::new(&dir).join(".mcp.json")).unwrap()).unwrap();
    let expected = json!({"mcpServers": {
        "base": {"url": "http://127.0.0.1:1/"},
        "web": {"type": "http", "url": "http://127.0.0.1:8000/mcp", "token": "token", "headers": {"Authorization": "Bearer token"}},
        "twice": {"type": "stdio", "command": "run", "args": ["it"], "env": {"A": "b"}},
        "sock": {"type": "websocket", "url": "wss://x/y"},
        "bad": {"type": "http"},
    }});
    assert_eq!(written, expected);
}
