//! What a RuntimeUse socket goes through: several requests, cancels, limits, named sessions, its end. RuntimeUse sections
//! 2 to 6, 17.1 and 17.9. What leaves it, byte for byte and without secrets, is in `what_leaves_a_socket`.

use crate::support::raw_ws::{CONTINUATION, Frame, Heard, PONG, RawWs};
use crate::support::{PATIENCE, Server, WsClient};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const NO_FRAMES: [Value; 0] = [];

fn result(text: &str) -> Value {
    json!({"message_type": "result_message", "metadata": {}, "data": {"type": "text", "text": text}})
}

fn error(text: &str, metadata: Value) -> Value {
    json!({"message_type": "error_message", "error": text, "metadata": metadata})
}

fn cancelled() -> Value {
    error("Request cancelled", json!({}))
}

/// The same frame of a request with an id, or of a named session.
fn with(mut frame: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        frame[name] = value.clone();
    }
    frame
}

fn cancel() -> Value {
    json!({"message_type": "cancel_message"})
}

async fn works(client: &mut WsClient) {
    client.query("still there").await;
    assert_eq!(client.terminal().await["data"]["text"], "still there");
}

#[tokio::test]
async fn a_connection_carries_any_number_of_requests() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/any/path?of=any").await;
    for prompt in ["one", "two\nlines", "", " blanks ", "grüße 😀\u{0}\u{7f}\u{2028}", "\"quotes\\\""] {
        client.query(prompt).await;
        assert_eq!(client.until_terminal().await, [result(prompt)]);
    }
    client.query("@stream 3").await;
    let texts = ["message 1", "message 2", "message 3"];
    let mut expected: Vec<Value> =
        texts.iter().map(|text| json!({"message_type": "assistant_message", "text_blocks": [text]})).collect();
    expected.push(result("streamed 3"));
    assert_eq!(client.until_terminal().await, expected);
    client.query("@fail on purpose").await;
    let metadata = json!({"error_name": "Error", "code": "handler_failed", "retryable": false});
    assert_eq!(client.until_terminal().await, [error("on purpose", metadata)]);
    client.query("@panic").await;
    assert_eq!(client.terminal().await["error"], "the handler panicked");
    // A plain query knows nothing of the one before.
    client.query("@state {\"kept\":true}").await;
    client.terminal().await;
    client.query("@show").await;
    assert_eq!(client.terminal().await["data"]["structured_output"]["state"], Value::Null);
}

#[tokio::test]
async fn a_request_arrives_as_it_was_asked() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/").await;
    let more = json!({
        "source_id": "run-1", "system_prompt": "Be brief.", "model": "m-1", "secrets_to_redact": [], "artifacts_dirs": null,
        "agent_env": {"REGION": "eu", "RETRIES": 3}, "output_format_json_schema_str": "{\"type\":\"object\"}",
        "pre_agent_downloadables": null, "post_agent_invocation_commands": null, "unknown": [1],
    });
    client.query_with("@show", more).await;
    let shown = client.terminal().await["data"]["structured_output"].take();
    assert_eq!((&shown["system_prompt"], &shown["model"]), (&json!("Be brief."), &json!("m-1")));
    assert_eq!(shown["env"], json!({"REGION": "eu", "RETRIES": "3"}));
    assert_eq!(shown["output_format"], json!({"type": "object"}));
    for none in [json!({}), json!({"system_prompt": null, "model": null, "agent_env": null})] {
        client.query_with("@show", with(none, json!({"output_format_json_schema_str": ""}))).await;
        let shown = client.terminal().await["data"]["structured_output"].take();
        for field in ["system_prompt", "model", "env", "output_format"] {
            assert_eq!(shown[field], Value::Null, "{field}");
        }
    }
}

#[tokio::test]
async fn a_second_request_is_refused_and_the_first_goes_on() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/").await;
    client.query_with("@sleep 600000", json!({"request_id": "q1"})).await;
    let refused = with(
        error("Received request while another is in flight!", json!({"error_name": "Error"})),
        json!({"terminal": false}),
    );
    client.query_with("hi", json!({"request_id": "q2"})).await;
    client.query("hi").await;
    assert_eq!(client.said().await, [with(refused.clone(), json!({"request_id": "q2"})), refused]);
    client.send(&cancel()).await;
    assert_eq!(client.until_terminal().await, [with(cancelled(), json!({"request_id": "q1", "seq": 1}))]);
    works(&mut client).await;
}

#[tokio::test]
async fn frames_carry_the_request_and_its_count() {
    let server = Server::start(&["--agent", "echo"]);
    let numbers =
        |frames: &[Value]| -> Vec<u64> { frames.iter().map(|frame| frame["seq"].as_u64().unwrap()).collect() };
    let mut plain = server.connect("/").await;
    for id in ["first", "é".repeat(128).as_str()] {
        plain.query_with("@stream 3", json!({"request_id": id})).await;
        let frames = plain.until_terminal().await;
        assert!(frames.iter().all(|frame| frame["request_id"] == id), "{frames:?}");
        assert_eq!(numbers(&frames), [1, 2, 3, 4], "from 1 for each request");
    }
    plain.query("@stream 1").await;
    let frames = plain.until_terminal().await;
    assert!(frames.iter().all(|frame| frame.get("seq").is_none() && frame.get("request_id").is_none()), "{frames:?}");
    // On a named session it is the number in the session's log, where each turn also has an entry for its beginning.
    let mut named = server.connect("/?session=count").await;
    for expected in [[2, 3, 4], [6, 7, 8]] {
        named.query("@stream 2").await;
        assert_eq!(numbers(&named.until_terminal().await), expected);
    }
    let mut again = server.connect("/?session=count").await;
    again.query_with("@stream 2", json!({"request_id": "third"})).await;
    assert_eq!(numbers(&again.until_terminal().await), [10, 11, 12]);
}

#[tokio::test]
async fn a_cancel_ends_what_it_names() {
    let server = Server::start(&["--agent", "echo", "--stop-grace", "300ms"]);
    let mut client = server.connect("/").await;
    client.send(&cancel()).await;
    assert_eq!(client.said().await, NO_FRAMES, "idle");
    works(&mut client).await;
    for prompt in ["@sleep 600000", "@deaf 600000"] {
        client.query(prompt).await;
        server.busy().await;
        client.send(&cancel()).await;
        client.send(&cancel()).await;
        let began = Instant::now();
        assert_eq!(client.until_terminal().await, [cancelled()], "{prompt}");
        assert!(began.elapsed() < Duration::from_secs(3), "{prompt}: {:?}", began.elapsed());
        assert_eq!(client.said().await, NO_FRAMES, "{prompt}: exactly one");
        works(&mut client).await;
    }
    for (id, other) in [(json!("q1"), json!("q2")), (json!("q1"), json!("Q1")), (Value::Null, json!("q1"))] {
        client.query_with("@sleep 600000", json!({"request_id": id})).await;
        server.busy().await;
        client.send(&with(cancel(), json!({"request_id": other}))).await;
        assert_eq!(client.said().await, NO_FRAMES, "another request's cancel");
        assert_eq!(server.get("/health").await.json()["busy"], true);
        client.send(&with(cancel(), json!({"request_id": id}))).await;
        assert_eq!(client.terminal().await["error"], "Request cancelled");
    }
    client.query_with("@sleep 600000", json!({"request_id": "q1"})).await;
    client.send(&cancel()).await;
    assert_eq!(client.terminal().await["error"], "Request cancelled", "without an id it means whatever runs");
}

#[tokio::test]
async fn a_cancel_that_crosses_the_result_changes_nothing() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/").await;
    let mut seen = [0, 0];
    for n in 0..300 {
        let prompt = if n % 3 == 0 { "@sleep 0" } else { "crossing" };
        client.query(prompt).await;
        for _ in 0..n % 4 {
            tokio::task::yield_now().await;
        }
        client.send(&cancel()).await;
        let frames = client.until_terminal().await;
        let was_cancelled = frames == [cancelled()];
        assert!(was_cancelled || frames == [result(if n % 3 == 0 { "slept 0 ms" } else { "crossing" })], "{frames:?}");
        seen[usize::from(was_cancelled)] += 1;
        let prompt = format!("after {n}");
        client.query(&prompt).await;
        assert_eq!(client.until_terminal().await, [result(&prompt)]);
    }
    assert!(seen[0] + seen[1] == 300, "{seen:?}");
}

#[tokio::test]
async fn a_request_may_bring_its_own_limit() {
    let server = Server::start(&["--agent", "echo", "--stop-grace", "200ms"]);
    let mut client = server.connect("/").await;
    for prompt in ["@sleep 600000", "@deaf 600000"] {
        client.query_with(prompt, json!({"timeout_ms": 150})).await;
        let began = Instant::now();
        let expected = error("Request timed out after 150 ms", json!({"error_name": "TimeoutError"}));
        assert_eq!(client.until_terminal().await, [expected], "{prompt}");
        assert!(began.elapsed() < Duration::from_secs(3), "{prompt}: {:?}", began.elapsed());
        works(&mut client).await;
    }
    client.query_with("@sleep 50", json!({"timeout_ms": 600_000})).await;
    assert_eq!(client.until_terminal().await, [result("slept 50 ms")]);
}

#[tokio::test]
async fn heartbeats_come_while_a_request_runs() {
    let server = Server::start(&["--agent", "echo", "--heartbeat", "100ms"]);
    let mut client = server.connect("/").await;
    for (prompt, more) in [("@sleep 1050", json!({})), ("@deaf 1050", json!({"request_id": "q1"}))] {
        let began = Instant::now();
        client.query_with(prompt, more.clone()).await;
        let mut frames = client.until_terminal().await;
        let most = usize::try_from(began.elapsed().as_millis() / 100).unwrap();
        assert_eq!(frames.pop().unwrap()["message_type"], "result_message");
        assert!((4..=most).contains(&frames.len()), "{} heartbeats of at most {most}", frames.len());
        let mut before = 0;
        for frame in frames {
            let elapsed = frame["elapsed_ms"].as_u64().expect("an integer");
            assert!(elapsed >= before + 90 && (before > 0 || elapsed < 1000), "{elapsed} after {before}");
            before = elapsed;
            let beat =
                json!({"message_type": "heartbeat_message", "phase": "request_in_flight", "elapsed_ms": elapsed});
            assert_eq!(frame, with(beat, more.clone()));
        }
        assert_eq!(client.said().await, NO_FRAMES, "none after the terminal");
    }
}

#[tokio::test]
async fn notices_and_events_are_for_those_who_ask() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/").await;
    let warn = "@warn take care then done";
    let notice = json!({"message_type": "notice_message", "level": "warning", "text": "take care"});
    let event = |seq: u64, event: Value| json!({"message_type": "event_message", "seq": seq, "event": event});
    let warned = event(1, json!({"type": "warning", "text": "take care"}));
    for (extensions, expected) in [
        (json!(null), vec![]),
        (json!([]), vec![]),
        (json!(["others"]), vec![]),
        (json!(["notices"]), vec![notice.clone()]),
        (json!(["events"]), vec![warned.clone()]),
        (json!(["events", "notices"]), vec![notice, warned]),
    ] {
        client.query_with(warn, json!({"extensions": extensions})).await;
        let frames = client.until_terminal().await;
        assert_eq!(frames, [expected, vec![result("done")]].concat(), "{extensions}");
    }
    client.query("@delta 2").await;
    let whole = json!({"message_type": "assistant_message", "text_blocks": ["delta 1delta 2"]});
    assert_eq!(client.until_terminal().await, [whole.clone(), result("delta 1delta 2")], "the peer knows no deltas");
    client.query_with("@delta 2", json!({"extensions": ["events"], "request_id": "q1"})).await;
    let delta = |seq, text| event(seq, json!({"type": "text_delta", "block": "block-1", "text": text}));
    let numbered = |frame, seq: u64| with(frame, json!({"seq": seq}));
    let expected = [
        delta(1, "delta 1"),
        delta(2, "delta 2"),
        numbered(whole, 3),
        event(3, json!({"type": "text", "block": "block-1", "parts": ["delta 1delta 2"]})),
        numbered(result("delta 1delta 2"), 4),
    ];
    let expected = expected.map(|frame| with(frame, json!({"request_id": "q1"})));
    assert_eq!(client.until_terminal().await, expected);
}

#[tokio::test]
async fn a_named_session_keeps_its_state() {
    let server = Server::start(&["--agent", "echo"]);
    let state = async |path: &str| {
        let mut client = server.connect(path).await;
        client.query("@show").await;
        client.terminal().await["data"]["structured_output"]["state"].take()
    };
    let mut first = server.connect("/?session=one").await;
    first.query("@state {\"kept\":[1,2]}").await;
    assert_eq!(first.terminal().await["data"]["text"], "state set");
    assert_eq!(state("/?session=one").await, json!({"kept": [1, 2]}), "over connections");
    assert_eq!(state("/?session=two").await, Value::Null, "another session");
    assert_eq!(state("/").await, Value::Null, "no session");
    // `@show` counted a turn.
    first.query("@show").await;
    assert_eq!(first.terminal().await["data"]["structured_output"]["state"], json!({"v": 1, "turn": 1}));
    first.query("@clear").await;
    first.terminal().await;
    assert_eq!(state("/else?x=y&session=one").await, Value::Null);
    // Dari's sessions are in the same space, with a prefix.
    server.advance(&json!({"input": "@state {\"from\":\"dari\"}", "session_id": "s1"})).await;
    assert_eq!(state("/?session=dari:s1").await, json!({"from": "dari"}));
    assert_eq!(state("/?session=s1").await, Value::Null);
    let (status, odd) = (state("/?session=a%20b%2F%C3%A9").await, state("/?session=a%20b%2F%C3%A9").await);
    assert_eq!((status, odd), (Value::Null, json!({"v": 1, "turn": 1})), "any name will do");
}

#[tokio::test]
async fn losing_a_plain_connection_cancels_its_request() {
    let server = Server::start(&["--agent", "echo"]);
    for how in ["a drop", "a close", "a reset", "half a frame"] {
        let mut client = RawWs::connect(server.address(), "/").await;
        let query = json!({"message_type": "invocation_message", "user_prompt": "@sleep 600000"});
        client.send(&Frame::text(query.to_string())).await;
        server.busy().await;
        match how {
            "a close" => client.send(&Frame::close(1001, b"")).await,
            "a reset" => client.reset(),
            "half a frame" => client.send_bytes(&Frame::text("{}").bytes()[..3]).await,
            _ => {}
        }
        drop(client);
        server.idle().await;
    }
}

#[tokio::test]
async fn losing_a_named_session_s_connection_loses_nothing() {
    let server = Server::start(&["--agent", "echo"]);
    let mut first = server.connect("/?session=one").await;
    first.query("@sleep 700").await;
    server.busy().await;
    drop(first);
    let mut second = server.connect("/?session=one").await;
    second.query("@show").await;
    // It waited for the turn whose connection was lost: that one has counted.
    assert_eq!(second.terminal().await["data"]["structured_output"]["state"], json!({"v": 1, "turn": 1}));
}

#[tokio::test]
async fn a_named_session_runs_one_turn_at_a_time() {
    let server = Server::start(&["--agent", "echo"]);
    let (mut first, mut second) = (server.connect("/?session=one").await, server.connect("/?session=one").await);
    let turns = async |count: u64| {
        let deadline = Instant::now() + PATIENCE;
        while server.get("/health").await.json()["turns"] != count {
            assert!(Instant::now() < deadline, "not {count} turns");
        }
    };
    first.query("@sleep 600000").await;
    turns(1).await;
    second.query("second").await;
    turns(2).await;
    assert_eq!((first.said().await, second.said().await), (vec![], vec![]), "the second waits");
    first.send(&cancel()).await;
    assert_eq!(first.terminal().await["error"], "Request cancelled");
    assert_eq!(second.terminal().await["data"]["text"], "second");
    // One that waits can be cancelled without waiting.
    first.query("@sleep 600000").await;
    turns(1).await;
    second.query("never").await;
    turns(2).await;
    second.send(&cancel()).await;
    assert_eq!(second.terminal().await["error"], "Request cancelled");
    assert_eq!(first.said().await, NO_FRAMES);
    // Another session does not wait.
    let mut other = server.connect("/?session=two").await;
    works(&mut other).await;
}

#[tokio::test]
async fn an_end_of_session_is_confirmed_after_the_terminal() {
    let server = Server::start(&["--agent", "echo", "--stop-grace", "300ms"]);
    let end = json!({"message_type": "end_session_message"});
    let confirm = json!({"message_type": "end_session_confirm_message"});
    for path in ["/", "/?session=one"] {
        let mut idle = server.connect(path).await;
        works(&mut idle).await;
        idle.send(&end).await;
        assert_eq!(idle.next().await, Some(confirm.clone()));
        assert_eq!(idle.close_code().await, Some(1000));
    }
    for prompt in ["@sleep 600000", "@deaf 600000"] {
        let mut running = server.connect("/").await;
        running.query(prompt).await;
        server.busy().await;
        running.send(&end).await;
        running.send(&end).await;
        assert_eq!(running.next().await, Some(cancelled()), "{prompt}");
        assert_eq!(running.next().await, Some(confirm.clone()), "{prompt}");
        assert_eq!(running.close_code().await, Some(1000), "{prompt}: one confirm");
        server.idle().await;
    }
    // A request right before it is still answered, one way or the other.
    let mut client = server.connect("/").await;
    client.query("quick").await;
    client.send(&end).await;
    let terminal = client.terminal().await;
    assert!(terminal == result("quick") || terminal == cancelled(), "{terminal}");
    assert_eq!(client.next().await, Some(confirm));
}

#[tokio::test]
async fn a_dead_peer_is_cut_and_a_slow_one_is_not() {
    let server = Server::start(&["--agent", "echo", "--dead-after", "1s", "--ping", "300ms"]);
    let query = json!({"message_type": "invocation_message", "user_prompt": "@sleep 600000"}).to_string();
    let mut dead = RawWs::connect(server.address(), "/").await;
    dead.send(&Frame::text(query.clone())).await;
    let began = Instant::now();
    let mut pings = 0;
    while matches!(dead.next().await, Heard::Ping(_)) {
        pings += 1;
    }
    assert!(pings >= 2 && began.elapsed() >= Duration::from_millis(950), "{pings} pings, {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    server.idle().await;
    // Who answers the pings is alive, and who is only slow with one long message is too.
    let server = Server::start(&["--agent", "echo", "--dead-after", "2s", "--ping", "500ms"]);
    let mut alive = RawWs::connect(server.address(), "/").await;
    let mut slow = RawWs::connect(server.address(), "/").await;
    let hi = json!({"message_type": "invocation_message", "user_prompt": "hi"}).to_string().into_bytes();
    slow.send(&Frame::text(&hi[..1]).open()).await;
    for part in hi[1..].chunks(hi.len() / 8) {
        for client in [&mut alive, &mut slow] {
            assert!(matches!(client.next().await, Heard::Ping(_)));
        }
        alive.send(&Frame::new(PONG, "")).await;
        slow.send(&Frame::new(CONTINUATION, part).open()).await;
    }
    slow.send(&Frame::new(CONTINUATION, "")).await;
    alive.send(&Frame::text(&*hi)).await;
    for client in [&mut alive, &mut slow] {
        assert!(client.text().await.contains("\"hi\""));
    }
}

#[tokio::test]
async fn sigterm_cancels_a_plain_request_and_spares_a_named_one() {
    for prompt in ["@sleep 600000", "@deaf 600000"] {
        let mut server = Server::start(&["--agent", "echo"]);
        let mut plain = server.connect("/").await;
        plain.query(prompt).await;
        server.busy().await;
        let began = Instant::now();
        server.signal(Signal::SIGTERM);
        assert_eq!(plain.next().await, Some(cancelled()), "{prompt}");
        assert_eq!(plain.close_code().await, Some(1001), "{prompt}");
        assert_eq!(server.exited().await.code(), Some(0), "{prompt}");
        assert!(began.elapsed() < Duration::from_secs(4), "{prompt}: {:?}", began.elapsed());
    }
    let mut server = Server::start(&["--agent", "echo"]);
    let mut named = server.connect("/?session=one").await;
    named.query("@sleep 1000").await;
    server.busy().await;
    server.signal(Signal::SIGTERM);
    assert_eq!(named.terminal().await["data"]["text"], "slept 1000 ms");
    assert_eq!(named.close_code().await, Some(1001));
    assert_eq!(server.exited().await.code(), Some(0));
}

/// While the server stops, an open connection gets an answer to what it asks, and no turn.
#[tokio::test]
async fn a_request_during_the_drain_is_refused() {
    let mut server = Server::start(&["--agent", "echo", "--grace", "600s"]);
    let (mut named, mut plain) = (server.connect("/?session=one").await, server.connect("/").await);
    named.query("@sleep 600000").await;
    server.busy().await;
    server.signal(Signal::SIGTERM);
    let deadline = Instant::now() + PATIENCE;
    while server.get("/health").await.status == 200 {
        assert!(Instant::now() < deadline, "not draining");
    }
    plain.query("hi").await;
    let metadata = json!({"error_name": "ServerError", "code": "draining", "retryable": true});
    assert_eq!(plain.until_terminal().await, [error("shutting down", metadata)]);
    named.send(&cancel()).await;
    assert_eq!(named.terminal().await["error"], "Request cancelled");
    assert_eq!((named.close_code().await, plain.close_code().await), (Some(1001), Some(1001)));
    assert_eq!(server.exited().await.code(), Some(0));
}

/// A client that lost its socket goes on where it was: nothing twice, nothing lost, however often.
#[tokio::test]
async fn a_lost_socket_goes_on() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/?session=s").await;
    client.query_with("@delta 700 10", json!({"extensions": ["events"]})).await;
    let (mut seen, mut last) = (Vec::new(), 0);
    for pieces in [1, 7, 500, 2] {
        for _ in 0..pieces {
            let frame = client.next().await.unwrap();
            last = frame["seq"].as_u64().unwrap_or(last);
            seen.push(frame);
        }
        drop(client);
        client = server.connect(&format!("/?session=s&after={last}&extensions=events")).await;
    }
    seen.extend(client.until_terminal().await);
    let deltas: Vec<&Value> = seen.iter().filter(|frame| frame["event"]["type"] == "text_delta").collect();
    assert_eq!(deltas.len(), 700);
    let numbers: Vec<u64> = seen.iter().filter_map(|frame| frame["seq"].as_u64()).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
    assert_eq!(seen.last().unwrap()["message_type"], "result_message");

    // Everything was taken: there is nothing to go on with, and the next request works.
    let after = numbers.last().unwrap();
    let mut client = server.connect(&format!("/?session=s&after={after}")).await;
    client.query("next").await;
    assert_eq!(client.until_terminal().await.last().unwrap()["data"]["text"], "next");
    // The end was missed: it is told again.
    let mut client = server.connect(&format!("/?session=s&after={after}")).await;
    assert_eq!(client.until_terminal().await.last().unwrap()["data"]["text"], "next");
    for (path, text) in
        [("/?after=3", "after: only a session with a name"), ("/?session=s&after=x", "after: expected the seq")]
    {
        let answer =
            server.request(reqwest::Method::GET, path).header("connection", "upgrade").header("upgrade", "websocket");
        let answer =
            answer.header("sec-websocket-version", "13").header("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==");
        let answer = crate::support::read(answer).await;
        assert_eq!(answer.status, 400);
        assert!(answer.json()["error"].as_str().unwrap().starts_with(text), "{}", answer.body);
    }
}

/// What is said in several frames has its number on the last: a socket that is lost between them loses none.
#[tokio::test]
async fn frames_of_one_entry_are_not_parted() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/?session=s").await;
    client.query_with("@text told", json!({"extensions": ["events"]})).await;
    let frames = client.until_terminal().await;
    let kinds = |frames: &[Value]| -> Vec<(String, Option<u64>)> {
        let kind = |frame: &Value| frame["message_type"].as_str().unwrap().trim_end_matches("_message").to_owned();
        frames.iter().map(|frame| (kind(frame), frame["seq"].as_u64())).collect()
    };
    let pair = [("assistant".to_owned(), None), ("event".to_owned(), Some(2)), ("result".to_owned(), Some(3))];
    assert_eq!(kinds(&frames), pair);
    // Lost behind the first of them: both come again.
    let mut again = server.connect("/?session=s&after=1&extensions=events").await;
    assert_eq!(kinds(&again.until_terminal().await), pair);

    let command = json!({"command": "head -c 300000 /dev/zero | tr '\\0' x"});
    let message = json!({"message_type": "command_execution_message", "commands": [command], "max_frame_bytes": 65536});
    client.send(&message).await;
    let frames = client.until_terminal().await;
    let (mut whole, mut last) = (0, 0);
    for frame in &frames[..frames.len() - 1] {
        whole += frame["text"].as_str().unwrap().len();
        if let Some(seq) = frame["seq"].as_u64() {
            assert!(seq > last, "{last}, then {seq}");
            last = seq;
        }
    }
    assert_eq!(whole, 300_000);
    assert!(last > 0 && frames[frames.len() - 2]["seq"].is_u64());
}

/// What is no longer kept is told to a client that went on too late.
#[tokio::test]
async fn a_lost_socket_comes_back_too_late() {
    let server = Server::start(&["--agent", "echo"]);
    let mut client = server.connect("/?session=s").await;
    client.query("@delta 5000 1000").await;
    client.until_terminal().await;
    let mut client = server.connect("/?session=s&after=3&extensions=notices").await;
    let frames = client.until_terminal().await;
    let notice = &frames[0];
    assert_eq!((&notice["message_type"], &notice["level"]), (&json!("notice_message"), &json!("warning")));
    assert!(notice["text"].as_str().unwrap().starts_with("the entries 4 to "), "{notice}");
    assert_eq!(frames.last().unwrap()["message_type"], "result_message");
}
