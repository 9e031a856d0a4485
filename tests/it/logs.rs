//! Lines of the log: whose work each is about, in text and in JSON, and how much of each part is told.

use crate::support::files::FileServer;
use crate::support::stub::{Stub, script};
use crate::support::{Server, eventually, read, turnhost};
use reqwest::Method;
use serde_json::{Value, json};

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    session: Option<String>,
    turn: Option<String>,
    whole: String,
}

impl Line {
    fn read(line: &str, format: &str) -> Self {
        if format == "json" {
            let read: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let id = |name: &str| read.get(name).map(|id| id.as_str().expect("a text").to_owned());
            return Self { session: id("session"), turn: id("turn"), whole: line.to_owned() };
        }
        // Behind time, level and target come the ids, and only then what the line says.
        let said = line.split_once(": ").map_or("", |(_, said)| said);
        let (session, said) = taken("session", said);
        let (turn, _) = taken("turn", said);
        Self { session, turn, whole: line.to_owned() }
    }

    fn whose(&self) -> (Option<&str>, Option<&str>) {
        (self.session.as_deref(), self.turn.as_deref())
    }
}

/// The value of a field that a line begins with, and the rest.
fn taken<'a>(name: &str, said: &'a str) -> (Option<String>, &'a str) {
    let Some(rest) = said.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')) else { return (None, said) };
    let end = match rest.strip_prefix('"') {
        Some(quoted) => quoted.replace("\\\"", "__").find('"').expect("the end of a quoted id") + 2,
        None => rest.find(' ').unwrap_or(rest.len()),
    };
    (Some(rest[..end].to_owned()), rest[end..].trim_start())
}

fn lines(server: &Server, format: &str) -> Vec<Line> {
    let log = server.log();
    // What is just being written is no line yet.
    log.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(|line| Line::read(line, format)).collect()
}

/// Waits for the line that says this.
async fn line(server: &Server, format: &str, said: &str) -> Line {
    eventually(said, || lines(server, format).into_iter().find(|line| line.whole.contains(said))).await
}

async fn begin(server: &Server, session: &str, prompt: &str) -> String {
    let path = format!("/v1/sessions/{session}/turns");
    let begun = read(server.request(Method::POST, &path).body(json!({"prompt": prompt}).to_string())).await;
    assert_eq!(begun.status, 202, "{}", begun.body);
    begun.json()["turn"].as_str().unwrap().to_owned()
}

async fn two_turns_at_once(format: &str) {
    let stub = Stub::new();
    let program = stub.program();
    let args = ["--handler", program.to_str().unwrap(), "--log-format", format, "--handler-processes", "2"];
    let server = Server::start_with(&args, |command| {
        stub.environment(command);
        command.env("STUB_MODE", "plain");
    });
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let (before, after) = (format!("stderr {name} begins"), format!("stderr {name} goes on"));
        let noise = format!("raw noise of {name}");
        let mark = format!("mark {name}");
        let prompt = script(&[&before, &mark, &stub.gate("gate"), &after, &noise, "fail for good"]);
        ids.push((name, begin(&server, name, &prompt).await));
    }
    // Both are in the midst of their work.
    stub.marked("one").await;
    stub.marked("two").await;
    stub.open("gate");
    for (name, turn) in &ids {
        let own = (Some(*name), Some(turn.as_str()));
        for said in ["begins", "goes on"] {
            assert_eq!(line(&server, format, &format!("{name} {said}")).await.whose(), own, "{said}");
        }
        assert_eq!(line(&server, format, &format!("noise of {name}")).await.whose(), own);
        let all = eventually("the turn's end", || {
            let all = lines(&server, format);
            let failed = all.iter().any(|line| line.whole.contains("turn failed") && line.whose() == own);
            failed.then_some(all)
        });
        let stray = |line: &&Line| line.turn.as_ref() == Some(turn) && line.session.as_deref() != Some(*name);
        assert_eq!(all.await.iter().find(stray), None);
    }
    // The same processes, the other way round: what is said goes to the turn that is on.
    for name in ["three", "four"] {
        let turn = begin(&server, name, &script(&[&format!("stderr {name} begins"), "say done"])).await;
        let said = line(&server, format, &format!("{name} begins")).await;
        assert_eq!(said.whose(), (Some(name), Some(turn.as_str())));
        server.idle().await;
    }
}

#[tokio::test]
async fn two_turns_at_once_are_not_mixed_up_in_text() {
    two_turns_at_once("text").await;
}

#[tokio::test]
async fn two_turns_at_once_are_not_mixed_up_in_json() {
    two_turns_at_once("json").await;
}

/// One process serves all turns: what it prints is nobody's, what it logs for a turn is that turn's.
#[tokio::test]
async fn of_a_shared_process_only_what_names_its_turn_is_a_turns() {
    let stub = Stub::new();
    let program = stub.program();
    let args = ["--handler", program.to_str().unwrap(), "--log-format", "json"];
    let server = Server::start_with(&args, |command| stub.environment(command));
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let log = format!(r#"raw {{"type":"log","id":"{{{{id}}}}","level":"warn","text":"noted by {name}"}}"#);
        let (print, mark) = (format!("stderr printed by {name}"), format!("mark {name}"));
        let prompt = script(&[&mark, &stub.gate("gate"), &log, &print, "say done"]);
        ids.push((name, begin(&server, name, &prompt).await));
    }
    stub.marked("one").await;
    stub.marked("two").await;
    stub.open("gate");
    for (name, turn) in &ids {
        let noted = line(&server, "json", &format!("noted by {name}")).await;
        assert_eq!(noted.whose(), (Some(*name), Some(turn.as_str())));
        let printed = line(&server, "json", &format!("printed by {name}")).await;
        assert_eq!(printed.whose(), (None, None));
    }
}

/// Something that downloads warn of.
fn archive_of_a_pipe() -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("pipe").unwrap();
    header.set_entry_type(tar::EntryType::Fifo);
    header.set_size(0);
    header.set_cksum();
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    archive.append(&header, std::io::empty()).unwrap();
    archive.into_inner().unwrap().finish().unwrap()
}

/// Commands and downloads of two connections at once; what the adapter says of a connection names its session.
#[tokio::test]
async fn commands_and_downloads_of_two_turns_at_once() {
    for format in ["text", "json"] {
        let files = FileServer::start().await;
        files.add("a.tgz", archive_of_a_pipe());
        let gate = tempfile::tempdir().unwrap();
        let file = gate.path().join("gate");
        let server = Server::start(&["--agent", "echo", "--log-format", format]);
        let (mut one, mut two) = (server.connect("/?session=one").await, server.connect("/?session=two").await);
        for (name, client) in [("one", &mut one), ("two", &mut two)] {
            let wait = format!("while [ ! -e {} ]; do sleep 0.01; done; : {name}", file.display());
            let folder = gate.path().join(name);
            let download = json!({"download_url": files.url("files/a.tgz"), "working_dir": folder});
            let message = json!({"message_type": "command_execution_message", "commands": [{"command": wait}],
                                 "pre_execution_downloadables": [download], "artifacts_dir": folder});
            client.send(&message).await;
        }
        let mut turns = Vec::new();
        for name in ["one", "two"] {
            let started = eventually("the command", || {
                let all = lines(&server, format);
                let is_ours = |line: &Line| line.whole.contains(": ") && line.whole.contains(&format!("; : {name}"));
                all.into_iter().find(|line| line.whole.contains("command started") && is_ours(line))
            });
            let started = started.await;
            assert_eq!(started.session.as_deref(), Some(name), "{started:?}");
            turns.push((name, started.turn.expect("a turn")));
        }
        assert_ne!(turns[0].1, turns[1].1);
        std::fs::write(&file, "").unwrap();
        one.terminal().await;
        two.terminal().await;
        for (name, turn) in &turns {
            let own = (Some(*name), Some(turn.as_str()));
            let find = |said: &str, whose| {
                lines(&server, format).into_iter().find(|line| line.whole.contains(said) && line.whose() == whose)
            };
            eventually("the end of the command", || find("command ended", own)).await;
            eventually("a warning about the download", || find("was skipped", own)).await;
            eventually("a word of the adapter", || find("artifacts_dir is deprecated", (Some(name), None))).await;
        }
    }
}

/// Ids are their callers' own words: they cannot look like other fields, or begin a line of their own.
#[tokio::test]
async fn ids_are_escaped() {
    let stub = Stub::new();
    for format in ["text", "json"] {
        let program = stub.program();
        let args = ["--handler", program.to_str().unwrap(), "--log-format", format];
        let server = Server::start_with(&args, |command| stub.environment(command));
        let name = "a\" turn=forged é\u{202e}";
        let turn = begin(&server, "a%22%20turn=forged%20%C3%A9%E2%80%AE", &script(&["fail so"])).await;
        let found = line(&server, format, "turn failed").await;
        let shown = if format == "json" { name.to_owned() } else { format!("{name:?}") };
        assert_eq!(found.whose(), (Some(shown.as_str()), Some(turn.as_str())), "{found:?}");
    }
}

#[tokio::test]
async fn each_part_has_its_own_level() {
    let server = Server::start(&["--agent", "echo", "--log-level", "error,turnhost::engine::run=debug"]);
    let turn = begin(&server, "s", "hello").await;
    let ended = line(&server, "text", "turn ended").await;
    assert_eq!(ended.whose(), (Some("s"), Some(turn.as_str())));
    assert!(ended.whole.contains("DEBUG turnhost::engine::run: session=s turn=turn_"), "{ended:?}");
    // A repeat of Dari's is worth a line, of another part.
    for _ in 0..2 {
        server.advance(&json!({"input": "x", "session_id": "d", "message_id": "m"})).await;
    }
    begin(&server, "s", "again").await;
    let ends = || lines(&server, "text").iter().filter(|line| line.whole.contains("turn ended")).count() == 3;
    eventually("three turns", || ends().then_some(())).await;
    let others: Vec<Line> =
        lines(&server, "text").into_iter().filter(|line| !line.whole.contains("turnhost::engine::run")).collect();
    assert_eq!(others, []);

    // What a handler prints has a name of its own.
    let stub = Stub::new();
    let program = stub.program();
    let args = ["--handler", program.to_str().unwrap(), "--log-level", "info,handler=off"];
    let server = Server::start_with(&args, |command| stub.environment(command));
    begin(&server, "s", &script(&["stderr printed", "fail so"])).await;
    line(&server, "text", "turn failed").await;
    assert!(!server.log().contains("handler: printed"), "{}", server.log());
}

#[tokio::test]
async fn a_level_that_is_misspelt_is_told() {
    for (level, word) in [("inof", "inof"), ("warn,turnhots", "turnhots"), ("info,x::y", "x::y")] {
        let ended = turnhost(&["--agent", "echo", "--port", "0", "--log-level", level]).await;
        let expected = format!("invalid log level \"{level}\": \"{word}\" is neither a level");
        assert!(ended.code == Some(1) && ended.stderr.contains(&expected), "{ended:?}");
    }
    let ended = turnhost(&["--agent", "echo", "--port", "0", "--log-level", "turnhost=loud"]).await;
    assert!(ended.code == Some(1) && ended.stderr.contains("invalid log level \"turnhost=loud\": "), "{ended:?}");
}
