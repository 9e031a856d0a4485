//! What goes into the next call, and what is kept between turns.
//!
//! Owns the two ways of remembering: by the id of the last response, or by all items. Items are kept in the form of
//! responses, whichever API is called.

use super::raw;
use crate::handler::Turn;
use crate::json;
use crate::model::{Attachment, StateChange};
use crate::wire::openai::{Content, Item, Part, State, UserMessage};
use serde_json::value::RawValue;

pub struct Talk {
    pub stored: bool,
    pub previous: Option<String>,
    pub input: Vec<Box<RawValue>>,
}

impl Talk {
    /// Goes on where the state says, if it is one of ours.
    pub fn of(turn: &Turn, stored: bool) -> Self {
        let state = turn.state.as_ref().and_then(|state| serde_json::from_str::<State>(state.as_str()).ok());
        let state = state.filter(|state| state.v == 1);
        let (previous, items) = state.map_or((None, None), |state| (state.previous_response_id, state.items));
        Self { stored, previous: previous.filter(|_| stored), input: items.filter(|_| !stored).unwrap_or_default() }
    }

    pub fn say(&mut self, text: &str) {
        self.input.push(raw(&UserMessage { role: "user", content: Content::Text(text) }));
    }

    /// The user's message of a turn. Images come along; of other attachments the text tells.
    pub fn ask(&mut self, turn: &Turn) {
        let images: Vec<String> = turn.request.attachments.iter().filter_map(Attachment::image_url).collect();
        if images.is_empty() {
            return self.say(&turn.told_prompt());
        }
        let text = serde_json::json!({"type": "input_text", "text": turn.told_prompt()});
        let images = images.iter().map(|url| serde_json::json!({"type": "input_image", "image_url": url}));
        let parts = std::iter::once(text).chain(images).map(|part| raw(&part)).collect();
        self.input.push(raw(&UserMessage { role: "user", content: Content::Parts(parts) }));
    }

    pub fn answered(&mut self, id: String, items: Vec<Box<RawValue>>) {
        if self.stored {
            self.previous = Some(id);
            self.input.clear();
        } else {
            self.input.extend(items);
        }
    }

    pub fn state(&self) -> StateChange {
        let state = State {
            v: 1,
            previous_response_id: self.previous.clone(),
            items: (!self.stored).then(|| self.input.clone()),
        };
        StateChange::Set(json::from_raw(&raw(&state)))
    }
}

/// The text of the last message.
pub fn last_text(items: &[Box<RawValue>]) -> String {
    let text = |item: &RawValue| match serde_json::from_str(item.get()) {
        Ok(Item::Message { content, .. }) => {
            let parts = content
                .into_iter()
                .filter_map(|part| if let Part::OutputText { text } = part { Some(text) } else { None });
            Some(parts.collect::<String>())
        }
        _ => None,
    };
    items.iter().rev().find_map(|item| text(item)).unwrap_or_default()
}
