//! Tests of the redactor, most of them against a slow one that is plainly right.

use super::forms::add_forms;
use super::*;
use proptest::prelude::*;
use proptest::sample::Index;

fn secrets(values: &[&str]) -> Vec<Secret> {
    values.iter().copied().map(Secret::new).collect()
}

fn redactor(values: &[&str]) -> Redactor {
    Redactor::new(&secrets(values))
}

fn forms(secret: &str) -> Vec<String> {
    let mut forms = Vec::new();
    add_forms(secret, &mut forms);
    forms
}

/// All forms of all secrets.
fn patterns(values: &[String]) -> Vec<String> {
    values.iter().filter(|value| !value.is_empty()).flat_map(|value| forms(value)).collect()
}

/// Covers every byte of every match, then puts one mark for every run of covered bytes.
fn slow(patterns: &[String], text: &str) -> String {
    let mut covered = vec![false; text.len()];
    for pattern in patterns {
        for start in 0..text.len() {
            if text.as_bytes()[start..].starts_with(pattern.as_bytes()) {
                covered[start..start + pattern.len()].fill(true);
            }
        }
    }
    let mut out = String::new();
    for (at, c) in text.char_indices() {
        if !covered[at] {
            out.push(c);
        } else if at == 0 || !covered[at - 1] {
            out.push_str(MARK);
        }
    }
    out
}

/// The longest end of the text that a pattern begins with and goes on from.
fn slow_open(patterns: &[String], text: &str) -> usize {
    let bytes = text.as_bytes();
    let is_open = |length: &usize| {
        let end = &bytes[bytes.len() - length..];
        patterns.iter().any(|pattern| pattern.len() > end.len() && pattern.as_bytes().starts_with(end))
    };
    (0..=bytes.len()).rev().find(is_open).unwrap_or(0)
}

/// Streams a text cut at these places, which may be repeated, and checks what is held back on the way.
fn streamed(redactor: &Redactor, patterns: &[String], text: &str, mut cuts: Vec<usize>) -> String {
    cuts.sort_unstable();
    cuts.push(text.len());
    let mut stream = redactor.stream();
    let mut out = String::new();
    let mut from = 0;
    let mut passing = redactor.stream();
    let mut passed = String::new();
    for &cut in &cuts {
        passed.push_str(&passing.pass(text[from..cut].to_owned()));
        from = cut;
    }
    passed.push_str(&passing.finish());
    from = 0;
    for cut in cuts {
        out.push_str(&stream.push(&text[from..cut]));
        from = cut;
        assert_eq!(stream.held(), slow_open(patterns, &text[..cut]), "{patterns:?} {:?}", &text[..cut]);
    }
    out.push_str(&stream.finish());
    assert_eq!(passed, out, "owned pieces come to the same");
    out
}

fn borders(text: &str) -> Vec<usize> {
    text.char_indices().map(|(at, _)| at).chain([text.len()]).collect()
}

/// Everything that must hold of some secrets and a text.
fn check(values: &[String], text: &str, cuts: &[Index]) {
    let patterns = patterns(values);
    let redactor = Redactor::new(&values.iter().cloned().map(Secret::from).collect::<Vec<_>>());
    let expected = slow(&patterns, text);
    assert_eq!(redactor.text(text), expected, "{values:?} {text:?}");
    let borders = borders(text);
    for cut in &borders {
        assert_eq!(streamed(&redactor, &patterns, text, vec![*cut]), expected, "{values:?} {text:?} cut at {cut}");
    }
    assert_eq!(streamed(&redactor, &patterns, text, borders.clone()), expected, "{values:?} {text:?} cut everywhere");
    let cuts = cuts.iter().map(|cut| *cut.get(&borders)).collect();
    assert_eq!(streamed(&redactor, &patterns, text, cuts), expected, "{values:?} {text:?}");
}

/// A text made of pieces of the secrets in all their forms, and of other text.
fn mixed(values: &[String], pieces: &[(Index, Index, Index, bool)], noise: &[char]) -> String {
    let patterns = patterns(values);
    let mut text = String::new();
    for (which, from, to, whole) in pieces {
        if patterns.is_empty() || (!whole && which.index(4) == 0) {
            text.push(noise[from.index(noise.len())]);
            continue;
        }
        let pattern = which.get(&patterns);
        let borders = borders(pattern);
        let (from, to) = (*from.get(&borders), *to.get(&borders));
        text.push_str(if *whole { pattern } else { &pattern[from.min(to)..from.max(to)] });
    }
    text
}

type Pieces = Vec<(Index, Index, Index, bool)>;

fn pieces(most: usize) -> impl Strategy<Value = Pieces> {
    prop::collection::vec((any::<Index>(), any::<Index>(), any::<Index>(), prop::bool::weighted(0.3)), 0..most)
}

fn cuts() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Short secrets over two letters: prefixes, suffixes and repetitions of each other, in nearly every text.
    #[test]
    fn short_secrets(values in prop::collection::vec("[ab]{0,5}", 0..5), text in "[abc]{0,40}", cuts in cuts()) {
        check(&values, &text, &cuts);
    }

    /// Characters of one to four bytes.
    #[test]
    fn many_byte_secrets(values in prop::collection::vec("[aé€😀]{1,4}", 1..4), text in "[aéè€😀😁]{0,24}", cuts in cuts()) {
        check(&values, &text, &cuts);
    }

    /// Long secrets, so that the filter skips, and texts of their pieces, so that it often must not.
    #[test]
    fn long_secrets(values in prop::collection::vec("[ab]{8,12}|[a-d]{9,40}", 1..5), pieces in pieces(8), cuts in cuts()) {
        check(&values, &mixed(&values, &pieces, &['a', 'b', 'x']), &cuts);
    }

    /// Secrets of every length around the limits of the filter, with one letter that is everywhere.
    #[test]
    fn any_length(values in prop::collection::vec("a{1,40}b?", 1..4), pieces in pieces(8), cuts in cuts()) {
        check(&values, &mixed(&values, &pieces, &['a', 'b', '=']), &cuts);
    }

    /// Secrets whose forms differ.
    #[test]
    fn all_forms(values in prop::collection::vec("[a\"\\\\/ +<é😀\n\u{1}]{1,12}", 1..3), pieces in pieces(6), cuts in cuts()) {
        check(&values, &mixed(&values, &pieces, &['a', '\\', '%', 'u']), &cuts);
    }

    /// The order and repetition of the secrets do not matter.
    #[test]
    fn order(values in prop::collection::vec("[ab]{0,4}", 0..5), text in "[ab]{0,30}") {
        let forwards: Vec<Secret> = values.iter().cloned().map(Secret::from).collect();
        let backwards: Vec<Secret> = forwards.iter().rev().chain(&forwards).cloned().collect();
        prop_assert_eq!(Redactor::new(&forwards).text(&text), Redactor::new(&backwards).text(&text));
    }
}

#[test]
fn overlapping_and_touching_matches_become_one() {
    assert_eq!(redactor(&["aa"]).text("xaaax aaaa"), "x[REDACTED]x [REDACTED]");
    assert_eq!(redactor(&["abc", "cde"]).text("abcde abc cde abccde"), "[REDACTED] [REDACTED] [REDACTED] [REDACTED]");
    assert_eq!(redactor(&["b", "abc"]).text("abc ab"), "[REDACTED] a[REDACTED]");
    assert_eq!(redactor(&["abc", "b"]).text("abc ab"), "[REDACTED] a[REDACTED]");
}

#[test]
fn nothing_to_redact() {
    let none = redactor(&["", ""]);
    assert!(none.is_empty() && Redactor::default().is_empty() && !redactor(&["", "x"]).is_empty());
    assert!(matches!(none.text("abc"), Cow::Borrowed("abc")));
    assert!(matches!(redactor(&["secret"]).text("no such word"), Cow::Borrowed(_)));
    let mut stream = none.stream();
    assert_eq!((stream.push("abc"), stream.held()), ("abc".to_owned(), 0));
    assert_eq!(stream.finish(), "");
}

#[test]
fn a_stream_holds_back_only_what_may_be_a_secret() {
    let redactor = redactor(&["secret", "secretive"]);
    let mut stream = redactor.stream();
    assert_eq!(stream.push("a sec"), "a ");
    assert_eq!(stream.push("ond sec"), "second ");
    // A whole secret is marked at once, even if it may go on.
    assert_eq!(stream.push("ret"), "[REDACTED]");
    assert_eq!(stream.push("iv"), "");
    assert_eq!(stream.push("id, "), "ivid, ");
    assert_eq!(stream.push("secretive"), "[REDACTED]");
    assert_eq!(stream.push("secret"), "");
    assert_eq!(stream.push("!"), "!");
    assert_eq!(stream.push("se"), "");
    assert_eq!(stream.finish(), "se");
}

#[test]
fn every_form_is_found() {
    let value = "pa/ss \"wörd\"+<1>";
    let redactor = redactor(&[value]);
    let url = "pa%2Fss%20%22w%C3%B6rd%22%2B%3C1%3E";
    for form in [
        value,
        r#"pa/ss \"wörd\"+<1>"#,
        r#"pa\/ss \"wörd\"+<1>"#,
        r#"pa/ss \"w\u00f6rd\"+<1>"#,
        r#"pa/ss \"w\u00F6rd\"+<1>"#,
        r#"pa\/ss \"w\u00f6rd\"+<1>"#,
        r#"pa/ss \"wörd\"+\u003c1\u003e"#,
        url,
        &url.replace("%2F", "/"),
        &url.replace("%20", "+"),
        "pa%2fss%20%22w%c3%b6rd%22%2b%3c1%3e",
        "pa%2fss+%22w%c3%b6rd%22%2b%3c1%3e",
        "cGEvc3MgInfDtnJkIis8MT4=",
        "cGEvc3MgInfDtnJkIis8MT4",
    ] {
        assert_eq!(redactor.text(&format!("x{form}y")), "x[REDACTED]y", "{form}");
    }
    // Whatever stands before it: a few digits are its neighbours' too.
    for text in ["dXNlcjpjb3JyZWN0LWhvcnNl", "dTpjb3JyZWN0LWhvcnNlCg==", "dXM6Y29ycmVjdC1ob3JzZQ=="] {
        let clean = self::redactor(&["correct-horse"]).text(text).into_owned();
        assert!(clean.contains(MARK) && clean.len() < MARK.len() + 10, "{text}: {clean}");
    }
    // Both alphabets of base64.
    for form in ["Pz8/Pz8/Pz8+", "Pz8_Pz8_Pz8-"] {
        assert_eq!(self::redactor(&["????????>"]).text(form), MARK);
    }
    // The base64 of a short word occurs by chance.
    assert_eq!(self::redactor(&["abcdefg"]).text("YWJjZGVmZw=="), "YWJjZGVmZw==");
}

#[test]
fn forms_of_a_word_of_letters_are_few() {
    assert_eq!(forms("abcdefg"), ["abcdefg"]);
    let mut long = forms(&"a".repeat(20_000));
    long.dedup();
    assert_eq!(long.len(), 1);
}

#[test]
fn json_strings_and_keys() {
    let redactor = redactor(&["secret", "12345"]);
    let json = |text: &str| redactor.json(&RawJson::from_valid(text)).as_str().to_owned();
    assert_eq!(
        json(r#"{ "secret" : ["a secret", 12345, 1.50, "12345", "\u0073ecret"] , "n":"\ud800" }"#),
        r#"{ "[REDACTED]" : ["a [REDACTED]", 12345, 1.50, "[REDACTED]", "[REDACTED]"] , "n":"\ud800" }"#
    );
    let same = RawJson::from_valid(r#"{"a": 1e5}"#);
    assert_eq!(redactor.json(&same), same);
    // A secret that holds a quote leaves valid JSON.
    let quoted = self::redactor(&["a\"b"]).json(&RawJson::from_valid(r#"["x a\"b \n"]"#));
    assert_eq!(quoted.as_str(), r#"["x [REDACTED] \n"]"#);
}

#[test]
fn defined_keys_stay() {
    let redactor = redactor(&["stdout", "text"]);
    let raw = RawJson::from_valid(r#"{"stdout":"stdout","text":1,"in":{"stdout":"\u0074ext"}}"#);
    assert_eq!(
        redactor.json_except(&raw, &["stdout"]).as_str(),
        r#"{"stdout":"[REDACTED]","[REDACTED]":1,"in":{"stdout":"[REDACTED]"}}"#
    );
}

#[test]
fn the_environment() {
    let redactor = Redactor::of_environment([
        ("OPENAI_API_KEY", "sk-openai-1"),
        ("github_token", "gh-token-2"),
        ("Client_Secret", "client-secret-3"),
        ("PGPASSWORD", "pässwörd"),
        ("SHORT_KEY", "1234567"),
        ("KEY_FILE", "/etc/key/file"),
        ("HOME", "/home/agent"),
    ]);
    assert_eq!(
        redactor.text("sk-openai-1 gh-token-2 client-secret-3 pässwörd 1234567 /etc/key/file /home/agent"),
        "[REDACTED] [REDACTED] [REDACTED] [REDACTED] 1234567 /etc/key/file /home/agent"
    );
}

#[test]
fn combined() {
    let base = redactor(&["abc"]);
    let both = base.combined(&secrets(&["def", "abc"]));
    assert_eq!(both.text("abc def"), "[REDACTED] [REDACTED]");
    assert_eq!(base.text("abc def"), "[REDACTED] def");
    let same = base.combined(&secrets(&["", "abc"]));
    assert!(Arc::ptr_eq(base.0.as_ref().unwrap(), same.0.as_ref().unwrap()));
    assert_eq!(Redactor::default().combined(&secrets(&["x"])).text("x"), MARK);
    assert!(Redactor::default().combined(&[]).is_empty());
}

#[test]
fn nothing_shows_in_debug() {
    let redactor = redactor(&["hidden-1", "hidden-2"]);
    let mut stream = redactor.stream();
    let _ = stream.push("hidde");
    let shown = format!("{redactor:?} {stream:?} {:?}", Secret::from("hidden-1".to_owned()));
    assert_eq!(shown, "Redactor(2 secrets) Stream(5 bytes held, Redactor(2 secrets)) Secret(***)");
}
