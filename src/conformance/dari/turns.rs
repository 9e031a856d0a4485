//! Checks of turns: the first, those that follow it, repeats, and several at a time.

use super::talk::{Host, Spoken};
use super::{
    ANSWER_SHAPE, FIRST_TURN, HEALTH_BUSY, INPUTS, NO_INPUT, ORDER, RETRY, RETRY_IN_FLIGHT, SESSIONS, STATE_ABSENT,
    STATE_CARRIED, Stage,
};
use futures_util::future::join_all;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// What the user says in most turns. The same each time: a state that differs then differs for another reason.
const TEXT: &str = "Say hello in one short sentence.";

/// A health check that takes longer waits for a turn.
const NOT_WAITING: Duration = Duration::from_secs(1);

/// Turns that run while the health is asked for.
const BUSY_TURNS: usize = 4;

/// Whether the others can be made.
pub(super) async fn first(stage: &mut Stage<'_>) -> bool {
    let host = stage.host;
    let mut first = None;
    let work = async {
        let began = Instant::now();
        first = Some(host.turn(host.body("a", "1", TEXT, None)).await?);
        Ok(format!("after {} ms", began.elapsed().as_millis()))
    };
    if !stage.check(&FIRST_TURN, work).await {
        return false;
    }
    let Some(first) = first else { return false };
    stage.check(&ANSWER_SHAPE, async { shape(&first) }).await;
    let Some(left) = kept(&first) else {
        stage.report.skip(&STATE_CARRIED, "the first turn left no state, so there is nothing to go on from");
        return true;
    };
    let mut works = None;
    let work = async {
        let second = host.turn(host.body("a", "2", TEXT, Some(&left))).await?;
        works = Some(());
        shape(&second)?;
        let Some(after) = &second.state else { return Ok("the second turn keeps it".to_owned()) };
        // A server that cannot start anew cannot be compared, but that is another check's.
        let other = host.turn(host.body("b", "1", TEXT, None)).await?;
        carried(&left, kept(&other).as_deref().unwrap_or("null"), after)
    };
    stage.check(&STATE_CARRIED, work).await;
    works.is_some()
}

pub(super) async fn further(stage: &mut Stage<'_>) {
    let host = stage.host;
    let work = async {
        let body = host.body("absent", "1", TEXT, None).replace(r#","state":null"#, "");
        shape(&host.turn(body).await?)
    };
    stage.check(&STATE_ABSENT, work).await;
    stage.check(&RETRY, retry(host)).await;
    stage.check(&RETRY_IN_FLIGHT, retry_in_flight(host)).await;
    let work = async {
        let bodies = ["c", "d"].map(|session| host.body(session, "1", TEXT, None));
        all_answered(host, bodies.into()).await
    };
    stage.check(&SESSIONS, work).await;
    let work = async {
        let bodies = ["1", "2", "3"].map(|message| host.body("order", message, TEXT, None));
        all_answered(host, bodies.into()).await
    };
    stage.check(&ORDER, work).await;
    stage.check(&INPUTS, inputs(host)).await;
    let work = async {
        let body = format!(r#"{{"session_id":"check-{}-empty","state":null}}"#, host.run);
        let answer = host.post(body).await?;
        if answer.status < 500 { Ok(answer.status.to_string()) } else { Err(answer.shown()) }
    };
    stage.check(&NO_INPUT, work).await;
    stage.check(&HEALTH_BUSY, health_while_busy(host)).await;
}

fn shape(spoken: &Spoken) -> Result<String, String> {
    if spoken.wrong.is_empty() { Ok(String::new()) } else { Err(spoken.wrong.join("; ")) }
}

fn kept(spoken: &Spoken) -> Option<String> {
    spoken.state.clone().filter(|state| state != "null")
}

async fn retry(host: &Host<'_>) -> Result<String, String> {
    let body = host.body("retry", "1", TEXT, None);
    let first = host.turn(body.clone()).await?.answer;
    let again = host.turn(body).await?.answer;
    same(&first.body, &again.body)
}

async fn retry_in_flight(host: &Host<'_>) -> Result<String, String> {
    let body = host.body("flight", "1", TEXT, None);
    let (one, other) = tokio::join!(host.turn(body.clone()), host.turn(body));
    same(&one?.answer.body, &other?.answer.body)
}

fn same(first: &[u8], again: &[u8]) -> Result<String, String> {
    if first == again {
        return Ok(String::new());
    }
    let [first, again] = [first, again].map(|body| String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned());
    Err(format!("first {first}\nthen  {again}\nkeep each answer by its message id and send it again"))
}

async fn all_answered(host: &Host<'_>, bodies: Vec<String>) -> Result<String, String> {
    let mut wrong = Vec::new();
    for (n, answer) in join_all(bodies.into_iter().map(|body| host.turn(body))).await.into_iter().enumerate() {
        if let Err(seen) = answer.and_then(|spoken| shape(&spoken)) {
            wrong.push(format!("turn {}: {seen}", n + 1));
        }
    }
    if wrong.is_empty() { Ok(String::new()) } else { Err(wrong.join("; ")) }
}

/// The forms that the platform's public interfaces have for what a user says.
async fn inputs(host: &Host<'_>) -> Result<String, String> {
    let forms = [
        ("a string", r#""TEXT""#),
        ("a text block", r#"{"type":"text","text":"TEXT"}"#),
        ("an object with `content`", r#"{"content":[{"type":"text","text":"TEXT"}]}"#),
        ("an object with `parts`", r#"{"parts":[{"type":"text","text":"TEXT"}]}"#),
        ("an event", r#"{"type":"user.message","content":[{"type":"text","text":"TEXT"}],"metadata":{}}"#),
        ("a list of messages", r#"{"messages":[{"role":"user","content":"TEXT"}]}"#),
        ("a list of blocks", r#"[{"type":"text","text":"TEXT"}]"#),
    ];
    let mut wrong = Vec::new();
    for (n, (name, input)) in forms.iter().enumerate() {
        let (input, run) = (input.replace("TEXT", TEXT), &host.run);
        let body = format!(
            r#"{{"input":{input},"session_id":"check-{run}-form{n}","message_id":"{run}-form{n}","state":null}}"#
        );
        if let Err(seen) = host.turn(body).await.and_then(|spoken| shape(&spoken)) {
            wrong.push(format!("{name}: {seen}"));
        }
    }
    if wrong.is_empty() { Ok(format!("{} forms", forms.len())) } else { Err(wrong.join("\n")) }
}

/// Asked again and again until the turns have ended.
async fn health_while_busy(host: &Host<'_>) -> Result<String, String> {
    let turns = join_all((0..BUSY_TURNS).map(|n| host.turn(host.body(&format!("busy{n}"), "1", TEXT, None))));
    let mut slowest = Duration::ZERO;
    let mut count = 0;
    let polls = async {
        loop {
            let (answer, took) = host.health().await?;
            count += 1;
            slowest = slowest.max(took);
            if answer.status != 200 {
                return Err::<(), _>(answer.shown());
            }
            if slowest > NOT_WAITING {
                let seen = format!("{} ms while {BUSY_TURNS} turns ran", slowest.as_millis());
                return Err(format!("{seen}; a turn must not block the server"));
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        // A poll that waits for a turn comes back with it, and counts.
        biased;
        polled = polls => polled.map(|()| String::new()),
        answers = async {
            let answers = turns.await;
            sleep(Duration::from_millis(50)).await;
            answers
        } => match answers.into_iter().find_map(Result::err) {
            Some(seen) => Err(seen),
            None => Ok(format!("{count} times, {} ms at most", slowest.as_millis())),
        },
    }
}

/// Whether the state after the second turn comes from the one after the first. `other` is that of a first turn in another
/// session with the same input: what is the same in both is what every first turn leaves.
fn carried(first: &str, other: &str, second: &str) -> Result<String, String> {
    let [first_leaves, other_leaves, second_leaves] = [first, other, second].map(leaves);
    let usual: BTreeMap<_, _> =
        first_leaves.iter().filter(|(path, leaf)| other_leaves.get(*path) == Some(leaf)).collect();
    let own: Vec<_> = first_leaves.iter().filter(|(path, _)| !usual.contains_key(path)).collect();
    let goes_on = usual.iter().any(|(path, leaf)| second_leaves.get(*path) != Some(leaf))
        || second_leaves.keys().any(|path| !first_leaves.contains_key(path));
    let keeps = own.iter().any(|(path, leaf)| second_leaves.get(*path) == Some(leaf));
    if goes_on || keeps {
        return Ok(String::new());
    }
    let short = |state: &str| state[..state.floor_char_boundary(160)].to_owned();
    Err(format!(
        "a first turn left {}, and a second that was given it left {}, as a first would: read `state` of the request",
        short(first),
        short(second)
    ))
}

/// Every single value in a state, by its path.
fn leaves(state: &str) -> BTreeMap<String, String> {
    fn walk(path: String, value: &Value, into: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                fields.iter().for_each(|(key, value)| walk(format!("{path}.{key}"), value, into));
            }
            Value::Array(items) if !items.is_empty() => {
                items.iter().enumerate().for_each(|(n, value)| walk(format!("{path}[{n}]"), value, into));
            }
            leaf => {
                into.insert(path, leaf.to_string());
            }
        }
    }
    let mut into = BTreeMap::new();
    walk(String::new(), &serde_json::from_str(state).unwrap_or_default(), &mut into);
    into
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_goes_on_is_told_from_one_that_does_not() {
        let goes_on = [
            // A counter.
            (r#"{"turns":1}"#, r#"{"turns":1}"#, r#"{"turns":2}"#),
            // A number alone, a growing list, a key that comes.
            ("1", "1", "2"),
            (r#"["a"]"#, r#"["a"]"#, r#"["a","a"]"#),
            (r#"{"v":1}"#, r#"{"v":1}"#, r#"{"v":1,"last":"a"}"#),
            // The name of a thread, with and without a counter; a time beside a counter.
            (r#"{"thread":"x"}"#, r#"{"thread":"y"}"#, r#"{"thread":"x"}"#),
            (r#"{"at":5,"turns":1}"#, r#"{"at":6,"turns":1}"#, r#"{"at":7,"turns":2}"#),
        ];
        for (first, other, second) in goes_on {
            assert_eq!(carried(first, other, second), Ok(String::new()), "{first} {other} {second}");
        }
        let lost = [
            (r#"{"turns":1}"#, r#"{"turns":1}"#, r#"{"turns":1}"#),
            (r#"{"thread":"x"}"#, r#"{"thread":"y"}"#, r#"{"thread":"z"}"#),
            (r#"{"at":5,"turns":1}"#, r#"{"at":6,"turns":1}"#, r#"{"at":7,"turns":1}"#),
        ];
        for (first, other, second) in lost {
            let seen = carried(first, other, second).unwrap_err();
            assert!(seen.contains(first) && seen.contains(second), "{seen}");
        }
    }
}
