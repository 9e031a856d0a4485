//! A line of a session's log in the agentruntime 0.8 protocol: one event, with the position behind it.
//!
//! Owns the envelope and the shape of each event's data. A wire form may say how it is made from plain data.

use serde::Serialize;
use serde_json::value::RawValue;

/// What a line says.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum LineData<'a> {
    /// `agent_message`
    Message {
        /// The text.
        text: &'a str,
        /// Whether it is a piece.
        delta: bool,
        /// The message that it is a piece of.
        #[serde(skip_serializing_if = "Option::is_none")]
        item_id: Option<&'a str>,
    },
    /// `tool_use`
    ToolUse {
        /// Names the call.
        id: &'a str,
        /// The tool.
        name: &'a str,
        /// The server of tools that it belongs to.
        #[serde(skip_serializing_if = "Option::is_none")]
        server: Option<&'a str>,
        /// Its input.
        input: &'a RawValue,
    },
    /// `tool_result`
    ToolResult {
        /// The call.
        id: &'a str,
        /// The tool.
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<&'a str>,
        /// What it gave.
        output: &'a str,
        /// Whether it failed.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        is_error: bool,
        /// How long it took, as seen from here.
        #[serde(skip_serializing_if = "Option::is_none")]
        duration_ms: Option<u64>,
    },
    /// `result`
    Result(Box<ResultData<'a>>),
    /// `exit`
    Exit(ExitData<'a>),
    /// `error`
    Error(ErrorData<'a>),
    /// Anything else: members in their order.
    Other(serde_json::Map<String, serde_json::Value>),
}

/// `result`: the end of a turn.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ResultData<'a> {
    /// The agent's own id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<&'a str>,
    /// The turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn_id: Option<&'a str>,
    /// `success`, `interrupted`, `error`, or the agent's own word.
    pub status: &'a str,
    /// What the turn cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// How long it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Rounds, as the agent counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_turns: Option<u64>,
    /// Tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<LineUsage>,
    /// Whether it is no success.
    pub is_error: bool,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_detail: Option<&'a str>,
    /// The answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<&'a str>,
}

/// Tokens of a turn.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct LineUsage {
    /// Read by the model, without those that came from a cache.
    pub input_tokens: u64,
    /// Written by it.
    pub output_tokens: u64,
    /// Read from a cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_read_input_tokens: u64,
    /// Put into one.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_creation_input_tokens: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// `exit`: the last line.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ExitData<'a> {
    /// The exit code.
    pub code: i32,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_detail: Option<&'a str>,
    /// Why, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_category: Option<&'a str>,
    /// Whether the same may go well later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retryable: Option<bool>,
}

/// `error`
#[derive(Debug, Clone, Default, Serialize)]
pub struct ErrorData<'a> {
    /// In words.
    pub message: &'a str,
    /// In the manner of HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// By name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_category: Option<&'a str>,
    /// Whether the session ends by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fatal: Option<bool>,
    /// Whether the same may go well later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retryable: Option<bool>,
}

/// Adds a line to `out`, which is to stand at position `start`.
#[allow(clippy::expect_used, clippy::missing_panics_doc, reason = "writing to memory cannot fail")]
pub fn write_line(out: &mut Vec<u8>, start: u64, kind: &str, data: &LineData<'_>, timestamp: u64) {
    let first = out.len();
    out.extend_from_slice(b"{\"type\":\"");
    // Only the protocol's own words.
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"data\":");
    serde_json::to_writer(&mut *out, data).expect("every line is JSON");
    if let LineData::Exit(exit) = data {
        out.extend_from_slice(format!(",\"exit_code\":{}", exit.code).as_bytes());
    }
    out.extend_from_slice(b",\"offset\":");
    let tail = format!(",\"timestamp\":{timestamp}}}\n");
    let rest = start + (out.len() - first + tail.len()) as u64;
    out.extend_from_slice(offset_behind(rest).to_string().as_bytes());
    out.extend_from_slice(tail.as_bytes());
}

/// The position behind a line that ends at `rest` without the digits of that position.
fn offset_behind(rest: u64) -> u64 {
    let digits = |number: u64| u64::from(number.checked_ilog10().unwrap_or(0)) + 1;
    let mut offset = rest + digits(rest);
    // One more digit may make it one longer, once.
    if rest + digits(offset) != offset {
        offset = rest + digits(offset);
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_counts_its_own_digits() {
        for start in (0..1200).chain([9_900, 9_990, 99_950, 999_999_960, 10_u64.pow(15) - 50]) {
            let mut out = b"before".to_vec();
            let data = LineData::Message { text: "é\n", delta: true, item_id: None };
            write_line(&mut out, start, "agent_message", &data, 1_773_732_712_345);
            let line: serde_json::Value = serde_json::from_slice(&out[6..]).unwrap();
            assert_eq!(line["offset"], start + out.len() as u64 - 6);
            assert!(out.ends_with(b",\"timestamp\":1773732712345}\n"));
        }
    }

    /// Keys in their order, as in the examples.
    #[test]
    fn lines_look_like_this() {
        let mut out = Vec::new();
        let text = "Looking at the handler now.";
        write_line(
            &mut out,
            0,
            "agent_message",
            &LineData::Message { text, delta: true, item_id: None },
            1_773_732_712_345,
        );
        let expected = r#"{"type":"agent_message","data":{"text":"Looking at the handler now.","delta":true},"offset":123,"timestamp":1773732712345}"#;
        assert_eq!(String::from_utf8(out).unwrap(), format!("{expected}\n"));
        let mut out = Vec::new();
        write_line(&mut out, 1000, "exit", &LineData::Exit(ExitData::default()), 1_773_732_719_001);
        let expected = r#"{"type":"exit","data":{"code":0},"exit_code":0,"offset":1088,"timestamp":1773732719001}"#;
        assert_eq!(String::from_utf8(out).unwrap(), format!("{expected}\n"));
        let detail =
            ExitData { code: 1, error_detail: Some("…"), error_category: Some("auth_error"), retryable: Some(false) };
        let mut out = Vec::new();
        write_line(&mut out, 800, "exit", &LineData::Exit(detail), 1_773_732_712_345);
        let expected = r#"{"type":"exit","data":{"code":1,"error_detail":"…","error_category":"auth_error","retryable":false},"exit_code":1,"offset":956,"timestamp":1773732712345}"#;
        assert_eq!(String::from_utf8(out).unwrap(), format!("{expected}\n"));
    }
}
