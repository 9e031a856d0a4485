//! The loop of a turn: call the model, run what it asks for, call it again, until it answers.
//!
//! Owns what a turn takes in all, and how it ends.

use super::call::{self, Answered, Form};
use super::talk::{Talk, last_text};
use super::tools::{self, Cancelled, Offer, Tools};
use super::trouble::Trouble;
use super::{Api, OpenAi, Place, ShellTool, raw};
use crate::handler::agent_error::{AgentError, Category};
use crate::handler::schema::Schema;
use crate::handler::{Cancel, Failure, Reply, Sink, Turn};
use crate::json;
use crate::model::{Answer, Event, RawJson, Usage};
use crate::redact::Redactor;
use crate::telemetry::traces::TurnTrace;
use crate::wire::openai::{CreateResponse, TextFormat, TextOptions};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::sync::atomic::Ordering;

/// Runs one turn to its end.
pub async fn run(agent: &OpenAi, turn: &Turn, sink: &Sink, cancel: &Cancel) -> Result<Reply, Failure> {
    let failed = |error: AgentError| Failure::from(error.into_fault());
    let schema = Schema::of(turn.request.output_format.as_ref()).map_err(failed)?;
    let place = agent.place(turn)?;
    let Some(model) = turn.request.model.clone().or_else(|| agent.options.model.clone()) else {
        let text = "model: the request names none, and the server has no --openai-model";
        return Err(failed(AgentError::new(Category::InvalidRequest, text)));
    };
    TurnTrace::here().model("openai", Some(&model));
    let tools = Tools::new(agent, turn, sink, cancel);
    let mut running = Running { agent, turn, sink, cancel, place, model, schema, total: Total::default() };
    running.run(&tools).await
}

struct Running<'a> {
    agent: &'a OpenAi,
    turn: &'a Turn,
    sink: &'a Sink,
    cancel: &'a Cancel,
    place: Place,
    model: String,
    schema: Option<Schema>,
    total: Total,
}

impl Running<'_> {
    async fn run(&mut self, tools: &Tools<'_>) -> Result<Reply, Failure> {
        let mut talk = Talk::of(self.turn, self.agent.options.stored && !self.speaks_chat());
        talk.ask(self.turn);
        self.turn.inputs.listen();
        let detail = Some(RawJson::from_valid(json!({"model": self.model}).to_string()));
        let _ = self.sink.say(Event::Progress { kind: "started".to_owned(), detail }).await;
        let ended = self.rounds(&mut talk, tools).await;
        let _ = self.sink.say(Event::Usage(self.total.usage)).await;
        ended
    }

    async fn rounds(&mut self, talk: &mut Talk, tools: &Tools<'_>) -> Result<Reply, Failure> {
        let mut repaired = false;
        for _ in 0..self.agent.options.max_calls {
            let answered = tokio::select! {
                biased;
                // A call needs no more than to be dropped: the service sees it at once.
                () = self.cancel.fired() => return Err(Failure::cancelled()),
                answered = self.call(talk) => answered,
            };
            let answered = answered.map_err(|trouble| self.failed(trouble.into_error(self.schema.is_some())))?;
            self.total.add(&answered.usage);
            let outputs = tools.run(&answered.items).await.map_err(|Cancelled| Failure::cancelled())?;
            let text = last_text(&answered.items);
            talk.answered(answered.id, answered.items);
            let is_asked_more = self.take_inputs(talk, outputs).await;
            if is_asked_more {
                continue;
            }
            let Some(schema) = &self.schema else { return Ok(self.reply(Answer::Text(text), talk)) };
            let wrong = match schema.check(&text) {
                Ok(value) => return Ok(self.reply(Answer::Structured(value), talk)),
                Err(wrong) => wrong,
            };
            if repaired {
                return Err(self.failed(Schema::misfit(&wrong, text)));
            }
            repaired = true;
            talk.say(&Schema::again(&wrong));
        }
        let message = format!("the model was called {} times without an end", self.agent.options.max_calls);
        Err(self.failed(AgentError::new(Category::MaxTurns, message)))
    }

    /// What the next call is given: the outputs of tools, and what the user has said meanwhile.
    async fn take_inputs(&self, talk: &mut Talk, outputs: Vec<Box<RawValue>>) -> bool {
        let mut is_more = !outputs.is_empty();
        talk.input.extend(outputs);
        while let Some(text) = self.turn.inputs.try_next() {
            talk.say(&text);
            self.sink.heard().await;
            is_more = true;
        }
        is_more
    }

    fn speaks_chat(&self) -> bool {
        match self.agent.options.api {
            Api::Chat => true,
            Api::Responses => false,
            Api::Auto => self.agent.lacks.responses.load(Ordering::Relaxed),
        }
    }

    fn offer(&self) -> Offer {
        match self.agent.options.shell {
            ShellTool::Off => Offer::None,
            ShellTool::Native if !self.speaks_chat() => Offer::Native,
            ShellTool::Auto if !self.speaks_chat() && !self.agent.lacks.shell.load(Ordering::Relaxed) => Offer::Native,
            _ => Offer::Function,
        }
    }

    /// Calls the model; once more, in another way, if the service turns out not to know this one.
    async fn call(&self, talk: &mut Talk) -> Result<Answered, Trouble> {
        loop {
            let trouble = match self.call_once(talk).await {
                Ok(answered) => return Ok(answered),
                Err(trouble) => trouble,
            };
            let is_unknown = matches!(trouble.status, Some(404 | 405)) && trouble.category != Category::ModelNotFound;
            let is_shell = trouble.status == Some(400) && trouble.message.contains("shell");
            // A response is kept for some weeks only. In the middle of a turn that would be a defect of the service.
            let is_gone = trouble.code.as_deref() == Some("previous_response_not_found") && self.total.calls == 0;
            if is_gone && talk.previous.take().is_some() {
                let text = "the conversation that the state names is gone: a new one is begun".to_owned();
                let _ = self.sink.say(Event::Warning { text, field: Some("state".to_owned()) }).await;
            } else if is_unknown
                && self.agent.options.api == Api::Auto
                && !self.speaks_chat()
                && talk.previous.is_none()
            {
                tracing::info!("the service knows no responses: chat completions are used");
                self.agent.lacks.responses.store(true, Ordering::Relaxed);
                talk.stored = false;
            } else if is_shell && self.agent.options.shell == ShellTool::Auto && self.offer() == Offer::Native {
                tracing::info!("the model does not know the shell tool: it gets a function");
                self.agent.lacks.shell.store(true, Ordering::Relaxed);
            } else {
                // Services like to repeat the key that they do not like.
                let message = Redactor::new([&self.place.key]).text(&trouble.message).into_owned();
                return Err(Trouble { message, ..trouble });
            }
        }
    }

    async fn call_once(&self, talk: &Talk) -> Result<Answered, Trouble> {
        let is_chat = self.speaks_chat();
        let tools = tools::offered(self.offer(), self.agent.options.web_search && !is_chat);
        let body = CreateResponse {
            model: &self.model,
            instructions: self.turn.request.system_prompt.as_deref(),
            input: &talk.input,
            tools: &tools,
            text: self.schema.as_ref().map(|schema| TextOptions {
                format: TextFormat {
                    r#type: "json_schema",
                    name: "output",
                    strict: schema.is_strict(),
                    schema: schema.raw(),
                },
            }),
            previous_response_id: talk.previous.as_deref(),
            store: (!talk.stored).then_some(false),
            include: if talk.stored { &[] } else { &["reasoning.encrypted_content"] },
            stream: true,
        };
        let form = if is_chat { Form::Chat } else { Form::Responses };
        let span = TurnTrace::here().model_call("openai", &self.model);
        let (own, turns) = (span.context(), self.turn.request.trace.as_deref());
        let called = call::call(&self.place, form, &body, own.as_ref().or(turns), self.sink).await;
        match &called {
            Ok(answered) => span.end(Some(used(&answered.usage)), None),
            Err(trouble) => span.end(None, Some(trouble.category.name())),
        }
        called
    }

    fn reply(&self, answer: Answer, talk: &Talk) -> Reply {
        let metadata = json::from_raw(&raw(&self.total.metadata()));
        Reply { answer, state: talk.state(), metadata: Some(metadata) }
    }

    /// A failure tells what it took too.
    fn failed(&self, error: AgentError) -> Failure {
        error.with_all(self.total.metadata()).into_fault().into()
    }
}

/// What the calls of a turn took.
#[derive(Default)]
struct Total {
    usage: Usage,
    tokens: u64,
    calls: u32,
}

impl Total {
    fn add(&mut self, usage: &crate::wire::openai::Usage) {
        let used = used(usage);
        self.usage.input_tokens += used.input_tokens;
        self.usage.output_tokens += used.output_tokens;
        self.usage.cached_tokens += used.cached_tokens;
        self.usage.reasoning_tokens += used.reasoning_tokens;
        self.tokens += usage.total_tokens;
        self.calls += 1;
    }

    fn metadata(&self) -> Map<String, Value> {
        let usage = json!({
            "inputTokens": self.usage.input_tokens,
            "outputTokens": self.usage.output_tokens,
            "totalTokens": self.tokens,
        });
        Map::from_iter([("usage".to_owned(), usage), ("model_calls".to_owned(), self.calls.into())])
    }
}

/// What one call took.
fn used(usage: &crate::wire::openai::Usage) -> Usage {
    Usage {
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
        cached_tokens: usage.input_tokens_details.cached_tokens,
        reasoning_tokens: usage.output_tokens_details.reasoning_tokens,
        cost_usd: None,
    }
}
