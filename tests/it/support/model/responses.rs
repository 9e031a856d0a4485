//! OpenAI's Responses API.

use super::{Block, Play, Shared, pieces};
use serde_json::{Value, json};

/// What the real service refuses with 400: calls without outputs and outputs without calls, an unknown earlier response,
/// a schema that is said to be strict and is not, a tool that the model does not know.
pub fn refusal(shared: &Shared, body: &Value) -> Option<Play> {
    let error = |code, message| Some(Play::Status { status: 400, code, message, headers: Vec::new() });
    let empty = Vec::new();
    let items = body["input"].as_array().unwrap_or(&empty);
    let mut open = Vec::new();
    if let Some(previous) = body["previous_response_id"].as_str() {
        match shared.responses.get(previous) {
            Some(calls) => open.extend(calls.iter().cloned()),
            None => return error("previous_response_not_found", "Previous response not found."),
        }
    }
    let ids = |end: &str| -> Vec<String> {
        let of_kind = items.iter().filter(|item| item["type"].as_str().is_some_and(|kind| kind.ends_with(end)));
        // Searches come back too, with the whole talk: they have no call id, and nobody answers them.
        of_kind.filter_map(|item| item["call_id"].as_str().map(str::to_owned)).collect()
    };
    open.extend(ids("_call").into_iter().filter(|id| !id.is_empty()));
    let outputs = ids("_call_output");
    if outputs.iter().any(|id| !open.contains(id)) {
        return error("invalid_request", "No tool call found for an output.");
    }
    if open.iter().any(|id| !outputs.contains(id)) {
        return error("invalid_request", "No tool output found for a call.");
    }
    let knows_shell = !body["model"].as_str().unwrap_or_default().contains("simple");
    let tools = body["tools"].as_array().unwrap_or(&empty);
    if !knows_shell && tools.iter().any(|tool| tool["type"] == "shell") {
        return error("invalid_request", "Tool 'shell' is not supported with this model.");
    }
    let format = &body["text"]["format"];
    if format["strict"] == true && !is_strict(&format["schema"]) {
        return error("invalid_json_schema", "Invalid schema for response_format 'output'.");
    }
    None
}

fn is_strict(schema: &Value) -> bool {
    let Some(properties) = schema["properties"].as_object() else { return schema["type"] != "object" };
    let required: Vec<_> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    schema["additionalProperties"] == false
        && properties.iter().all(|(name, schema)| required.contains(&name.as_str()) && is_strict(schema))
}

pub fn frames(shared: &mut Shared, id: usize, body: &Value, play: &Play) -> Vec<String> {
    let mut number = 0;
    let mut frame = |mut data: Value| {
        data["sequence_number"] = json!(number);
        number += 1;
        format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap())
    };
    let response_id = format!("resp_{id}");
    let response =
        |status: &str| json!({"id": response_id, "object": "response", "status": status, "model": body["model"]});
    let mut all = vec![frame(json!({"type": "response.created", "response": response("in_progress")}))];
    let blocks = match play {
        Play::Say(blocks) => blocks.clone(),
        Play::Break(text, _) | Play::Cut(text) | Play::Hang(text) => vec![Block::Text((*text).to_owned())],
        Play::Status { .. } | Play::After(..) => unreachable!("answered before"),
    };
    let (mut open, mut output) = (Vec::new(), Vec::new());
    for (index, block) in blocks.iter().enumerate() {
        let call_id = format!("call_{id}_{index}");
        let item_id = format!("item_{id}_{index}");
        let mut deltas = Vec::new();
        let message = |part: Value| json!({"type": "message", "id": item_id, "role": "assistant", "status": "completed", "content": [part]});
        let item = match block {
            Block::Text(text) => {
                deltas.extend(pieces(text).into_iter().map(|delta| {
                    json!({"type": "response.output_text.delta", "item_id": item_id, "output_index": index,
                           "content_index": 0, "delta": delta})
                }));
                message(json!({"type": "output_text", "text": text, "annotations": []}))
            }
            Block::Refusal(text) => message(json!({"type": "refusal", "refusal": text})),
            Block::Thinking(text) => {
                deltas.push(json!({"type": "response.reasoning_summary_text.done", "item_id": item_id,
                                   "output_index": index, "summary_index": 0, "text": text}));
                json!({"type": "reasoning", "id": item_id, "encrypted_content": "c2VjcmV0",
                       "summary": [{"type": "summary_text", "text": text}]})
            }
            Block::Tool(name, input) => {
                open.push(call_id.clone());
                json!({"type": "function_call", "id": item_id, "call_id": call_id, "name": name,
                       "arguments": input.to_string(), "status": "completed"})
            }
            Block::Function(name, arguments) => {
                open.push(call_id.clone());
                deltas.push(json!({"type": "response.function_call_arguments.delta", "item_id": item_id,
                                   "output_index": index, "delta": arguments}));
                json!({"type": "function_call", "id": item_id, "call_id": call_id, "name": name,
                       "arguments": arguments, "status": "completed"})
            }
            Block::Shell(action) => {
                open.push(call_id.clone());
                json!({"type": "shell_call", "id": item_id, "call_id": call_id, "status": "completed",
                       "environment": {"type": "local"}, "action": action})
            }
            Block::Search => json!({"type": "web_search_call", "id": item_id, "status": "completed",
                                    "action": {"type": "search", "query": "news"}}),
        };
        all.push(frame(json!({"type": "response.output_item.added", "output_index": index, "item": item})));
        all.extend(deltas.into_iter().map(&mut frame));
        if matches!(play, Play::Cut(_) | Play::Hang(_)) {
            return all;
        }
        all.push(frame(json!({"type": "response.output_item.done", "output_index": index, "item": item})));
        output.push(item);
    }
    let mut last = response("completed");
    last["output"] = json!(output);
    last["usage"] = json!({"input_tokens": 10, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 3,
                           "output_tokens_details": {"reasoning_tokens": 1}, "total_tokens": 13});
    let kind = match play {
        Play::Break(_, reason @ ("max_output_tokens" | "content_filter")) => {
            last["incomplete_details"] = json!({"reason": reason});
            "response.incomplete"
        }
        Play::Break(_, code) => {
            last["error"] = json!({"code": code, "message": "the fake model failed"});
            "response.failed"
        }
        _ => {
            if body["store"] != false {
                shared.responses.insert(response_id, open);
            }
            "response.completed"
        }
    };
    all.push(frame(json!({"type": kind, "response": last})));
    all
}
