//! The same scenarios for every built-in agent, by the client that people use and by `/runtime/advance`.
//!
//! What only one agent has, and what needs a look at single frames, is in the agent's own file.

use crate::support::agents::{ask_really, claude_program, codex_program};
use crate::support::model::{Block, Model, Play, status, text, tool};
use crate::support::{PATIENCE, Server, eventually, proc, read};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// What a query has to come to.
enum Comes {
    Text(&'static str),
    Structured(Value),
    Error(&'static str),
}

struct Scenario {
    name: &'static str,
    plays: Vec<Play>,
    fields: Value,
    comes: Comes,
}

fn scenario(name: &'static str, plays: Vec<Play>, comes: Comes) -> Scenario {
    Scenario { name, plays, fields: json!({}), comes }
}

/// How an agent calls its shell, and how it gives an answer to a schema.
pub struct Agent {
    pub name: &'static str,
    shell: fn() -> Play,
    /// The same with a command of one's own.
    pub run: fn(&str) -> Play,
    structured: fn(&Value) -> Play,
}

pub const AGENTS: [Agent; 3] = [
    Agent {
        name: "claude",
        run: |command| tool("Bash", json!({"command": command, "description": "x"})),
        shell: || tool("Bash", json!({"command": "echo from-the-shell", "description": "x"})),
        structured: |value| tool("StructuredOutput", value.clone()),
    },
    Agent {
        name: "openai",
        run: |command| Play::Say(vec![Block::Shell(json!({"commands": [command]}))]),
        shell: || Play::Say(vec![Block::Shell(json!({"commands": ["echo from-the-shell"]}))]),
        structured: |value| text(value.to_string()),
    },
    Agent {
        name: "codex",
        run: |command| tool("exec_command", json!({"cmd": command, "login": false, "yield_time_ms": 20000})),
        shell: || tool("exec_command", json!({"cmd": "echo from-the-shell", "login": false})),
        structured: |value| text(value.to_string()),
    },
];

fn start(agent: &str, model: &Model, folder: &TempDir) -> Server {
    start_with(agent, model, folder, &[])
}

pub fn start_with(agent: &str, model: &Model, folder: &TempDir, more: &[&str]) -> Server {
    let (claude, codex) = (claude_program(), codex_program());
    let mut args = vec!["--agent", agent, "--workspace", folder.path().to_str().unwrap()];
    args.extend(["--claude-program", claude.to_str().unwrap(), "--claude-retries", "1", "--claude-max-turns", "4"]);
    args.extend(["--codex-program", codex.to_str().unwrap(), "--codex-model", "default-model"]);
    args.extend(["--openai-model", "default-model", "--openai-max-calls", "4"]);
    args.extend(["--claude-model", "default-model"]);
    args.extend(more);
    Server::start_with(&args, |command| {
        command.env("ANTHROPIC_BASE_URL", model.root()).env("ANTHROPIC_API_KEY", "sk-ant-good-0123456789");
        command.env("OPENAI_BASE_URL", model.base()).env("OPENAI_API_KEY", "sk-good-0123456789");
        command.env("HOME", folder.path()).env("CLAUDE_CONFIG_DIR", folder.path().join("claude"));
        command.env("CODEX_HOME", folder.path().join("codex"));
    })
}

fn person() -> Value {
    let schema = json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"],
                        "additionalProperties": false});
    json!({"output_format_json_schema_str": json!({"type": "json_schema", "schema": schema}).to_string()})
}

fn scenarios(agent: &Agent) -> Vec<Scenario> {
    let after = |name| {
        let headers = vec![("retry-after", "1".to_owned())];
        Play::Status { status: 429, code: name, message: "Slow.", headers }
    };
    let rate = if agent.name == "claude" { "rate_limit_error" } else { "rate_limit_exceeded" };
    let (ann, wrong) = (json!({"name": "Ann"}), json!({"name": 3}));
    let structured = |plays: Vec<Play>, name, comes| Scenario { fields: person(), ..scenario(name, plays, comes) };
    let mut all = vec![
        scenario("a plain turn", vec![text("Hello.")], Comes::Text("Hello.")),
        scenario("a round of a tool", vec![(agent.shell)(), text("Done.")], Comes::Text("Done.")),
        scenario("401", vec![status(401, "authentication_error"); 4], Comes::Error("auth_error")),
        scenario("403", vec![status(403, "permission_error"); 4], Comes::Error("permission_denied")),
        scenario("an unknown model", vec![], Comes::Error("model_not_found")),
        scenario("529 without end", vec![status(529, "overloaded_error"); 12], Comes::Error("overloaded")),
        scenario("a refusal", vec![Play::Say(vec![Block::Refusal("I will not.")]); 3], Comes::Error("invalid_request")),
        structured(vec![(agent.structured)(&ann)], "a schema", Comes::Structured(ann.clone())),
        structured(
            vec![(agent.structured)(&wrong), (agent.structured)(&ann)],
            "a schema, repaired",
            Comes::Structured(ann.clone()),
        ),
        structured(vec![text("words"); 12], "a schema, in vain", Comes::Error("structured_output_missing")),
    ];
    // Codex tells a limit of rate apart from an overload only at the end, and does not try it again.
    let limited = vec![after(rate), text("At last.")];
    all.push(match agent.name {
        "codex" => scenario("429", vec![after(rate); 4], Comes::Error("rate_limit")),
        _ => scenario("429 with retry-after", limited, Comes::Text("At last.")),
    });
    if agent.name != "codex" {
        all.push(scenario("rounds without end", (0..6).map(|_| (agent.shell)()).collect(), Comes::Error("max_turns")));
    }
    let unknown = all.iter_mut().find(|one| one.name == "an unknown model").unwrap();
    unknown.fields = json!({"model": "unknown-model"});
    all
}

async fn by_the_real_client(agent: &Agent) {
    let folder = TempDir::new().unwrap();
    for one in scenarios(agent) {
        let model = Model::start(one.plays).await;
        let server = start(agent.name, &model, &folder);
        let mut query = one.fields;
        query["prompt"] = json!("Hi");
        let results = ask_really(&server, &json!([query])).await;
        let (result, what) = (&results[0], format!("{}, {}: {}", agent.name, one.name, results[0]));
        match one.comes {
            Comes::Text(text) => assert_eq!(result["text"], text, "{what}"),
            Comes::Structured(value) => assert_eq!(result["structured_output"], value, "{what}"),
            Comes::Error(category) => {
                assert_eq!(result["metadata"]["category"], category, "{what}");
                assert!(!result["error"].as_str().unwrap().is_empty(), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn claude_by_the_real_client() {
    by_the_real_client(&AGENTS[0]).await;
}

#[tokio::test]
async fn openai_by_the_real_client() {
    by_the_real_client(&AGENTS[1]).await;
}

#[tokio::test]
async fn codex_by_the_real_client() {
    by_the_real_client(&AGENTS[2]).await;
}

/// On Dari there is neither a schema nor a model in the request; a failure is a sentence, and the state stays.
async fn by_advance(agent: &Agent) {
    let folder = TempDir::new().unwrap();
    for one in scenarios(agent).into_iter().filter(|one| one.fields == json!({})) {
        let model = Model::start(one.plays).await;
        let server = start(agent.name, &model, &folder);
        let answer = server.advance(&json!({"input": "Hi", "state": null})).await;
        let (told, what) = (answer.json(), format!("{}, {}: {}", agent.name, one.name, answer.body));
        assert_eq!(answer.status, 200, "{what}");
        match one.comes {
            Comes::Text(text) => {
                assert_eq!(told["text"], text, "{what}");
                assert!(told["state"].is_object(), "{what}");
            }
            Comes::Error(_) => {
                assert!(!told["text"].as_str().unwrap().is_empty() && told.get("state").is_none(), "{what}");
                assert!(!told["text"].as_str().unwrap().contains("sk-"), "{what}");
            }
            Comes::Structured(_) => unreachable!("no schema on this host"),
        }
    }
}

#[tokio::test]
async fn claude_by_advance() {
    by_advance(&AGENTS[0]).await;
}

#[tokio::test]
async fn openai_by_advance() {
    by_advance(&AGENTS[1]).await;
}

#[tokio::test]
async fn codex_by_advance() {
    by_advance(&AGENTS[2]).await;
}

/// Dari's check 3, with each agent: state absent, then null, begin talks of their own; the state as an object, then as a
/// JSON string, goes on with the same one.
#[tokio::test]
async fn check_3_first_turn_and_follow_up() {
    for agent in AGENTS {
        let (model, folder) =
            (Model::start((1..=4).map(|n| text(format!("answer {n}"))).collect()).await, TempDir::new().unwrap());
        let server = start(agent.name, &model, &folder);
        let talk = |state: &Value| match agent.name {
            "claude" => (state["claude_session_id"].clone(), state["turns"].clone()),
            "codex" => (state["codex_thread_id"].clone(), state["turns"].clone()),
            _ => (state["previous_response_id"].clone(), Value::Null),
        };
        let first = server.advance(&json!({"input": "one"})).await.json();
        let other = server.advance(&json!({"input": "two", "state": null})).await.json();
        assert_ne!(talk(&first["state"]).0, talk(&other["state"]).0, "{}", agent.name);
        let second = server.advance(&json!({"input": "three", "state": first["state"]})).await.json();
        let third = server.advance(&json!({"input": "four", "state": second["state"].to_string()})).await.json();
        assert_eq!(third["text"], "answer 4", "{}", agent.name);
        let asked = model.last();
        if agent.name == "openai" {
            assert_eq!(asked["previous_response_id"], "resp_3");
            continue;
        }
        assert_eq!(talk(&first["state"]).0, talk(&third["state"]).0, "{}", agent.name);
        assert_eq!(talk(&third["state"]).1, 3, "{}", agent.name);
        let all = asked.to_string();
        for earlier in ["one", "answer 1", "three", "answer 3"] {
            assert!(all.contains(&format!("\"{earlier}\"")), "{}: no {earlier}: {all}", agent.name);
        }
        assert!(!all.contains("answer 2"), "{}", agent.name);
    }
}

/// Dari's check 28, with each agent.
#[tokio::test]
async fn check_28_events_of_the_tools() {
    for agent in AGENTS {
        let folder = TempDir::new().unwrap();
        let model = Model::start(vec![(agent.shell)(), text("Done.")]).await;
        let server = start_with(agent.name, &model, &folder, &["--dari-events", "completed"]);
        let told = server.advance(&json!({"input": "Look", "state": null})).await.json();
        let events = told["events"].as_array().unwrap_or_else(|| panic!("{}: {told}", agent.name));
        let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["tool.call_completed", "assistant.message_completed"], "{}", agent.name);
        let data = &events[0]["data"];
        assert_eq!(data["result"]["output"].as_str().unwrap().trim(), "from-the-shell", "{}", agent.name);
        assert!(data["arguments"].to_string().contains("echo from-the-shell"), "{}: {data}", agent.name);
        assert_eq!((told.get("text"), &told["action"]), (None, &json!({"type": "wait_for_user"})));
    }
}

/// The client that people use aborts its query, while text comes and while a tool runs; its next one works.
#[tokio::test]
async fn an_abort_by_the_real_client() {
    for agent in AGENTS {
        let folder = TempDir::new().unwrap();
        let mark = format!("turnhost-abort-{}-{}", agent.name, std::process::id());
        let (speaks, runs) = (folder.path().join("speaks"), folder.path().join("runs"));
        let sleeps =
            (agent.run)(&format!("touch {}; python3 -c 'import time; time.sleep(300)' {mark}", runs.display()));
        let model = Model::start(vec![Play::Hang("Well, then"), text("Next."), sleeps, text("Last.")]).await;
        let server = start(agent.name, &model, &folder);
        let ask = json!({"prompt": "Hi"});
        let abort = |when: &Path| json!({"prompt": "Hi", "abort_when": when});
        let queries = json!([abort(&speaks), ask, abort(&runs), ask]);
        let when_it_speaks = async {
            eventually("the model is asked", || (!model.calls().is_empty()).then_some(())).await;
            std::fs::write(&speaks, "").unwrap();
        };
        let (results, ()) = tokio::join!(ask_really(&server, &queries), when_it_speaks);
        for (at, result) in results.iter().enumerate() {
            match at {
                0 | 2 => assert_eq!(result["raised"], "CancelledException", "{}, {at}: {results:?}", agent.name),
                1 => assert_eq!(result["text"], "Next.", "{}: {results:?}", agent.name),
                _ => assert_eq!(result["text"], "Last.", "{}: {results:?}", agent.name),
            }
        }
        eventually("no process is left", || proc::marked(&mark).is_empty().then_some(())).await;
    }
}

/// A turn of `/runtime/advance` is steered while its tool runs, and another is cancelled, through `/v1`.
#[tokio::test]
async fn a_turn_of_advance_is_steered_and_cancelled() {
    for agent in AGENTS {
        let folder = TempDir::new().unwrap();
        let gate = folder.path().join("gate");
        let waits = (agent.run)(&format!("until [ -e {} ]; do sleep 0.05; done; echo open", gate.display()));
        let mark = format!("turnhost-delete-{}-{}", agent.name, std::process::id());
        let sleeps = (agent.run)(&format!("python3 -c 'import time; time.sleep(300)' {mark}"));
        let model = Model::start(vec![waits, text("So be it."), sleeps]).await;
        let server = start(agent.name, &model, &folder);
        // The turn whose last event so far is this one.
        let last = async |field: &str, value: &str| {
            let looking = async {
                loop {
                    let events = server.get("/v1/sessions/dari:main/events").await.json()["events"].clone();
                    let last = events.as_array().and_then(|events| events.last().cloned()).unwrap_or_default();
                    if last["event"][field] == value {
                        return last["turn"].as_str().unwrap().to_owned();
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{}: no {value}", agent.name))
        };
        let body = json!({"input": "Work", "state": null});
        let steer = async {
            let turn = last("type", "tool_use").await;
            let input = server.request(reqwest::Method::POST, &format!("/v1/turns/{turn}/input"));
            let answer = read(input.body(json!({"text": "Use the blue one."}).to_string())).await;
            assert_eq!(answer.status, 202, "{}: {answer:?}", agent.name);
            // A program takes it in while the tool runs; our own loop does so when the tool has ended.
            if agent.name != "openai" {
                last("kind", "heard").await;
            }
            std::fs::write(&gate, "").unwrap();
        };
        let (answer, ()) = tokio::join!(server.advance(&body), steer);
        assert_eq!(answer.json()["text"], "So be it.", "{}", agent.name);
        assert!(model.last().to_string().contains("Use the blue one."), "{}", agent.name);

        let cancel = async {
            let turn = last("type", "tool_use").await;
            eventually("the tool runs", || (!proc::marked(&mark).is_empty()).then_some(())).await;
            let answer = read(server.request(reqwest::Method::DELETE, &format!("/v1/turns/{turn}"))).await;
            assert_eq!(answer.status, 202);
        };
        let more = json!({"input": "More", "state": null});
        let (answer, ()) = tokio::join!(server.advance(&more), cancel);
        assert_eq!(answer.json()["text"], "The turn was cancelled.", "{}", agent.name);
        proc::gone(&mark).await;
    }
}
