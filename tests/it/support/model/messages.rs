//! Anthropic's Messages API.

use super::{Block, Play, pieces};
use serde_json::{Value, json};

fn frame(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap())
}

fn head(id: usize, body: &Value) -> Value {
    json!({"id": format!("msg_{id}"), "type": "message", "role": "assistant", "model": body["model"], "content": [],
           "stop_reason": null, "stop_sequence": null,
           "usage": {"input_tokens": 10, "output_tokens": 1, "cache_read_input_tokens": 0,
                     "cache_creation_input_tokens": 0}})
}

fn blocks(play: &Play) -> (Vec<Block>, &'static str) {
    match play {
        Play::Say(blocks) => {
            let calls = blocks.iter().any(|block| matches!(block, Block::Tool(..)));
            let refuses = blocks.iter().any(|block| matches!(block, Block::Refusal(..)));
            let reason = if refuses {
                "refusal"
            } else if calls {
                "tool_use"
            } else {
                "end_turn"
            };
            (blocks.clone(), reason)
        }
        Play::Break(text, reason) => (vec![Block::Text((*text).to_owned())], reason),
        Play::Cut(text) | Play::Hang(text) => (vec![Block::Text((*text).to_owned())], ""),
        Play::Status { .. } | Play::After(..) => unreachable!("answered before"),
    }
}

pub fn frames(id: usize, body: &Value, play: &Play) -> Vec<String> {
    let (blocks, reason) = blocks(play);
    let mut all = vec![frame(&json!({"type": "message_start", "message": head(id, body)}))];
    for (index, block) in blocks.iter().enumerate() {
        let (start, deltas) = match block {
            Block::Text(text) => (
                json!({"type": "text", "text": ""}),
                pieces(text).into_iter().map(|text| json!({"type": "text_delta", "text": text})).collect(),
            ),
            Block::Refusal(text) => {
                (json!({"type": "text", "text": ""}), vec![json!({"type": "text_delta", "text": text})])
            }
            Block::Thinking(text) => (
                json!({"type": "thinking", "thinking": "", "signature": ""}),
                vec![
                    json!({"type": "thinking_delta", "thinking": text}),
                    json!({"type": "signature_delta", "signature": "c2ln"}),
                ],
            ),
            Block::Tool(name, input) => {
                let input = input.to_string();
                let (one, two) = input.split_at(input.floor_char_boundary(input.len() / 2));
                let delta = |part: &str| json!({"type": "input_json_delta", "partial_json": part});
                let call = format!("toolu_{id}_{index}");
                (json!({"type": "tool_use", "id": call, "name": name, "input": {}}), vec![delta(one), delta(two)])
            }
            other => unreachable!("{other:?} is not of this wire"),
        };
        all.push(frame(&json!({"type": "content_block_start", "index": index, "content_block": start})));
        let delta = |delta: Value| frame(&json!({"type": "content_block_delta", "index": index, "delta": delta}));
        all.extend(Vec::into_iter(deltas).map(delta));
        if reason.is_empty() {
            return all;
        }
        all.push(frame(&json!({"type": "content_block_stop", "index": index})));
    }
    let usage = json!({"output_tokens": 3});
    let delta = json!({"stop_reason": reason, "stop_sequence": null});
    all.push(frame(&json!({"type": "message_delta", "delta": delta, "usage": usage})));
    all.push(frame(&json!({"type": "message_stop"})));
    all
}

pub fn whole(id: usize, body: &Value, play: &Play) -> Value {
    let (blocks, reason) = blocks(play);
    let mut message = head(id, body);
    message["content"] = blocks
        .iter()
        .enumerate()
        .filter_map(|(index, block)| match block {
            Block::Text(text) => Some(json!({"type": "text", "text": text})),
            Block::Tool(name, input) => {
                Some(json!({"type": "tool_use", "id": format!("toolu_{id}_{index}"), "name": name, "input": input}))
            }
            _ => None,
        })
        .collect();
    message["stop_reason"] = json!(reason);
    message
}
