//! Whatever channel a secret comes by, in whatever form and however it is cut: nothing of it is in the log that readers
//! follow, nor in the store.

use super::*;
use crate::handler::{Cancel, Failure, Handler, Reply, Sink, Turn};
use crate::model::{Answer, Event, OutputStream, RawJson, StateChange, What};
use crate::redact::Secret;
use crate::store::MemoryStore;
use base64::Engine as _;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;
use std::sync::Mutex;

/// Overlapping, one within another, one that has to be escaped, one of many bytes a character.
const SECRETS: [&str; 5] = ["s3cr3t-value/1", "value/1-and+more", "3cr3t", "two\n\"lines\"\\", "grüße-€-geheim"];

/// What RFC 3986 has encoded.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[derive(Debug, Clone, Copy)]
enum Channel {
    Messages,
    Parts,
    Deltas,
    Thinking,
    ToolUse,
    ToolResult,
    Progress,
    Warning,
    Output,
    Text,
    Structured,
    Metadata,
    Fault,
    FaultMetadata,
}

const CHANNELS: [Channel; 14] = [
    Channel::Messages,
    Channel::Parts,
    Channel::Deltas,
    Channel::Thinking,
    Channel::ToolUse,
    Channel::ToolResult,
    Channel::Progress,
    Channel::Warning,
    Channel::Output,
    Channel::Text,
    Channel::Structured,
    Channel::Metadata,
    Channel::Fault,
    Channel::FaultMetadata,
];

fn forms(secret: &str) -> Vec<String> {
    let escaped = serde_json::to_string(secret).unwrap();
    let mut forms = vec![
        secret.to_owned(),
        escaped[1..escaped.len() - 1].to_owned(),
        utf8_percent_encode(secret, RESERVED).to_string(),
    ];
    // With one and two bytes before it: the three ways in which base64 can fall.
    for before in ["", "a", "bc"] {
        forms.push(base64::engine::general_purpose::STANDARD.encode(format!("{before}{secret}")));
    }
    forms
}

/// Says a text, cut in two where that can be, by one channel.
struct Says {
    channel: Channel,
    text: String,
    cut: usize,
}

fn json(text: &str) -> RawJson {
    RawJson::from_valid(serde_json::json!({"a": [text, {text: 1}]}).to_string())
}

impl Handler for Says {
    fn name(&self) -> &'static str {
        "says"
    }

    async fn run(&self, _: Turn, sink: Sink, _: Cancel) -> Result<Reply, Failure> {
        let (text, (first, second)) = (self.text.clone(), self.text.split_at(self.text.floor_char_boundary(self.cut)));
        let events = match self.channel {
            Channel::Messages => {
                [first, second].map(|part| Event::Text { block: None, parts: vec![part.into()] }).into()
            }
            Channel::Parts => vec![Event::Text { block: None, parts: vec![first.into(), second.into()] }],
            Channel::Deltas => [first, second].map(|part| Event::TextDelta { block: None, text: part.into() }).into(),
            Channel::Thinking => vec![Event::Thinking { text }],
            Channel::ToolUse => vec![Event::ToolUse { id: "1".into(), name: text.clone(), input: json(&text) }],
            Channel::ToolResult => {
                vec![Event::ToolResult { id: "1".into(), output: text, is_error: true, exit_code: Some(1) }]
            }
            Channel::Progress => vec![Event::Progress { kind: text.clone(), detail: Some(json(&text)) }],
            Channel::Warning => vec![Event::Warning { text: text.clone(), field: Some(text) }],
            Channel::Output => {
                vec![Event::CommandOutput { stream: OutputStream::Stderr, text: text.clone(), command: text.into() }]
            }
            Channel::Text => return Ok(Reply::text(text)),
            Channel::Structured => {
                return Ok(Reply { answer: Answer::Structured(json(&text)), state: StateChange::Keep, metadata: None });
            }
            Channel::Metadata => return Ok(Reply { metadata: Some(json(&text)), ..Reply::text("") }),
            Channel::Fault => return Err(Fault::new(FaultCode::HandlerFailed, text.clone()).with_detail(text).into()),
            Channel::FaultMetadata => {
                return Err(Fault::new(FaultCode::HandlerFailed, "").with_metadata(Some(json(&text))).into());
            }
        };
        for event in events {
            let _ = sink.say(event).await;
        }
        Ok(Reply::text("done"))
    }
}

/// What a reader would put together of a turn: texts of one kind are joined, as a person reads them.
fn read(entries: &[What]) -> String {
    let mut whole = String::new();
    let (mut messages, mut deltas) = (String::new(), String::new());
    for what in entries {
        match what {
            // The request is stored without its secrets; it is the caller's own.
            What::Accepted { .. } => {}
            What::Said(Event::Text { parts, .. }) => messages.push_str(&parts.concat()),
            What::Said(Event::TextDelta { text, .. }) => deltas.push_str(text),
            other => whole.extend([format!("{other:?}\n")]),
        }
    }
    // As JSON and as `Debug` write it, so that what was escaped once more is found too.
    let escaped = whole.replace("\\\\", "\\").replace("\\\"", "\"");
    [whole, escaped, messages, deltas].join("\n")
}

/// Everything that a reader was told, and everything that the store was given.
async fn told(says: Says) -> [String; 2] {
    let store = Arc::new(Recording::default());
    let engine =
        Engine::new(EngineOptions::default(), Arc::new(says), store.clone(), Redactor::default(), TaskTracker::new());
    let mut request = TurnRequest::new(SessionId::new("s").unwrap(), "test", "hi");
    request.secrets = SECRETS.map(Secret::new).into();
    let (ticket, mut follower) = engine.submit_and_follow(request).await.unwrap();
    let mut told = Vec::new();
    while !matches!(told.last(), Some(What::Ended(_))) {
        for followed in follower.next(1 << 20).await {
            let Followed::Entry(entry) = followed else { panic!("a gap") };
            told.push(entry.what.clone());
        }
    }
    ticket.turn.outcome().await;
    let stored = store.entries.lock().unwrap().clone();
    assert_eq!(stored.len(), told.len());
    [read(&told), read(&stored)]
}

#[derive(Default)]
struct Recording {
    inner: MemoryStore,
    entries: Mutex<Vec<What>>,
}

impl Store for Recording {
    fn append(&self, batch: crate::store::Batch, done: crate::store::Done) {
        self.entries.lock().unwrap().extend(batch.entries.iter().map(|entry| entry.what.clone()));
        self.inner.append(batch, done);
    }

    fn session(
        &self,
        id: &SessionId,
    ) -> futures_util::future::BoxFuture<'_, Result<Option<crate::store::StoredSession>, crate::store::StoreError>>
    {
        self.inner.session(id)
    }

    fn events(
        &self,
        id: &SessionId,
        after: crate::model::Seq,
        max_bytes: usize,
    ) -> futures_util::future::BoxFuture<'_, Result<crate::store::Page, crate::store::StoreError>> {
        self.inner.events(id, after, max_bytes)
    }

    fn flush(&self) -> futures_util::future::BoxFuture<'_, ()> {
        self.inner.flush()
    }
}

/// Every secret in every form over every channel, cut at every place.
#[tokio::test]
async fn every_secret_on_every_channel() {
    for secret in SECRETS {
        for form in forms(secret) {
            for channel in CHANNELS {
                let text = format!("before {form} after");
                // Only three channels can be cut.
                let cuts = match channel {
                    Channel::Messages | Channel::Parts | Channel::Deltas => 0..=text.len(),
                    _ => 0..=0,
                };
                for cut in cuts {
                    let says = Says { channel, text: text.clone(), cut };
                    for read in told(says).await {
                        assert!(!read.contains(secret), "{secret:?} by {channel:?}, cut at {cut}: {read}");
                        // Base64 of other text before it shares its first and last characters.
                        let core = &form[form.ceil_char_boundary(4.min(form.len()))..];
                        let core = &core[..core.floor_char_boundary(core.len().saturating_sub(4))];
                        assert!(
                            core.len() < 6 || !read.contains(core),
                            "{form:?} by {channel:?}, cut at {cut}: {read}"
                        );
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Secrets side by side, one in another and halves of them, over any channel.
    #[test]
    fn mixed_secrets(
        pieces in prop::collection::vec((0usize..SECRETS.len(), 0usize..3, prop::sample::select(vec!["", " ", "x", "3cr", "value"])), 1..5),
        channel in prop::sample::select(CHANNELS.to_vec()),
        cut in 0usize..80,
    ) {
        let piece = |(secret, form, noise): &(usize, usize, &str)| [noise, forms(SECRETS[*secret])[*form].as_str()].concat();
        let text: String = pieces.iter().map(piece).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for read in runtime.block_on(told(Says { channel, text: text.clone(), cut })) {
            for secret in SECRETS {
                prop_assert!(!read.contains(secret), "{secret:?} of {text:?} by {channel:?}: {read}");
            }
        }
    }
}
