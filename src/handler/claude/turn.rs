//! One turn: a process is taken, told what is asked, listened to until it ends, and kept or left.
//!
//! Owns which line ends which turn, steering, and stopping.

use super::live::{Gone, Heard, Live};
use super::pool::Pool;
use super::saying::{self, Saying, Sign};
use super::{Begin, ending, is_for_the_start, may_have_key};
use crate::handler::agent_error::{AgentError, Category};
use crate::handler::schema::Schema;
use crate::handler::{Cancel, Failure, Reply, Sink, Turn};
use crate::json;
use crate::model::{Answer, Event, Fault, Lifetime, RawJson, StateChange};
use crate::process::Line;
use crate::telemetry::Whose;
use crate::telemetry::traces::TurnTrace;
use crate::wire::claude::{
    Control, ControlAnswer, FlagSettings, Lifecycle, LineHead, RequestOptions, ResultLine, State, ToCli, UserMessage,
};
use futures_util::FutureExt;
use serde_json::json;
use serde_json::value::to_raw_value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How long a process may take to stop a turn when it is asked to. Its answer usually comes within 50 ms.
const INTERRUPT_WITHIN: Duration = Duration::from_millis(1200);
/// How long it may take to end when it is told to.
const END_WITHIN: Duration = Duration::from_millis(300);

/// Runs one turn to its end.
pub async fn run(pool: &Arc<Pool>, turn: &Turn, sink: &Sink, cancel: &Cancel) -> Result<Reply, Failure> {
    let failed = |error: AgentError| Failure::from(error.into_fault());
    TurnTrace::here().model("anthropic", turn.request.model.as_deref().or(pool.options.model.as_deref()));
    let schema = Schema::of(turn.request.output_format.as_ref()).map_err(failed)?;
    // Where a turn has an environment of its own the program is one that its user has logged in, or not.
    if !turn.has_own_environment() && !may_have_key(&pool.options, turn) {
        return Err(failed(AgentError::no_key(ending::KEY)));
    }
    let state = turn.state.as_ref().and_then(|state| serde_json::from_str::<State>(state.as_str()).ok());
    let mut state = state.filter(|state| state.v == 1);
    loop {
        let begin = begin(turn, schema.as_ref(), state.as_ref()).map_err(failed)?;
        let (mut cli, is_kept) = tokio::select! {
            biased;
            () = cancel.fired() => return Err(Failure::cancelled()),
            taken = take(pool, turn, begin) => taken.map_err(failed)?,
        };
        cli.serving.set(Whose::here());
        let mut talk = Talk::new(pool, turn, sink, schema.as_ref(), state.as_ref());
        let ended = tokio::select! {
            biased;
            () = cancel.fired() => None,
            ended = talk.run(&mut cli) => Some(ended),
        };
        let Some(ended) = ended else {
            talk.stop(cli).await;
            return Err(Failure::cancelled());
        };
        talk.saying.close(sink).await;
        match ended {
            Ended::Unknown => {
                let text = "the conversation that the state names is gone: a new one is begun".to_owned();
                let _ = sink.say(Event::Warning { text, field: Some("state".to_owned()) }).await;
                state = None;
            }
            // One that was killed while it waited: another goes on where it was.
            Ended::Crashed(_) if is_kept && !talk.saying.has_begun => {}
            Ended::Crashed(fault) => return Err(fault.into()),
            Ended::Well(reply) => {
                leave(pool, turn, cli);
                return Ok(reply);
            }
            Ended::Failed(error) => {
                leave(pool, turn, cli);
                return Err(failed(error));
            }
        }
    }
}

/// Starts the process of a session ahead of its first turn: its process id.
pub async fn prepare(pool: &Arc<Pool>, turn: &Turn) -> Option<u32> {
    let state = turn.state.as_ref().and_then(|state| serde_json::from_str::<State>(state.as_str()).ok());
    let begin = begin(turn, None, state.as_ref()).ok()?;
    let live = pool.fresh(begin).await.ok()?;
    let pid = live.pid().await;
    pool.keep(&turn.session, live);
    pid
}

/// Keeps the process for the next turn, where there can be one.
fn leave(pool: &Arc<Pool>, turn: &Turn, cli: Live) {
    if turn.request.lifetime == Lifetime::Named {
        pool.keep(&turn.session, cli);
    } else {
        pool.finish(cli);
    }
    replenish(pool, turn);
}

/// Starts another process ahead of need, where turns like this one can take it.
fn replenish(pool: &Pool, turn: &Turn) {
    if !turn.has_own_environment() {
        pool.replenish();
    }
}

/// What the turn's process has to be begun with.
fn begin(turn: &Turn, schema: Option<&Schema>, state: Option<&State>) -> Result<Begin, AgentError> {
    #[derive(Default, serde::Deserialize)]
    struct Metadata {
        #[serde(default)]
        claude: Option<RequestOptions>,
    }
    let metadata = turn.request.metadata.as_ref().map(|metadata| serde_json::from_str::<Metadata>(metadata.as_str()));
    let metadata = metadata
        .transpose()
        .map_err(|error| AgentError::new(Category::InvalidRequest, format!("metadata.claude: {error}")))?;
    let is_own = turn.has_own_environment();
    let env = turn.request.env.iter().flatten().filter(|(name, _)| is_own || is_for_the_start(name));
    Ok(Begin {
        resume: state.map(|state| state.claude_session_id.clone()),
        system_prompt: turn.request.system_prompt.clone(),
        schema: schema.map(|schema| schema.raw().get().to_owned()),
        options: metadata.and_then(|metadata| metadata.claude).unwrap_or_default(),
        environment: env.map(|(name, value)| (name.clone(), value.expose().into())).collect(),
        is_own_environment: is_own,
        cwd: turn.request.cwd.clone(),
    })
}

/// The session's own process if it can go on, and whether it is that, else another.
async fn take(pool: &Pool, turn: &Turn, begin: Begin) -> Result<(Live, bool), AgentError> {
    let names: BTreeSet<&str> = turn.request.env.iter().flatten().map(|(name, _)| name.as_str()).collect();
    let model = turn.request.model.as_ref().or(pool.options.model.as_ref());
    let kept = pool.kept(&turn.session, |cli| {
        let goes_on = begin.resume.is_some() && cli.session == begin.resume;
        // One that was started ahead for this session.
        let is_prepared = !cli.is_initialized && cli.begin.resume == begin.resume;
        (goes_on || is_prepared)
            && (Begin { resume: None, ..cli.begin.clone() }) == (Begin { resume: None, ..begin.clone() })
            // Neither a variable nor a model can be taken back.
            && cli.variables.iter().all(|name| names.contains(name.as_str()))
            && (model.is_some() || cli.model.is_none())
    });
    match kept {
        Some(cli) => Ok((cli, true)),
        None => Ok((pool.fresh(begin).await?, false)),
    }
}

enum Ended {
    Well(Reply),
    Failed(AgentError),
    Crashed(Fault),
    /// The conversation that it was to go on with is not there.
    Unknown,
}

struct Talk<'a> {
    pool: &'a Arc<Pool>,
    turn: &'a Turn,
    sink: &'a Sink,
    schema: Option<&'a Schema>,
    state: Option<&'a State>,
    saying: Saying,
    /// The user's messages that no end has named yet.
    unanswered: BTreeSet<String>,
    /// Those that the user said meanwhile and the program has not noted yet.
    steers: BTreeSet<String>,
    repaired: bool,
    bad_key: bool,
    replenished: bool,
}

impl<'a> Talk<'a> {
    fn new(
        pool: &'a Arc<Pool>,
        turn: &'a Turn,
        sink: &'a Sink,
        schema: Option<&'a Schema>,
        state: Option<&'a State>,
    ) -> Self {
        Self {
            pool,
            turn,
            sink,
            schema,
            state,
            saying: Saying::of(turn),
            unanswered: BTreeSet::new(),
            steers: BTreeSet::new(),
            repaired: false,
            bad_key: false,
            replenished: false,
        }
    }

    async fn run(&mut self, cli: &mut Live) -> Ended {
        if self.begin(cli).await.is_err() {
            return self.crashed(cli).await;
        }
        self.turn.inputs.listen();
        loop {
            let line = tokio::select! {
                biased;
                heard = cli.heard() => match heard {
                    Heard::Line(line) => line,
                    Heard::Stderr(text) => {
                        if self.turn.has_own_environment() {
                            saying::tell_lines("stderr", &text, self.sink).await;
                        }
                        continue;
                    }
                },
                text = self.turn.inputs.next() => {
                    match self.say(cli, &text).await {
                        Ok(uuid) => self.steers.insert(uuid),
                        Err(Gone) => return self.crashed(cli).await,
                    };
                    continue;
                }
            };
            let line = match line {
                None => return self.crashed(cli).await,
                Some(Line::Json(line)) => line,
                Some(Line::Log { text, .. }) => {
                    if self.turn.has_own_environment() {
                        saying::tell_lines("stdout_raw", &String::from_utf8_lossy(&text), self.sink).await;
                    }
                    continue;
                }
                Some(Line::TooLong) => {
                    let text = "a line of the agent was too long and is left out".to_owned();
                    let _ = self.sink.say(Event::Warning { text, field: None }).await;
                    continue;
                }
            };
            if let Some(ended) = self.line(cli, &line).await {
                return ended;
            }
            if self.saying.is_answering && !std::mem::replace(&mut self.replenished, true) {
                // Not before: on a small machine it would hold up this turn.
                replenish(self.pool, self.turn);
            }
        }
    }

    /// Everything the process has to know, in one go.
    async fn begin(&mut self, cli: &mut Live) -> Result<(), Gone> {
        if !std::mem::replace(&mut cli.is_initialized, true) {
            let prompt = self.turn.request.system_prompt.as_deref();
            let appends = self.pool.options.append_system_prompt;
            let own = cli.begin.options.append_system_prompt.clone();
            let request = Control::Initialize {
                system_prompt: prompt.filter(|_| !appends).map(|prompt| [prompt]),
                append_system_prompt: prompt.filter(|_| appends).or(own.as_deref()),
                json_schema: self.schema.map(Schema::raw),
            };
            cli.send(&ToCli::ControlRequest { request_id: "initialize", request }).await?;
        }
        let model = self.turn.request.model.as_deref().or(self.pool.options.model.as_deref());
        let is_own = self.turn.has_own_environment();
        let given = self.turn.request.env.iter().flatten().filter(|(name, _)| !is_own && !is_for_the_start(name));
        let env: BTreeMap<&str, &str> = given.map(|(name, value)| (name.as_str(), value.expose())).collect();
        cli.variables = env.keys().map(|name| (*name).to_owned()).collect();
        if model.is_some() || !env.is_empty() {
            cli.model = model.map(str::to_owned);
            let request = Control::ApplyFlagSettings { settings: FlagSettings { model, env } };
            cli.send(&ToCli::ControlRequest { request_id: "settings", request }).await?;
        }
        self.ask(cli).await.map(drop)
    }

    /// The turn's own prompt. Images come along; of other attachments the text tells.
    async fn ask(&mut self, cli: &mut Live) -> Result<String, Gone> {
        let images = self.turn.request.attachments.iter().filter_map(|attachment| {
            let (kind, data) = attachment.image()?;
            Some(json!({"type": "image", "source": {"type": "base64", "media_type": kind, "data": data}}))
        });
        let images: Vec<_> = images.collect();
        let turn = self.turn.clone();
        let prompt = turn.told_prompt();
        if images.is_empty() {
            return self.say(cli, &prompt).await;
        }
        let text = json!({"type": "text", "text": prompt});
        let blocks: Vec<_> = std::iter::once(text).chain(images).collect();
        self.send(cli, &blocks).await
    }

    async fn say(&mut self, cli: &mut Live, text: &str) -> Result<String, Gone> {
        self.send(cli, &text).await
    }

    async fn send(&mut self, cli: &mut Live, content: &impl serde::Serialize) -> Result<String, Gone> {
        // A message without a new name would be dropped as a repeat.
        let uuid = Uuid::new_v4().to_string();
        let content = to_raw_value(content).unwrap_or_default();
        let message = UserMessage { role: "user", content: &content };
        let line = ToCli::User { uuid: &uuid, message, parent_tool_use_id: None, session_id: "" };
        cli.send(&line).await?;
        self.unanswered.insert(uuid.clone());
        Ok(uuid)
    }

    async fn line(&mut self, cli: &mut Live, line: &[u8]) -> Option<Ended> {
        let head: LineHead = serde_json::from_slice(line).unwrap_or_default();
        match head.r#type.as_str() {
            "control_request" => {
                // The turn waits for an answer, whatever was asked.
                let request_id = head.request_id.as_deref().unwrap_or_default();
                let error = "turnhost does not take this request";
                let response = ControlAnswer { subtype: "error", request_id, error };
                if cli.send(&ToCli::ControlResponse { response }).await.is_err() {
                    return Some(self.crashed(cli).await);
                }
                None
            }
            "command_lifecycle" => {
                let said: Lifecycle = serde_json::from_slice(line).unwrap_or_default();
                if said.state == "queued" && self.steers.remove(&said.command_uuid) {
                    self.sink.heard().await;
                }
                None
            }
            "control_response" => {
                tracing::debug!(target: "claude", response = %excerpt(line), "control response");
                None
            }
            "result" => {
                let result: ResultLine = serde_json::from_slice(line).unwrap_or_default();
                self.result(cli, head, result).await
            }
            _ => {
                if head.session_id.is_some() && head.parent_tool_use_id.is_none() {
                    cli.session.clone_from(&head.session_id);
                }
                let tells_itself = head.subtype.as_deref() == Some("init") && !self.saying.has_begun;
                let sign = self.saying.take(&head, line, self.sink).await;
                if tells_itself && self.turn.has_own_environment() {
                    saying::tell_session(line, self.sink).await;
                }
                match sign {
                    Sign::Nothing => {}
                    Sign::Version(version) => cli.version = Some(version),
                    Sign::BadKey => {
                        // It would be tried again for minutes.
                        self.bad_key = true;
                        let request = Control::Interrupt { cancel_queued: true };
                        let _ = cli.send(&ToCli::ControlRequest { request_id: "bad-key", request }).await;
                    }
                }
                None
            }
        }
    }

    /// The end of a turn: ours, if it names our messages.
    async fn result(&mut self, cli: &mut Live, head: LineHead, result: ResultLine) -> Option<Ended> {
        let is_ours = match &result.user_message_uuids {
            Some(named) => {
                let before = self.unanswered.len();
                self.unanswered.retain(|uuid| !named.contains(uuid));
                self.unanswered.len() < before
            }
            // The program did not get as far as a turn, or is of a version that names none.
            None => result.origin.is_none(),
        };
        if !is_ours {
            let detail = RawJson::from_valid(json!({"subtype": result.subtype}).to_string());
            let _ = self.sink.say(Event::Progress { kind: "background".to_owned(), detail: Some(detail) }).await;
            return None;
        }
        if self.state.is_some() && result.errors.iter().any(|error| error.contains("No conversation found")) {
            return Some(Ended::Unknown);
        }
        cli.session = head.session_id.or(cli.session.take());
        let usage = ending::usage(&result, cli.cost);
        cli.cost = result.total_cost_usd.unwrap_or(cli.cost);
        let _ = self.sink.say(Event::Usage(usage)).await;
        let metadata = ending::metadata(&result, cli.session.as_deref(), &usage);
        if let Some(mut error) = ending::error(&result, &self.saying) {
            if self.bad_key {
                let text = "the model API does not take the key (authentication_failed)";
                error = AgentError::new(Category::AuthError, text);
            }
            return Some(Ended::Failed(error.with_all(metadata)));
        }
        if result.user_message_uuids.is_some() && !self.unanswered.is_empty() {
            // What was said too late for this turn is answered in the next one of the program.
            return None;
        }
        let text =
            if self.saying.is_continued { self.saying.texts.concat() } else { result.result.unwrap_or_default() };
        let answer = match self.schema {
            None => Answer::Text(text),
            Some(schema) => {
                let value = result.structured_output.as_deref();
                match value.map_or_else(|| Err("there is none".to_owned()), |value| schema.check(value.get())) {
                    Ok(value) => Answer::Structured(value),
                    Err(wrong) if self.repaired => {
                        return Some(Ended::Failed(Schema::misfit(&wrong, text).with_all(metadata)));
                    }
                    Err(wrong) => {
                        self.repaired = true;
                        let text = format!(
                            "Your structured answer does not fit the schema: {wrong}. Give it again with the StructuredOutput tool."
                        );
                        return if self.say(cli, &text).await.is_err() { Some(self.crashed(cli).await) } else { None };
                    }
                }
            }
        };
        let state = cli.session.clone().map_or(StateChange::Keep, |claude_session_id| {
            let state = State {
                v: 1,
                claude_session_id,
                turns: self.state.map_or(0, |state| state.turns) + 1,
                cli: cli.version.clone(),
            };
            StateChange::Set(json::from_raw(&to_raw_value(&state).unwrap_or_default()))
        });
        let metadata = Some(RawJson::from_valid(serde_json::Value::Object(metadata).to_string()));
        Some(Ended::Well(Reply { answer, state, metadata }))
    }

    async fn crashed(&mut self, cli: &mut Live) -> Ended {
        let phase = if self.saying.has_begun { "turn" } else { "start" };
        let fault = cli.crash(phase).await;
        if self.turn.has_own_environment() {
            for text in cli.last_asides() {
                saying::tell_lines("stderr", &text, self.sink).await;
            }
        }
        if self.state.is_some() && cli.says_unknown() { Ended::Unknown } else { Ended::Crashed(fault) }
    }

    /// Stops the turn: by asking first, since a process that stops by itself kills its tools and can be kept.
    async fn stop(&mut self, mut cli: Live) {
        let stopped = async {
            let request = Control::Interrupt { cancel_queued: true };
            cli.send(&ToCli::ControlRequest { request_id: "cancel", request }).await.ok()?;
            loop {
                let line = cli.next().await?;
                let head: LineHead = serde_json::from_slice(&line).unwrap_or_default();
                if head.r#type != "result" {
                    continue;
                }
                let result: ResultLine = serde_json::from_slice(&line).unwrap_or_default();
                let usage = ending::usage(&result, cli.cost);
                cli.cost = result.total_cost_usd.unwrap_or(cli.cost);
                if self.turn.has_own_environment() {
                    let _ = self.sink.say(Event::Usage(usage)).now_or_never();
                    saying::tell_cut(&line, self.sink);
                }
                let named = result.user_message_uuids.unwrap_or_default();
                self.unanswered.retain(|uuid| !named.contains(uuid));
                if self.unanswered.is_empty() || named.is_empty() {
                    return Some(());
                }
            }
        };
        let stopped = tokio::time::timeout(INTERRUPT_WITHIN, stopped).await.ok().flatten();
        self.saying.close(self.sink).await;
        if stopped.is_some() && self.turn.request.lifetime == Lifetime::Named {
            self.pool.keep(&self.turn.session, cli);
        } else {
            cli.stop(END_WITHIN).await;
        }
        replenish(self.pool, self.turn);
    }
}

/// The beginning of a line, for the log of an engineer.
fn excerpt(line: &[u8]) -> String {
    String::from_utf8_lossy(&line[..line.len().min(300)]).into_owned()
}
