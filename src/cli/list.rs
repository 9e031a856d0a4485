//! `turnhost sessions`: the sessions of a running server.
//!
//! Owns the table. What it counts comes from the server's history, which not every server has.

use super::OK;
use super::servers::Asked;
use crate::config::{ConfigError, SessionsListFlags, StartedAs};
use crate::wire::session_client::Listed;
use reqwest::Method;
use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, SystemTime};
use tokio::runtime::Runtime;

/// No list takes longer.
const PATIENCE: Duration = Duration::from_secs(30);
const HEADS: [&str; 7] = ["ID", "NAME", "AGENT", "STATUS", "AGE", "TOKENS", "COST"];

/// Prints them.
pub fn list(runtime: &Runtime, flags: &SessionsListFlags, started_as: StartedAs) -> Result<u8, ConfigError> {
    let asked = Asked::new(flags.server(started_as)?)?;
    let text = runtime.block_on(get(&asked, "/sessions")).map_err(ConfigError)?;
    let unread = |error: serde_json::Error| {
        let url = asked.url();
        ConfigError(format!("the answer of the server at {url} is no list of sessions: {error}"))
    };
    // `null` is a list of none.
    let listed: Option<Vec<Listed>> = serde_json::from_str(&text).map_err(unread)?;
    let listed = listed.unwrap_or_default();
    if flags.json {
        print(&format!("{}\n", text.trim_end()));
        return Ok(OK);
    }
    if listed.is_empty() {
        eprintln!("There are no sessions at {}", asked.url());
        return Ok(OK);
    }
    let history = runtime.block_on(get(&asked, "/sessions/history?limit=1000000")).unwrap_or_default();
    let history: Option<Vec<Listed>> = serde_json::from_str(&history).unwrap_or_default();
    let counted = history.unwrap_or_default().into_iter().map(|one| (one.session_id.clone(), one));
    print(&table(&listed, &counted.collect(), SystemTime::now()));
    Ok(OK)
}

async fn get(asked: &Asked, path: &str) -> Result<String, String> {
    let answer = asked.request(Method::GET, path).timeout(PATIENCE).send().await;
    let answer = answer.map_err(|error| asked.unanswered(&error))?;
    if !answer.status().is_success() {
        return Err(asked.refusal(answer).await);
    }
    answer.text().await.map_err(|error| asked.unanswered(&error))
}

fn table(listed: &[Listed], counted: &HashMap<String, Listed>, now: SystemTime) -> String {
    let mut rows = vec![HEADS.map(str::to_owned)];
    for one in listed {
        let count = counted.get(&one.session_id).unwrap_or(one);
        let tokens = count.input_tokens.unwrap_or_default() + count.output_tokens.unwrap_or_default();
        let shown = |text: Option<&String>| text.map_or_else(|| "-".to_owned(), |text| cell(text));
        rows.push([
            cell(&one.session_id),
            shown(one.name.as_ref()),
            shown(one.agent.as_ref()),
            shown(one.status.as_ref()),
            one.created_at.as_deref().and_then(|at| age(at, now)).unwrap_or_else(|| "-".to_owned()),
            if tokens == 0 { "-".to_owned() } else { tokens.to_string() },
            count.cost_usd.filter(|cost| *cost > 0.0).map_or_else(|| "-".to_owned(), |cost| format!("${cost:.4}")),
        ]);
    }
    let widths: Vec<usize> = (0..HEADS.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default())
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A text of somebody else's in one cell: on one line, not too long.
fn cell(text: &str) -> String {
    const WIDTH: usize = 40;
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().count() > WIDTH { text.chars().take(WIDTH - 1).chain(['…']).collect() } else { text }
}

/// How long ago, in its largest unit.
fn age(at: &str, now: SystemTime) -> Option<String> {
    let at = humantime::parse_rfc3339_weak(at).ok()?;
    let seconds = now.duration_since(at).unwrap_or_default().as_secs();
    Some(match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    })
}

fn print(text: &str) {
    // Whoever closed our output does not want the rest.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table() {
        let one = |text: &str| serde_json::from_str::<Listed>(text).unwrap();
        let listed = [
            one(r#"{"session_id":"a","agent":"claude","status":"running","created_at":"2026-01-02T03:04:05.678Z"}"#),
            one(r#"{"session_id":"bcd","name":"a\u001b[31mname","agent":"echo","status":"failed","created_at":"?"}"#),
        ];
        let counted = one(r#"{"session_id":"a","input_tokens":40,"output_tokens":2,"cost_usd":0.0123}"#);
        let now = humantime::parse_rfc3339("2026-01-02T05:04:06Z").unwrap();
        assert_eq!(
            table(&listed, &HashMap::from([("a".to_owned(), counted)]), now),
            "ID   NAME        AGENT   STATUS   AGE  TOKENS  COST\n\
             a    -           claude  running  2h   42      $0.0123\n\
             bcd  a [31mname  echo    failed   -    -       -\n"
        );
    }
}
