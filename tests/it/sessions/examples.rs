//! The examples that users of this protocol type: with curl, and with a WebSocket client of another language.

use super::ends::{asked, scripted};
use super::{Reader, create, ended, of};
use crate::support::{PATIENCE, Server, finish, python, repository};
use serde_json::{Value, json};
use std::process::Command;

/// Runs a line of shell against the server: what it prints. `8090` is the port in all examples.
async fn shell(server: &Server, line: &str) -> String {
    let mut command = Command::new("sh");
    command.args(["-c", &line.replace("8090", &server.port.to_string())]);
    let done = finish(command).await;
    assert_eq!(done.code, Some(0), "{line}: {done:?}");
    done.stdout
}

#[tokio::test]
async fn with_curl() {
    let server = Server::start(&["--agent", "echo"]);
    let health: Value = serde_json::from_str(&shell(&server, "curl -s http://localhost:8090/health").await).unwrap();
    assert_eq!((&health["status"], &health["runtime"]), (&json!("ok"), &json!("local")));
    let create = r#"curl -s -X POST http://localhost:8090/sessions -H 'Content-Type: application/json' -d '{
        "agent": "echo", "prompt": "@delta 3 10", "tags": {"team": "docs"}}'"#;
    let made: Value = serde_json::from_str(&shell(&server, create).await).unwrap();
    let id = made["session_id"].as_str().unwrap();
    assert_eq!(made["log_url"], format!("http://localhost:{}/sessions/{id}/logs", server.port));
    // Polled as the protocol says: on with the cursor that the last answer told, until the log is complete.
    let poll = format!(
        r#"cursor=0; complete=; while [ -z "$complete" ]; do
            curl -s -D head -o piece "http://localhost:8090/sessions/{id}/logs?cursor=$cursor"; cat piece
            cursor=$(tr -d '\r' < head | sed -n 's/^agentruntime-log-cursor: //Ip')
            complete=$(tr -d '\r' < head | sed -n 's/^agentruntime-log-complete: //Ip')
            [ -s piece ] || sleep 0.05
        done"#
    );
    let folder = tempfile::tempdir().unwrap();
    let polled = shell(&server, &format!("cd {}; {poll}", folder.path().display())).await;
    let whole = shell(&server, &format!("curl -s http://localhost:8090/sessions/{id}/log")).await;
    assert_eq!(polled, whole);
    assert!(whole.ends_with("}\n") && whole.contains(r#""type":"exit","data":{"code":0},"exit_code":0"#), "{whole}");
    let resumed = shell(&server, &format!("curl -s -r 50- http://localhost:8090/sessions/{id}/log")).await;
    assert_eq!(resumed, whole[50..]);
    let list = shell(&server, "curl -s http://localhost:8090/sessions").await;
    assert!(list.contains(id) && list.contains(r#""tags":{"team":"docs"}"#), "{list}");
    let info = shell(&server, &format!("curl -s http://localhost:8090/sessions/{id}/info")).await;
    assert!(info.contains(r#""exit_code":0"#), "{info}");
    let deleted = shell(&server, &format!("curl -s -X DELETE http://localhost:8090/sessions/{id}")).await;
    assert_eq!(serde_json::from_str::<Value>(&deleted).unwrap(), json!({"id": id, "state": "completed"}));
}

const TALK: &str = r#"
import asyncio, base64, json, sys, urllib.request
import websockets

async def main(port):
    body = json.dumps({"agent": "echo", "interactive": True, "prompt": "first"}).encode()
    made = json.load(urllib.request.urlopen(f"http://localhost:{port}/sessions", body))
    log, turns, sent = "", 0, False
    async with websockets.connect(made["ws_url"] + "?since=0") as ws:
        await ws.send(json.dumps({"type": "ping"}))
        async for text in ws:
            frame = json.loads(text)
            if frame["type"] == "replay":
                log += base64.b64decode(frame["data"]).decode()
            elif frame["type"] == "stdout":
                log += frame["data"]
            elif frame["type"] != "connected" and frame["type"] != "pong":
                break
            if log.count('"type":"result"') == 1 and not sent:
                sent = True
                await ws.send(json.dumps({"type": "stdin", "data": "second\n"}))
            if log.count('"type":"result"') == 2 and sent != "deleted":
                sent = "deleted"
                url = f"http://localhost:{port}/sessions/{made['session_id']}"
                request = urllib.request.Request(url, method="DELETE")
                await asyncio.to_thread(urllib.request.urlopen, request)
    print(json.dumps({"exit": frame, "log": log}))

asyncio.run(main(sys.argv[1]))
"#;

#[tokio::test]
async fn with_a_websocket_of_python() {
    let server = Server::start(&["--agent", "echo"]);
    let mut command = Command::new(python());
    command.args(["-c", TALK, &server.port.to_string()]);
    let done = finish(command).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let told: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((&told["exit"]["type"], &told["exit"]["exit_code"]), (&json!("exit"), &json!(-1)));
    for text in [r#""text":"first""#, r#""text":"second""#] {
        assert!(told["log"].as_str().unwrap().contains(text), "{told}");
    }
}

/// Every frame of the protocol's page, as it stands there; what comes back has the form of those that stand beside it.
#[tokio::test]
async fn frames_as_they_are_typed() {
    let server = Server::start(&["--agent", "echo"]);
    let id = create(&server, &json!({"agent": "echo", "interactive": true})).await;
    let mut reader = Reader::open(&server, &id, "?since=0").await;
    let connected = reader.until("connected").await;
    assert_eq!((&connected["session_id"], &connected["mode"]), (&json!(id), &json!("pipe")));
    for frame in [
        r#"{"type":"stdin","data":"text\n"}"#,
        r#"{"type":"prompt","data":"text"}"#,
        r#"{"type":"steer","data":"text"}"#,
    ] {
        reader.client.send_text(frame).await;
        assert_eq!(of(&reader.until_line("result").await, "agent_message"), [&json!({"text": "text", "delta": false})]);
    }
    reader.prompt("@sleep 60000").await;
    server.busy().await;
    reader.client.send_text(r#"{"type":"interrupt"}"#).await;
    assert_eq!(of(&reader.until_line("result").await, "result")[0]["status"], "interrupted");
    for frame in [
        r#"{"type":"interrupt"}"#,
        r#"{"type":"context","context":{"text":"…","file_path":"/a.go"}}"#,
        r#"{"type":"mention","mention":{"file_path":"/a.go","line_start":1,"line_end":4}}"#,
        r#"{"type":"resize","cols":120,"rows":40}"#,
        r#"{"type":"prompt","data":"text"}"#,
    ] {
        reader.client.send_text(frame).await;
    }
    let told = "Context from /a.go:\n…\n\nThe user refers to /a.go, lines 1 to 4.\n\ntext";
    assert_eq!(of(&reader.until_line("result").await, "agent_message")[0]["text"], told);
    for (frame, answer) in [
        (r#"{"type":"ping"}"#, r#"{"type":"pong"}"#),
        (r#"{"type":"bogus"}"#, r#"{"type":"error","error":"unknown frame type: bogus"}"#),
    ] {
        reader.client.send_text(frame).await;
        assert_eq!(reader.next().await.unwrap(), serde_json::from_str::<Value>(answer).unwrap());
    }
    let done = super::told(&server, "x").await;
    let mut late = Reader::open(&server, &done, "?since=0").await;
    assert_eq!(late.until("exit").await, json!({"type": "exit", "exit_code": 0}));
}

/// The same of the sidecar's commands.
#[tokio::test]
async fn commands_as_they_are_typed() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/ws").await;
    let mut answered = async |commands: &[&str]| {
        for command in commands {
            client.send_text(*command).await;
        }
        let mut texts = Vec::new();
        loop {
            let event = client.next().await.expect("it goes on");
            let keys: Vec<&String> = event.as_object().unwrap().keys().collect();
            assert_eq!(keys, ["data", "offset", "timestamp", "type"], "{event}");
            if let Some(text) = event["data"]["text"].as_str().filter(|_| event["type"] == "agent_message") {
                texts.push(text.to_owned());
            }
            if event["type"] == "result" {
                return texts;
            }
        }
    };
    let prompt = r#"{"type":"prompt","data":{"content":"Fix the failing handler."}}"#;
    assert_eq!(answered(&[prompt]).await, ["Fix the failing handler."]);
    let steer = r#"{"type":"steer","data":{"content":"Use the other file."}}"#;
    assert_eq!(answered(&[r#"{"type":"interrupt"}"#, steer]).await, ["Use the other file."]);
    let context = r#"{"type":"context","data":{"text":"func f() {…}","filePath":"/workspace/a.go"}}"#;
    let mention = r#"{"type":"mention","data":{"filePath":"/workspace/README.md","lineStart":1,"lineEnd":40}}"#;
    let told = "Context from /workspace/a.go:\nfunc f() {…}\n\n\
                The user refers to /workspace/README.md, lines 1 to 40.\n\nFix the failing handler.";
    assert_eq!(answered(&[context, mention, prompt]).await, [told]);
}

/// Bodies and lines as they stand on the page, byte for byte but for ids, ports, offsets and times.
#[tokio::test]
async fn bodies_and_lines_as_they_stand() {
    let server = scripted(|_| {});
    let id = "7c4f3c3e-8a63-4fe2-baf3-d72b0b7d6458";
    let script = json!([["text", "Looking at the handler now."], ["result"], ["exit", 0]]);
    let mut body = asked(&script);
    (body["session_id"], body["task_id"]) = (json!(id), json!("t1"));
    let made = super::post(&server, &body).await;
    let port = server.port;
    let expected = format!(
        r#"{{"session_id":"{id}","task_id":"t1","agent":"claude","runtime":"local","status":"running","ws_url":"ws://127.0.0.1:{port}/ws/sessions/{id}","log_url":"http://127.0.0.1:{port}/sessions/{id}/logs"}}"#
    );
    assert_eq!((made.status, made.body.as_str()), (201, expected.as_str()));
    ended(&server, id).await;
    let failed = create(
        &server,
        &asked(&json!([["result", {"is_error": true, "result": "API Error: 401", "api_error_status": 401}]])),
    )
    .await;
    ended(&server, &failed).await;
    let whole = super::log(&server, id).await + &super::log(&server, &failed).await;
    for start in [
        r#"{"type":"agent_message","data":{"text":"Looking at the handler now.","delta":false},"offset":"#,
        r#"{"type":"exit","data":{"code":0},"exit_code":0,"offset":"#,
        r#"{"type":"exit","data":{"code":1,"error_detail":"API Error: 401","error_category":"auth_error","retryable":false},"exit_code":1,"offset":"#,
    ] {
        let line =
            whole.lines().find_map(|line| line.strip_prefix(start)).unwrap_or_else(|| panic!("{start}: {whole}"));
        let (offset, rest) = line.split_once(r#","timestamp":"#).expect("a time behind it");
        assert!(offset.parse::<u64>().is_ok() && rest.strip_suffix('}').unwrap().parse::<u64>().is_ok(), "{line}");
    }
}

/// The file of `dispatch`, as it stands there but for its folder, by the name and the words that stand there.
#[tokio::test]
async fn a_file_as_it_is_typed() {
    let folder = tempfile::tempdir().unwrap();
    let codex = repository("tests/it/scripts/codex_fake.py");
    let server = Server::start(&["--agent", "echo", "--codex-program", codex.to_str().unwrap()]);
    std::os::unix::fs::symlink(crate::support::binary(), folder.path().join("agentd")).unwrap();
    let work = folder.path().canonicalize().unwrap();
    let file = r#"agent: codex
interactive: true
work_dir: /absolute/path
codex: {instructions: "You are working inside this repository."}
env: {OPENAI_API_KEY: "${OPENAI_API_KEY}"}
"#;
    std::fs::write(folder.path().join("FILE"), file.replace("/absolute/path", work.to_str().unwrap())).unwrap();
    let line = "agentd dispatch --config FILE --server http://localhost:8090".replace("8090", &server.port.to_string());
    let mut command = Command::new("sh");
    command.args(["-c", &line]).current_dir(&work).env("OPENAI_API_KEY", "sk-x-0123456789");
    let path = format!("{}:{}", work.display(), std::env::var("PATH").unwrap());
    let dispatching = tokio::spawn(finish({
        command.env("PATH", path);
        command
    }));
    let id = eventually_there(&server).await;
    let mut reader = Reader::open(&server, &id, "?since=0").await;
    reader.client.send_text(r#"{"type":"stdin","data":"text\n"}"#).await;
    reader.until_line("result").await;
    assert_eq!(super::delete(&server, &id).await.status, 200);
    let done = dispatching.await.unwrap();
    assert_eq!(done.code, Some(1), "a session that is deleted has failed: {done:?}");
    assert_eq!(done.stdout, super::log(&server, &id).await);
    for said in ["session_id: ", "ws_url: ", "log_url: "] {
        assert!(
            done.stderr.lines().any(|line| line.starts_with(said) && line.contains(&id)),
            "{said}: {}",
            done.stderr
        );
    }
}

/// The id of the one session of a server, once it is there.
async fn eventually_there(server: &Server) -> String {
    let there = async {
        loop {
            if let Some(one) = server.get("/sessions").await.json().as_array().unwrap().first() {
                return one["session_id"].as_str().unwrap().to_owned();
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, there).await.expect("a session")
}
