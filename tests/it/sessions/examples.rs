//! The examples that users of this protocol type: with curl, and with a WebSocket client of another language.

use crate::support::{Server, finish, python};
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
