//! The agent of this bundle. Put yours where the echo is.
//!
//! It reads and writes one JSON object per line on its standard streams; what it logs goes to standard error. Its only
//! dependency is a JSON reader, so it builds in seconds and knows nothing of the server's version.

use serde_json::{Value, json};
use std::io::{self, BufRead, Write};

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let Ok(line) = serde_json::from_str::<Value>(&line?) else { continue };
        match line["type"].as_str() {
            Some("hello") => say(&mut out, &json!({"type": "ready", "name": "agent", "capabilities": []}))?,
            Some("turn") => turn(&mut out, &line)?,
            // Anything else is for handlers that can do more.
            _ => {}
        }
    }
    Ok(())
}

fn turn(out: &mut impl Write, line: &Value) -> io::Result<()> {
    let id = &line["id"];
    let prompt = line["prompt"].as_str().unwrap_or_default();
    // Said piece by piece, as a model says it.
    say(out, &json!({"type": "delta", "id": id, "text": "You said: "}))?;
    say(out, &json!({"type": "delta", "id": id, "text": prompt}))?;
    // The state is whatever was returned last in this session; null in the first turn.
    let turns = line["state"]["turns"].as_u64().unwrap_or(0) + 1;
    say(out, &json!({"type": "result", "id": id, "text": format!("You said: {prompt}"), "state": {"turns": turns}}))
}

fn say(out: &mut impl Write, line: &Value) -> io::Result<()> {
    writeln!(out, "{line}")?;
    out.flush()
}
