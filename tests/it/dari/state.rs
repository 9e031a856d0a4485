//! Check 7: the state is kept, set or cleared, and every byte of it comes back.

use super::{Dari, Mode};
use crate::support::stub::script;
use serde_json::json;

/// States of every kind, with whatever a parser in between would change.
fn states() -> Vec<String> {
    let mut states: Vec<String> = [
        r#""a string""#,
        r#""""#,
        r#""\u00e9\/\ud83d\ude00 é😀 \ud800 \b\f\n\t""#,
        r#""{\"looks\":\"encoded\"}""#,
        "0",
        "-0",
        "0.10",
        "1.50e+3",
        "1E400",
        "12345678901234567890",
        "-98765432109876543210",
        "0.123456789012345678901234567890",
        "true",
        "false",
        "[]",
        "[ 1,2 , \"three\",null,[[]] ]",
        "{}",
        r#"{"v":1,"turn":3}"#,
        r#"{ "b" : 1 ,"a":2,   "B":null,"10":0,"9":0 }"#,
        r#"{"a":1,"a":2,"":{"":[]}}"#,
        r#"{"id":12345678901234567890,"n":[1.0,1e2,-0.0]}"#,
        r#"{"text":"not the answer","state":null,"type":"error","id":"x"}"#,
    ]
    .map(str::to_owned)
    .into();
    states.push(format!("{}1{}", "[".repeat(120), "]".repeat(120)));
    states.push(format!("{}0{}", r#"{"k":"#.repeat(100), "}".repeat(100)));
    states.push(format!("{{\"big\":\"{}\"}}", "0123456789abcdef".repeat(20_000)));
    states
}

/// The platform's bytes of a request, with the saved state put in as it is.
fn request(prompt: &str, state: &str) -> String {
    format!(r#"{{"input":{},"state":{state}}}"#, json!(prompt))
}

/// Sets a state, and hands it back as the platform does.
async fn round_trip(dari: &Dari, state: &str) {
    let prompt = script(&[&format!("state {state}")]);
    let answer = dari.turn(&json!({"input": prompt})).await;
    assert_eq!(answer.state(), Some(state), "from the handler");
    dari.post_raw(request("and back", state).as_bytes()).await;
    // The one leniency of section 2.5.
    let decoded = if state.starts_with(r#""{"#) { r#"{"looks":"encoded"}"# } else { state };
    assert_eq!(dari.stub.last_call().state(), Some(decoded), "to the handler");
}

pub async fn keep_set_clear(mode: Mode) {
    let dari = Dari::start(mode);
    for state in states() {
        round_trip(&dari, &state).await;
    }
    leniencies(&dari).await;

    // The platform's bookkeeping (section 3.2), over turns that set, fail, keep and clear.
    let saved = r#"{"v":1,"turn":1,"thread":"t-1"}"#;
    let set = dari.turn(&json!({"input": script(&[&format!("state {saved}")])})).await;
    assert_eq!(set.state(), Some(saved));

    let failed = dari.post_raw(request(&script(&["fail the model is not reachable"]), saved).as_bytes()).await;
    assert_eq!(failed.body, r#"{"text":"the model is not reachable"}"#, "a failure keeps the state: no key");
    let crashed = dari.post_raw(request(&script(&["exit 3"]), saved).as_bytes()).await;
    let crashed = super::turn_body(&crashed);
    assert_eq!(crashed.state(), None);
    assert!(crashed.text.contains('3'), "the exit code may be told: {}", crashed.text);

    let kept = dari.post_raw(request("go on", saved).as_bytes()).await;
    assert_eq!(super::turn_body(&kept).state(), None, "nothing was said of the state");
    assert_eq!(dari.stub.last_call().state(), Some(saved), "the next turn continues the thread");

    let cleared = dari.post_raw(request(&script(&["say gone", "clear"]), saved).as_bytes()).await;
    assert_eq!(cleared.body, r#"{"text":"gone","state":null}"#);
    // The platform has deleted it, so it sends none; and one that sends null means the same.
    dari.turn(&json!({"input": "afresh"})).await;
    assert_eq!(dari.stub.last_call().state(), None);
    dari.turn(&json!({"input": "afresh", "state": null})).await;
    assert_eq!(dari.stub.last_call().state(), None);

    // A failing turn of a handler may still set a state.
    let left = dari.turn(&json!({"input": script(&["state [1]", "fail but remembered"])})).await;
    assert_eq!((left.text.as_str(), left.state()), ("but remembered", Some("[1]")));
    // The request's state wins over what the server saw last.
    dari.post_raw(request("older", saved).as_bytes()).await;
    assert_eq!(dari.stub.last_call().state(), Some(saved));
}

/// Section 2.2 and 2.5: where a state may stand, and how it may be wrapped.
async fn leniencies(dari: &Dari) {
    let seen = async |body: &str| {
        dari.post_raw(body.as_bytes()).await;
        dari.stub.last_call().state().map(str::to_owned)
    };
    for key in ["state", "previous_state", "state_json", "runtime_state"] {
        assert_eq!(seen(&format!(r#"{{"input":"x","{key}":{{"k":1}}}}"#)).await.as_deref(), Some(r#"{"k":1}"#));
    }
    let first = r#"{"input":"x","runtime_state":4,"state_json":3,"previous_state":2,"state":1}"#;
    assert_eq!(seen(first).await.as_deref(), Some("1"), "the first of the four names counts");
    let encoded = r#"{"input":"x","state":"{\"b\": 1.0, \"a\":\"\\u00e9\"}"}"#;
    assert_eq!(seen(encoded).await.as_deref(), Some(r#"{"b": 1.0, "a":"\u00e9"}"#), "decoded once");
    let twice = r#"{"input":"x","state":"\"{\\\"b\\\":1}\""}"#;
    assert_eq!(seen(twice).await.as_deref(), Some(r#""\"{\\\"b\\\":1}\"""#), "not decoded twice");
    // The handler's protocol is one line a turn: a line break between tokens reaches it as a space.
    let lines = "{\"input\":\"x\",\"state\":{\r\n  \"a\":\t1\n}}";
    assert_eq!(seen(lines).await.as_deref(), Some("{    \"a\":\t1 }"));
}

#[tokio::test]
async fn check_07_state() {
    keep_set_clear(Mode::Close).await;
}
