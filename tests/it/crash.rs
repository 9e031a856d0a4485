//! The server is killed at every named point of a turn, and nothing is lost or done twice.

use crate::support::{PATIENCE, Server};
use futures_util::{SinkExt, StreamExt};
use nix::sys::signal::Signal;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Message;

/// Where the server kills itself, as `POINT:N`: at the N-th time. A first turn comes before the one that is cut, so the
/// points that a turn passes once are numbered 1 and 2.
const POINTS: [(&str, &[u32]); 15] = [
    ("turn-admitted", &[1, 2]),
    ("turn-accepted", &[1, 2]),
    ("store-uncommitted", &[1, 2, 3, 4, 5]),
    ("store-committed", &[1, 2, 3, 4, 5]),
    ("turn-stored", &[1, 2]),
    ("event-redacted", &[1, 2, 4, 6]),
    ("event-said", &[1, 2, 4, 6]),
    ("handler-ended", &[1, 2]),
    ("turn-ended", &[1, 2]),
    ("outcome-stored", &[1, 2]),
    ("outcome-settled", &[1, 2]),
    ("answer-made", &[1, 2]),
    ("answer-delivered", &[1, 2]),
    ("store-opened", &[1]),
    ("store-closed", &[1]),
];

/// Turns of one protocol, each with a key: what the caller got, or `None` when the server was gone before it had it.
#[derive(Clone, Copy)]
enum Host {
    Dari,
    RuntimeUse,
    V1,
}

impl Host {
    fn session(self) -> &'static str {
        match self {
            Self::Dari => "dari:s",
            Self::RuntimeUse | Self::V1 => "s",
        }
    }

    async fn ask(self, server: &Server, key: &str, prompt: &str) -> Option<String> {
        let request = match self {
            Self::RuntimeUse => return query(server, key, prompt).await,
            Self::Dari => {
                let body = json!({"input": prompt, "session_id": "s", "message_id": key, "state": null});
                server.request(Method::POST, "/runtime/advance").body(body.to_string())
            }
            Self::V1 => server
                .request(Method::POST, "/v1/sessions/s/turns?wait=20")
                .header("idempotency-key", key)
                .body(json!({"prompt": prompt}).to_string()),
        };
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let body = answer.text().await.ok()?;
        assert_eq!(status, 200, "{body}");
        Some(body)
    }
}

/// A query of a named session with a key, on a socket of its own: what its terminal says.
async fn query(server: &Server, key: &str, prompt: &str) -> Option<String> {
    let asking = async {
        let url = format!("ws://{}/?session=s&turn={key}", server.address());
        let tcp = tokio::net::TcpStream::connect(server.address()).await.ok()?;
        let (mut socket, _) = tokio_tungstenite::client_async(url, tcp).await.ok()?;
        let message = json!({"message_type": "invocation_message", "user_prompt": prompt, "secrets_to_redact": []});
        socket.send(Message::text(message.to_string())).await.ok()?;
        loop {
            let Message::Text(frame) = socket.next().await?.ok()? else { continue };
            let mut frame: Value = serde_json::from_str(&frame).unwrap();
            if frame["message_type"] == "result_message" {
                frame.as_object_mut().unwrap().remove("seq");
                return Some(frame.to_string());
            }
            assert_ne!(frame["message_type"], "error_message", "{frame}");
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("in time")
}

/// Notes every event that a reader was shown, by its number, for as long as the server lives.
fn watch(server: &Server, session: &str, shown: &Shown) -> tokio::task::JoinHandle<()> {
    let request = server.request(Method::GET, &format!("/v1/sessions/{session}/events"));
    let (request, shown) = (request.header("accept", "text/event-stream"), shown.clone());
    tokio::spawn(async move {
        let Ok(answer) = request.send().await else { return };
        let (mut chunks, mut text) = (answer.bytes_stream(), String::new());
        while let Some(Ok(chunk)) = chunks.next().await {
            text.push_str(std::str::from_utf8(&chunk).unwrap());
            while let Some((event, rest)) = text.split_once("\n\n") {
                if let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: ")) {
                    note(&shown, serde_json::from_str(data).unwrap());
                }
                text = rest.to_owned();
            }
        }
    })
}

type Shown = Arc<Mutex<BTreeMap<u64, Value>>>;

/// No number stands for two events.
fn note(shown: &Shown, event: Value) {
    let seq = event["seq"].as_u64().unwrap();
    let mut shown = shown.lock().unwrap();
    let before = shown.entry(seq).or_insert_with(|| event.clone());
    assert_eq!(*before, event, "the number {seq} was given twice");
}

async fn all_events(server: &Server, session: &str) -> Vec<Value> {
    let (mut all, mut after) = (Vec::<Value>::new(), 0);
    loop {
        let page = server.get(&format!("/v1/sessions/{session}/events?after={after}")).await.json();
        all.extend(page["events"].as_array().unwrap().iter().cloned());
        after = all.last().map_or(0, |event| event["seq"].as_u64().unwrap());
        if page["more"] == false {
            return all;
        }
    }
}

fn start(folder: &Path, kill_at: Option<&str>) -> Option<Server> {
    let mut command = crate::support::server_command(&["--agent", "echo", "--port", "0"]);
    command.args(["--data-dir", folder.to_str().unwrap()]);
    if let Some(point) = kill_at {
        command.env("TURNHOST_KILL_AT", point);
        if point.starts_with("store-opened") {
            // It does not come as far as to listen.
            let ended = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status();
            assert_eq!(ended.unwrap().code(), None, "killed");
            return None;
        }
    }
    Some(Server::spawn(command))
}

const TURNS: [(&str, &str); 2] = [("a", "hello"), ("b", "@delta 5 20")];

/// Has the server die at `point`, and tells whether it came there.
async fn crash(host: Host, folder: &Path, point: &str, shown: &Shown) -> (bool, [Option<String>; 2]) {
    let Some(mut server) = start(folder, Some(point)) else { return (true, [None, None]) };
    let mut got = [None, None];
    let mut watching = None;
    for (at, (key, prompt)) in TURNS.iter().enumerate() {
        got[at] = host.ask(&server, key, prompt).await;
        watching.get_or_insert_with(|| watch(&server, host.session(), shown));
    }
    if point.starts_with("store-closed") {
        server.signal(Signal::SIGTERM);
        server.exited().await;
    }
    // An answer may be with its caller while the server is on its way to the point.
    let deadline =
        std::time::Instant::now() + std::time::Duration::from_millis(if got[1].is_some() { 300 } else { 5000 });
    while server.is_running() && std::time::Instant::now() < deadline {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let died = !server.is_running();
    if !died {
        server.signal(Signal::SIGKILL);
        server.exited().await;
    }
    if let Some(watching) = watching {
        tokio::time::timeout(PATIENCE, watching).await.expect("the stream ends with the server").unwrap();
    }
    (died, got)
}

async fn case(host: Host, point: &str) -> bool {
    let folder = TempDir::new().unwrap();
    let shown = Shown::default();
    let (died, before) = crash(host, folder.path(), point, &shown).await;

    let server = start(folder.path(), None).unwrap();
    let mut answers = Vec::new();
    for ((key, prompt), before) in TURNS.iter().zip(before) {
        let answer = host.ask(&server, key, prompt).await.expect("an answer");
        if let Some(before) = before {
            assert_eq!(answer, before, "{point}: {key} was answered already");
        }
        answers.push(answer);
    }
    for ((key, prompt), answer) in TURNS.iter().zip(&answers) {
        assert_eq!(host.ask(&server, key, prompt).await.as_ref(), Some(answer), "{point}: {key} has one outcome");
    }
    let events = all_events(&server, host.session()).await;
    let numbers: Vec<u64> = events.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "{point}: {numbers:?}");
    for event in &events {
        note(&shown, event.clone());
    }
    assert_eq!(shown.lock().unwrap().len(), events.len(), "{point}: what was shown is there");
    let count = |kind: &str| events.iter().filter(|event| event["type"] == kind).count();
    assert_eq!(count("ended"), 2, "{point}: each turn has one outcome: {events:#?}");
    // A turn that was cut has no end; what follows it is its next attempt.
    let mut attempts = BTreeMap::<&str, u64>::new();
    for event in events.iter().filter(|event| event["type"] == "accepted") {
        let attempt = attempts.entry(event["prompt"].as_str().unwrap()).or_default();
        *attempt += 1;
        assert_eq!(event["attempt"], *attempt, "{point}: {events:#?}");
    }
    if !matches!(host, Host::Dari) {
        // Its own state is that of the turns before.
        let third = host.ask(&server, "c", "@show").await.unwrap();
        let third: Value = serde_json::from_str(&third).unwrap();
        let shown = third.get("structured_output").or(third.pointer("/data/structured_output")).unwrap_or(&Value::Null);
        assert_eq!(shown["state"]["turn"], 2, "{point}: no turn counts twice: {third}");
    }
    died
}

async fn matrix(host: Host) {
    for (point, times) in POINTS {
        // A RuntimeUse client does not say that it has an answer.
        if matches!(host, Host::RuntimeUse) && point == "answer-delivered" {
            continue;
        }
        let mut died = 0;
        for n in times {
            died += u32::from(case(host, &format!("{point}:{n}")).await);
        }
        assert!(died > 0, "the server never came to {point}");
    }
}

#[tokio::test]
async fn dari_through_every_point() {
    matrix(Host::Dari).await;
}

#[tokio::test]
async fn runtimeuse_through_every_point() {
    matrix(Host::RuntimeUse).await;
}

#[tokio::test]
async fn v1_through_every_point() {
    matrix(Host::V1).await;
}

/// What was answered with 202 is run, by this server or the next one, and once; what was cut waits for its retry.
#[tokio::test]
async fn what_was_promised_is_kept() {
    for point in
        ["promise-stored:2", "turn-admitted:2", "turn-accepted:2", "turn-stored:2", "answer-made:2", "answer-made:3"]
    {
        let folder = TempDir::new().unwrap();
        let mut server = start(folder.path(), Some(point)).unwrap();
        let mut promised = BTreeMap::new();
        for n in 1..=3 {
            let request = server.request(Method::POST, "/v1/sessions/s/turns").header("idempotency-key", n.to_string());
            let Ok(answer) = request.body(json!({"prompt": format!("turn {n}")}).to_string()).send().await else {
                break;
            };
            assert_eq!(answer.status(), 202);
            let Ok(body) = answer.text().await else { break };
            let told: Value = serde_json::from_str(&body).unwrap();
            promised.insert(n, told["turn"].as_str().unwrap().to_owned());
        }
        server.exited().await;
        assert!(!promised.is_empty(), "{point}");

        let server = start(folder.path(), None).unwrap();
        for (n, turn) in &promised {
            let path = format!("/v1/turns/{turn}");
            let told = async {
                loop {
                    let told = server.get(&path).await.json();
                    if told["status"] != "running" {
                        return told;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            };
            let told = tokio::time::timeout(PATIENCE, told).await.expect("an end");
            if told["status"] == "interrupted" {
                let request = server.request(Method::POST, "/v1/sessions/s/turns?wait=20");
                let body = json!({"prompt": format!("turn {n}")}).to_string();
                let retry = request.header("idempotency-key", n.to_string()).body(body).send().await.unwrap();
                assert_eq!(retry.status(), 200, "{point}");
            } else {
                assert_eq!((&told["status"], &told["text"]), (&json!("ended"), &json!(format!("turn {n}"))), "{point}");
            }
        }
        let events = all_events(&server, "s").await;
        for n in promised.keys() {
            let prompt = json!(format!("turn {n}"));
            let ends = events.iter().filter(|event| event["type"] == "ended" && event["text"] == prompt).count();
            assert_eq!(ends, 1, "{point}: turn {n} has one outcome: {events:#?}");
        }
    }
}

/// Turns that wait when the server is asked to stop, or is killed, begin after its next start; one with an environment,
/// which is not kept, does not.
#[tokio::test]
async fn what_waits_begins_later() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let folder = TempDir::new().unwrap();
        let mut command = crate::support::server_command(&["--agent", "echo", "--port", "0", "--grace", "100ms"]);
        command.args(["--data-dir", folder.path().to_str().unwrap()]);
        let mut server = Server::spawn(command);
        let begin = async |body: Value| {
            let request = server.request(Method::POST, "/v1/sessions/s/turns").body(body.to_string());
            let told: Value = serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap();
            told["turn"].as_str().unwrap().to_owned()
        };
        let runs = begin(json!({"prompt": "@sleep 60000"})).await;
        server.busy().await;
        let waits = begin(json!({"prompt": "later"})).await;
        let secret = begin(json!({"prompt": "never", "env": {"A": "b"}})).await;
        server.signal(signal);
        server.exited().await;

        let server = start(folder.path(), None).unwrap();
        let told = async {
            loop {
                let told = server.get(&format!("/v1/turns/{waits}")).await;
                if told.status == 200 && told.json()["status"] == "ended" {
                    return told.json();
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let told = tokio::time::timeout(PATIENCE, told).await.expect("it runs");
        assert_eq!(told["text"], "later", "{signal}");
        assert_eq!(server.get(&format!("/v1/turns/{runs}")).await.json()["status"], "interrupted", "{signal}");
        assert_eq!(server.get(&format!("/v1/turns/{secret}")).await.status, 404, "{signal}");
    }
}
