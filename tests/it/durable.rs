//! What outlives the server, however it ends: with `--data-dir`.

use crate::support::{Server, eventually, raw_http};
use nix::sys::signal::Signal;
use serde_json::json;
use std::path::Path;
use tempfile::TempDir;

fn start(folder: &Path, args: &[&str]) -> Server {
    Server::start(&[&["--data-dir", folder.to_str().unwrap()], args].concat())
}

async fn kill(mut server: Server) {
    server.signal(Signal::SIGKILL);
    server.exited().await;
}

#[tokio::test]
async fn an_answer_survives_a_kill() {
    let folder = TempDir::new().unwrap();
    let server = start(folder.path(), &["--agent", "echo"]);
    let with_id = json!({"input": "one", "session_id": "s", "message_id": "m1", "state": null});
    let first = server.advance(&with_id).await;
    let second = server
        .advance(&json!({"input": "two", "session_id": "s", "message_id": "m2", "state": first.json()["state"]}))
        .await;
    kill(server).await;

    let server = start(folder.path(), &["--agent", "echo"]);
    assert_eq!(server.advance(&with_id).await.body, first.body, "check 9, after a restart");
    // The same id with other input is a new turn.
    let other = json!({"input": "other", "session_id": "s", "message_id": "m1", "state": second.json()["state"]});
    assert_eq!(server.advance(&other).await.json()["text"], "other");
    // What was delivered without an id is no retry.
    let plain = json!({"input": "plain", "session_id": "p", "state": null});
    assert_eq!(server.advance(&plain).await.json()["state"]["turn"], 1);
    // That it was delivered is noted behind the answer.
    let mut server = server;
    server.signal(Signal::SIGTERM);
    server.exited().await;
    let server = start(folder.path(), &["--handler", &handler(folder.path(), false)]);
    server.advance(&plain).await;
    assert_eq!(calls(folder.path()), 1, "a new turn");
}

/// Check 15: an answer that nobody got waits for its retry, also through a kill.
#[tokio::test]
async fn an_answer_that_nobody_got() {
    let folder = TempDir::new().unwrap();
    let server = start(folder.path(), &["--handler", &handler(folder.path(), true)]);
    let body = json!({"input": "hello", "session_id": "s", "state": null}).to_string();
    let socket = raw_http::begin_advance(server.address(), &body).await;
    eventually("the turn runs", || (calls(folder.path()) == 1).then_some(())).await;
    drop(socket);
    std::fs::write(folder.path().join("gate"), "").unwrap();
    server.idle().await;
    kill(server).await;

    let server = start(folder.path(), &["--handler", &handler(folder.path(), true)]);
    let answer = server.advance_raw(body).await;
    assert_eq!((answer.json()["text"].as_str(), calls(folder.path())), (Some("attempt 1"), 1), "{}", answer.body);
}

/// A turn that the kill cut is run again by its retry, which says so.
#[tokio::test]
async fn a_turn_that_was_cut() {
    let folder = TempDir::new().unwrap();
    let body = json!({"input": "go", "session_id": "s", "message_id": "m1", "state": null}).to_string();
    for begun in 1..=2 {
        let server = start(folder.path(), &["--handler", &handler(folder.path(), true)]);
        let socket = raw_http::begin_advance(server.address(), &body).await;
        eventually("the turn runs", || (calls(folder.path()) == begun).then_some(())).await;
        kill(server).await;
        drop(socket);
    }
    let server = start(folder.path(), &["--handler", &handler(folder.path(), false)]);
    let answer = server.advance_raw(body.clone()).await;
    assert_eq!(answer.json()["text"], "attempt 3", "{}", answer.body);
    assert_eq!(server.advance_raw(body).await.body, answer.body);
    assert_eq!(calls(folder.path()), 3);
}

/// A handler that notes each call, waits for the gate if it is to, and tells which attempt it was.
fn handler(folder: &Path, waits: bool) -> String {
    let file = folder.join(if waits { "wait.py" } else { "tell.py" });
    let (calls, gate) = (folder.join("calls").display().to_string(), folder.join("gate").display().to_string());
    let wait = if waits {
        format!("while not os.path.exists({gate:?}):\n        await asyncio.sleep(0.01)")
    } else {
        "pass".to_owned()
    };
    let source = format!(
        "import asyncio, os\nasync def run(i, s):\n    open({calls:?}, 'a').write('call\\n')\n    {wait}\n    return f'attempt {{i.attempt}}'\n"
    );
    std::fs::write(&file, source).unwrap();
    file.display().to_string()
}

fn calls(folder: &Path) -> usize {
    std::fs::read_to_string(folder.join("calls")).unwrap_or_default().lines().count()
}

/// A named session goes on: its state, and the numbers of its events.
#[tokio::test]
async fn a_named_session_goes_on() {
    let folder = TempDir::new().unwrap();
    let extensions = json!({"extensions": ["events"]});
    let ask = async |server: &Server, prompt: &str| {
        let mut client = server.connect("/?session=s").await;
        client.query_with(prompt, extensions.clone()).await;
        client.until_terminal().await
    };
    let server = start(folder.path(), &["--agent", "echo"]);
    let frames = ask(&server, "@delta 5").await;
    let last = frames.iter().filter_map(|frame| frame["seq"].as_u64()).max().unwrap();
    kill(server).await;
    let server = start(folder.path(), &["--agent", "echo"]);
    let frames = ask(&server, "@show").await;
    let first = frames.iter().filter_map(|frame| frame["seq"].as_u64()).min().unwrap();
    assert!(first > last, "numbers rise: {last}, then {first}");
    let shown = &frames.last().unwrap()["data"]["structured_output"];
    assert_eq!(shown["state"], json!({"v": 1, "turn": 1}), "{shown}");
}

/// Two servers on one folder: the second says so and lives in memory.
#[tokio::test]
async fn a_folder_that_cannot_be_used() {
    let folder = TempDir::new().unwrap();
    let one = start(folder.path(), &["--agent", "echo"]);
    let two = start(folder.path(), &["--agent", "echo"]);
    let ask = json!({"input": "hello", "session_id": "s", "message_id": "m", "state": null});
    for server in [&one, &two] {
        assert_eq!(server.advance(&ask).await.json()["text"], "hello");
    }
    eventually("a warning", || two.log().contains("is in use by another process").then_some(())).await;
    assert!(two.log().contains("sessions live in memory"), "{}", two.log());
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let three = start(&file, &["--agent", "echo"]);
    assert_eq!(three.advance(&ask).await.json()["text"], "hello");
    eventually("a warning", || three.log().contains("--data-dir cannot be used").then_some(())).await;
    assert_eq!(one.get("/health").await.status, 200, "the owner goes on");
}

/// A disk that is full: turns go on and say so; once there is room again, the next turn is kept.
#[tokio::test]
async fn a_full_disk() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    // A disk of two megabytes that nobody else sees; as another user's root where we are not root ourselves.
    let mut command = std::process::Command::new("unshare");
    let mount = "mount -t tmpfs -o size=2m none \"$0\" && exec \"$@\"";
    command.args(["--map-root-user", "--mount", "sh", "-c", mount]).arg(&data).arg(crate::support::binary());
    command.args(["--agent", "echo", "--port", "0", "--data-dir"]).arg(&data);
    let server = Server::spawn(command);
    let filler = format!("/proc/{}/root{}/filler", server.pid(), data.display());
    let ask = async |id: &str, input: &str| {
        let body = json!({"input": input, "session_id": "s", "message_id": id, "state": null});
        server.advance(&body).await.json()["text"].as_str().unwrap().to_owned()
    };
    assert_eq!(ask("m1", "before").await, "before");
    std::fs::write(&filler, vec![0; 4 << 20]).unwrap_err();
    let large = "x".repeat(10_000);
    assert_eq!(ask("m2", &large).await, large);
    eventually("a word in the log", || server.log().contains("a commit failed").then_some(())).await;
    assert_eq!(ask("m3", "full").await, "full");
    assert_eq!(ask("m2", &large).await, large, "a retry gets its answer from memory");
    let events = server.get("/v1/sessions/dari:s/events").await.json()["events"].clone();
    let warning = |event: &serde_json::Value| {
        event["event"]["text"].as_str().is_some_and(|text| text.contains("kept in memory only"))
    };
    assert!(events.as_array().unwrap().iter().any(warning), "{events}");

    std::fs::remove_file(&filler).unwrap();
    eventually("it works again", || server.log().contains("the store works again").then_some(())).await;
    assert_eq!(ask("m4", "after").await, "after");
    eventually("the session is kept again", || server.log().contains("keeps this session").then_some(())).await;
    // What is on the disk has a gap there, and no number twice.
    let copy = TempDir::new().unwrap();
    std::fs::create_dir(copy.path().join("log")).unwrap();
    for name in ["index.db", "index.db-wal", "log/0000000000000000000.log"] {
        let from = format!("/proc/{}/root{}/{name}", server.pid(), data.display());
        std::fs::copy(from, copy.path().join(name)).unwrap();
    }
    let other = start(copy.path(), &["--agent", "echo"]);
    let kept = other.get("/v1/sessions/dari:s/events").await.json()["events"].clone();
    let kinds: Vec<&str> = kept.as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["accepted", "ended", "gap", "accepted", "ended"], "{kept}");
}

/// A client whose server was killed goes on at the next one: it gets what came after its last frame, and how it ended.
#[tokio::test]
async fn a_client_goes_on_after_a_restart() {
    let extensions = json!({"extensions": ["events"]});
    for (prompt, ending) in [("@delta 5 20", "result_message"), ("@sleep 60000", "error_message")] {
        let folder = TempDir::new().unwrap();
        let server = start(folder.path(), &["--agent", "echo"]);
        let mut client = server.connect("/?session=s").await;
        client.query_with(prompt, extensions.clone()).await;
        let mut last = 0;
        if ending == "result_message" {
            let frames = client.until_terminal().await;
            last = frames.iter().filter_map(|frame| frame["seq"].as_u64()).min().unwrap();
        } else {
            let began = async {
                loop {
                    let events = server.get("/v1/sessions/s/events").await;
                    if events.status == 200 && events.json()["events"] != json!([]) {
                        return;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(crate::support::PATIENCE, began).await.expect("it begins");
        }
        kill(server).await;
        let server = start(folder.path(), &["--agent", "echo"]);
        let mut client = server.connect(&format!("/?session=s&after={last}&extensions=events")).await;
        let frames = client.until_terminal().await;
        let terminal = frames.last().unwrap();
        assert_eq!(terminal["message_type"], ending, "{prompt}: {frames:?}");
        let seqs: Vec<u64> = frames.iter().filter_map(|frame| frame["seq"].as_u64()).collect();
        assert!(seqs.iter().all(|seq| *seq > last) && seqs.is_sorted(), "{prompt}: {frames:?}");
        if ending == "result_message" {
            assert!(seqs.len() > 4, "{frames:?}");
        } else {
            assert!(terminal["error"] == "the server ended while the request ran", "{terminal}");
        }
        // The socket takes requests as any other.
        client.query_with("more", extensions.clone()).await;
        assert_eq!(client.terminal().await["data"]["text"], "more");
    }
}

/// Without a word about it the folder is where the system has such things; without a home it is the memory.
#[tokio::test]
async fn the_usual_folder() {
    let home = TempDir::new().unwrap();
    let ask = json!({"input": "hello", "session_id": "s", "message_id": "m", "state": null});
    let with = |variable: &str, value: &Path| {
        let mut command = crate::support::server_command(&["--agent", "echo", "--port", "0"]);
        command.env_remove("TURNHOST_DATA_DIR").env_remove("HOME").env(variable, value);
        Server::spawn(command)
    };
    let data_home = home.path().join("data");
    for (variable, value, folder) in [
        ("HOME", home.path(), home.path().join(".local/share/turnhost")),
        ("XDG_DATA_HOME", &data_home, data_home.join("turnhost")),
    ] {
        let server = with(variable, value);
        let first = server.advance(&ask).await.body;
        assert_eq!(server.get("/health").await.json()["store"], json!({"state": "ok"}), "{variable}");
        assert!(folder.join("index.db").exists(), "{variable}");
        kill(server).await;
        assert_eq!(with(variable, value).advance(&ask).await.body, first);
    }
    let homeless = with("NOTHING", home.path());
    assert_eq!(homeless.advance(&ask).await.status, 200);
    assert_eq!(homeless.get("/health").await.json()["store"], json!({"state": "memory"}));
    eventually("a warning", || homeless.log().contains("there is no HOME and no --data-dir").then_some(())).await;
}

/// Sessions that nobody uses are read from the disk when they go on: what they take in memory has a bound.
#[tokio::test]
async fn quiet_sessions_take_so_much_and_no_more() {
    let folder = TempDir::new().unwrap();
    let server = start(folder.path(), &["--agent", "echo"]);
    let large = "x".repeat(1 << 20);
    let ask = async |session: usize| {
        let body = json!({"input": large, "session_id": format!("s{session}"), "message_id": "m", "state": null});
        server.advance(&body).await.json()
    };
    let first = ask(0).await;
    for session in 1..60 {
        assert_eq!(ask(session).await["text"], large);
    }
    let loaded = server.get("/health").await.json()["sessions"]["loaded"].as_u64().unwrap();
    assert!((8..20).contains(&loaded), "{loaded} sessions of 60 are in memory");
    assert_eq!(ask(0).await, first, "a retry gets what was recorded");
}
