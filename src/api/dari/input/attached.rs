//! From the user's blocks to the prompt and the attachments: section 2.6 of the contract.
//!
//! Owns the order of the lines, what is mentioned in them and how. Where the blocks come from is [`super::fold`]'s
//! business, whether a file exists the resolver's.

use crate::model::Attachment;
use std::borrow::Cow;
use std::path::PathBuf;

/// How many attachments of one message are kept. Each further one is a line of the prompt and nothing else, so that
/// a body full of tiny attachments does not grow to many times its size, or to as many look-ups on the disk.
const MOST_ATTACHMENTS: usize = 1_000;

/// Longest word of a mention in characters. A `data:` URL would put its whole content into the prompt.
const LONGEST_WORD: usize = 1_024;

/// The user's blocks in their order.
#[derive(Default)]
pub(super) struct Blocks<'a> {
    items: Vec<Item<'a>>,
    attachments: usize,
}

enum Item<'a> {
    /// One line of the prompt or several.
    Text(Cow<'a, str>),
    Attachment(Box<Block<'a>>),
}

/// An attachment as it came; no field is empty.
pub(super) struct Block<'a> {
    /// Its `type`.
    pub kind: Option<Cow<'a, str>>,
    /// The platform's id of it.
    pub file_id: Option<String>,
    /// A path in the sandbox.
    pub path: Option<Cow<'a, str>>,
    /// A file's name.
    pub filename: Option<Cow<'a, str>>,
    /// Its media type.
    pub mime_type: Option<Cow<'a, str>>,
    /// Where it could be fetched; never fetched by us.
    pub url: Option<Cow<'a, str>>,
    /// Its content.
    pub data: Option<Cow<'a, str>>,
}

impl<'a> Blocks<'a> {
    /// One text; nothing, if it is blank.
    pub fn text(text: Cow<'a, str>) -> Self {
        let mut blocks = Self::default();
        if !text.trim_start().is_empty() {
            blocks.push_text(text);
        }
        blocks
    }

    /// One attachment.
    pub fn attachment(block: Block<'a>) -> Self {
        Self { items: vec![Item::Attachment(Box::new(block))], attachments: 1 }
    }

    /// Whether the user said nothing.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Puts more behind what is there.
    pub fn append(&mut self, more: Self) {
        if self.items.is_empty() {
            *self = more;
            return;
        }
        for item in more.items {
            match item {
                Item::Text(text) => self.push_text(text),
                Item::Attachment(block) if self.attachments < MOST_ATTACHMENTS => {
                    self.attachments += 1;
                    self.items.push(Item::Attachment(block));
                }
                Item::Attachment(block) => self.push_text(Cow::Owned(block.mention())),
            }
        }
    }

    fn push_text(&mut self, text: Cow<'a, str>) {
        if let Some(Item::Text(before)) = self.items.last_mut() {
            let before = before.to_mut();
            before.push('\n');
            before.push_str(&text);
        } else {
            self.items.push(Item::Text(text));
        }
    }

    /// The prompt and the attachments.
    pub fn finish(self, resolver: &dyn Fn(&Attachment) -> Option<PathBuf>) -> (String, Vec<Attachment>) {
        let mut lines = Blocks::default();
        let mut attachments = Vec::with_capacity(self.attachments);
        for item in self.items {
            match item {
                Item::Text(text) => lines.push_text(text),
                Item::Attachment(block) => {
                    let mention = block.mention();
                    let mut attachment = block.into_attachment();
                    if !is_readable(&mut attachment, resolver) {
                        lines.push_text(Cow::Owned(mention));
                    }
                    attachments.push(attachment);
                }
            }
        }
        // Texts next to each other are one item, so there is at most one by now.
        let prompt = match lines.items.pop() {
            Some(Item::Text(text)) => text.into_owned(),
            _ => String::new(),
        };
        (prompt, attachments)
    }
}

/// Whether the agent gets to the content by itself: it is here, or in a file of the workspace. The path of such a
/// file becomes the attachment's `path`.
fn is_readable(attachment: &mut Attachment, resolver: &dyn Fn(&Attachment) -> Option<PathBuf>) -> bool {
    if attachment.data.as_deref().is_some_and(is_base64) {
        return true;
    }
    if attachment.path.is_none() && attachment.filename.is_none() {
        return false;
    }
    // A path that is not UTF-8 cannot be told to a handler.
    match resolver(attachment).map(|path| path.into_os_string().into_string()) {
        Some(Ok(path)) => {
            attachment.path = Some(path);
            true
        }
        _ => false,
    }
}

/// Whether it can be base64 of either alphabet, padded or not, with or without line breaks.
fn is_base64(data: &str) -> bool {
    let mut digits = 0_usize;
    for byte in data.trim_end_matches(['=', '\r', '\n']).bytes() {
        match byte {
            b'\r' | b'\n' => {}
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' | b'-' | b'_' => digits += 1,
            _ => return false,
        }
    }
    digits > 0 && digits % 4 != 1
}

impl Block<'_> {
    /// The line that stands for it in the prompt: `[attached TYPE NAME (ID)]`.
    fn mention(&self) -> String {
        let name = self.filename.as_deref().or(self.path.as_deref()).or(self.url.as_deref());
        let id = self.file_id.as_deref();
        let mut line = String::from("[attached ");
        push_word(&mut line, self.kind.as_deref().unwrap_or("file"));
        if let Some(first) = name.or(id) {
            line.push(' ');
            push_word(&mut line, first);
        }
        if let (Some(_), Some(id)) = (name, id) {
            line.push_str(" (");
            push_word(&mut line, id);
            line.push(')');
        }
        line.push(']');
        line
    }

    fn into_attachment(self) -> Attachment {
        let owned = |text: Option<Cow<'_, str>>| text.map(Cow::into_owned);
        Attachment {
            kind: match self.kind.as_deref() {
                None | Some("file") => "file",
                Some("image") => "image",
                Some(_) => "other",
            },
            file_id: self.file_id,
            path: owned(self.path),
            filename: owned(self.filename),
            mime_type: owned(self.mime_type),
            url: owned(self.url),
            data: owned(self.data),
        }
    }
}

/// A part of a mention: on one line, and not too long.
fn push_word(line: &mut String, text: &str) {
    let mut chars = text.chars();
    line.extend(chars.by_ref().take(LONGEST_WORD).map(|c| if c.is_control() { ' ' } else { c }));
    if chars.next().is_some() {
        line.push('…');
    }
}
