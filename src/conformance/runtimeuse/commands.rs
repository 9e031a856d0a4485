//! The checks of commands and files. They need no agent: the server runs the commands itself.

use super::client::{Client, SOON, commands_message, short};
use super::place::Place;
use super::{
    ARTIFACT, BIG_MESSAGE, BIG_OUTPUT, CANCEL, CANCEL_IDLE, CANCEL_TREE, COMMAND, COMMAND_ENV, COMMAND_FAILS,
    COMMAND_INPUT, DISCONNECT, IN_FLIGHT, REDACTED, Report, TWO_CONNECTIONS, Target,
};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How long a cancelled command may still run.
const CANCELLED_WITHIN: Duration = Duration::from_secs(5);
/// Longer than anything here is waited for.
const LONG: &str = "sleep 60";

pub async fn all(report: &mut Report, target: &Target) {
    report.check(&COMMAND, command(target)).await;
    report.check(&COMMAND_FAILS, command_fails(target)).await;
    report.check(&COMMAND_ENV, command_env(target)).await;
    report.check(&COMMAND_INPUT, command_input(target)).await;
    report.check(&REDACTED, redacted(target)).await;
    report.check(&CANCEL, cancel(target)).await;
    report.check(&CANCEL_IDLE, cancel_idle(target)).await;
    report.check(&CANCEL_TREE, cancel_tree(target)).await;
    report.check(&IN_FLIGHT, in_flight(target)).await;
    report.check(&BIG_MESSAGE, big_message(target)).await;
    report.check(&BIG_OUTPUT, big_output(target)).await;
    let is_here = target.url.host_str().is_some_and(|host| matches!(host, "localhost" | "127.0.0.1" | "[::1]"));
    if is_here {
        report.check(&ARTIFACT, artifact(target)).await;
    } else {
        report.skip(&ARTIFACT, "the server is on another machine, which may not reach this one");
    }
    report.check(&TWO_CONNECTIONS, two_connections(target)).await;
    report.check(&DISCONNECT, disconnect(target)).await;
}

async fn command(target: &Target) -> Result<String, String> {
    let mut client = Client::connect(target).await?;
    // The second half is written only when the first was seen.
    let mark = mark();
    let script = format!("echo one; until test -e {mark}; do sleep 0.05; done; echo two; echo three >&2");
    client.send(&commands_message(&[&script], json!({}))).await?;
    let (first, _) = client.next(SOON).await?;
    if first["message_type"] != "command_output_message" || first["text"] != "one\n" || first["command"] != *script {
        return Err(format!("the first frame was {}", short(&first)));
    }
    let mut other = Client::connect(target).await?;
    other.commands(&[&format!("touch {mark}")], json!({})).await?;
    let answered = client.answer(SOON).await?;
    other.commands(&[&format!("rm -f {mark}")], json!({})).await?;
    let result = answered.expect("command_execution_result_message")?;
    let (out, err) = (answered.output("stdout"), answered.output("stderr"));
    if (out.as_str(), err.as_str()) != ("two\n", "three\n") {
        return Err(format!("the rest of stdout was {out:?}, and stderr {err:?}"));
    }
    let results = json!([{"command": script, "exit_code": 0, "stdout": "one\ntwo\n"}]);
    same_results(result, &results)
}

/// Compares what the contract names; more fields may be there.
fn same_results(terminal: &Value, expected: &Value) -> Result<String, String> {
    let (found, expected) = (terminal["results"].as_array(), expected.as_array());
    let (Some(found), Some(expected)) = (found, expected) else {
        return Err(format!("the answer was {}", short(terminal)));
    };
    let fits = |(found, expected): (&Value, &Value)| {
        ["command", "exit_code", "stdout"].iter().all(|name| found.get(name) == expected.get(name))
    };
    if found.len() == expected.len() && found.iter().zip(expected).all(fits) {
        Ok(String::new())
    } else {
        Err(format!("the results were {}", short(&terminal["results"])))
    }
}

async fn command_fails(target: &Target) -> Result<String, String> {
    let mut client = Client::connect(target).await?;
    let answered = client.commands(&["printf fine", "printf lost; exit 2", "printf never"], json!({})).await?;
    let expected = json!([{"command": "printf fine", "exit_code": 0, "stdout": "fine"}, {"command": "printf lost; exit 2", "exit_code": 2}]);
    same_results(answered.expect("command_execution_result_message")?, &expected)
}

async fn command_env(target: &Target) -> Result<String, String> {
    let mut client = Client::connect(target).await?;
    let mark = mark();
    let commands = json!({"commands": [{"command": "printf '%s %s' \"$PWD\" \"$CONFORM\"", "cwd": mark, "env": {"CONFORM": "a b"}}]});
    let answered = client.commands(&[], commands).await?;
    client.commands(&[&format!("rmdir {mark}")], json!({})).await?;
    let seen = answered.output("stdout");
    let expected = format!("{mark} a b");
    // A folder for temporary files may be a link.
    if seen.ends_with(&expected) {
        Ok(String::new())
    } else {
        Err(format!("the command saw {seen:?}, not {expected:?}"))
    }
}

async fn command_input(target: &Target) -> Result<String, String> {
    let mut client = Client::connect(target).await?;
    let answered = client.commands(&["cat; printf end"], json!({})).await?;
    match answered.output("stdout").as_str() {
        "end" => Ok(String::new()),
        other => Err(format!("its output was {other:?}")),
    }
}

async fn redacted(target: &Target) -> Result<String, String> {
    let mut client = Client::connect(target).await?;
    let secrets = json!({"secrets_to_redact": ["conform-secret-1"]});
    let commands = ["echo conform-secret-1", "printf conform-sec; sleep 0.2; echo ret-1"];
    let answered = client.commands(&commands, secrets).await?;
    let text = |frame: &Value| {
        let mut frame = frame.clone();
        // The command itself is told, too.
        if let Some(fields) = frame.as_object_mut() {
            fields.remove("command");
            for result in fields.get_mut("results").and_then(Value::as_array_mut).into_iter().flatten() {
                result.as_object_mut().map(|result| result.remove("command"));
            }
        }
        frame.to_string()
    };
    let output = answered.output("stdout");
    if output != "[REDACTED]\n[REDACTED]\n" {
        return Err(format!("the output was {output:?}"));
    }
    let leak = answered.frames.iter().find(|frame| text(frame).contains("conform-secret-1"));
    leak.map_or(Ok(String::new()), |frame| Err(format!("the secret is in {}", short(frame))))
}

async fn cancel(target: &Target) -> Result<String, String> {
    let mut client = Client::connect(target).await?;
    client.send(&commands_message(&[&format!("echo begun; {LONG}")], json!({}))).await?;
    client.next(SOON).await?;
    let began = Instant::now();
    client.send(&json!({"message_type": "cancel_message"})).await?;
    let answered = client.answer(CANCELLED_WITHIN).await?;
    let took = began.elapsed();
    let error = answered.expect("error_message")?["error"].as_str().unwrap_or_default();
    if error != "Request cancelled" {
        return Err(format!("the error was \"{error}\", not \"Request cancelled\""));
    }
    client.is_in_step().await?;
    Ok(format!("after {took:.1?}"))
}

async fn cancel_idle(target: &Target) -> Result<String, String> {
    let mut client = Client::connect(target).await?;
    client.send(&json!({"message_type": "cancel_message"})).await?;
    client.is_in_step().await?;
    client.send(&json!({"message_type": "cancel_message"})).await?;
    client.is_in_step().await?;
    Ok(String::new())
}

/// A pipeline, whose shell is not all of it. The length of the sleep is what tells it from others.
async fn cancel_tree(target: &Target) -> Result<String, String> {
    let mut client = Client::connect(target).await?;
    let pids = mark();
    let script = format!("sh -c 'echo $$ > {pids}; exec sleep 61' | cat & echo begun; wait");
    client.send(&commands_message(&[&script], json!({}))).await?;
    client.next(SOON).await?;
    let mut other = Client::connect(target).await?;
    other.commands(&[&format!("until test -s {pids}; do sleep 0.05; done")], json!({})).await?;
    client.send(&json!({"message_type": "cancel_message"})).await?;
    client.answer(CANCELLED_WITHIN).await?;
    let look = format!("kill -0 $(cat {pids}) 2>/dev/null && printf lives; rm -f {pids}; true");
    match other.commands(&[&look], json!({})).await?.output("stdout").as_str() {
        "" => Ok(String::new()),
        _ => Err("a process of the command still runs after the answer".to_owned()),
    }
}

async fn in_flight(target: &Target) -> Result<String, String> {
    let mut client = Client::connect(target).await?;
    let mark = mark();
    let script = format!("echo begun; until test -e {mark}; do sleep 0.05; done; echo done");
    client.send(&commands_message(&[&script], json!({}))).await?;
    client.next(SOON).await?;
    client.send(&commands_message(&["echo second"], json!({}))).await?;
    let (refused, _) = client.next(SOON).await?;
    let expected = "Received request while another is in flight!";
    if refused["message_type"] != "error_message" || refused["error"] != expected {
        return Err(format!("the second was answered with {}", short(&refused)));
    }
    let mut other = Client::connect(target).await?;
    other.commands(&[&format!("touch {mark}")], json!({})).await?;
    let answered = client.answer(SOON).await?;
    other.commands(&[&format!("rm -f {mark}")], json!({})).await?;
    answered.expect("command_execution_result_message")?;
    match answered.output("stdout").as_str() {
        "done\n" => Ok(String::new()),
        other => Err(format!("the first went on with {other:?}")),
    }
}

async fn big_message(target: &Target) -> Result<String, String> {
    let mut client = Client::connect(target).await?;
    let filling = json!({"artifacts_ignore_content": "# filling\n".repeat(200_000)});
    let answered = client.commands(&["printf read"], filling).await?;
    match answered.output("stdout").as_str() {
        "read" => Ok(String::new()),
        _ => Err(format!("the answer was {}", short(answered.terminal()))),
    }
}

async fn big_output(target: &Target) -> Result<String, String> {
    let mut client = Client::connect(target).await?;
    let answered = client.commands(&["head -c 3000000 /dev/zero | tr '\\0' x"], json!({})).await?;
    let result = answered.expect("command_execution_result_message")?;
    if result["results"][0]["exit_code"] != 0 {
        return Err(format!("the result was {}", short(result)));
    }
    answered.fits_a_client()?;
    match answered.output("stdout").len() {
        3_000_000 => Ok(format!("in {} frames", answered.frames.len() - 1)),
        length => Err(format!("{length} of 3000000 bytes came")),
    }
}

async fn artifact(target: &Target) -> Result<String, String> {
    let mut client = Client::connect(target).await?;
    let (folder, place) = (mark(), Place::open().await?);
    let watched = json!({"artifacts_dirs": [folder], "artifacts_ignore_content": ""});
    let script = format!("printf 'the content' > {folder}/file.txt");
    client.send(&commands_message(&[&script], watched)).await?;
    let uploaded = upload(&mut client, &place, &folder).await;
    let mut other = Client::connect(target).await?;
    other.commands(&[&format!("rm -rf {folder}")], json!({})).await?;
    uploaded
}

async fn upload(client: &mut Client, place: &Place, folder: &str) -> Result<String, String> {
    let (asked, _) = client.next(SOON).await?;
    if asked["message_type"] == "command_execution_result_message" {
        return Err("the request ended before its file was announced".to_owned());
    }
    let filepath = format!("{folder}/file.txt");
    if asked["message_type"] != "artifact_upload_request_message"
        || asked["filename"] != "file.txt"
        || asked["filepath"] != *filepath
    {
        return Err(format!("instead of the announcement came {}", short(&asked)));
    }
    let answer = json!({
        "message_type": "artifact_upload_response_message", "filename": "file.txt", "filepath": filepath,
        "presigned_url": place.url, "content_type": "text/x-conform",
    });
    client.send(&answer).await?;
    let put = place.take();
    tokio::pin!(put);
    let put = tokio::select! {
        biased;
        put = &mut put => put?,
        ended = client.next(SOON) => return Err(format!("before the upload came {}", short(&ended?.0))),
    };
    let head = put.head.to_lowercase();
    if !head.starts_with("put /put/file.txt?signature=x%2by http/1.1") {
        return Err(format!("the upload was {}", put.head.lines().next().unwrap_or_default()));
    }
    if !head.lines().any(|line| line == "content-type: text/x-conform") {
        return Err(format!("the upload has not the Content-Type of the answer: {}", put.head));
    }
    if put.body != b"the content" {
        return Err(format!("{} other bytes were uploaded", put.body.len()));
    }
    client.answer(SOON).await?.expect("command_execution_result_message")?;
    Ok(String::new())
}

async fn two_connections(target: &Target) -> Result<String, String> {
    let mut one = Client::connect(target).await?;
    one.send(&commands_message(&[&format!("echo begun; {LONG}")], json!({}))).await?;
    one.next(SOON).await?;
    let mut other = Client::connect(target).await?;
    other.is_in_step().await.map_err(|problem| format!("while another connection was busy: {problem}"))?;
    one.send(&json!({"message_type": "cancel_message"})).await?;
    one.answer(CANCELLED_WITHIN).await?;
    Ok(String::new())
}

async fn disconnect(target: &Target) -> Result<String, String> {
    let mut client = Client::connect(target).await?;
    let pids = mark();
    let script = format!("echo $$ > {pids}; echo begun; exec sleep 62");
    client.send(&commands_message(&[&script], json!({}))).await?;
    client.next(SOON).await?;
    drop(client);
    let mut other = Client::connect(target).await?;
    let look = format!(
        "n=0; while kill -0 $(cat {pids}) 2>/dev/null && test $n -lt 100; do sleep 0.05; n=$((n+1)); done; \
         kill -0 $(cat {pids}) 2>/dev/null && printf lives; rm -f {pids}; true"
    );
    match other.commands(&[&look], json!({})).await?.output("stdout").as_str() {
        "" => Ok(String::new()),
        _ => Err("its command still ran 5 s later".to_owned()),
    }
}

/// A path on the server that nobody else uses.
fn mark() -> String {
    format!("/tmp/turnhost-conform-{}", uuid::Uuid::new_v4().simple())
}
