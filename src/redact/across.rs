//! Redaction of texts that belong together but go out each by itself.
//!
//! Owns where a match that lies in several of them leaves its marks: one in each.

use super::automaton::State;
use super::regions::Regions;
use super::{MARK, Redactor};

/// What was found in some texts, read as one.
#[derive(Debug, PartialEq, Eq)]
pub struct Across {
    /// For each text what is to stand in its place; none where it holds nothing.
    pub clean: Vec<Option<String>>,
    /// How many of the last bytes of the whole may be the beginning of a secret.
    pub open: usize,
    /// Where in the whole the secrets lie, in order.
    pub found: Vec<(usize, usize)>,
}

impl Redactor {
    /// Reads texts as one. With `hide_open`, what may be the beginning of a secret at the end is taken for one.
    #[must_use]
    pub fn across(&self, texts: &[&str], hide_open: bool) -> Across {
        let Some(matcher) = self.matcher() else {
            return Across { clean: vec![None; texts.len()], open: 0, found: Vec::new() };
        };
        let mut found = Regions::default();
        let (mut state, mut end) = (State::ROOT, 0);
        for text in texts {
            state = matcher.scan(state, text.as_bytes(), end, &mut found);
            end += text.len();
        }
        let open = matcher.open(state);
        if hide_open && open > 0 {
            found.add(end - open, end);
        }
        let mut at = 0;
        let clean: Vec<_> = texts
            .iter()
            .map(|text| {
                let range = at..at + text.len();
                at = range.end;
                let inside =
                    found.iter().filter(|(start, end)| *start < range.end && *end > range.start && !text.is_empty());
                let inside =
                    inside.map(|(start, end)| (start.saturating_sub(range.start), (end - range.start).min(text.len())));
                marked(text, inside)
            })
            .collect();
        Across { clean, open, found: found.iter().collect() }
    }
}

fn marked(text: &str, regions: impl Iterator<Item = (usize, usize)>) -> Option<String> {
    let mut out: Option<String> = None;
    let mut from = 0;
    for (start, end) in regions {
        let out = out.get_or_insert_default();
        out.push_str(&text[from..start]);
        out.push_str(MARK);
        from = end;
    }
    let mut out = out?;
    out.push_str(&text[from..]);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redact::Secret;
    use proptest::prelude::*;

    fn clean(secrets: &[&str], texts: &[&str]) -> (Vec<String>, usize) {
        let secrets: Vec<_> = secrets.iter().copied().map(Secret::new).collect();
        let across = Redactor::new(&secrets).across(texts, false);
        let clean = texts.iter().zip(across.clean).map(|(text, clean)| clean.unwrap_or_else(|| (*text).to_owned()));
        (clean.collect(), across.open)
    }

    #[test]
    fn a_secret_in_several_texts_is_marked_in_each() {
        let expected = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        assert_eq!(clean(&["secret"], &["a sec", "ret b"]), (expected(&["a [REDACTED]", "[REDACTED] b"]), 0));
        assert_eq!(
            clean(&["secret"], &["s", "", "ecre", "t"]),
            (expected(&["[REDACTED]", "", "[REDACTED]", "[REDACTED]"]), 0)
        );
        assert_eq!(clean(&["secret"], &["a secret", " sec"]), (expected(&["a [REDACTED]", " sec"]), 3));
        assert_eq!(clean(&[], &["a", "b"]), (expected(&["a", "b"]), 0));
        let hidden = Redactor::new(&[Secret::new("secret")]).across(&["x", "y sec"], true);
        assert_eq!(hidden.clean, [None, Some("y [REDACTED]".to_owned())]);
    }

    proptest! {
        #[test]
        fn nothing_of_a_secret_is_left(cuts in prop::collection::vec(0usize..40, 0..6), text in "[a-d€]{0,40}") {
            let secrets = ["abca", "d€"].map(Secret::new);
            let mut borders: Vec<_> = cuts.iter().map(|cut| text.floor_char_boundary(*cut)).collect();
            borders.extend([0, text.len()]);
            borders.sort_unstable();
            let texts: Vec<&str> = borders.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            let redactor = Redactor::new(&secrets);
            let across = redactor.across(&texts, false);
            let together: String =
                texts.iter().zip(across.clean).map(|(text, clean)| clean.unwrap_or_else(|| (*text).to_owned())).collect();
            let mut once = together;
            while once.contains("[REDACTED][REDACTED]") {
                once = once.replace("[REDACTED][REDACTED]", "[REDACTED]");
            }
            prop_assert_eq!(once, redactor.text(&text));
        }
    }
}
