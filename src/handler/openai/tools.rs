//! The model's tools: what it is offered, and what becomes of its calls.
//!
//! Owns the forms of calls and their outputs. A command itself is run by `shell`.

use super::shell::Shell;
use super::{OpenAi, raw};
use crate::handler::{Cancel, Sink, Turn};
use crate::json;
use crate::model::{Event, RawJson};
use crate::wire::openai::{FunctionCallOutput, Item, ShellAction, ShellArguments, ShellCallOutput};
use serde_json::json;
use serde_json::value::RawValue;
use std::time::Duration;

/// The turn was cancelled while a tool ran; nothing of it is left.
pub struct Cancelled;

/// A shell, as models are offered one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    Native,
    Function,
    None,
}

/// What a call may ask for.
pub fn offered(shell: Offer, web_search: bool) -> Vec<Box<RawValue>> {
    let mut tools = Vec::new();
    if web_search {
        tools.push(raw(&json!({"type": "web_search", "search_context_size": "medium"})));
    }
    match shell {
        Offer::Native => tools.push(raw(&json!({"type": "shell", "environment": {"type": "local"}}))),
        Offer::Function => tools.push(raw(&json!({
            "type": "function", "name": "shell", "strict": true,
            "description": "Runs a shell command and returns what it printed and its exit code.",
            "parameters": {
                "type": "object",
                "properties": {"command": {"type": "string"}, "timeout_ms": {"type": ["integer", "null"]}},
                "required": ["command", "timeout_ms"],
                "additionalProperties": false,
            },
        }))),
        Offer::None => {}
    }
    tools
}

/// The tools of one turn at work.
pub struct Tools<'a> {
    shell: Shell<'a>,
    sink: &'a Sink,
}

impl<'a> Tools<'a> {
    pub fn new(agent: &'a OpenAi, turn: &Turn, sink: &'a Sink, cancel: &'a Cancel) -> Self {
        let mut env = crate::handler::traced(agent.options.environment.clone(), &turn.request);
        for (name, value) in turn.request.env.iter().flatten() {
            env = env.with(name, value.expose());
        }
        // Commands need no key of ours.
        let env = env.without("OPENAI_API_KEY");
        let cwd = agent.options.workspace.clone();
        Self { shell: Shell { options: &agent.options, env, cwd, tasks: &agent.tasks, cancel }, sink }
    }

    /// Runs what the model asked for; what that gave is the input of the next call.
    pub async fn run(&self, items: &[Box<RawValue>]) -> Result<Vec<Box<RawValue>>, Cancelled> {
        let mut outputs = Vec::new();
        for item in items {
            match serde_json::from_str(item.get()) {
                Ok(Item::ShellCall { call_id, action }) => outputs.push(self.commands(&call_id, &action).await?),
                Ok(Item::FunctionCall { call_id, name, arguments }) => {
                    outputs.push(self.function(&call_id, &name, &arguments).await?);
                }
                Ok(Item::WebSearchCall { id, action }) => {
                    let input = json::from_raw(&raw(&action.unwrap_or_else(|| json!({}))));
                    self.uses(&id, "web_search", input).await;
                    self.gave(&id, String::new(), Some(0)).await;
                }
                _ => {}
            }
        }
        Ok(outputs)
    }

    async fn commands(&self, call_id: &str, action: &ShellAction) -> Result<Box<RawValue>, Cancelled> {
        self.uses(call_id, "shell", json::from_raw(&raw(&json!({"commands": action.commands})))).await;
        let timeout = action.timeout_ms.map(Duration::from_millis);
        let (mut output, mut text, mut code) = (Vec::new(), String::new(), Some(0));
        for command in &action.commands {
            let Some(ran) = self.shell.run(command, timeout, action.max_output_length).await else {
                return Err(self.cancelled(call_id).await);
            };
            text.push_str(&ran.output.stdout);
            text.push_str(&ran.output.stderr);
            code = if code == Some(0) { ran.exit_code } else { code };
            output.push(ran.output);
        }
        self.gave(call_id, text, code).await;
        let max_output_length = action.max_output_length;
        Ok(raw(&ShellCallOutput { r#type: "shell_call_output", call_id, output, max_output_length }))
    }

    async fn function(&self, call_id: &str, name: &str, arguments: &str) -> Result<Box<RawValue>, Cancelled> {
        let is_json = json::check(arguments.as_bytes()).is_ok();
        let input = if is_json { arguments.to_owned() } else { json::string(arguments) };
        self.uses(call_id, name, RawJson::from_valid(input)).await;
        let (output, text, code) = match serde_json::from_str::<ShellArguments>(arguments) {
            Ok(asked) if name == "shell" => {
                let timeout = asked.timeout_ms.map(Duration::from_millis);
                let Some(ran) = self.shell.run(&asked.command, timeout, None).await else {
                    return Err(self.cancelled(call_id).await);
                };
                let text = format!("{}{}", ran.output.stdout, ran.output.stderr);
                (raw(&ran.output).get().to_owned(), text, ran.exit_code)
            }
            wrong => {
                let text = match wrong {
                    Ok(_) => format!("there is no function {name}"),
                    Err(error) => format!("the arguments are not valid: {error}"),
                };
                (text.clone(), text, None)
            }
        };
        self.gave(call_id, text, code).await;
        Ok(raw(&FunctionCallOutput { r#type: "function_call_output", call_id, output: &output }))
    }

    async fn uses(&self, id: &str, name: &str, input: RawJson) {
        let _ = self.sink.say(Event::ToolUse { id: id.to_owned(), name: name.to_owned(), input }).await;
    }

    async fn gave(&self, id: &str, output: String, exit_code: Option<i32>) {
        let is_error = exit_code != Some(0);
        let _ = self.sink.say(Event::ToolResult { id: id.to_owned(), output, is_error, exit_code }).await;
    }

    async fn cancelled(&self, id: &str) -> Cancelled {
        self.gave(id, "cancelled".to_owned(), None).await;
        Cancelled
    }
}
