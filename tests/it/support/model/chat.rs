//! OpenAI's chat completions, as services that are like it speak them.

use super::{Block, Play, pieces};
use serde_json::{Value, json};

pub fn frames(id: usize, body: &Value, play: &Play) -> Vec<String> {
    let chunk = |delta: Value, finish: Value| {
        let choices = json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
        let chunk = json!({"id": format!("chatcmpl-{id}"), "object": "chat.completion.chunk", "model": body["model"],
                           "choices": choices});
        format!("data: {chunk}\n\n")
    };
    let Play::Say(blocks) = play else { unreachable!("{play:?} is not played here") };
    let mut all = vec![chunk(json!({"role": "assistant", "content": ""}), Value::Null)];
    let mut calls = 0;
    for block in blocks {
        match block {
            Block::Text(text) => {
                all.extend(pieces(text).into_iter().map(|text| chunk(json!({"content": text}), Value::Null)));
            }
            Block::Tool(name, input) => {
                let input = input.to_string();
                let (one, two) = input.split_at(input.floor_char_boundary(input.len() / 2));
                let call = json!({"index": calls, "id": format!("call_{id}_{calls}"), "type": "function",
                                  "function": {"name": name, "arguments": one}});
                all.push(chunk(json!({"tool_calls": [call]}), Value::Null));
                let more = json!({"index": calls, "function": {"arguments": two}});
                all.push(chunk(json!({"tool_calls": [more]}), Value::Null));
                calls += 1;
            }
            other => unreachable!("{other:?} is not of this wire"),
        }
    }
    all.push(chunk(json!({}), json!(if calls > 0 { "tool_calls" } else { "stop" })));
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13});
    all.push(format!("data: {}\n\n", json!({"id": format!("chatcmpl-{id}"), "choices": [], "usage": usage})));
    all.push("data: [DONE]\n\n".to_owned());
    all
}
