//! Digests of JSON values that are equal exactly when the values are.
//!
//! Owns what "equal" means: key order, white space, the spelling of strings and numbers and earlier duplicates of a key
//! do not count; everything else does. Does not decide what goes into a request's fingerprint.
//!
//! A value is rewritten into a plain form in which equal values have equal bytes. There an object's members are sorted,
//! and unless they are short, replaced by their digest, so that the work is linear in the text however deep it nests.

use super::scan::{self, Halves};
use crate::model::Fingerprint;
use sha2::{Digest, Sha256};
use std::fmt;

/// Makes a [`Fingerprint`] out of parts. The order and the kind of the parts count: `text("1")` is not `json("1")`.
pub struct FingerprintBuilder {
    form: Form,
}

impl FingerprintBuilder {
    /// A fingerprint of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        let form = Form { out: Vec::with_capacity(1024), members: Vec::with_capacity(32), ..Form::default() };
        Self { form }
    }

    /// Adds a JSON value, which must be valid; equal values make equal fingerprints.
    #[must_use]
    pub fn json(mut self, raw: &str) -> Self {
        self.form.out.push(b'J');
        self.form.value(raw);
        self
    }

    /// Adds a text.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.form.out.push(b'T');
        self.form.string(text, false);
        self
    }

    /// Adds that a part is not there, which differs from every value and text.
    #[must_use]
    pub fn absent(mut self) -> Self {
        self.form.out.push(b'A');
        self
    }

    /// The fingerprint.
    #[must_use]
    pub fn finish(self) -> Fingerprint {
        let digest: [u8; 32] = Sha256::digest(&self.form.out).into();
        let mut short = [0; 16];
        short.copy_from_slice(&digest[..16]);
        Fingerprint(short)
    }
}

impl Default for FingerprintBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for FingerprintBuilder {
    // What was added may be private.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FingerprintBuilder(***)")
    }
}

/// Longer strings stand in the plain form as their digest, so that a large attachment is not copied.
const LONGEST_PLAIN: usize = 512;

/// Longer objects, in their plain form, are replaced by their digest. Shorter ones stay as they are, since a digest costs
/// more than moving them with every object around them; there can only be a few dozen in so little text.
const LONGEST_INLINE: usize = 256;

/// Stands in the place of a string's length where its digest follows.
const DIGEST: u16 = u16::MAX;

/// Values in their plain form. Every value's form begins with a tag and tells its own end, so that no two sequences of
/// values have the same bytes.
#[derive(Default)]
struct Form {
    out: Vec<u8>,
    /// The members of all open objects.
    members: Vec<Member>,
    /// The open arrays and objects.
    open: Vec<Open>,
    /// Where the members of an object are put in order.
    sorted: Vec<u8>,
}

/// A member of an open object: where its key and its value lie in `out`.
#[derive(Clone, Copy)]
struct Member {
    key: usize,
    value: usize,
    end: usize,
}

/// An open array or object.
struct Open {
    is_object: bool,
    awaits_key: bool,
    /// Where it begins in `out`.
    at: usize,
    /// Where its members begin in `members`.
    members: usize,
}

impl Form {
    /// Appends a JSON value. Not recursive: depth costs memory only on the heap.
    fn value(&mut self, raw: &str) {
        let text = raw.as_bytes();
        let mut at = 0;
        while let Some(&byte) = text.get(at) {
            match byte {
                b' ' | b'\n' | b'\r' | b'\t' | b':' => at += 1,
                b',' => {
                    if let Some(open) = self.open.last_mut() {
                        open.awaits_key = open.is_object;
                    }
                    at += 1;
                }
                b'{' | b'[' => {
                    self.begin(byte == b'{');
                    at += 1;
                }
                b'}' | b']' => {
                    self.end();
                    at += 1;
                }
                b'"' => {
                    let (close, escapes) = scan::string_end(text, at);
                    self.string_or_key(&raw[at + 1..close], escapes);
                    at = close + 1;
                }
                _ => {
                    let end = scan::value_end(text, at).max(at + 1);
                    self.word(&text[at..end]);
                    at = end;
                }
            }
        }
        // Only text that is not JSON leaves something open.
        while !self.open.is_empty() {
            self.end();
        }
    }

    fn begin(&mut self, is_object: bool) {
        self.open.push(Open { is_object, awaits_key: is_object, at: self.out.len(), members: self.members.len() });
        self.out.push(if is_object { b'{' } else { b'[' });
    }

    fn end(&mut self) {
        let Some(open) = self.open.pop() else { return };
        if open.is_object {
            self.order(&open);
            self.members.truncate(open.members);
            if self.out.len() - open.at > LONGEST_INLINE {
                let digest = Sha256::digest(&self.out[open.at..]);
                self.out.truncate(open.at);
                self.out.push(b'#');
                self.out.extend_from_slice(&digest);
            } else {
                self.out.push(b'}');
            }
        } else {
            self.out.push(b']');
        }
        self.value_done();
    }

    /// Puts the members of the object at the end of `out` in the order of their keys and leaves out what does not count.
    fn order(&mut self, open: &Open) {
        let (out, members) = (&self.out, &mut self.members[open.members..]);
        let key = |member: &Member| &out[member.key..member.value];
        if members.is_sorted_by(|one, next| key(one) < key(next)) {
            return;
        }
        // Equal keys stay in the order of the text.
        members.sort_unstable_by(|one, other| key(one).cmp(key(other)).then(one.key.cmp(&other.key)));
        self.sorted.clear();
        let mut rest = members.iter().peekable();
        while let Some(member) = rest.next() {
            if rest.peek().is_none_or(|next| key(next) != key(member)) {
                self.sorted.extend_from_slice(&out[member.key..member.end]);
            }
        }
        self.out.truncate(open.at + 1);
        self.out.extend_from_slice(&self.sorted);
    }

    fn string_or_key(&mut self, inside: &str, escapes: bool) {
        let key = self.out.len();
        self.string(inside, escapes);
        match self.open.last_mut() {
            Some(open) if open.awaits_key => {
                open.awaits_key = false;
                let value = self.out.len();
                self.members.push(Member { key, value, end: value });
            }
            _ => self.value_done(),
        }
    }

    /// Notes where the value of the last member ends.
    fn value_done(&mut self) {
        if let (Some(Open { is_object: true, .. }), Some(member)) = (self.open.last(), self.members.last_mut()) {
            member.end = self.out.len();
        }
    }

    /// Appends a string, given as the inside of its JSON text or, without escapes, as it is: a tag, the length and the
    /// bytes, or [`DIGEST`] and the digest of the bytes.
    fn string(&mut self, inside: &str, escapes: bool) {
        self.out.push(b'"');
        let length_at = self.out.len();
        self.out.extend_from_slice(&DIGEST.to_le_bytes());
        let start = self.out.len();
        if escapes {
            scan::unescape(inside, Halves::Kept, &mut self.out);
        } else if inside.len() <= LONGEST_PLAIN {
            self.out.extend_from_slice(inside.as_bytes());
        } else {
            self.out.extend_from_slice(&Sha256::digest(inside));
            return;
        }
        let length = self.out.len() - start;
        match u16::try_from(length) {
            Ok(short) if length <= LONGEST_PLAIN => {
                self.out[length_at..start].copy_from_slice(&short.to_le_bytes());
            }
            _ => {
                let digest = Sha256::digest(&self.out[start..]);
                self.out.truncate(start);
                self.out.extend_from_slice(&digest);
            }
        }
    }

    /// Appends a number, `true`, `false` or `null`.
    fn word(&mut self, word: &[u8]) {
        match word {
            [b'-' | b'0'..=b'9', ..] => self.number(word),
            _ => self.out.push(word[0]),
        }
        self.value_done();
    }

    /// Appends a number as sign, exponent, and digits without zeros at either end, read as 0.DIGITS × 10^EXPONENT. That
    /// is exact for every number that can be written: long integers differ in their last digit, as they should.
    fn number(&mut self, number: &[u8]) {
        let (sign, number) = number.strip_prefix(b"-").map_or((b'+', number), |rest| (b'-', rest));
        let (digits, exponent) = split(number, |byte| matches!(byte, b'e' | b'E'));
        let (whole, fraction) = split(digits, |byte| byte == b'.');
        let whole = without_zeros(whole);
        let fraction = without_last_zeros(fraction);
        let (first, rest, point) = match (whole, fraction) {
            (_, []) => (without_last_zeros(whole), fraction, offset(whole.len())),
            ([], _) => {
                let first = without_zeros(fraction);
                (first, &[][..], -offset(fraction.len() - first.len()))
            }
            _ => (whole, fraction, offset(whole.len())),
        };
        if first.is_empty() {
            self.out.push(b'0');
            return;
        }
        self.out.push(sign);
        let exponent = exponent.strip_prefix(b"+").unwrap_or(exponent);
        if let Some(exponent) = small(exponent).and_then(|exponent| exponent.checked_add(point)) {
            self.out.extend_from_slice(&exponent.to_le_bytes());
        } else {
            // Beyond anything meant as a number. Equal only to the same exponent with the point at the same place.
            self.out.extend_from_slice(&i64::MIN.to_le_bytes());
            self.out.extend_from_slice(&point.to_le_bytes());
            let (minus, exponent) = exponent.strip_prefix(b"-").map_or((0, exponent), |rest| (1, rest));
            self.out.push(minus);
            self.out.extend_from_slice(without_zeros(exponent));
            self.out.push(b';');
        }
        self.out.extend_from_slice(first);
        self.out.extend_from_slice(rest);
        self.out.push(b';');
    }
}

/// What comes before and after the first byte that matches.
fn split(text: &[u8], matches: impl Fn(u8) -> bool) -> (&[u8], &[u8]) {
    let at = text.iter().position(|byte| matches(*byte));
    at.map_or((text, &[]), |at| (&text[..at], &text[at + 1..]))
}

fn without_zeros(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|byte| **byte == b'0').count();
    &digits[zeros..]
}

fn without_last_zeros(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().rev().take_while(|byte| **byte == b'0').count();
    &digits[..digits.len() - zeros]
}

/// The exponent as a number; none counts as zero.
fn small(exponent: &[u8]) -> Option<i64> {
    if exponent.is_empty() {
        return Some(0);
    }
    std::str::from_utf8(exponent).ok()?.parse().ok()
}

fn offset(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}
