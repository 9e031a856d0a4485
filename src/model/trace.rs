//! Where a turn stands in its caller's trace: W3C Trace Context.
//!
//! Owns the form of the two headers. Who passes them on, and how, is each room's own business.

use std::sync::Arc;

/// The longest `tracestate` that is passed on; the specification asks for at least 512 characters.
const LONGEST_STATE: usize = 512;

/// The caller's place in its trace. Passed on unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    parent: Arc<str>,
    state: Option<Arc<str>>,
}

impl TraceContext {
    /// Reads both headers. `None` for a `traceparent` that breaks the rules, as if there were none; a `tracestate` that
    /// does is left out.
    #[must_use]
    pub fn read(parent: &str, state: Option<&str>) -> Option<Self> {
        let parent = parent.trim();
        let state = state.map(str::trim).filter(|state| {
            !state.is_empty() && state.len() <= LONGEST_STATE && state.bytes().all(|byte| (0x20..0x7f).contains(&byte))
        });
        is_valid(parent).then(|| Self { parent: parent.into(), state: state.map(Into::into) })
    }

    /// `traceparent`: `00-TRACE-PARENT-FLAGS`.
    #[must_use]
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// `tracestate`.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }
}

/// Four fields of small hexadecimal digits; a later version may have more behind them.
fn is_valid(parent: &str) -> bool {
    let mut fields = parent.splitn(5, '-');
    let mut hex = |length: usize| {
        fields.next().filter(|field| {
            field.len() == length && field.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        })
    };
    let (Some(version), Some(trace), Some(span), Some(_)) = (hex(2), hex(32), hex(16), hex(2)) else { return false };
    let has_more = fields.next().is_some();
    let is_zero = |field: &str| field.bytes().all(|byte| byte == b'0');
    // What is longer than two headers should be is nobody's place.
    version != "ff"
        && (version != "00" || !has_more)
        && !is_zero(trace)
        && !is_zero(span)
        && parent.len() <= LONGEST_STATE
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn right_ones_are_passed_on_unchanged() {
        for good in [GOOD, "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes-later"] {
            let read = TraceContext::read(good, Some("a=1,b=2")).unwrap();
            assert_eq!((read.parent(), read.state()), (good, Some("a=1,b=2")));
        }
    }

    #[test]
    fn wrong_ones_are_none() {
        let short = &GOOD[..54];
        for wrong in [
            "",
            short,
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e473g-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::read(wrong, None), None, "{wrong}");
        }
        for state in ["", "\u{7f}", "a=\nb", &"x".repeat(513)] {
            assert_eq!(TraceContext::read(GOOD, Some(state)).unwrap().state(), None, "{state}");
        }
    }
}
