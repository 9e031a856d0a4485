//! The checks of queries, and of the connection itself.

use super::client::{Client, SOON, query_message, short, wrong_form};
use super::{BAD_FRAME, FIRST_RESULT, MESSAGES, NULL_FIELDS, PRE_COMMAND, Report, SECOND_RESULT, Target};
use serde_json::{Value, json};
use std::time::Duration;

/// How long silence has to last to count as such.
const SILENCE: Duration = Duration::from_millis(300);

pub async fn all(report: &mut Report, target: &Target) {
    let mut frames = Vec::new();
    let first = report.check(&FIRST_RESULT, first_result(target, &mut frames)).await;
    if frames.is_empty() {
        report.skip(&MESSAGES, "the first query has no answer");
    } else {
        report.check(&MESSAGES, async { messages(&frames) }).await;
    }
    if first {
        report.check(&NULL_FIELDS, null_fields(target)).await;
        report.check(&SECOND_RESULT, second_result(target)).await;
    } else {
        report.skip(&NULL_FIELDS, "the first query has no result");
        report.skip(&SECOND_RESULT, "the first query has no result");
    }
    report.check(&PRE_COMMAND, pre_command(target)).await;
    report.check(&BAD_FRAME, bad_frame(target)).await;
}

/// One terminal, and nothing behind it.
async fn first_result(target: &Target, frames: &mut Vec<Value>) -> Result<String, String> {
    let mut client = Client::connect(target).await?;
    client.send(&query_message(&target.prompt, json!({}))).await?;
    let answered = client.answer(target.turn_within).await?;
    frames.clone_from(&answered.frames);
    let data = answered.expect("result_message")?["data"].clone();
    if let Ok((frame, _)) = client.next(SILENCE).await {
        return Err(format!("after the result came {}", short(&frame)));
    }
    client.close().await;
    Ok(short(&data))
}

fn messages(frames: &[Value]) -> Result<String, String> {
    let wrong: Vec<String> = frames.iter().filter_map(wrong_form).take(5).collect();
    if !wrong.is_empty() {
        return Err(wrong.join("\n"));
    }
    let said = frames.iter().filter(|frame| frame["message_type"] == "assistant_message").count();
    Ok(format!("{said} messages before the result"))
}

async fn null_fields(target: &Target) -> Result<String, String> {
    let mut client = Client::connect(target).await?;
    let fields = json!({
        "source_id": null, "agent_env": null, "output_format_json_schema_str": null, "artifacts_dirs": null,
        "artifacts_ignore_content": null, "pre_agent_invocation_commands": null,
        "post_agent_invocation_commands": null, "pre_agent_downloadables": null,
    });
    client.send(&query_message(&target.prompt, fields)).await?;
    let answered = client.answer(target.turn_within).await?;
    answered.expect("result_message")?;
    client.close().await;
    Ok(String::new())
}

async fn second_result(target: &Target) -> Result<String, String> {
    let mut client = Client::connect(target).await?;
    for n in ["first", "second"] {
        client.send(&query_message(&target.prompt, json!({}))).await?;
        let answered = client.answer(target.turn_within).await?;
        answered.expect("result_message").map_err(|problem| format!("the {n}: {problem}"))?;
    }
    client.close().await;
    Ok(String::new())
}

async fn pre_command(target: &Target) -> Result<String, String> {
    let mut client = Client::connect(target).await?;
    let commands = json!({"pre_agent_invocation_commands": [{"command": "exit 3"}]});
    client.send(&query_message(&target.prompt, commands)).await?;
    let answered = client.answer(SOON).await?;
    let error = answered.expect("error_message")?["error"].as_str().unwrap_or_default().to_owned();
    client.close().await;
    let expected = "pre-agent command failed with exit code: 3";
    if error == expected { Ok(String::new()) } else { Err(format!("the error was \"{error}\", not \"{expected}\"")) }
}

/// What a frame that makes no sense is answered with is not part of the contract, but that the connection lives is.
async fn bad_frame(target: &Target) -> Result<String, String> {
    for frame in [
        "this is no JSON",
        "{\"message_type\":",
        "[]",
        "17",
        "\"text\"",
        "{}",
        "{\"message_type\":\"no_such_message\"}",
        "{\"message_type\":7}",
    ] {
        let mut client = Client::connect(target).await?;
        let lives = async {
            client.send_text(frame.to_owned()).await?;
            client.send(&super::client::commands_message(&["printf alive"], json!({}))).await?;
            // Answers to the frame itself may come first.
            for _ in 0..3 {
                if client.answer(SOON).await?.output("stdout") == "alive" {
                    return Ok(());
                }
            }
            Err("a command after it has no answer".to_owned())
        };
        lives.await.map_err(|problem: String| format!("{frame}: {problem}"))?;
        client.close().await;
    }
    Ok(String::new())
}

pub async fn end_session(target: &Target) -> Result<String, String> {
    let mut client = Client::connect(target).await?;
    client.is_in_step().await?;
    client.send(&json!({"message_type": "end_session_message"})).await?;
    let (frame, _) = client.next(SOON).await?;
    if frame["message_type"] != "end_session_confirm_message" {
        return Err(format!("the answer was {}", short(&frame)));
    }
    client.until_closed(SOON).await?;
    Ok(String::new())
}
