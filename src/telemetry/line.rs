//! The form of a log line: where it shows whose work it is about.
//!
//! Owns the two fields `session` and `turn`. They stand before the message in text and beside `fields` in JSON, whether
//! the line names them itself or is written in the midst of a turn. Ids are their callers' own words: escaped, and cut
//! beyond a bound.

use super::whose::Whose;
use crate::json;
use std::borrow::Cow;
use std::fmt;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::{RecordFields, VisitOutput};
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The longest id that is shown whole, in characters; those that protocols let through are shorter.
const LONGEST_ID: usize = 300;

/// The fields of a line of text.
pub(super) struct TextFields;

impl<'w> FormatFields<'w> for TextFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut named = Named::default();
        fields.record(&mut named);
        let (session, turn) = named.with(Whose::here());
        for (name, id) in [("session", session), ("turn", turn)] {
            if let Some(id) = id {
                write!(writer, "{name}={} ", shown(&id))?;
            }
        }
        let mut others = Others(DefaultVisitor::new(writer, true));
        fields.record(&mut others);
        others.0.finish()
    }
}

/// A line that is one JSON object: that of `inner`, and the ids.
pub(super) struct JsonLine<F>(pub F);

impl<S, N, F> FormatEvent<S, N> for JsonLine<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let mut named = Named::default();
        event.record(&mut named);
        let (session, turn) = named.with(Whose::here());
        let Some(open) = line.trim_end().strip_suffix('}') else { return writer.write_str(&line) };
        writer.write_str(open)?;
        for (name, id) in [("session", session), ("turn", turn)] {
            if let Some(id) = id {
                write!(writer, ",\"{name}\":{}", json::string(&cut(&id)))?;
            }
        }
        writer.write_str("}\n")
    }
}

/// The ids that a line names itself.
#[derive(Default)]
struct Named {
    session: Option<String>,
    turn: Option<String>,
}

impl Named {
    /// These, and what they leave open of the work that the line is written in; nothing of somebody else's work.
    fn with(self, here: Whose) -> (Option<String>, Option<String>) {
        let (session, turn) = (here.session.as_ref().map(|id| id.as_str()), here.turn.as_ref().map(|id| id.as_str()));
        let is_same = |named: &Option<String>, found: Option<&str>| match (named, found) {
            (Some(named), Some(found)) => named == found,
            _ => true,
        };
        let is_here = is_same(&self.session, session) && is_same(&self.turn, turn);
        let or =
            |named: Option<String>, found: Option<&str>| named.or_else(|| found.filter(|_| is_here).map(str::to_owned));
        (or(self.session, session), or(self.turn, turn))
    }

    fn place(&mut self, field: &Field) -> Option<&mut Option<String>> {
        match field.name() {
            "session" => Some(&mut self.session),
            "turn" => Some(&mut self.turn),
            _ => None,
        }
    }
}

impl Visit for Named {
    fn record_str(&mut self, field: &Field, value: &str) {
        if let Some(place) = self.place(field) {
            *place = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if let Some(place) = self.place(field) {
            *place = Some(format!("{value:?}"));
        }
    }
}

/// Everything but the ids.
struct Others<'w>(DefaultVisitor<'w>);

impl Visit for Others<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if !is_id(field) {
            self.0.record_str(field, value);
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.0.record_error(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if !is_id(field) {
            self.0.record_debug(field, value);
        }
    }
}

fn is_id(field: &Field) -> bool {
    matches!(field.name(), "session" | "turn")
}

fn cut(id: &str) -> Cow<'_, str> {
    match id.char_indices().nth(LONGEST_ID) {
        Some((end, _)) => format!("{}…", &id[..end]).into(),
        None => id.into(),
    }
}

/// As it stands in a text line: plain where nothing in it could be taken for something else, else quoted and escaped.
fn shown(id: &str) -> Cow<'_, str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/@+-~#".contains(&byte);
    let id = cut(id);
    if !id.is_empty() && id.bytes().all(is_plain) { id } else { format!("{id:?}").into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{SessionId, TurnId};

    #[test]
    fn an_id_cannot_be_taken_for_another_field() {
        assert_eq!(shown("dari:main"), "dari:main");
        assert_eq!(shown("a turn=b"), "\"a turn=b\"");
        assert_eq!(shown("a\nb\"\u{202e}"), "\"a\\nb\\\"\\u{202e}\"");
        assert_eq!(shown(""), "\"\"");
        let long = "é".repeat(LONGEST_ID + 1);
        assert_eq!(shown(&long).chars().count(), LONGEST_ID + 3);
        assert_eq!(cut(&long).chars().count(), LONGEST_ID + 1);
    }

    #[test]
    fn what_a_line_names_is_not_mixed_with_what_it_is_written_in() {
        let here = Whose::turn(&SessionId::new("s1").unwrap(), &TurnId::from_drawn("t1".to_owned()));
        let with = |session: Option<&str>, turn: Option<&str>| {
            let named = Named { session: session.map(str::to_owned), turn: turn.map(str::to_owned) };
            let (session, turn) = named.with(here.clone());
            [session, turn].map(|id| id.unwrap_or_default())
        };
        assert_eq!(with(None, None), ["s1", "t1"]);
        assert_eq!(with(Some("s1"), None), ["s1", "t1"]);
        assert_eq!(with(None, Some("t1")), ["s1", "t1"]);
        assert_eq!(with(Some("s2"), None), ["s2", ""]);
        assert_eq!(with(None, Some("t2")), ["", "t2"]);
        assert_eq!(with(Some("s2"), Some("t2")), ["s2", "t2"]);
    }
}
