//! The loop of a turn: ask, listen until the program says that it is done, and ask again where the answer does not fit.
//!
//! Owns what a turn takes in all, and how it ends.

use super::items::{Items, Voice};
use super::server::{Heard, Server};
use super::thread::{Stop, Thread};
use super::wishes::Wishes;
use super::{Codex, ending, raw};
use crate::handler::agent_error::{AgentError, Category};
use crate::handler::schema::Schema;
use crate::handler::{Cancel, Failure, Reply, Sink, Turn};
use crate::json;
use crate::model::{Answer, Attachment, Event, Usage};
use crate::redact::Redactor;
use crate::telemetry::traces::TurnTrace;
use crate::wire::codex as wire;
use crate::wire::codex::Input;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How long a turn that is to stop may take until its process is killed; less than a cancelled handler has.
const STOPPING: Duration = Duration::from_millis(1500);

/// How long the replies to what the user said last are waited for when the turn has ended.
const LAST_REPLIES: Duration = Duration::from_secs(1);

/// Runs one turn to its end.
pub async fn run(agent: &Codex, turn: &Turn, sink: &Sink, cancel: &Cancel) -> Result<Reply, Failure> {
    let failed = |error: AgentError| Failure::from(error.into_fault());
    TurnTrace::here().model("openai", turn.request.model.as_deref().or(agent.options.model.as_deref()));
    let schema = Schema::of(turn.request.output_format.as_ref()).map_err(failed)?;
    let wishes = Wishes::of(turn).map_err(failed)?;
    let origin = agent.origin(turn).map_err(failed)?;
    let redactor = Redactor::new(&origin.key);
    let schema = schema.as_ref();
    let voice = &Voice::new(sink);
    let mut is_lost_before = false;
    loop {
        let (error, about) = match Thread::open(agent, turn, &wishes, &origin, sink, cancel).await {
            Ok(thread) => {
                let (server, redactor) = (thread.server(), &redactor);
                let later = Vec::new();
                let (total, has_begun) = (Total::default(), false);
                let mut running =
                    Running { agent, turn, voice, cancel, schema, redactor, server, thread, total, has_begun, later };
                let ended = running.run().await;
                if running.total.usage != Usage::default() {
                    voice.say(Event::Usage(running.total.usage)).await;
                }
                match ended {
                    Ok(answer) => return Ok(running.reply(answer)),
                    Err(stop) => {
                        let about = running.metadata();
                        running.thread.failed();
                        (stop, about)
                    }
                }
            }
            Err(stop) => (stop, Map::new()),
        };
        match error {
            Stop::Cancelled => return Err(Failure::cancelled()),
            // As when it was killed while nobody looked; once, lest a sick program be started for ever.
            Stop::Lost(_) if !is_lost_before => is_lost_before = true,
            Stop::Lost(error) | Stop::Failed(error) => {
                return Err(failed(redacted(&redactor, error).with_all(about)));
            }
        }
    }
}

/// Services like to repeat the key that they do not like.
fn redacted(redactor: &Redactor, error: AgentError) -> AgentError {
    AgentError { message: redactor.text(&error.message).into_owned(), ..error }
}

struct Running<'a> {
    agent: &'a Codex,
    turn: &'a Turn,
    voice: &'a Voice<'a>,
    cancel: &'a Cancel,
    schema: Option<&'a Schema>,
    redactor: &'a Redactor,
    server: Arc<Server>,
    thread: Thread,
    total: Total,
    has_begun: bool,
    /// What the user said too late for the round that ran.
    later: Vec<String>,
}

/// One turn in the program's sense. Ours has several where an answer is repaired, or the user had more to say.
struct Round<'a> {
    /// Its id, once that is known.
    id: Option<String>,
    start: u64,
    items: Items<'a>,
    /// Since when calls of the model fail, and with what.
    retrying: Option<(Instant, wire::TurnError)>,
    /// Texts on their way into the turn, by the id of the request.
    steers: HashMap<u64, String>,
}

/// What became of something that was heard.
enum Next {
    More,
    Ended(wire::TurnBody),
    /// The round was not begun at all.
    Refused(wire::ErrorBody),
}

impl<'a> Running<'a> {
    async fn run(&mut self) -> Result<Answer, Stop> {
        let mut input = self.first_input();
        let mut is_repaired = false;
        loop {
            let text = self.round(&input).await?;
            let mut later = std::mem::take(&mut self.later);
            later.extend(std::iter::from_fn(|| self.turn.inputs.try_next()));
            if !later.is_empty() {
                input = later.into_iter().map(|text| Input::Text { text: text.into() }).collect();
                continue;
            }
            let Some(text) = text else {
                let text = "the model gave no answer: it refused, or had nothing to say";
                return Err(AgentError::new(Category::InvalidRequest, text).into());
            };
            let Some(schema) = self.schema else { return Ok(Answer::Text(text)) };
            let wrong = match schema.check(&text) {
                Ok(value) => return Ok(Answer::Structured(value)),
                Err(wrong) => wrong,
            };
            if is_repaired {
                return Err(Schema::misfit(&wrong, text).into());
            }
            is_repaired = true;
            input = vec![Input::Text { text: Schema::again(&wrong).into() }];
        }
    }

    /// What the user says. A schema that the service would not hold the model to is told to the model.
    fn first_input(&self) -> Vec<Input<'a>> {
        let mut input = vec![Input::Text { text: self.turn.told_prompt() }];
        if let Some(schema) = self.schema.filter(|schema| !schema.is_strict()) {
            let text = "Answer with one JSON object that fits this JSON Schema, and with nothing else:";
            input.push(Input::Text { text: format!("{text}\n{}", schema.raw()).into() });
        }
        input.extend(
            self.turn.request.attachments.iter().filter_map(Attachment::image_url).map(|url| Input::Image { url }),
        );
        input
    }

    /// One round; its answer, if it has one.
    async fn round(&mut self, input: &[Input<'_>]) -> Result<Option<String>, Stop> {
        let schema = self.schema.filter(|schema| schema.is_strict());
        let start = raw(&wire::StartTurn {
            thread_id: &self.thread.id,
            input,
            model: self.turn.request.model.as_deref().or(self.agent.options.model.as_deref()),
            effort: self.agent.options.effort.as_deref(),
            output_schema: schema.map(Schema::raw),
        });
        let start = self.server.ask("turn/start", &start, &self.thread.inbox.to);
        self.thread.is_busy = true;
        let items = Items::new(self.voice);
        let mut round = Round { id: None, start, items, retrying: None, steers: HashMap::new() };
        let body = match self.listen(&mut round).await {
            Ok(body) => body,
            Err(stop) => {
                round.items.close().await;
                return Err(stop);
            }
        };
        self.thread.is_busy = false;
        round.items.close().await;
        self.last_replies(&mut round).await;
        match body.status.as_str() {
            "completed" => Ok(round.items.answer),
            "interrupted" => {
                let error = AgentError::new(Category::Cancelled, "codex ended the turn before it was done");
                Err(error.with("by", "agent").into())
            }
            _ => Err(ending::error(&body.error.unwrap_or_default(), self.schema.is_some()).into()),
        }
    }

    /// Listens until the round has ended, by itself or because it has to.
    async fn listen(&mut self, round: &mut Round<'a>) -> Result<wire::TurnBody, Stop> {
        let cancel = self.cancel;
        loop {
            let limit = self.agent.options.retry_limit;
            let deadline = round.retrying.as_ref().map(|(since, _)| *since + limit);
            tokio::select! {
                biased;
                () = cancel.fired() => {
                    self.halt(round).await;
                    return Err(Stop::Cancelled);
                }
                heard = self.thread.inbox.from.recv() => {
                    let next = tokio::select! {
                        // In this order: an end is never lost, only the waiting for room.
                        biased;
                        next = self.take(round, heard) => next,
                        () = cancel.fired() => Next::More,
                    };
                    match next {
                        Next::More => {}
                        Next::Ended(body) => return Ok(body),
                        Next::Refused(error) => {
                            self.thread.is_busy = false;
                            return Err(AgentError::new(Category::InvalidRequest, error.message).into());
                        }
                    }
                }
                exit = self.server.ended() => {
                    self.thread.is_busy = false;
                    let error = self.server.crashed(&exit);
                    return Err(if self.has_begun { Stop::Failed(error) } else { Stop::Lost(error) });
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.halt(round).await;
                    let error = round.retrying.take().map(|(_, error)| error).unwrap_or_default();
                    let error = ending::error(&error, false);
                    let message = format!("the model was called again and again for {limit:?}: {}", error.message);
                    return Err(AgentError::new(Category::Timeout, message).with_all(error.metadata).into());
                }
                text = self.turn.inputs.next(), if round.id.is_some() => self.steer(round, text),
            }
        }
    }

    /// Stops the round, and all that it runs. A process that does not stop it in time is killed.
    async fn halt(&mut self, round: &mut Round<'a>) {
        self.voice.hurry();
        let deadline = Instant::now() + STOPPING;
        let mut is_asked = false;
        loop {
            if let Some(id) = round.id.as_deref().filter(|_| !is_asked) {
                self.server.tell("turn/interrupt", &wire::Interrupt { thread_id: &self.thread.id, turn_id: id });
                is_asked = true;
            }
            tokio::select! {
                biased;
                heard = self.thread.inbox.from.recv() => match self.take(round, heard).await {
                    Next::More => {}
                    Next::Ended(_) | Next::Refused(_) => break,
                },
                _ = self.server.ended() => break,
                () = sleep_until(deadline) => {
                    tracing::warn!(target: "handler", "codex did not stop a turn within {STOPPING:?}; it is killed");
                    self.server.kill();
                    self.server.gone().await;
                    break;
                }
            }
        }
        self.thread.is_busy = false;
        self.server.end_commands(&self.thread.id).await;
    }

    fn steer(&self, round: &mut Round<'_>, text: String) {
        let Some(turn) = &round.id else { return };
        let input = [Input::Text { text: text.as_str().into() }];
        let steer = wire::Steer { thread_id: &self.thread.id, expected_turn_id: turn, input: &input };
        let id = self.server.ask("turn/steer", &steer, &self.thread.inbox.to);
        round.steers.insert(id, text);
    }

    /// A text that came too late for the round is not lost: it makes another one.
    async fn last_replies(&mut self, round: &mut Round<'a>) {
        let deadline = Instant::now() + LAST_REPLIES;
        while !round.steers.is_empty() {
            tokio::select! {
                biased;
                heard = self.thread.inbox.from.recv() => drop(self.take(round, heard).await),
                _ = self.server.ended() => return,
                () = sleep_until(deadline) => return,
            }
        }
    }

    async fn take(&mut self, round: &mut Round<'a>, heard: Option<Heard>) -> Next {
        match heard {
            Some(Heard::Reply { id, result }) if id == round.start => match result {
                Ok(reply) => {
                    if let Ok(reply) = serde_json::from_str::<wire::TurnReply>(reply.get()) {
                        self.began(round, reply.turn.id).await;
                    }
                    Next::More
                }
                Err(error) => Next::Refused(error),
            },
            Some(Heard::Reply { id, result }) => {
                match (round.steers.remove(&id), result) {
                    (Some(_), Ok(_)) => {
                        self.voice.say(Event::Progress { kind: "heard".to_owned(), detail: None }).await;
                    }
                    (Some(text), Err(_)) => self.later.push(text),
                    (None, _) => {}
                }
                Next::More
            }
            Some(Heard::Notice { method, params }) => self.told(round, &method, &params).await,
            Some(Heard::Stderr(text)) => {
                for line in text.lines().filter(|line| !line.trim().is_empty() && self.turn.has_own_environment()) {
                    self.voice.progress("stderr", &json!({"text": line})).await;
                }
                Next::More
            }
            None => Next::More,
        }
    }

    async fn began(&mut self, round: &mut Round<'_>, id: String) {
        round.id.get_or_insert(id);
        self.turn.inputs.listen();
        if !std::mem::replace(&mut self.has_begun, true) {
            let model = self.turn.request.model.as_ref().or(self.agent.options.model.as_ref());
            self.voice.progress("started", &json!({"model": model})).await;
            if self.turn.has_own_environment() {
                self.voice.progress("session", &json!({"thread_id": self.thread.id, "model": model})).await;
            }
        }
    }

    async fn told(&mut self, round: &mut Round<'a>, method: &str, params: &RawValue) -> Next {
        let Ok(told) = serde_json::from_str::<wire::Told<'_>>(params.get()) else { return Next::More };
        if matches!(method, "turn/started" | "turn/completed") {
            let body = told.turn.and_then(|turn| serde_json::from_str::<wire::TurnBody>(turn.get()).ok());
            return match body {
                Some(body) if method == "turn/started" => {
                    self.began(round, body.id).await;
                    Next::More
                }
                Some(body) if round.id.as_ref().is_none_or(|id| *id == body.id) => Next::Ended(body),
                _ => Next::More,
            };
        }
        // A command that an earlier turn has left running may end in this one.
        if told.turn_id.as_deref().is_some_and(|turn| round.id.as_deref() != Some(turn)) {
            return Next::More;
        }
        self.voice.alive();
        let item = |raw: Option<&RawValue>| raw.and_then(|raw| serde_json::from_str::<wire::Item>(raw.get()).ok());
        match (method, &told.item_id, &told.delta) {
            ("error", ..) => self.retries(round, &told).await,
            ("item/agentMessage/delta", Some(id), Some(text)) => {
                round.retrying = None;
                round.items.text(id, text).await;
            }
            ("item/commandExecution/outputDelta", Some(id), Some(text)) => round.items.output(id, text).await,
            ("item/mcpToolCall/progress", Some(id), None) => {
                round.items.output(id, told.message.as_deref().unwrap_or_default()).await;
            }
            ("item/started", ..) => {
                if let Some(item) = item(told.item) {
                    round.items.started(&item).await;
                }
            }
            ("item/completed", ..) => {
                if let Some(item) = item(told.item) {
                    if !Items::knows(&item) && self.turn.has_own_environment() {
                        self.voice.progress("agent_raw", &json!({"raw": {"method": method, "params": params}})).await;
                    }
                    round.retrying = round.retrying.take().filter(|_| item.r#type == "userMessage");
                    round.items.completed(item).await;
                }
            }
            ("thread/tokenUsage/updated", ..) => {
                let usage = told.token_usage.and_then(|raw| serde_json::from_str::<wire::TokenUsage>(raw.get()).ok());
                if let Some(usage) = usage {
                    self.total.add(&usage.last);
                }
            }
            ("warning" | "guardianWarning" | "deprecationNotice" | "configWarning", ..) => {
                let text = told.message.as_deref().unwrap_or_default();
                // It says so of every model that the program does not know by name, turn after turn.
                if !text.is_empty() && !text.starts_with("Model metadata for ") {
                    self.voice.progress("warning", &json!({"message": text})).await;
                }
            }
            _ if is_told_otherwise(method) || !self.turn.has_own_environment() => {}
            _ => {
                let raw = json!({"raw": {"method": method, "params": params}});
                self.voice.progress("agent_raw", &raw).await;
            }
        }
        Next::More
    }

    /// A call of the model failed. One that is not tried again is told with the end of the turn.
    async fn retries(&self, round: &mut Round<'a>, told: &wire::Told<'_>) {
        let error = told.error.and_then(|raw| serde_json::from_str::<wire::TurnError>(raw.get()).ok());
        let Some(error) = error.filter(|_| told.will_retry) else { return };
        round.items.discard_messages().await;
        let details = ending::plain(error.additional_details.as_deref().unwrap_or(&error.message));
        let (_, status) = ending::named(&error);
        self.voice.progress("retry", &json!({"message": self.redactor.text(&details), "status": status})).await;
        let since = round.retrying.take().map_or_else(Instant::now, |(since, _)| since);
        round.retrying = Some((since, error));
    }

    fn metadata(&self) -> Map<String, Value> {
        let usage = json!({
            "inputTokens": self.total.usage.input_tokens,
            "outputTokens": self.total.usage.output_tokens,
            "totalTokens": self.total.usage.input_tokens + self.total.usage.output_tokens,
        });
        Map::from_iter([("usage".to_owned(), usage), ("thread_id".to_owned(), self.thread.id.as_str().into())])
    }

    fn reply(self, answer: Answer) -> Reply {
        let metadata = Some(json::from_raw(&raw(&self.metadata())));
        Reply { answer, state: self.thread.answered(), metadata }
    }
}

/// Notices that say nothing of their own: pieces of what comes whole, and how the program stands.
fn is_told_otherwise(method: &str) -> bool {
    let known = [
        "error",
        "item/started",
        "item/completed",
        "item/agentMessage/delta",
        "item/commandExecution/outputDelta",
        "item/mcpToolCall/progress",
        "item/fileChange/outputDelta",
        "item/fileChange/patchUpdated",
        "thread/tokenUsage/updated",
        "thread/started",
        "thread/status/changed",
        "thread/settings/updated",
        "rawResponseItem/completed",
        "mcpServer/startupStatus/updated",
        "serverRequest/resolved",
        "warning",
        "guardianWarning",
        "deprecationNotice",
        "configWarning",
    ];
    known.contains(&method) || method.starts_with("item/reasoning/")
}

/// What the calls of a turn took.
#[derive(Default)]
struct Total {
    usage: Usage,
}

impl Total {
    fn add(&mut self, last: &wire::Tokens) {
        self.usage.input_tokens += last.input_tokens;
        self.usage.output_tokens += last.output_tokens;
        self.usage.cached_tokens += last.cached_input_tokens;
        self.usage.reasoning_tokens += last.reasoning_output_tokens;
    }
}
