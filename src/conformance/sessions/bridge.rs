//! The checks of a session's stream.

use super::talk::{Host, SOON, cut};
use super::{BAD_FRAME, DELETE, GOING_ON, LEAVING, LIVE, PING, Report};
use serde_json::{Value, json};

pub async fn all(report: &mut Report, host: &Host<'_>) {
    let id = match host.interactive().await {
        Ok(id) => id,
        Err(problem) => {
            report.check(&LIVE, async { Err(problem) }).await;
            for check in [&PING, &BAD_FRAME, &LEAVING, &GOING_ON, &DELETE] {
                report.skip(check, "no interactive session can be created");
            }
            return;
        }
    };
    let lives = report.check(&LIVE, live(host, &id)).await;
    report.check(&PING, ping(host, &id)).await;
    report.check(&BAD_FRAME, bad_frame(host, &id)).await;
    if lives {
        report.check(&LEAVING, leaving(host, &id)).await;
        report.check(&GOING_ON, going_on(host, &id)).await;
    } else {
        report.skip(&LEAVING, "no turn comes back over the stream");
        report.skip(&GOING_ON, "no turn comes back over the stream");
    }
    report.check(&DELETE, delete(host, &id)).await;
    host.delete(&id).await;
}

pub async fn replay(host: &Host<'_>, id: &str) -> Result<String, String> {
    let log = host.get(&format!("/sessions/{id}/log")).await?.body;
    let mut stream = host.stream(id, Some(0)).await?;
    loop {
        let frame = stream.next(SOON).await?;
        match frame["type"].as_str() {
            Some("replay") => {}
            Some("connected") => break,
            _ => return Err(format!("before `connected` came {}", cut(&frame.to_string()))),
        }
    }
    if stream.bytes != log {
        return Err(format!("{} bytes were replayed, and the log has {}", stream.bytes.len(), log.len()));
    }
    let exit = stream.next(SOON).await?;
    if exit["type"] != "exit" || exit["exit_code"] != 0 {
        return Err(format!("instead of `exit` with 0 came {}", cut(&exit.to_string())));
    }
    stream.until_closed().await?;
    Ok(format!("{} bytes", log.len()))
}

async fn live(host: &Host<'_>, id: &str) -> Result<String, String> {
    let mut stream = host.stream(id, None).await?;
    let first = stream.next(SOON).await?;
    if first["type"] != "connected" || first["session_id"] != *id {
        return Err(format!("the first frame was {}", cut(&first.to_string())));
    }
    let prompt = &host.target.prompt;
    for frame in [json!({"type": "stdin", "data": format!("{prompt}\n")}), json!({"type": "prompt", "data": prompt})] {
        let from = stream.bytes.len();
        stream.send(&frame).await?;
        let result = stream.until_line("result", from, host.target.turn_within).await;
        let result = result.map_err(|problem| format!("after {}: {problem}", frame["type"]))?;
        if result["data"]["status"] != "success" {
            return Err(format!("the result was {}", cut(&result.to_string())));
        }
    }
    stream.close().await;
    Ok("by `stdin` and by `prompt`".to_owned())
}

async fn ping(host: &Host<'_>, id: &str) -> Result<String, String> {
    let mut stream = host.stream(id, None).await?;
    stream.until("connected", SOON).await?;
    stream.send(&json!({"type": "ping"})).await?;
    stream.until("pong", SOON).await?;
    stream.close().await;
    Ok(String::new())
}

async fn bad_frame(host: &Host<'_>, id: &str) -> Result<String, String> {
    let (mut stream, mut other) = (host.stream(id, None).await?, host.stream(id, None).await?);
    stream.until("connected", SOON).await?;
    other.until("connected", SOON).await?;
    let before = host.get(&format!("/sessions/{id}/logs?cursor=0")).await?.body.len();
    for (frame, expected) in [
        ("no JSON", "invalid frame json: "),
        (r#"{"type":"no-such"}"#, "unknown frame type: no-such"),
        (r#"{"type":"prompt","data":" "}"#, "prompt content is required"),
        (r#"{"type":"steer"}"#, "steer content is required"),
    ] {
        stream.send_text(frame.to_owned()).await?;
        let error = stream.until("error", SOON).await.map_err(|problem| format!("{frame}: {problem}"))?;
        if !error["error"].as_str().is_some_and(|text| text.starts_with(expected)) {
            return Err(format!("{frame}: the error was {}, not \"{expected}\"", error["error"]));
        }
    }
    stream.send(&json!({"type": "ping"})).await?;
    stream.until("pong", SOON).await?;
    other.send(&json!({"type": "ping"})).await?;
    loop {
        let frame = other.next(SOON).await?;
        match frame["type"].as_str() {
            Some("pong") => break,
            Some("error") => return Err(format!("another client was told {}", frame["error"])),
            _ => {}
        }
    }
    let log = host.get(&format!("/sessions/{id}/logs?cursor={before}")).await?.text();
    let told = log.lines().find(|line| line.starts_with(r#"{"type":"error""#));
    told.map_or(Ok(String::new()), |line| Err(format!("the log has the line {}", cut(line))))
}

async fn leaving(host: &Host<'_>, id: &str) -> Result<String, String> {
    let (one, mut other) = (host.stream(id, None).await?, host.stream(id, None).await?);
    other.until("connected", SOON).await?;
    one.close().await;
    // Without a goodbye.
    drop(host.stream(id, Some(0)).await?);
    other.send(&json!({"type": "stdin", "data": host.target.prompt})).await?;
    other.until_line("result", 0, host.target.turn_within).await?;
    let mut late = host.stream(id, Some(0)).await?;
    late.until("connected", SOON).await?;
    late.send(&json!({"type": "ping"})).await?;
    late.until("pong", SOON).await?;
    Ok(String::new())
}

async fn going_on(host: &Host<'_>, id: &str) -> Result<String, String> {
    let mut first = host.stream(id, Some(0)).await?;
    first.until("connected", SOON).await?;
    let (mut bytes, offset) = (first.bytes.clone(), first.offset);
    first.close().await;
    // Said while nobody listens.
    let mut other = host.stream(id, None).await?;
    other.until("connected", SOON).await?;
    other.send(&json!({"type": "stdin", "data": host.target.prompt})).await?;
    other.until_line("result", 0, host.target.turn_within).await?;
    let mut again = host.stream(id, Some(offset)).await?;
    again.until_line("result", 0, SOON).await?;
    bytes.extend(&again.bytes);
    let log = host.get(&format!("/sessions/{id}/logs?cursor=0")).await?.body;
    if log.starts_with(&bytes) && log.len() - bytes.len() < 64 << 10 {
        Ok(format!("{} bytes", bytes.len()))
    } else {
        Err(format!("the {} bytes that came are not those of the log", bytes.len()))
    }
}

async fn delete(host: &Host<'_>, id: &str) -> Result<String, String> {
    let mut stream = host.stream(id, None).await?;
    stream.until("connected", SOON).await?;
    let path = format!("/sessions/{id}");
    let deleted = host.ask("DELETE", &path, None).await?;
    deleted.is(200, &json!({"id": id, "state": "failed"}))?;
    let exit = stream.until("exit", SOON).await?;
    if exit["exit_code"] != -1 {
        return Err(format!("clients were told {}", cut(&exit.to_string())));
    }
    host.get(&path).await?.is(404, &json!({"error": "session not found"}))?;
    host.ask("DELETE", &path, None).await?.is(404, &json!({"error": "session not found"}))?;
    let log = host.get(&format!("{path}/log")).await?;
    log.expect(200)?;
    let log = log.text();
    let last: Value = serde_json::from_str(log.lines().last().unwrap_or_default()).unwrap_or_default();
    if last["type"] != "exit" || last["exit_code"] != -1 {
        return Err(format!("the last line of its log is {}", cut(&last.to_string())));
    }
    Ok(String::new())
}
