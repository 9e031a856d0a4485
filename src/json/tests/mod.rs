//! Tests of JSON as text.

mod properties;

use super::*;
use crate::model::Fingerprint;

fn fingerprint(raw: &str) -> Fingerprint {
    FingerprintBuilder::new().json(raw).finish()
}

#[test]
fn one_value_is_accepted() {
    assert_eq!(check(b" {\"a\": 1}\r\n\t "), Ok("{\"a\": 1}"));
    assert_eq!(check(b"\xef\xbb\xbf[1]"), Ok("[1]"));
    for text in ["null", "-0.0e-1", "1e999", r#""\ud800""#, "\"\u{feff}\"", "123456789012345678901234567890"] {
        assert_eq!(check(text.as_bytes()), Ok(text));
    }
}

#[test]
fn anything_else_is_refused() {
    assert_eq!(check(b""), Err(NotJson::Empty));
    assert_eq!(check(b"\xef\xbb\xbf \n"), Err(NotJson::Empty));
    assert_eq!(check(b"[\"\xff\"]"), Err(NotJson::Utf8 { at: 2 }));
    for text in [
        "{",
        "[1",
        "\"a",
        "{} {}",
        "{}x",
        "nul",
        "[1,]",
        "{\"a\"}",
        "{a:1}",
        "'a'",
        "01",
        "1.",
        "\"\n\"",
        "\"\\x\"",
        "\u{feff}\u{feff}1",
        "NaN",
        "]",
    ] {
        assert!(matches!(check(text.as_bytes()), Err(NotJson::Syntax { .. })), "{text}");
    }
    let error = check(b"{\n  \"key\": hunter2}").unwrap_err();
    assert_eq!(error, NotJson::Syntax { line: 2, column: 10 });
    assert_eq!(error.to_string(), "syntax error at line 2, column 10");
}

#[test]
fn depth() {
    let nested = |levels: usize| {
        format!("{}{}", r#"[{"a":"#.repeat(levels / 2) + "[", "]".to_owned() + &"}]".repeat(levels / 2))
    };
    assert!(check(nested(126).as_bytes()).is_ok());
    let flat = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    assert!(check(flat(MAX_DEPTH).as_bytes()).is_ok());
    assert_eq!(check(flat(MAX_DEPTH + 1).as_bytes()), Err(NotJson::Depth(MAX_DEPTH)));
    assert_eq!(check(nested(128).as_bytes()), Err(NotJson::Depth(MAX_DEPTH)));
    assert_eq!(check("[".repeat(10_000_000).as_bytes()), Err(NotJson::Depth(MAX_DEPTH)));
    // Side by side is not deep, nor is what strings hold.
    assert!(check(format!("[{}[]]", "[],".repeat(1000)).as_bytes()).is_ok());
    assert!(check(format!("\"\\\"{}\"", "[{".repeat(1000)).as_bytes()).is_ok());
}

#[test]
fn objects_are_told_from_the_rest() {
    for other in ["[]", "null", "\"{}\"", "1", ""] {
        assert!(!is_object(other), "{other}");
    }
    assert!(is_object("\n {}"));
}

#[test]
fn lines() {
    assert_eq!(one_line("{\r\n  \"a\\n\": 1\n}"), "{    \"a\\n\": 1 }");
    assert!(matches!(one_line("{ \"a\": 1 }"), Cow::Borrowed(_)));
    let late = format!("[{}\n]", "1, ".repeat(1000) + "1");
    assert_eq!(one_line(&late), late.replace('\n', " "));
}

#[test]
fn without_white_space() {
    assert_eq!(compact(" { \"a b\" :\r\n[ 1 ,\t\" \\\" \" ] } "), "{\"a b\":[1,\" \\\" \"]}");
    assert!(matches!(compact("{\"a b\":1}"), Cow::Borrowed(_)));
}

#[test]
fn equal_values() {
    for equal in [
        &["1", "1.0", "10e-1", "0.1E+1", "1e0", "100e-2", " 1\n", "0.001e3", "1000000000000000000000e-21"][..],
        &["0", "-0", "0.0", "-0e5", "0e-99999999999999999999", "0E99"],
        &["-1.5", "-15e-1", "-0.15e1", "-1.50"],
        &["12345678901234567890", "1234567890123456789e1", "1.2345678901234567890e19", "12345678901234567890.0"],
        &["1e400", "10e399", "0.1e401"],
        &["0.00120", "12e-4", "1.2e-3"],
        &[r#""A""#, r#""\u0041""#],
        &[r#""é""#, r#""\u00e9""#, r#""\u00E9""#],
        &[r#""😀""#, r#""\ud83d\ude00""#],
        &[r#""\ud800""#, r#""\uD800""#],
        &[r#""a/b""#, r#""a\/b""#, r#""a\u002fb""#],
        &[r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#, "{ \"b\" : 2,\n\"a\":1.0 }", r#"{"a":3,"b":2,"\u0061":1}"#],
        &[r#"{"a":{"x":1,"y":[{"p":1,"q":2}]}}"#, r#"{"a":{"y":[{"q":2,"p":1}],"x":1}}"#],
        &[r#"{"a":1}"#, r#"{"a":[2],"a":{"a":1},"a":1}"#],
    ] {
        for other in equal {
            assert_eq!(fingerprint(equal[0]), fingerprint(other), "{} {other}", equal[0]);
        }
    }
}

#[test]
fn different_values() {
    let long = "x".repeat(600);
    let different = [
        "0",
        "1",
        "-1",
        "10",
        "0.1",
        "12",
        "1.2",
        "1e400",
        "1e-400",
        "1e99999999999999999999",
        "1e99999999999999999998",
        "1e-99999999999999999999",
        "10e99999999999999999999",
        "12345678901234567890",
        "12345678901234567891",
        "0.12345678901234567890",
        "0.12345678901234567891",
        "true",
        "false",
        "null",
        "\"\"",
        "\"1\"",
        "\"null\"",
        "\"a\"",
        r#""\ud800""#,
        r#""\ud801""#,
        r#""\udc00\ud800""#,
        r#""\ufffd""#,
        "[]",
        "[[]]",
        "[[],[]]",
        "[[[]]]",
        "{}",
        "[{}]",
        "[1,2]",
        "[2,1]",
        "[12]",
        "[1,[2]]",
        "[[1],2]",
        r#"["a","b"]"#,
        r#"["ab"]"#,
        r#"["a","b",""]"#,
        r#"{"a":1}"#,
        r#"{"a":"1"}"#,
        r#"{"a":[1]}"#,
        r#"{"a":{"b":1}}"#,
        r#"{"a":{},"b":1}"#,
        r#"{"b":1}"#,
        r#"{"a":1,"b":2}"#,
        r#"{"a":2,"b":1}"#,
        r#"{"a":null}"#,
        r#"["a",1]"#,
        r#"[{"a":1}]"#,
        r#"[{"a":1},{"a":1}]"#,
        r#"[{"a":1,"b":1}]"#,
        &format!("\"{long}\""),
        &format!("\"{long}x\""),
        &format!("[\"{long}\"]"),
        &format!("{{\"{long}\":1}}"),
        &format!("{{\"a\":\"{long}\"}}"),
        &format!("{{\"a\":\"{long}\",\"b\":1}}"),
    ];
    for (at, one) in different.iter().enumerate() {
        for other in &different[..at] {
            assert_ne!(fingerprint(one), fingerprint(other), "{one} {other}");
        }
    }
}

#[test]
fn parts_are_told_apart() {
    let parts = [
        FingerprintBuilder::new(),
        FingerprintBuilder::new().absent(),
        FingerprintBuilder::new().absent().absent(),
        FingerprintBuilder::new().text("1"),
        FingerprintBuilder::new().json("1"),
        FingerprintBuilder::new().json("\"1\""),
        FingerprintBuilder::new().json("null"),
        FingerprintBuilder::new().text("ab"),
        FingerprintBuilder::new().text("a").text("b"),
        FingerprintBuilder::new().text("b").text("a"),
        FingerprintBuilder::new().text("").text("ab"),
        FingerprintBuilder::new().json("1").json("2"),
        FingerprintBuilder::new().json("12"),
        FingerprintBuilder::new().json("[1,2]"),
        FingerprintBuilder::new().text("\\u0041"),
        FingerprintBuilder::new().text("A"),
    ];
    let parts = parts.map(FingerprintBuilder::finish);
    for (at, one) in parts.iter().enumerate() {
        assert!(!parts[..at].contains(one), "{at}");
    }
}

#[test]
fn the_last_of_many_duplicates_counts() {
    let object = |values: &mut dyn Iterator<Item = usize>| {
        let members: Vec<_> = values.map(|n| format!("\"{}\":{n}", n % 3)).collect();
        format!("{{{}}}", members.join(","))
    };
    let many = object(&mut (0..300).rev());
    assert_eq!(fingerprint(&many), fingerprint(&object(&mut (0..3))));
}

/// Stored digests must stay comparable, so the plain form must not change unnoticed.
#[test]
fn the_digest_is_stable() {
    let big = format!(r#"{{"b":[1.50,-2e7,null,true],"a":"\u00e9","long":"{}"}}"#, "x".repeat(1000));
    let builder = FingerprintBuilder::new().text("dari").json(&big).absent();
    assert_eq!(builder.finish().0, [16, 218, 167, 142, 5, 114, 47, 155, 228, 141, 16, 97, 171, 212, 212, 138]);
}

#[test]
fn depth_costs_no_stack() {
    let deep = |inner: &str| format!("{}{inner}{}", r#"[{"a":"#.repeat(200_000), "}]".repeat(200_000));
    assert_eq!(fingerprint(&deep("1")), fingerprint(&deep("1.0")));
    assert_ne!(fingerprint(&deep("1")), fingerprint(&deep("2")));
    assert_eq!(map_strings(&deep("\"x\""), |text, _| (text == "x").then(|| "y".to_owned())), deep("\"y\""));
}

#[test]
fn strings_are_offered_and_replaced() {
    let raw = "{ \"a\" : \"x\\u0041\\n\", \"b\\\"\":[1.0, \"\", -0e1,\"y\" ] ,\"c\"\n:\"\\ud800\" }";
    let mut seen = Vec::new();
    let same = map_strings(raw, |text, role| {
        seen.push((text.to_owned(), role));
        None
    });
    assert!(matches!(same, Cow::Borrowed(text) if text == raw));
    let (key, value) = (StringRole::Key, StringRole::Value);
    let expected =
        [("a", key), ("xA\n", value), ("b\"", key), ("", value), ("y", value), ("c", key), ("\u{fffd}", value)];
    assert_eq!(seen, expected.map(|(text, role)| (text.to_owned(), role)));

    let changed =
        map_strings(raw, |text, role| (role == StringRole::Value && text != "y").then(|| format!("<{text}\">")));
    assert_eq!(
        changed,
        "{ \"a\" : \"<xA\\n\\\">\", \"b\\\"\":[1.0, \"<\\\">\", -0e1,\"y\" ] ,\"c\"\n:\"<\u{fffd}\\\">\" }"
    );
}

#[test]
fn to_serde_and_back() {
    let json = RawJson::from_valid("{\"a\": 1e5}");
    assert_eq!(as_raw(&json).get(), json.as_str());
    assert_eq!(from_raw(as_raw(&json)), json);
    assert_eq!(string("a\"\n\u{1}é"), r#""a\"\n\u0001é""#);
}
