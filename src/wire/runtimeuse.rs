//! The RuntimeUse WebSocket protocol (0.15.1 and our additive fields): one JSON object per message.
//!
//! Owns the shape of the messages. What clients send is checked field by field in `api::runtimeuse::read`, so that a
//! mistake is answered with the field's name; the structs here say what is accepted, for the published schema.

use crate::json::quote;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// A message from the client.
#[derive(Debug, JsonSchema)]
#[schemars(tag = "message_type", rename_all = "snake_case")]
pub enum ClientMessage {
    /// Run the handler.
    InvocationMessage(InvocationMessage),
    /// Run commands without the handler.
    CommandExecutionMessage(CommandExecutionMessage),
    /// Answer to an `artifact_upload_request_message`.
    ArtifactUploadResponseMessage(ArtifactUploadResponseMessage),
    /// Cancel the request in flight; ignored when idle.
    CancelMessage(CancelMessage),
    /// End the session after a drain.
    EndSessionMessage(EndSessionMessage),
}

/// Asks for one run of the handler. `null` and absent mean the same everywhere.
#[derive(Debug, JsonSchema)]
#[expect(dead_code, reason = "describes what clients send, for the JSON Schema; never built")]
pub struct InvocationMessage {
    source_id: Option<String>,
    system_prompt: Option<String>,
    user_prompt: String,
    model: Option<String>,
    secrets_to_redact: Option<Vec<String>>,
    agent_env: Option<BTreeMap<String, String>>,
    output_format_json_schema_str: Option<String>,
    artifacts_dirs: Option<Vec<String>>,
    artifacts_dir: Option<String>,
    artifacts_ignore_content: Option<String>,
    pre_agent_invocation_commands: Option<Vec<Command>>,
    post_agent_invocation_commands: Option<Vec<Command>>,
    pre_agent_downloadables: Option<Vec<Downloadable>>,
    request_id: Option<String>,
    extensions: Option<Vec<String>>,
    timeout_ms: Option<u64>,
    max_frame_bytes: Option<u64>,
}

/// Asks for commands to be run.
#[derive(Debug, JsonSchema)]
#[expect(dead_code, reason = "describes what clients send, for the JSON Schema; never built")]
pub struct CommandExecutionMessage {
    source_id: Option<String>,
    secrets_to_redact: Option<Vec<String>>,
    commands: Vec<Command>,
    artifacts_dirs: Option<Vec<String>>,
    artifacts_dir: Option<String>,
    artifacts_ignore_content: Option<String>,
    pre_execution_downloadables: Option<Vec<Downloadable>>,
    request_id: Option<String>,
    extensions: Option<Vec<String>>,
    timeout_ms: Option<u64>,
    max_frame_bytes: Option<u64>,
}

/// A shell command.
#[derive(Debug, JsonSchema)]
#[expect(dead_code, reason = "describes what clients send, for the JSON Schema; never built")]
pub struct Command {
    command: String,
    cwd: Option<String>,
    env: Option<BTreeMap<String, String>>,
    timeout_ms: Option<u64>,
    silent: Option<bool>,
}

/// A file to fetch.
#[derive(Debug, JsonSchema)]
#[expect(dead_code, reason = "describes what clients send, for the JSON Schema; never built")]
pub struct Downloadable {
    download_url: String,
    working_dir: String,
    sha256: Option<String>,
    max_bytes: Option<u64>,
    timeout_ms: Option<u64>,
    extract: Option<bool>,
}

/// Where an announced file is to be uploaded.
#[derive(Debug, JsonSchema)]
#[expect(dead_code, reason = "describes what clients send, for the JSON Schema; never built")]
pub struct ArtifactUploadResponseMessage {
    filename: String,
    filepath: String,
    presigned_url: String,
    content_type: String,
}

/// Cancels the request in flight, or only the one named.
#[derive(Debug, JsonSchema)]
#[expect(dead_code, reason = "describes what clients send, for the JSON Schema; never built")]
pub struct CancelMessage {
    request_id: Option<String>,
}

/// Ends the session.
#[derive(Debug, JsonSchema)]
pub struct EndSessionMessage {}

/// A message from the server. `message_type` is the first key of each; fields without a value are left out.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "message_type", rename_all = "snake_case")]
pub enum ServerMessage<'a> {
    /// What the handler says, one message per call.
    AssistantMessage {
        /// Its parts.
        #[serde(serialize_with = "quote::texts")]
        #[schemars(with = "Vec<String>")]
        text_blocks: &'a [String],
        /// The request, if it has an id.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        /// Rises from frame to frame; gaps are allowed.
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
    },
    /// Output of a command.
    CommandOutputMessage {
        /// `stdout` or `stderr`.
        stream: &'a str,
        /// The text.
        #[serde(serialize_with = "quote::text")]
        #[schemars(with = "String")]
        text: &'a str,
        /// The command as it was given.
        command: &'a str,
        /// As above.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        /// As above.
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
    },
    /// Every 15 s while a request runs.
    HeartbeatMessage {
        /// Always `request_in_flight`.
        phase: &'a str,
        /// Since the request was accepted.
        elapsed_ms: u64,
        /// As above.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
    },
    /// The answer; ends an invocation.
    ResultMessage {
        /// The handler's metadata, `{}` if it gave none.
        #[schemars(with = "BTreeMap<String, serde_json::Value>")]
        metadata: &'a RawValue,
        /// The answer itself.
        data: ResultData<'a>,
        /// Files of the request that were not uploaded.
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        artifact_failures: &'a [ArtifactFailureItem<'a>],
        /// As above.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        /// As above.
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
    },
    /// How the commands ended; ends a command execution.
    CommandExecutionResultMessage {
        /// One for each command that was run.
        results: &'a [CommandItem<'a>],
        /// Files of the request that were not uploaded.
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        artifact_failures: &'a [ArtifactFailureItem<'a>],
        /// As above.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        /// As above.
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
    },
    /// A file is complete: the client answers where it is to be uploaded.
    ArtifactUploadRequestMessage {
        /// Its name without directories.
        filename: &'a str,
        /// The directory as the client named it, and the path in it.
        filepath: &'a str,
        /// Its size in bytes.
        size: u64,
        /// The request during which it is announced, if that has an id.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
    },
    /// Something failed; ends the request unless `terminal` is `false`.
    ErrorMessage {
        /// One sentence.
        error: &'a str,
        /// More about it.
        #[schemars(with = "BTreeMap<String, serde_json::Value>")]
        metadata: &'a RawValue,
        /// Files of the request that were not uploaded.
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        artifact_failures: &'a [ArtifactFailureItem<'a>],
        /// `false` when it does not end the running request.
        #[serde(skip_serializing_if = "Option::is_none")]
        terminal: Option<bool>,
        /// As above.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        /// As above.
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
    },
    /// Only for clients that asked for `notices`; never a terminal.
    NoticeMessage {
        /// `warning` or `error`.
        level: &'a str,
        /// One sentence.
        text: &'a str,
        /// The request field it is about.
        #[serde(skip_serializing_if = "Option::is_none")]
        field: Option<&'a str>,
        /// As above.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
        /// As above.
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
    },
    /// Only for clients that asked for `events`: every event of the turn in our common form.
    EventMessage {
        /// As above; here always there.
        seq: u64,
        /// The event.
        event: super::record::EventRecord<'a>,
        /// As above.
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<&'a str>,
    },
    /// The session has ended; the server closes next.
    EndSessionConfirmMessage {
        /// Files that were not uploaded since the last request.
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        artifact_failures: &'a [ArtifactFailureItem<'a>],
    },
}

/// A file that was not uploaded.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ArtifactFailureItem<'a> {
    /// As it was announced.
    pub filepath: &'a str,
    /// One sentence.
    pub error: &'a str,
}

/// How a command ended.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct CommandItem<'a> {
    /// The command as it was given.
    pub command: &'a str,
    /// The shell's code; -1 if it did not end by itself.
    pub exit_code: i32,
    /// Its standard output; only after exit code 0, and not when it is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout: Option<&'a str>,
    /// `signal` or `timeout`; not after a normal exit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_reason: Option<&'a str>,
    /// The number of the signal that ended the shell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// How long it took.
    pub duration_ms: u64,
    /// `true` where `stdout` is only the beginning.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stdout_truncated: bool,
    /// How many bytes it wrote to its standard output, where `stdout` is only the beginning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdout_total_bytes: Option<u64>,
    /// The end of its standard output, after another exit code than 0.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub stdout_tail: &'a str,
    /// The end of its standard error.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub stderr_tail: &'a str,
    /// `true` where `command` is only the beginning: the commands together were too long for one message.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub command_truncated: bool,
}

/// The metadata of an error that a command before or after the handler was the reason of.
#[derive(Debug, Serialize, JsonSchema)]
pub struct FailedCommand<'a> {
    /// Always `CommandError`.
    pub error_name: &'a str,
    /// How the command ended; absent if it could not be run.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub item: Option<CommandItem<'a>>,
    /// What the handler had answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<AnsweredBefore<'a>>,
}

/// A handler's answer that travels with an error.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AnsweredBefore<'a> {
    /// The answer.
    pub data: ResultData<'a>,
    /// The handler's metadata.
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub metadata: &'a RawValue,
}

/// The answer of an invocation: exactly these keys.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResultData<'a> {
    /// Plain text.
    Text {
        /// The text.
        #[serde(serialize_with = "quote::text")]
        #[schemars(with = "String")]
        text: &'a str,
    },
    /// An object.
    StructuredOutput {
        /// The object.
        #[schemars(with = "BTreeMap<String, serde_json::Value>")]
        structured_output: &'a RawValue,
    },
}
