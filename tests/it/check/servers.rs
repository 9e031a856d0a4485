//! Servers that are wrong in one way each: the check that is about it differs, says what was seen, and most others hold.

use super::{bundle, finding, make_executable, run, with_verdict};
use crate::support::repository;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// A bundle whose command is the server with this fault.
struct Planted {
    folder: TempDir,
    port: u16,
}

impl Planted {
    async fn new(fault: &str) -> Self {
        let folder = bundle("python").await;
        let port = free_port();
        let server = folder.path().join("server.py");
        fs::copy(repository("tests/it/check/server.py"), &server).unwrap();
        let planted = Self { folder, port };
        planted.command(&format!("python3 {} {fault} {port}", server.display()));
        planted
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("dari.yml")
    }

    fn command(&self, command: &str) {
        let mut text = fs::read_to_string(self.file()).unwrap();
        for (key, value) in [("command", command), ("port", &self.port.to_string())] {
            let line = text.lines().find(|line| line.trim_start().starts_with(&format!("{key}: "))).unwrap().to_owned();
            text = text.replace(&line, &format!("    {key}: {value}"));
        }
        fs::write(self.file(), text).unwrap();
    }

    /// The exit code, and the report.
    async fn check(&self, more: &[&str]) -> (Option<i32>, Value) {
        let mut args = vec!["check", "--json"];
        args.extend(more);
        let end = run(self.folder.path(), &args).await;
        assert_eq!(end.stderr, "");
        (end.code, serde_json::from_str(&end.stdout).unwrap())
    }
}

/// A fault, the checks that differ for it, and what the first of them saw: this, or that.
type Row = (&'static str, &'static [&'static str], &'static str);

async fn each(rows: &[Row], code: i32, more: &[&str]) {
    for (fault, differing, words) in rows {
        let planted = Planted::new(fault).await;
        let (ended, report) = planted.check(more).await;
        assert_eq!((ended, with_verdict(&report, "differs")), (Some(code), differing.to_vec()), "{fault}: {report:#}");
        let seen = finding(&report, differing[0])["seen"].as_str().unwrap();
        assert!(words.split(" | ").any(|words| seen.contains(words)), "{fault}: {seen}");
    }
}

/// What is right is found right, though it is not ours.
#[tokio::test]
async fn a_server_of_another_make_passes() {
    let (code, report) = Planted::new("none").await.check(&[]).await;
    assert_eq!((code, with_verdict(&report, "holds").len()), (Some(0), 28), "{report:#}");
}

#[tokio::test]
async fn servers_that_do_not_start_right_are_told() {
    let cannot: &[Row] =
        &[("ends", &["start-program"], "it ended with exit code 3; its last words:\nno module named agent")];
    each(cannot, 1, &[]).await;
    let rows: &[Row] = &[
        ("late", &["start-port"], "a server has to listen first and load later"),
        ("other-port", &["start-port"], "read the port from the variable PORT"),
        (
            "other-health",
            &["dari-health"],
            "still gives 404: {\"detail\": \"no\"} after 2s; does the server know the health path?",
        ),
        ("unhealthy", &["dari-health"], "GET /health still gives 503: {\"ok\":false}"),
    ];
    each(rows, 4, &["--start-within", "2s"]).await;
    each(&[("loopback", &["start-address"], "listen on 0.0.0.0")], 4, &[]).await;
}

#[tokio::test]
async fn a_command_that_cannot_be_started_is_told() {
    let planted = Planted::new("none").await;
    planted.command("no-such-program --port 1");
    let (code, report) = planted.check(&[]).await;
    assert_eq!((code, with_verdict(&report, "differs")), (Some(1), vec!["start-program"]), "{report:#}");
    let seen = finding(&report, "start-program")["seen"].as_str().unwrap();
    assert_eq!(seen, "cannot start no-such-program: program not found; is it installed by setup.sh or the Dockerfile?");
    assert_eq!(finding(&report, "dari-alive")["seen"], "nothing listens");

    // A script that names an interpreter that is not there.
    let script = planted.folder.path().join("agent");
    fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    make_executable(&script, 0o755);
    planted.command(&script.display().to_string());
    let (code, report) = planted.check(&[]).await;
    let seen = finding(&report, "start-program")["seen"].as_str().unwrap();
    assert_eq!(code, Some(1));
    assert!(seen.contains("the interpreter it needs was not found"), "{seen}");
}

/// It is told, and the rest is looked at all the same.
#[tokio::test]
async fn a_server_that_needs_its_own_folder_is_told() {
    let planted = Planted::new("none").await;
    planted.command(&format!("python3 server.py here {}", planted.port));
    let (code, report) = planted.check(&[]).await;
    assert_eq!((code, with_verdict(&report, "differs")), (Some(4), vec!["start-folder"]), "{report:#}");
    let seen = finding(&report, "start-folder")["seen"].as_str().unwrap();
    assert!(seen.starts_with("only in the bundle's folder; elsewhere it ended with exit code 2"), "{seen}");
    assert!(seen.contains("$DARI_SOURCE_BUNDLE_ROOT"), "{seen}");
}

#[tokio::test]
async fn answers_of_a_wrong_form_are_told() {
    let rows: &[Row] = &[
        ("broken", &["dari-first-turn"], "500: {\"detail\": \"model not found\"}"),
        ("plain", &["dari-first-turn"], "the body is not one JSON object"),
        ("says-twice", &["dari-first-turn"], "there is more than one value in the body"),
    ];
    each(rows, 4, &[]).await;
    for (fault, words) in [
        ("no-text", "there is no `text`"),
        ("empty-text", "`text` is empty; say at least that there is nothing to say"),
        ("more-keys", "the key `usage` has no place in an answer"),
        ("wrong-kind", "Content-Type is `text/plain`, not application/json"),
    ] {
        let (code, report) = Planted::new(fault).await.check(&[]).await;
        let seen = finding(&report, "dari-answer-shape")["seen"].as_str().unwrap();
        assert_eq!((code, seen), (Some(4), words), "{fault}");
    }
}

#[tokio::test]
async fn turns_that_go_wrong_are_told() {
    let rows: &[Row] = &[
        (
            "crash",
            &["dari-state-carried", "stop-sigterm"],
            "the server ended with exit code 7; its last words:\nthe second turn was too much",
        ),
        (
            "forgets",
            &["dari-state-carried"],
            "a first turn left {\"turns\": 1}, and a second that was given it left {\"turns\": 1}",
        ),
        ("needs-state", &["dari-state-absent"], "422: {\"detail\": \"state is missing\"}"),
        ("runs-again", &["dari-retry", "dari-retry-in-flight"], "keep each answer by its message id"),
        ("runs-twice", &["dari-retry-in-flight"], "keep each answer by its message id"),
        ("conflict", &["dari-order"], "409: {\"detail\": \"the session is busy\"}"),
        ("needs-input", &["dari-no-input"], "500: {\"detail\": \"no user input found\"}"),
        ("objects-only", &["dari-inputs"], "a string: 422: {\"detail\": \"input has no text\"}"),
    ];
    each(rows, 4, &[]).await;
}

#[tokio::test]
async fn a_server_that_does_one_thing_at_a_time_is_told() {
    let (code, report) = Planted::new("one-at-a-time").await.check(&[]).await;
    assert_eq!(code, Some(4));
    let seen = finding(&report, "dari-sessions")["seen"].as_str().unwrap();
    assert!(seen.contains("503: {\"detail\": \"busy\"}"), "{seen}");
    each(&[("blocking", &["dari-health-busy"], "a turn must not block the server | no whole answer within")], 4, &[])
        .await;
    each(&[("slow-health", &["dari-health-fast"], "ms at best, of 5; answer without asking a model")], 4, &[]).await;
}

#[tokio::test]
async fn rough_handling_that_is_not_survived_is_told() {
    let rows: &[Row] = &[
        ("small-bodies", &["dari-big-body"], "413: {\"detail\": \"too large\"}"),
        ("trips", &["dari-bad-body"], "an empty body gets 500"),
        ("fragile", &["dari-bad-body", "stop-sigterm"], "the server ended with exit code 6"),
        ("all-paths", &["dari-paths"], "GET /no/such/path gives 200"),
        ("no-kind", &["dari-connections"], "a request without Content-Type gets \"HTTP/1.1 415"),
        ("gone", &["dari-hang-up", "stop-sigterm"], "the server ended with exit code 9"),
    ];
    each(rows, 4, &[]).await;
    let (code, report) = Planted::new("answers-twice").await.check(&[]).await;
    let seen = finding(&report, "dari-connections")["seen"].as_str().unwrap();
    assert!(code == Some(4) && seen.starts_with("behind the answer comes more"), "{report:#}");
}

#[tokio::test]
async fn an_end_that_is_none_is_told() {
    let rows: &[Row] = &[
        ("ends-badly", &["stop-sigterm"], "it ended with exit code 5"),
        ("deaf", &["stop-sigterm"], "it still runs after 11s; end it when SIGTERM comes"),
    ];
    each(rows, 4, &[]).await;
}

/// A port that nothing listens on, for servers that take it in place of the one they are told.
fn free_port() -> u16 {
    std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap().local_addr().unwrap().port()
}
