//! Shell commands of RuntimeUse requests: RuntimeUse sections 3.2, 10, 17.3, 17.4 and the fields of 17.9 that belong to
//! them.

use crate::support::{Server, WsClient, eventually, proc};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A mark that only the processes of one test carry.
fn mark(name: &str) -> String {
    format!("turnhost-commands-{name}-{}", uuid::Uuid::new_v4().simple())
}

impl WsClient {
    /// A `command_execution_message`.
    async fn execute(&mut self, commands: Value) {
        self.execute_with(commands, json!({})).await;
    }

    async fn execute_with(&mut self, commands: Value, more: Value) {
        let mut message = json!({"message_type": "command_execution_message", "commands": commands});
        for (name, value) in more.as_object().unwrap() {
            message[name] = value.clone();
        }
        self.send(&message).await;
    }
}

fn command(text: &str) -> Value {
    json!({"command": text, "cwd": null, "env": null})
}

/// The results, less what only a clock knows.
fn results(terminal: &Value) -> Vec<Value> {
    assert_eq!(terminal["message_type"], "command_execution_result_message", "{terminal}");
    let mut results = terminal["results"].as_array().unwrap().clone();
    for result in &mut results {
        assert!(result.as_object_mut().unwrap().remove("duration_ms").is_some_and(|ms| ms.is_u64()));
    }
    results
}

/// What was said on a stream, put together.
fn said(frames: &[Value], stream: &str) -> String {
    let of_stream = frames.iter().filter(|f| f["message_type"] == "command_output_message" && f["stream"] == stream);
    of_stream.map(|frame| frame["text"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn output_is_streamed_and_returned() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/").await;
    client.execute(json!([command("echo hello; echo warned >&2"), command("true")])).await;
    let frames = client.until_terminal().await;
    let output = |stream, text| {
        json!({"message_type": "command_output_message", "stream": stream, "text": text,
               "command": "echo hello; echo warned >&2"})
    };
    assert!(
        frames.contains(&output("stdout", "hello\n")) && frames.contains(&output("stderr", "warned\n")),
        "{frames:?}"
    );
    assert_eq!(frames.len(), 3);
    assert_eq!(
        results(&frames[2]),
        [
            json!({"command": "echo hello; echo warned >&2", "exit_code": 0, "stdout": "hello\n", "stderr_tail": "warned\n"}),
            json!({"command": "true", "exit_code": 0}),
        ]
    );
    client.execute(json!([])).await;
    assert_eq!(
        client.until_terminal().await,
        [json!({"message_type": "command_execution_result_message", "results": []})]
    );
}

/// The first output is there long before the command ends.
#[tokio::test]
async fn output_does_not_wait_for_the_end() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/").await;
    client.execute(json!([command("echo now; read forever || sleep 600")])).await;
    let first = client.next().await.unwrap();
    assert_eq!((&first["text"], &first["stream"]), (&json!("now\n"), &json!("stdout")));
    client.send(&json!({"message_type": "cancel_message"})).await;
    let terminal = client.terminal().await;
    assert_eq!(terminal, json!({"message_type": "error_message", "error": "Request cancelled", "metadata": {}}));
}

#[tokio::test]
async fn a_failing_command_ends_the_list_and_is_returned() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/").await;
    client.execute(json!([command("echo hello"), command("echo out; echo err >&2; exit 2"), command("echo no")])).await;
    let frames = client.until_terminal().await;
    assert_eq!(
        results(frames.last().unwrap()),
        [
            json!({"command": "echo hello", "exit_code": 0, "stdout": "hello\n"}),
            json!({"command": "echo out; echo err >&2; exit 2", "exit_code": 2, "stdout_tail": "out\n", "stderr_tail": "err\n"}),
        ]
    );
    for (text, code, more) in [
        ("no-such-program-here", 127, json!({})),
        ("sh -c 'kill -SEGV $$'; exit $?", 139, json!({})),
        ("kill -TERM $$", -1, json!({"exit_reason": "signal", "signal": 15})),
    ] {
        client.execute(json!([command(text)])).await;
        let terminal = client.terminal().await;
        let result = &results(&terminal)[0];
        assert_eq!(result["exit_code"], code, "{result}");
        for (name, value) in more.as_object().unwrap() {
            assert_eq!(&result[name], value, "{result}");
        }
        assert_eq!(result.get("exit_reason").is_some(), code == -1, "{result}");
    }
}

#[tokio::test]
async fn where_and_with_what_a_command_runs() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start_with(&["--agent", "echo"], |command| {
        command.current_dir(folder.path()).env("FROM_SERVER", "yes").env("TURNHOST_TOKEN", "sesame-sesame");
    });
    let mut client = WsClient::connect(server.address(), "/?token=sesame-sesame").await;
    let made = folder.path().join("made/for/it");
    let commands = json!([
        {"command": "pwd", "cwd": made},
        {"command": "pwd; cat", "cwd": "relative"},
        {"command": "pwd", "cwd": ""},
        {"command": "echo $FROM_SERVER $MORE $COUNT [$TURNHOST_TOKEN]", "env": {"MORE": "more", "COUNT": 3}},
        {"command": "echo quiet", "silent": true},
    ]);
    client.execute(commands).await;
    let frames = client.until_terminal().await;
    let here = folder.path().canonicalize().unwrap();
    let expected = [
        format!("{}\n", here.join("made/for/it").display()),
        format!("{}\n", here.join("relative").display()),
        format!("{}\n", here.display()),
        "yes more 3 []\n".to_owned(),
        "quiet\n".to_owned(),
    ];
    let found: Vec<_> =
        results(frames.last().unwrap()).iter().map(|r| r["stdout"].as_str().unwrap().to_owned()).collect();
    assert_eq!(found, expected);
    assert!(!said(&frames, "stdout").contains("quiet"));

    std::fs::write(folder.path().join("a-file"), "").unwrap();
    client.execute(json!([{"command": "pwd", "cwd": folder.path().join("a-file")}])).await;
    let terminal = client.terminal().await;
    assert_eq!(terminal["message_type"], "error_message");
    let text = terminal["error"].as_str().unwrap();
    assert!(text.contains("a-file") && text.contains("not a directory"), "{text}");
}

#[tokio::test]
async fn commands_before_and_after_the_handler() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/").await;
    let file = folder.path().join("seen");
    let before = format!("printf 'from before' > {}", file.display());
    let read = format!("@read {}", file.display());
    let around = |before: &str, after: &str| json!({"pre_agent_invocation_commands": [command(before)], "post_agent_invocation_commands": [command(after)]});
    client.query_with(&read, around(&before, "echo after")).await;
    let frames = client.until_terminal().await;
    assert_eq!(frames.last().unwrap()["data"], json!({"type": "text", "text": "from before"}), "{frames:?}");
    assert_eq!(said(&frames, "stdout"), "after\n");

    client.query_with("never asked", around("echo no; exit 3", "echo never")).await;
    let frames = client.until_terminal().await;
    let mut error = frames.last().unwrap().clone();
    error["metadata"].as_object_mut().unwrap().remove("duration_ms");
    let metadata =
        json!({"error_name": "CommandError", "command": "echo no; exit 3", "exit_code": 3, "stdout_tail": "no\n"});
    assert_eq!(
        error,
        json!({"message_type": "error_message", "error": "pre-agent command failed with exit code: 3", "metadata": metadata})
    );
    assert_eq!(said(&frames, "stdout"), "no\n");

    client.query_with("the answer", around("true", "kill -9 $$")).await;
    let error = client.terminal().await;
    assert_eq!(error["error"], "post-agent command failed with exit code: -1");
    assert_eq!(error["metadata"]["exit_reason"], "signal");
    assert_eq!(error["metadata"]["result"], json!({"data": {"type": "text", "text": "the answer"}, "metadata": {}}));
}

#[tokio::test]
async fn a_command_has_a_time_of_its_own() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/").await;
    let mark = mark("timeout");
    let text = format!("echo begun; trap '' TERM; sleep 600 & setsid sleep 600 & : {mark}; wait; sleep 600");
    let began = Instant::now();
    client.execute(json!([{"command": text, "timeout_ms": 300, "env": {"MARK": mark}}, command("echo never")])).await;
    let terminal = client.terminal().await;
    let results = results(&terminal);
    assert_eq!(results.len(), 1);
    assert_eq!((&results[0]["exit_code"], &results[0]["exit_reason"]), (&json!(-1), &json!("timeout")));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(proc::marked(&mark).len(), 0);
    // And the request as a whole.
    client.execute_with(json!([command("sleep 600")]), json!({"timeout_ms": 200})).await;
    assert_eq!(client.terminal().await["error"], "Request timed out after 200 ms");
}

/// "Cancelled" is said when nothing of the command is left: neither what traps the signal, nor what made a session of its
/// own.
#[tokio::test]
async fn a_cancel_ends_the_whole_tree_first() {
    let server = Server::start(&["--agent", "echo", "--stop-grace", "500ms"]);
    let mut client = server.connect("/").await;
    let mark = mark("tree");
    let text = "trap '' TERM; (trap '' TERM; setsid sh -c 'sleep 600 & sleep 600' & sleep 600) | cat & \
                setsid setsid sleep 600 & echo begun; wait; sleep 600";
    client.execute(json!([{"command": text, "env": {"MARK": mark}}])).await;
    assert_eq!(client.next().await.unwrap()["text"], "begun\n");
    assert!(proc::marked(&mark).len() >= 3);
    client.send(&json!({"message_type": "cancel_message"})).await;
    let began = Instant::now();
    assert_eq!(client.terminal().await["error"], "Request cancelled");
    assert_eq!(proc::marked(&mark).len(), 0, "{:?}", proc::marked(&mark));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    client.execute(json!([command("echo next")])).await;
    assert_eq!(results(&client.terminal().await)[0]["stdout"], "next\n");
}

#[tokio::test]
async fn a_lost_connection_ends_the_tree() {
    let server = Server::start(&["--agent", "echo", "--stop-grace", "300ms"]);
    let mut client = server.connect("/").await;
    let mark = mark("lost");
    client
        .execute(
            json!([{"command": "trap '' TERM; setsid sleep 600 & echo begun; wait; sleep 600", "env": {"MARK": mark}}]),
        )
        .await;
    assert_eq!(client.next().await.unwrap()["text"], "begun\n");
    drop(client);
    eventually("the tree's end", || proc::marked(&mark).is_empty().then_some(())).await;
    server.idle().await;
}

#[tokio::test]
async fn what_a_finished_command_left_lives_until_the_server_ends() {
    let mut server = Server::start(&["--agent", "echo"]);
    let mark = mark("spared");
    let mut client = server.connect("/").await;
    let text = "sleep 600 >/dev/null 2>&1 & setsid sleep 600 >/dev/null 2>&1 & echo started";
    let began = Instant::now();
    client.execute(json!([{"command": text, "env": {"MARK": mark}}])).await;
    assert_eq!(results(&client.terminal().await)[0]["stdout"], "started\n");
    assert!(began.elapsed() < Duration::from_secs(4), "nothing held the request: {:?}", began.elapsed());
    client.query("still there").await;
    client.terminal().await;
    drop(client);
    server.idle().await;
    assert_eq!(proc::marked(&mark).len(), 2);
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(server.exited().await.success());
    eventually("the end of what was spared", || proc::marked(&mark).is_empty().then_some(())).await;
}

/// P6: a child that keeps the pipe open holds the request as long as it talks, and a bound longer; it is read on.
#[tokio::test]
async fn an_open_pipe_holds_a_request_only_for_a_while() {
    let server = Server::start(&["--agent", "echo", "--command-quiet", "500ms"]);
    let folder = tempfile::tempdir().unwrap();
    let alive = folder.path().join("alive");
    let mut client = server.connect("/").await;
    let text = format!(
        "(sleep 0.2; echo talks; sleep 1.5; head -c 300000 /dev/zero; touch {}; sleep 600) & echo done",
        alive.display()
    );
    let began = Instant::now();
    client.execute(json!([command(&text)])).await;
    let frames = client.until_terminal().await;
    let took = began.elapsed();
    assert_eq!(results(frames.last().unwrap())[0]["stdout"], "done\ntalks\n");
    assert!(took >= Duration::from_millis(650) && took < Duration::from_millis(1700), "{took:?}");
    // It writes more than a pipe holds after that, and does not die of it.
    eventually("what is written later is read away", || alive.exists().then_some(())).await;
}

#[tokio::test]
async fn text_is_cut_at_the_borders_of_characters() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/").await;
    // Three bytes a character, so that a pipe's pages end within one; and bytes that are no text at all.
    client
        .execute(json!([command("head -c 900000 /dev/zero | sed 's/\\x00/€/g' | head -c 300000; printf 'a\\377b'")]))
        .await;
    let frames = client.until_terminal().await;
    let expected = "€".repeat(100_000) + "a\u{fffd}b";
    assert!(said(&frames, "stdout") == expected);
    assert!(frames.iter().all(|frame| frame["text"].as_str().is_none_or(|text| text.len() <= 65_536)));
    assert_eq!(results(frames.last().unwrap())[0]["stdout"], expected);
}

/// Nothing is killed for talking; the terminal stays below the client's limit, and says what it leaves out.
#[tokio::test]
async fn a_long_output_is_whole_and_its_result_is_cut() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/").await;
    let long = "head -c 3000000 /dev/zero | tr '\\0' '\"'";
    client.execute(json!([command("echo small"), command(long), command(long)])).await;
    let frames = client.until_terminal().await;
    assert_eq!(said(&frames, "stdout").len(), 6_000_006);
    let terminal = frames.last().unwrap();
    assert!(terminal.to_string().len() < 1_000_000);
    let results = results(terminal);
    assert_eq!(results[0], json!({"command": "echo small", "exit_code": 0, "stdout": "small\n"}));
    for result in &results[1..] {
        assert_eq!((&result["stdout_truncated"], &result["stdout_total_bytes"]), (&json!(true), &json!(3_000_000)));
        let kept = result["stdout"].as_str().unwrap().len();
        assert!(kept > 200_000, "an even share: {kept}");
    }
    client.execute_with(json!([command(long)]), json!({"max_frame_bytes": 20_000_000})).await;
    let result = results_of(client.terminal().await);
    assert_eq!(result["stdout"].as_str().unwrap().len(), 3_000_000);
    assert_eq!(result.get("stdout_truncated"), None);
}

fn results_of(terminal: Value) -> Value {
    results(&terminal).remove(0)
}

#[tokio::test]
async fn secrets_do_not_come_back_from_commands() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/").await;
    let secrets = json!({"secrets_to_redact": ["s3cr3t-value", "message", "stdout"]});
    // Written in two halves, so that it comes in two chunks.
    let text = "printf 's3cr3t'; sleep 0.2; printf '%s' '-value in stdout'; printf 's3cr3t-val' >&2; exit 1";
    client.execute_with(json!([command("echo message"), command(text)]), secrets.clone()).await;
    let frames = client.until_terminal().await;
    let whole = json!(frames).to_string();
    assert!(!whole.contains("s3cr3t-value"), "{whole}");
    assert_eq!(said(&frames, "stdout"), "[REDACTED]\n[REDACTED] in [REDACTED]");
    assert_eq!(said(&frames, "stderr"), "s3cr3t-val");
    let results = results(frames.last().unwrap());
    assert_eq!(results[0]["stdout"], "[REDACTED]\n");
    assert_eq!(results[1]["stdout_tail"], "[REDACTED] in [REDACTED]");
    assert!(results[1]["command"].as_str().unwrap().contains("in [REDACTED]"));
    let failing = json!({"secrets_to_redact": ["s3cr3t-value"],
                         "pre_agent_invocation_commands": [command("echo s3cr3t-value; exit 9")]});
    client.query_with("no", failing).await;
    let error = client.terminal().await;
    assert_eq!(error["metadata"]["command"], "echo [REDACTED]; exit 9");
    assert_eq!(error["metadata"]["stdout_tail"], "[REDACTED]\n");
    assert!(!server.log().contains("s3cr3t-value"));
}

#[tokio::test]
async fn a_session_that_ends_cancels_its_commands() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/").await;
    client.execute(json!([command("echo begun; sleep 600")])).await;
    client.next().await.unwrap();
    client.send(&json!({"message_type": "end_session_message"})).await;
    assert_eq!(client.next().await.unwrap()["error"], "Request cancelled");
    assert_eq!(client.next().await.unwrap(), json!({"message_type": "end_session_confirm_message"}));
    assert_eq!(client.close_code().await, Some(1000));
}

#[tokio::test]
async fn a_busy_server_stops_in_time() {
    let mut server = Server::start(&["--agent", "echo"]);
    let mark = mark("stop");
    let mut client = server.connect("/").await;
    client
        .execute(
            json!([{"command": "trap '' TERM; setsid sleep 600 & echo begun; wait; sleep 600", "env": {"MARK": mark}}]),
        )
        .await;
    client.next().await.unwrap();
    let began = Instant::now();
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(client.terminal().await["error"], "Request cancelled");
    assert!(server.exited().await.success());
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(proc::marked(&mark).is_empty());
}

/// Also the server's own death leaves nothing that runs.
#[tokio::test]
async fn a_killed_server_leaves_nothing() {
    let mut server = Server::start(&["--agent", "echo"]);
    let mark = mark("killed");
    let mut client = server.connect("/").await;
    client
        .execute(
            json!([{"command": "trap '' TERM; setsid sleep 600 & echo begun; wait; sleep 600", "env": {"MARK": mark}}]),
        )
        .await;
    client.next().await.unwrap();
    server.signal(nix::sys::signal::Signal::SIGKILL);
    server.exited().await;
    eventually("the tree's end", || proc::marked(&mark).is_empty().then_some(())).await;
}
