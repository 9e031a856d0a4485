//! The chat completions API, as far as we speak it: for services that are like OpenAI's and know no responses.
//!
//! Owns the shapes.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// One call.
#[derive(Debug, Serialize)]
pub struct CreateChat<'a> {
    /// The model.
    pub model: &'a str,
    /// The whole talk.
    pub messages: &'a [ChatMessage],
    /// What the model may call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<ChatTool<'a>>,
    /// The form of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<ResponseFormat<'a>>,
    /// Always `true`.
    pub stream: bool,
    /// So that the last chunk tells what the call took.
    pub stream_options: StreamOptions,
}

/// What a stream tells besides.
#[derive(Debug, Serialize)]
pub struct StreamOptions {
    /// Always `true`.
    pub include_usage: bool,
}

/// A message of the talk.
#[derive(Debug, Serialize)]
pub struct ChatMessage {
    /// `system`, `user`, `assistant` or `tool`.
    pub role: &'static str,
    /// A string or parts; `null` beside calls.
    pub content: Option<Box<RawValue>>,
    /// What an assistant called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ChatCall>,
    /// Which call a tool answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
}

/// A call of a function.
#[derive(Debug, Clone, Serialize)]
pub struct ChatCall {
    /// Its id.
    pub id: String,
    /// Always `function`.
    pub r#type: &'static str,
    /// The function.
    pub function: ChatFunction,
}

/// A function that was called.
#[derive(Debug, Clone, Serialize)]
pub struct ChatFunction {
    /// Its name.
    pub name: String,
    /// JSON as text.
    pub arguments: String,
}

/// A function that may be called.
#[derive(Debug, Serialize)]
pub struct ChatTool<'a> {
    /// Always `function`.
    pub r#type: &'static str,
    /// What a responses call says of it, less its type.
    pub function: &'a RawValue,
}

/// The form of the answer.
#[derive(Debug, Serialize)]
pub struct ResponseFormat<'a> {
    /// Always `json_schema`.
    pub r#type: &'static str,
    /// The schema.
    pub json_schema: JsonSchema<'a>,
}

/// A schema that the answer has to fit.
#[derive(Debug, Serialize)]
pub struct JsonSchema<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether the service holds the model to it.
    pub strict: bool,
    /// The schema, as the caller gave it.
    pub schema: &'a RawValue,
}

/// One chunk of the stream.
#[derive(Debug, Deserialize)]
pub struct Chunk {
    /// The completion.
    #[serde(default)]
    pub id: String,
    /// What is new in it; only the first counts.
    #[serde(default)]
    pub choices: Vec<Choice>,
    /// What it took; in the last chunk.
    #[serde(default)]
    pub usage: Option<ChatUsage>,
    /// An error in the middle of a stream.
    #[serde(default)]
    pub error: Option<super::openai::ApiError>,
}

/// What is new.
#[derive(Debug, Deserialize)]
pub struct Choice {
    /// The pieces.
    #[serde(default)]
    pub delta: Delta,
    /// Why it ended, once it has.
    #[serde(default)]
    pub finish_reason: Option<String>,
}

/// Pieces of a message.
#[derive(Debug, Default, Deserialize)]
pub struct Delta {
    /// Of the text.
    #[serde(default)]
    pub content: Option<String>,
    /// Of reasoning, where a service tells it.
    #[serde(default)]
    pub reasoning_content: Option<String>,
    /// Of a refusal.
    #[serde(default)]
    pub refusal: Option<String>,
    /// Of calls.
    #[serde(default)]
    pub tool_calls: Option<Vec<CallDelta>>,
}

/// A piece of a call.
#[derive(Debug, Deserialize)]
pub struct CallDelta {
    /// Which call.
    #[serde(default)]
    pub index: usize,
    /// Its id, once.
    #[serde(default)]
    pub id: Option<String>,
    /// The function.
    #[serde(default)]
    pub function: FunctionDelta,
}

/// A piece of a function that is called.
#[derive(Debug, Default, Deserialize)]
pub struct FunctionDelta {
    /// Its name, once.
    #[serde(default)]
    pub name: Option<String>,
    /// The next of its arguments.
    #[serde(default)]
    pub arguments: Option<String>,
}

/// Tokens of one completion.
#[derive(Debug, Default, Deserialize)]
pub struct ChatUsage {
    /// Read.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Written.
    #[serde(default)]
    pub completion_tokens: u64,
    /// Both.
    #[serde(default)]
    pub total_tokens: u64,
    /// Of those read.
    #[serde(default)]
    pub prompt_tokens_details: Option<super::openai::InputDetails>,
    /// Of those written.
    #[serde(default)]
    pub completion_tokens_details: Option<super::openai::OutputDetails>,
}
