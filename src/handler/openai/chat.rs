//! The same talk by chat completions, for services that know no responses.
//!
//! Owns the translation both ways: the talk and the answer keep the form of responses, so that nothing else has to know.

use super::call::{Answered, next_event};
use super::sse::Events;
use super::trouble::Trouble;
use super::{block_of, raw};
use crate::handler::Sink;
use crate::handler::agent_error::Category;
use crate::model::{BlockId, Event};
use crate::wire::chat::{
    ChatCall, ChatFunction, ChatMessage, ChatTool, ChatUsage, Chunk, CreateChat, Delta, JsonSchema, ResponseFormat,
    StreamOptions,
};
use crate::wire::openai::{CreateResponse, InputItem, Part, Usage};
use serde_json::json;
use serde_json::value::RawValue;
use std::collections::BTreeSet;

/// The body of a call that asks for the same.
pub fn body(call: &CreateResponse<'_>) -> Vec<u8> {
    let functions: Vec<Box<RawValue>> = call.tools.iter().filter_map(|tool| function(tool)).collect();
    let response_format = call.text.as_ref().map(|text| ResponseFormat {
        r#type: "json_schema",
        json_schema: JsonSchema { name: text.format.name, strict: text.format.strict, schema: text.format.schema },
    });
    let chat = CreateChat {
        model: call.model,
        messages: &messages(call),
        tools: functions.iter().map(|function| ChatTool { r#type: "function", function }).collect(),
        response_format,
        stream: true,
        stream_options: StreamOptions { include_usage: true },
    };
    // Only strings, numbers and raw JSON are in there: writing them cannot fail.
    serde_json::to_vec(&chat).unwrap_or_default()
}

fn function(tool: &RawValue) -> Option<Box<RawValue>> {
    let mut tool: serde_json::Map<String, serde_json::Value> = serde_json::from_str(tool.get()).ok()?;
    (tool.remove("type")? == "function").then(|| raw(&tool))
}

fn messages(call: &CreateResponse<'_>) -> Vec<ChatMessage> {
    let message = |role, content| ChatMessage { role, content, tool_calls: Vec::new(), tool_call_id: None };
    let mut all: Vec<ChatMessage> = Vec::new();
    all.extend(call.instructions.map(|text| message("system", Some(raw(&text)))));
    for item in call.input {
        let Ok(item) = serde_json::from_str::<InputItem>(item.get()) else { continue };
        match (item.r#type.as_deref(), item.role.as_deref(), item.content) {
            (None | Some("message"), Some("user"), Some(content)) => {
                all.push(message("user", Some(user_content(&content))));
            }
            (Some("message"), _, Some(content)) => all.push(message("assistant", Some(raw(&text_of(&content))))),
            (Some("function_call"), ..) => {
                let function = ChatFunction { name: item.name, arguments: item.arguments };
                let call = ChatCall { id: item.call_id, r#type: "function", function };
                match all.last_mut().filter(|last| last.role == "assistant") {
                    Some(last) => last.tool_calls.push(call),
                    None => all.push(ChatMessage { tool_calls: vec![call], ..message("assistant", None) }),
                }
            }
            (Some("function_call_output"), ..) => {
                all.push(ChatMessage { tool_call_id: Some(item.call_id), ..message("tool", item.output) });
            }
            // Reasoning, searches and the native shell have no form here.
            _ => {}
        }
    }
    all
}

fn user_content(content: &RawValue) -> Box<RawValue> {
    let Ok(parts) = serde_json::from_str::<Vec<Part>>(content.get()) else { return content.to_owned() };
    let parts: Vec<_> = parts
        .into_iter()
        .filter_map(|part| match part {
            Part::InputText { text } => Some(json!({"type": "text", "text": text})),
            Part::InputImage { image_url } => Some(json!({"type": "image_url", "image_url": {"url": image_url}})),
            _ => None,
        })
        .collect();
    raw(&parts)
}

fn text_of(content: &RawValue) -> String {
    let parts: Vec<Part> = serde_json::from_str(content.get()).unwrap_or_default();
    parts.into_iter().filter_map(|part| if let Part::OutputText { text } = part { Some(text) } else { None }).collect()
}

/// What has come of an answer.
#[derive(Default)]
struct Coming {
    id: String,
    text: String,
    refusal: String,
    thinking: String,
    calls: Vec<ChatCall>,
    finish: Option<String>,
    usage: Option<ChatUsage>,
}

/// Reads an answer; what the model says goes to the sink as it comes.
pub async fn read(
    mut response: reqwest::Response,
    sink: &Sink,
    said: &mut BTreeSet<BlockId>,
) -> Result<Answered, Trouble> {
    let mut events = Events::default();
    let mut coming = Coming::default();
    while let Some(data) = next_event(&mut events, &mut response).await? {
        if data.trim() == "[DONE]" {
            break;
        }
        let Ok(chunk) = serde_json::from_str::<Chunk>(&data) else {
            tracing::debug!("a chunk of the model API was not understood");
            continue;
        };
        if let Some(error) = chunk.error {
            return Err(Trouble::of_response(error));
        }
        if coming.id.is_empty() {
            coming.id = chunk.id;
        }
        coming.usage = chunk.usage.or(coming.usage);
        let Some(choice) = chunk.choices.into_iter().next() else { continue };
        coming.finish = choice.finish_reason.or(coming.finish);
        if let Some(text) = coming.add(choice.delta) {
            let block = block_of(&coming.id, 0);
            said.insert(block.clone());
            let _ = sink.say(Event::TextDelta { block: Some(block), text }).await;
        }
    }
    coming.finish(sink).await
}

impl Coming {
    /// Takes in pieces; gives the new text, if there is some.
    fn add(&mut self, delta: Delta) -> Option<String> {
        self.refusal.push_str(delta.refusal.as_deref().unwrap_or_default());
        self.thinking.push_str(delta.reasoning_content.as_deref().unwrap_or_default());
        for piece in delta.tool_calls.unwrap_or_default() {
            // Services number calls from 0; one that leaves gaps gets them closed.
            let at = piece.index.min(self.calls.len());
            if at == self.calls.len() {
                let function = ChatFunction { name: String::new(), arguments: String::new() };
                self.calls.push(ChatCall { id: format!("call_{}_{at}", self.id), r#type: "function", function });
            }
            let call = &mut self.calls[at];
            call.id = piece.id.filter(|id| !id.is_empty()).unwrap_or_else(|| std::mem::take(&mut call.id));
            call.function.name.push_str(piece.function.name.as_deref().unwrap_or_default());
            call.function.arguments.push_str(piece.function.arguments.as_deref().unwrap_or_default());
        }
        let text = delta.content.filter(|text| !text.is_empty())?;
        self.text.push_str(&text);
        Some(text)
    }

    async fn finish(self, sink: &Sink) -> Result<Answered, Trouble> {
        let Some(finish) = self.finish else {
            return Err(Trouble::new(Category::UpstreamApiError, "the model API's answer ended in the middle"));
        };
        if !self.thinking.is_empty() {
            let _ = sink.say(Event::Thinking { text: self.thinking }).await;
        }
        let mut items = Vec::new();
        if !self.text.is_empty() {
            let block = Some(block_of(&self.id, 0));
            let _ = sink.say(Event::Text { block, parts: vec![self.text.clone()] }).await;
            let content = json!([{"type": "output_text", "text": self.text}]);
            items.push(raw(&json!({"type": "message", "id": self.id, "role": "assistant", "content": content})));
        }
        if !self.refusal.is_empty() || finish == "content_filter" {
            let why = if self.refusal.is_empty() { "content_filter" } else { &self.refusal };
            let trouble = Trouble::new(Category::InvalidRequest, format!("the model refused: {why}"));
            return Err(Trouble { code: Some("refusal".to_owned()), ..trouble });
        }
        if finish == "length" {
            let trouble = Trouble::new(Category::InvalidRequest, "the response is incomplete: max_output_tokens");
            return Err(Trouble { code: Some("incomplete:max_output_tokens".to_owned()), ..trouble });
        }
        items.extend(self.calls.into_iter().map(|call| {
            let ChatFunction { name, arguments } = call.function;
            raw(&json!({"type": "function_call", "call_id": call.id, "name": name, "arguments": arguments}))
        }));
        let usage = self.usage.unwrap_or_default();
        let usage = Usage {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: usage.prompt_tokens_details.unwrap_or_default(),
            output_tokens: usage.completion_tokens,
            output_tokens_details: usage.completion_tokens_details.unwrap_or_default(),
            total_tokens: usage.total_tokens,
        };
        Ok(Answered { id: self.id, items, usage })
    }
}
