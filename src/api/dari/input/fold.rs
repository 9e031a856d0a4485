//! Where in a body the user's blocks are: section 2.3 of the contract.
//!
//! Works while the text is being parsed and builds no tree, so that a body of 64 MiB made of tiny values costs about
//! its own size. A list cannot know before its end whether it is one of messages or of blocks, so [`List`] keeps what
//! either would need. What the blocks become is [`super::attached`]'s business.

use super::Canned;
use super::attached::{Block, Blocks};
use super::raw::{Text, is_null};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::mem::take;

/// The deepest level that is looked at; the value to start from is level 0.
const DEEPEST: usize = 6;

/// Keys that lead to the user's text, in the order they are tried.
pub(super) const STEP_KEYS: [&str; 8] = ["input", "data", "message", "messages", "content", "parts", "text", "prompt"];
const DATA: usize = 1;
const MESSAGE: usize = 2;
const CONTENT: usize = 4;
const PARTS: usize = 5;
const TEXT: usize = 6;

/// What a value at level 0 says.
pub(super) enum Folded<'a> {
    /// By its type it is not the user who speaks.
    Canned(Canned),
    /// What the user said; nothing, if there are no blocks.
    Found(Found<'a>),
}

/// What a value resolves to. No blocks means nothing.
#[derive(Default)]
pub(super) struct Found<'a> {
    /// The user's blocks.
    pub blocks: Blocks<'a>,
    /// The ids on the way to them.
    pub ids: PathIds,
}

/// Ids of the objects from level 0 down to the one that holds the blocks, of each kind the outermost.
#[derive(Default)]
pub(super) struct PathIds {
    /// `session_id` or `sessionId`.
    pub session: Option<String>,
    /// `message_id` or `messageId`.
    pub message: Option<String>,
    /// `id` of an object that holds `content` or `parts` and is not an event.
    pub holder: Option<String>,
    /// `id` of the object in the `message` of level 0, on the path or not.
    pub in_message: Option<String>,
}

/// Finds the user's blocks in a JSON text.
///
/// # Errors
/// Only for text that is not valid JSON, or that [`super::raw::repaired`] can mend.
pub(super) fn fold(json: &str) -> Result<Folded<'_>, serde_json::Error> {
    let node = Fold { level: 0 }.deserialize(&mut serde_json::Deserializer::from_str(json))?;
    Ok(match node {
        Node::Object(Object { canned: Some(canned), .. }) => Folded::Canned(canned),
        other => Folded::Found(other.resolve(0)),
    })
}

/// A value that has been read.
#[derive(Default)]
enum Node<'a> {
    /// Null, which everywhere counts as absent.
    #[default]
    Null,
    /// A number or a boolean.
    Scalar,
    Text(Cow<'a, str>),
    List(Box<Found<'a>>),
    Object(Object<'a>),
}

struct Object<'a> {
    found: Box<Found<'a>>,
    /// It counts only as an item of a list of blocks (step 6).
    only_in_blocks: bool,
    /// It makes the list that it is in one of messages.
    message_like: bool,
    /// Its `id`.
    id: Option<String>,
    /// What its type means at level 0.
    canned: Option<Canned>,
}

impl<'a> Node<'a> {
    fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    fn is_object(&self) -> bool {
        matches!(self, Self::Object(_))
    }

    /// A text that is not empty.
    fn into_text(self) -> Option<Cow<'a, str>> {
        if let Self::Text(text) = self { Some(text).filter(|text| !text.is_empty()) } else { None }
    }

    /// What it resolves to outside a list of blocks.
    fn resolve(self, level: usize) -> Found<'a> {
        match self {
            Self::Text(text) if level <= DEEPEST => Found { blocks: Blocks::text(text), ids: PathIds::default() },
            Self::List(found) => *found,
            Self::Object(object) if !object.only_in_blocks => *object.found,
            _ => Found::default(),
        }
    }
}

/// A list while it is being read.
#[derive(Default)]
struct List<'a> {
    /// Whether it is a list of messages, as far as it is known.
    messages: bool,
    /// As a list of blocks: all but the ones below.
    earlier: Blocks<'a>,
    /// The last item that resolves to something. As a list of messages: the one that wins.
    last: Found<'a>,
    /// As a list of blocks: what follows `last` and would be nothing in a list of messages.
    tail: Blocks<'a>,
}

impl<'a> List<'a> {
    fn push(&mut self, item: Node<'a>, level: usize) {
        let mut only_in_blocks = false;
        if let Node::Object(object) = &item {
            self.messages |= object.message_like;
            only_in_blocks = object.only_in_blocks;
        }
        if self.messages {
            // Keeping them would hold on to the text of a whole history.
            self.earlier = Blocks::default();
            self.tail = Blocks::default();
        }
        match item {
            Node::Object(object) if only_in_blocks => {
                if !self.messages {
                    self.tail.append(object.found.blocks);
                }
            }
            other => {
                let found = other.resolve(level);
                if found.blocks.is_empty() {
                    return;
                }
                let before = std::mem::replace(&mut self.last, found);
                if !self.messages {
                    self.earlier.append(before.blocks);
                    self.earlier.append(take(&mut self.tail));
                }
            }
        }
    }

    fn finish(mut self) -> Found<'a> {
        if self.messages {
            return self.last;
        }
        // The path ends at the object that holds the list: ids of single blocks do not name the message.
        self.earlier.append(self.last.blocks);
        self.earlier.append(self.tail);
        Found { blocks: self.earlier, ids: PathIds::default() }
    }
}

/// An object's members while it is being read. Of duplicate keys the last one counts, since it overwrites.
#[derive(Default)]
struct Members<'a> {
    steps: [Node<'a>; STEP_KEYS.len()],
    role: Node<'a>,
    kind: Node<'a>,
    id: Id<'a>,
    session_id: [Id<'a>; 2],
    message_id: [Id<'a>; 2],
    file_id: Id<'a>,
    path: Node<'a>,
    filename: Node<'a>,
    url: Node<'a>,
    mime_type: [Node<'a>; 3],
}

/// An id that has not been looked at yet. Kept as text, since a parsed number loses its last digits.
type Id<'a> = Option<&'a RawValue>;

fn id(raw: Id<'_>) -> Option<String> {
    raw.and_then(super::id)
}

impl<'a> Members<'a> {
    fn read<A: MapAccess<'a>>(&mut self, key: &str, map: &mut A, level: usize) -> Result<(), A::Error> {
        // A value below the deepest level is read for its own sake only: containers are skipped.
        let leaf = || Fold { level: DEEPEST + 1 };
        if let Some(step) = STEP_KEYS.iter().position(|step| *step == key) {
            self.steps[step] = map.next_value_seed(Fold { level: level + 1 })?;
            return Ok(());
        }
        match key {
            "role" => self.role = map.next_value_seed(leaf())?,
            "type" => self.kind = map.next_value_seed(leaf())?,
            "path" => self.path = map.next_value_seed(leaf())?,
            "filename" => self.filename = map.next_value_seed(leaf())?,
            "url" => self.url = map.next_value_seed(leaf())?,
            "mime_type" => self.mime_type[0] = map.next_value_seed(leaf())?,
            "media_type" => self.mime_type[1] = map.next_value_seed(leaf())?,
            "mimeType" => self.mime_type[2] = map.next_value_seed(leaf())?,
            "id" => self.id = Some(map.next_value()?),
            "session_id" => self.session_id[0] = Some(map.next_value()?),
            "sessionId" => self.session_id[1] = Some(map.next_value()?),
            "message_id" => self.message_id[0] = Some(map.next_value()?),
            "messageId" => self.message_id[1] = Some(map.next_value()?),
            "file_id" => self.file_id = Some(map.next_value()?),
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }

    fn finish(mut self, level: usize) -> Object<'a> {
        let message_like = self.message_like();
        let canned = if level == 0 { self.kind.as_text().and_then(canned) } else { None };
        let mut ids = self.own_ids();
        if level == 0
            && let Node::Object(message) = &mut self.steps[MESSAGE]
        {
            ids.in_message = message.id.take();
        }
        let own = id(self.id);
        let (mut found, only_in_blocks) = self.resolve(level);
        ids.session = ids.session.or(found.ids.session);
        ids.message = ids.message.or(found.ids.message);
        ids.holder = ids.holder.or(found.ids.holder);
        found.ids = ids;
        Object { found: Box::new(found), only_in_blocks, message_like, id: own, canned }
    }

    fn own_ids(&self) -> PathIds {
        let event = self.kind.as_text().is_some_and(|kind| kind.contains('.'));
        let holds = !self.steps[CONTENT].is_null() || !self.steps[PARTS].is_null();
        PathIds {
            session: self.session_id.iter().find_map(|raw| id(*raw)),
            message: self.message_id.iter().find_map(|raw| id(*raw)),
            holder: if holds && !event { id(self.id) } else { None },
            in_message: None,
        }
    }

    fn message_like(&self) -> bool {
        let has = |step: usize| !self.steps[step].is_null();
        let kind = self.kind.as_text();
        !matches!(kind, Some("text" | "file" | "image"))
            && (!self.role.is_null()
                || has(CONTENT)
                || has(PARTS)
                || has(MESSAGE)
                || self.steps[DATA].is_object()
                || matches!(kind, Some("user.message" | "user_message")))
    }

    /// The first of the step keys that counts: `data` only as an object, since as a string it is base64.
    fn step(&self) -> Option<usize> {
        (0..STEP_KEYS.len()).find(|&step| match &self.steps[step] {
            Node::Null => false,
            node => step != DATA || node.is_object(),
        })
    }

    /// Whether one of its keys makes it an attachment, whatever its type.
    fn looks_like_a_file(&self) -> bool {
        self.file_id.is_some_and(|raw| !is_null(raw))
            || !self.path.is_null()
            || !self.url.is_null()
            || self.steps[DATA].as_text().is_some()
    }

    /// Steps 2 to 6, the first match wins. Also says whether the result counts in a list of blocks only.
    fn resolve(mut self, level: usize) -> (Found<'a>, bool) {
        let kind = self.kind.as_text();
        let of_another = !self.role.is_null() && self.role.as_text() != Some("user");
        let event = kind.is_some_and(|kind| kind.contains('.') && kind != "user.message");
        if of_another || event {
            return (Found::default(), false);
        }
        if kind == Some("text") {
            let text = take(&mut self.steps[TEXT]);
            return (if text.as_text().is_some() { text.resolve(level + 1) } else { Found::default() }, false);
        }
        let step = self.step();
        if matches!(kind, Some("file" | "image")) || (step.is_none() && self.looks_like_a_file()) {
            return (self.attachment(), false);
        }
        if let Some(step) = step {
            return (take(&mut self.steps[step]).resolve(level + 1), false);
        }
        if kind.is_some_and(|kind| !kind.is_empty()) {
            return (self.attachment(), true);
        }
        (Found::default(), false)
    }

    fn attachment(self) -> Found<'a> {
        let [_, data, ..] = self.steps;
        let block = Block {
            kind: self.kind.into_text(),
            file_id: id(self.file_id),
            path: self.path.into_text(),
            filename: self.filename.into_text(),
            mime_type: self.mime_type.into_iter().find_map(Node::into_text),
            url: self.url.into_text(),
            data: data.into_text(),
        };
        Found { blocks: Blocks::attachment(block), ids: PathIds::default() }
    }
}

/// The answer to a type that says it is not the user who speaks (section 2.7).
fn canned(kind: &str) -> Option<Canned> {
    match kind {
        "resume" | "continue" | "ping" => Some(Canned::Empty),
        "llm_result" | "llm_error" | "tool_result" | "tool_error" | "tool.result_submitted" => {
            Some(Canned::ResultNotRequested)
        }
        _ => None,
    }
}

/// Reads one value at a level.
struct Fold {
    level: usize,
}

impl<'de> DeserializeSeed<'de> for Fold {
    type Value = Node<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Fold {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Node::Scalar)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Node::Scalar)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Node::Scalar)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Node::Scalar)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Node::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Node::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut list = List::default();
        if self.level > DEEPEST {
            while items.next_element::<IgnoredAny>()?.is_some() {}
        } else {
            let level = self.level + 1;
            while let Some(item) = items.next_element_seed(Fold { level })? {
                list.push(item, level);
            }
        }
        Ok(Node::List(Box::new(list.finish())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Members::default();
        if self.level > DEEPEST {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        } else {
            while let Some(Text(key)) = map.next_key()? {
                members.read(&key, &mut map, self.level)?;
            }
        }
        Ok(Node::Object(members.finish(self.level)))
    }
}
