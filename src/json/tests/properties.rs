//! Properties of JSON as text, over values that are written in many ways.

use super::super::*;
use super::fingerprint;
use proptest::prelude::*;
use serde_json::Value;
use std::collections::BTreeMap;

/// A JSON value that can be written in many ways.
#[derive(Debug, Clone)]
enum Json {
    Word(&'static str),
    /// Units and power of ten.
    Number(i64, i8),
    Text(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

fn values() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        prop::sample::select(vec!["null", "true", "false"]).prop_map(Json::Word),
        (-30i64..30, -2i8..3).prop_map(|(units, power)| Json::Number(units, power)),
        (any::<i64>(), -20i8..20).prop_map(|(units, power)| Json::Number(units, power)),
        "[ab\"\\\\/\u{1}é😀]{0,4}".prop_map(Json::Text),
        "[ab]{300,700}".prop_map(Json::Text),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::Array),
            prop::collection::vec(("[ab]{0,2}|[é\"]", inner), 0..5).prop_map(Json::Object),
        ]
    })
}

/// A source of choices.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

impl Json {
    /// Writes the value one way or another.
    fn write(&self, dice: &mut Dice) -> String {
        let space = [" ", "", "\n", "\t \r"][usize::try_from(dice.roll(4)).unwrap()];
        let value = match self {
            Self::Word(word) => (*word).to_owned(),
            Self::Number(units, power) => write_number(*units, *power, dice),
            Self::Text(text) => write_text(text, dice),
            Self::Array(items) => {
                let items: Vec<_> = items.iter().map(|item| item.write(dice)).collect();
                format!("[{space}{}]", items.join(","))
            }
            Self::Object(members) => {
                // The last of each key counts; others may stand before it or be missing.
                let mut rest: Vec<_> = members.iter().collect();
                let mut out = Vec::new();
                while !rest.is_empty() {
                    let at = usize::try_from(dice.roll(rest.len() as u64)).unwrap();
                    let (key, value) = rest[at];
                    let is_last = !rest[at + 1..].iter().any(|(other, _)| other == key);
                    if is_last && rest[..at].iter().any(|(other, _)| other == key) {
                        continue;
                    }
                    rest.remove(at);
                    if is_last || dice.roll(2) == 0 {
                        out.push(format!("{}{space}:{}", write_text(key, dice), value.write(dice)));
                    }
                }
                format!("{{{}{space}}}", out.join(&format!("{space},")))
            }
        };
        format!("{space}{value}{space}")
    }

    /// One spelling for all equal values.
    fn plain(&self) -> String {
        match self {
            Self::Word(word) => (*word).to_owned(),
            Self::Number(0, _) => "0".to_owned(),
            Self::Number(units, power) => {
                let (mut units, mut power) = (*units, *power);
                while units % 10 == 0 {
                    units /= 10;
                    power += 1;
                }
                format!("{units}e{power}")
            }
            Self::Text(text) => string(text),
            Self::Array(items) => format!("[{}]", items.iter().map(Self::plain).collect::<Vec<_>>().join(",")),
            Self::Object(members) => {
                let members: BTreeMap<_, _> = members.iter().map(|(key, value)| (key, value.plain())).collect();
                format!("{members:?}")
            }
        }
    }
}

fn write_number(units: i64, power: i8, dice: &mut Dice) -> String {
    let e = ["e", "E", "E+", "e+0"][usize::try_from(dice.roll(4)).unwrap()];
    let exponent = |power: i64| {
        if power < 0 { format!("e{power}") } else { format!("{e}{power}") }
    };
    match dice.roll(4) {
        0 => format!("{units}{}", exponent(power.into())),
        1 if units != 0 => format!("{units}0{}", exponent(i64::from(power) - 1)),
        2 => format!("{units}.000{}", exponent(power.into())),
        _ if power == 0 => units.to_string(),
        _ => {
            let (sign, digits) = if units < 0 { ("-", units.unsigned_abs()) } else { ("", units.unsigned_abs()) };
            format!("{sign}0.{digits:024}{}", exponent(i64::from(power) + 24))
        }
    }
}

fn write_text(text: &str, dice: &mut Dice) -> String {
    let mut out = "\"".to_owned();
    for c in text.chars() {
        match dice.roll(3) {
            0 => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let escape = if dice.roll(2) == 0 { format!("\\u{unit:04x}") } else { format!("\\u{unit:04X}") };
                    out.push_str(&escape);
                }
            }
            1 if c == '/' => out.push_str("\\/"),
            _ => {
                let quoted = string(&c.to_string());
                out.push_str(&quoted[1..quoted.len() - 1]);
            }
        }
    }
    out + "\""
}

/// Counts the white space outside strings; these values have none inside.
fn spaces(text: &str) -> usize {
    text.bytes().filter(u8::is_ascii_whitespace).count()
}

proptest! {
    /// However a value is written, its fingerprint is the same.
    #[test]
    fn spelling_does_not_count(value in values(), seeds in prop::array::uniform3(any::<u64>())) {
        let written = seeds.map(|seed| value.write(&mut Dice(seed)));
        for text in &written {
            prop_assert!(check(text.as_bytes()).is_ok(), "{}", text);
            prop_assert_eq!(fingerprint(&written[0]), fingerprint(text), "{} {}", &written[0], text);
        }
    }

    /// Two values have the same fingerprint if and only if they are equal.
    #[test]
    fn only_equal_values_are_equal(one in values(), other in values(), seed in any::<u64>()) {
        let equal = one.plain() == other.plain();
        let mut dice = Dice(seed);
        prop_assert_eq!(fingerprint(&one.write(&mut dice)) == fingerprint(&other.write(&mut dice)), equal);
    }

    /// White space between tokens can go, and nothing else of the value with it.
    #[test]
    fn white_space_means_nothing(value in values(), seed in any::<u64>()) {
        let text = value.write(&mut Dice(seed));
        let parsed: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(is_object(&text), parsed.is_object());
        prop_assert_eq!(serde_json::from_str::<Value>(&one_line(&text)).unwrap(), parsed);
        prop_assert!(!one_line(&text).contains(['\n', '\r']));
        let compact = compact(&text);
        prop_assert_eq!(fingerprint(&compact), fingerprint(&text));
        prop_assert_eq!(compact.len(), text.len() - spaces(&text));
    }

    /// Changing every string changes the value and nothing else.
    #[test]
    fn strings_change_alone(value in values(), seed in any::<u64>()) {
        let text = value.write(&mut Dice(seed));
        let mut strings = Vec::new();
        let changed = map_strings(&text, |text, role| {
            strings.push((text.to_owned(), role));
            Some(format!("{text}\"!"))
        });
        let mut again = strings.iter();
        let back = map_strings(&changed, |text, role| {
            let (old, old_role) = again.next().unwrap();
            assert_eq!((text, role), (format!("{old}\"!").as_str(), *old_role));
            Some(old.clone())
        });
        prop_assert!(check(changed.as_bytes()).is_ok());
        prop_assert_eq!(fingerprint(&back), fingerprint(&text));
    }

    /// Text that is not JSON is no reason to panic or to hang.
    #[test]
    fn anything_goes(text in "[\\[\\]{}\",:\\\\ue0d8-9a.\n é😀-]{0,40}|.{0,40}") {
        let _ = check(text.as_bytes()).map(str::len);
        let _ = fingerprint(&text);
        let _ = map_strings(&text, |text, _| Some(text.to_owned()));
        let _ = one_line(&text);
        let _ = compact(&text);
    }

    /// What the check accepts is what serde_json accepts, as far as depth allows.
    #[test]
    fn check_agrees_with_serde(text in "[\\[\\]{}\",:\\\\ue0d8-9a.\n-]{0,12}") {
        let parsed = serde_json::from_str::<&RawValue>(&text);
        prop_assert_eq!(check(text.as_bytes()).ok(), parsed.ok().map(RawValue::get));
    }
}

/// Texts with and without what has to be escaped, of all lengths around a word's.
fn texts() -> impl Strategy<Value = String> {
    let any_text = prop_oneof![".{0,40}", "[a\"\\\\/\u{0}-\u{1f}\u{7f}é😀]{0,40}"];
    (any_text.clone(), prop::sample::select(vec![0, 1, 7, 8, 9, 33, 255, 256, 700]), any_text)
        .prop_map(|(before, plain, behind)| format!("{before}{}{behind}", "a".repeat(plain)))
}

/// Fields that may be long.
#[derive(serde::Serialize)]
struct Said<'a> {
    #[serde(serialize_with = "quote::text")]
    text: &'a str,
    #[serde(serialize_with = "quote::text_if_any")]
    more: Option<String>,
    #[serde(serialize_with = "quote::texts")]
    parts: &'a [String],
}

proptest! {
    #[test]
    fn strings_are_written_as_serde_json_writes_them(text in texts(), more in texts(), is_there: bool) {
        let wanted = serde_json::to_string(&text).unwrap();
        prop_assert_eq!(string(&text), &*wanted);
        let mut out = b"before ".to_vec();
        write_string(&mut out, &text);
        prop_assert_eq!(String::from_utf8(out).unwrap(), format!("before {wanted}"));
        let (parts, more) = ([text.clone(), more.clone()], is_there.then(|| more.clone()));
        let said = serde_json::to_string(&Said { text: &text, more: more.clone(), parts: &parts }).unwrap();
        let plain = serde_json::json!({"text": text, "more": more, "parts": parts});
        prop_assert_eq!(serde_json::from_str::<Value>(&said).unwrap(), plain);
    }

    #[test]
    fn a_string_ends_where_serde_json_has_it_end(text in texts(), before in "[ a]{0,9}", behind in ".{0,40}") {
        let all = format!("{before}{}{behind}", serde_json::to_string(&text).unwrap());
        let (close, escapes) = scan::string_end(all.as_bytes(), before.len());
        prop_assert_eq!(&all[close + 1..], &behind);
        prop_assert_eq!(scan::decode(&all[before.len() + 1..close], escapes), text);
    }
}
