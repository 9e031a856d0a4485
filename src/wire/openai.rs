//! The OpenAI Responses API, as far as we speak it: what a call sends, and what its stream says.
//!
//! Owns the shapes. Items of a response are kept as the text they came as: they may have to go back byte for byte.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// One call.
#[derive(Debug, Serialize)]
pub struct CreateResponse<'a> {
    /// The model.
    pub model: &'a str,
    /// The system prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<&'a str>,
    /// New items, or all of them when nothing is stored.
    pub input: &'a [Box<RawValue>],
    /// What the model may call; sent with every call.
    pub tools: &'a [Box<RawValue>],
    /// The form of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<TextOptions<'a>>,
    /// The response that this one goes on from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_response_id: Option<&'a str>,
    /// `false` keeps nothing at the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<bool>,
    /// What the items are to hold besides.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub include: &'a [&'a str],
    /// Always `true`.
    pub stream: bool,
}

/// `text` of a call.
#[derive(Debug, Serialize)]
pub struct TextOptions<'a> {
    /// The schema.
    pub format: TextFormat<'a>,
}

/// A schema that the answer has to fit.
#[derive(Debug, Serialize)]
pub struct TextFormat<'a> {
    /// Always `json_schema`.
    pub r#type: &'a str,
    /// Always `output`.
    pub name: &'a str,
    /// Whether the service holds the model to it.
    pub strict: bool,
    /// The schema, as the caller gave it.
    pub schema: &'a RawValue,
}

/// A user's message.
#[derive(Debug, Serialize)]
pub struct UserMessage<'a> {
    /// Always `user`.
    pub role: &'a str,
    /// What was said.
    pub content: Content<'a>,
}

/// What a user said.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Content<'a> {
    /// A text.
    Text(&'a str),
    /// A text and more.
    Parts(Vec<Box<RawValue>>),
}

/// An item of a call's input, as far as it is read back: for services that want another form of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct InputItem {
    /// Absent in a user's message.
    pub r#type: Option<String>,
    /// Who said it.
    pub role: Option<String>,
    /// A string or parts.
    pub content: Option<Box<RawValue>>,
    /// A call's id, or whose output it is.
    pub call_id: String,
    /// The function.
    pub name: String,
    /// JSON as text.
    pub arguments: String,
    /// What a call gave.
    pub output: Option<Box<RawValue>>,
}

/// What a shell call gave.
#[derive(Debug, Serialize)]
pub struct ShellCallOutput<'a> {
    /// Always `shell_call_output`.
    pub r#type: &'a str,
    /// The call.
    pub call_id: &'a str,
    /// One for each command.
    pub output: Vec<CommandOutput>,
    /// The limit that the call named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_length: Option<u64>,
}

/// What one command of a shell call gave.
#[derive(Debug, Serialize)]
pub struct CommandOutput {
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// How it ended.
    pub outcome: CommandOutcome,
}

/// How a command of a shell call ended.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum CommandOutcome {
    /// By itself.
    Exit {
        /// Its code.
        exit_code: i32,
    },
    /// It took too long.
    Timeout,
}

/// What a function call gave.
#[derive(Debug, Serialize)]
pub struct FunctionCallOutput<'a> {
    /// Always `function_call_output`.
    pub r#type: &'a str,
    /// The call.
    pub call_id: &'a str,
    /// The result as text.
    pub output: &'a str,
}

/// What kind of event one is. Read first: the members of one kind have another form in the next.
#[derive(Debug, Deserialize)]
pub struct EventKind {
    /// Its name.
    pub r#type: String,
}

/// `response.output_text.delta`: a piece of answer text.
#[derive(Debug, Deserialize)]
pub struct TextDelta {
    /// The message.
    pub item_id: String,
    /// Its part.
    #[serde(default)]
    pub content_index: u64,
    /// The piece.
    pub delta: String,
}

/// `response.reasoning_summary_text.done`: a whole summary of reasoning.
#[derive(Debug, Deserialize)]
pub struct ReasoningSummary {
    /// The summary.
    pub text: String,
}

/// `response.output_item.done`: a whole item.
#[derive(Debug, Deserialize)]
pub struct ItemDone {
    /// The item.
    pub item: Box<RawValue>,
}

/// `response.completed`, `response.incomplete`, `response.failed`: the end.
#[derive(Debug, Deserialize)]
pub struct ResponseEnd {
    /// The response.
    pub response: Response,
}

/// A response at its end.
#[derive(Debug, Deserialize)]
pub struct Response {
    /// Its id.
    pub id: String,
    /// What it took.
    #[serde(default)]
    pub usage: Option<Usage>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<ApiError>,
    /// Why it is not whole.
    #[serde(default)]
    pub incomplete_details: Option<IncompleteDetails>,
}

/// Why a response is not whole.
#[derive(Debug, Deserialize)]
pub struct IncompleteDetails {
    /// `max_output_tokens` or `content_filter`.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Tokens of one response.
#[derive(Debug, Default, Deserialize)]
pub struct Usage {
    /// Read.
    #[serde(default)]
    pub input_tokens: u64,
    /// Of those, from a cache.
    #[serde(default)]
    pub input_tokens_details: InputDetails,
    /// Written.
    #[serde(default)]
    pub output_tokens: u64,
    /// Of those, for reasoning.
    #[serde(default)]
    pub output_tokens_details: OutputDetails,
    /// Both.
    #[serde(default)]
    pub total_tokens: u64,
}

/// Details of the tokens read.
#[derive(Debug, Default, Deserialize)]
pub struct InputDetails {
    /// From a cache.
    #[serde(default)]
    pub cached_tokens: u64,
}

/// Details of the tokens written.
#[derive(Debug, Default, Deserialize)]
pub struct OutputDetails {
    /// For reasoning.
    #[serde(default)]
    pub reasoning_tokens: u64,
}

/// The body of an HTTP error.
#[derive(Debug, Deserialize)]
pub struct ErrorBody {
    /// The error.
    pub error: ApiError,
}

/// An error of the service.
#[derive(Debug, Default, Deserialize)]
pub struct ApiError {
    /// Its name, such as `rate_limit_exceeded`.
    #[serde(default)]
    pub code: Option<String>,
    /// Its text.
    #[serde(default)]
    pub message: Option<String>,
    /// A wider name.
    #[serde(default)]
    pub r#type: Option<String>,
}

/// An item of a response, as far as we look into it.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Item {
    /// Something said.
    Message {
        /// Its id.
        #[serde(default)]
        id: String,
        /// Its parts.
        #[serde(default)]
        content: Vec<Part>,
    },
    /// Commands to run.
    ShellCall {
        /// The call.
        call_id: String,
        /// The commands.
        action: ShellAction,
    },
    /// A function to call.
    FunctionCall {
        /// The call.
        call_id: String,
        /// The function.
        name: String,
        /// JSON as text, which may be wrong.
        #[serde(default)]
        arguments: String,
    },
    /// A search that the service made.
    WebSearchCall {
        /// Its id.
        #[serde(default)]
        id: String,
        /// What it looked for.
        #[serde(default)]
        action: Option<serde_json::Value>,
    },
    /// Anything else.
    #[serde(other)]
    Other,
}

/// A part of a message.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    /// Answer text.
    OutputText {
        /// The text.
        text: String,
    },
    /// What the user said.
    InputText {
        /// The text.
        text: String,
    },
    /// What the user showed.
    InputImage {
        /// Where it is.
        image_url: String,
    },
    /// The model refuses.
    Refusal {
        /// Why.
        refusal: String,
    },
    /// Anything else.
    #[serde(other)]
    Other,
}

/// The commands of a shell call.
#[derive(Debug, Deserialize)]
pub struct ShellAction {
    /// To be run in order.
    pub commands: Vec<String>,
    /// How long each may take.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// How much of each stream is wanted.
    #[serde(default)]
    pub max_output_length: Option<u64>,
}

/// The arguments of the function that stands in for the shell tool.
#[derive(Debug, Deserialize)]
pub struct ShellArguments {
    /// The command.
    pub command: String,
    /// How long it may take.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// What is kept between turns: one of the two.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    /// The form of this state.
    pub v: u32,
    /// The last response, which the service keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous_response_id: Option<String>,
    /// All items, where the service keeps nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Vec<Box<RawValue>>>,
}
