//! The spans of a turn.
//!
//! Owns their names and attributes, and that each ends once. Ids and names that are others' words are cut beyond a bound.

use super::export::tracer;
use super::{Beginning, End};
use crate::model::{TraceContext, TurnRequest, Usage};
use crate::telemetry::Whose;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::Span;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The longest name or id in a span, in characters.
const LONGEST: usize = 256;

/// Tools of a turn that may be at work at once; those beyond have no span.
const OPEN_TOOLS: usize = 256;

/// A turn's span, if it has one. Cloning gives another way to it.
#[derive(Debug, Clone, Default)]
pub struct TurnTrace(Option<Arc<Turn>>);

#[derive(Debug)]
struct Turn {
    span: Mutex<Span>,
    context: SpanContext,
    tools: Mutex<HashMap<String, Span>>,
}

/// The span of one call of a model.
#[derive(Debug)]
pub struct ModelCall(Option<Span>);

impl TurnTrace {
    /// Begins the span of a turn; a child of its caller's, if that has one.
    #[must_use]
    pub fn begin(beginning: &Beginning<'_>) -> Self {
        let Some(tracer) = tracer() else { return Self(None) };
        let parent = beginning.parent.map(remote).unwrap_or_default();
        let agent = cut(beginning.agent);
        let mut attributes = vec![
            KeyValue::new("gen_ai.operation.name", "invoke_agent"),
            KeyValue::new("gen_ai.agent.name", agent.clone()),
            KeyValue::new("gen_ai.conversation.id", cut(beginning.session.as_str())),
            KeyValue::new("turnhost.turn.id", cut(beginning.turn.as_str())),
            KeyValue::new("turnhost.turn.attempt", i64::from(beginning.attempt)),
            KeyValue::new("turnhost.protocol", beginning.protocol),
        ];
        attributes.extend(beginning.model.map(|model| KeyValue::new("gen_ai.request.model", cut(model))));
        let builder = SpanBuilder::from_name(format!("invoke_agent {agent}"))
            .with_kind(SpanKind::Internal)
            .with_attributes(attributes);
        let span = tracer.build_with_context(builder, &parent);
        let context = span.span_context().clone();
        Self(Some(Arc::new(Turn { span: Mutex::new(span), context, tools: Mutex::default() })))
    }

    /// That of the turn whose work the code that asks does.
    #[must_use]
    pub fn here() -> Self {
        Whose::here().trace
    }

    /// The request with the turn's own place in the trace, so that whatever works for it is below it there.
    #[must_use]
    pub fn passed_on(&self, request: Arc<TurnRequest>) -> Arc<TurnRequest> {
        let Some(turn) = &self.0 else { return request };
        let Some(trace) = place(&turn.context) else { return request };
        let mut request = Arc::unwrap_or_clone(request);
        request.trace = Some(Box::new(trace));
        Arc::new(request)
    }

    /// Who makes the model that the turn runs with, and which that is.
    pub fn model(&self, provider: &'static str, model: Option<&str>) {
        let Some(turn) = &self.0 else { return };
        let mut span = lock(&turn.span);
        span.set_attribute(KeyValue::new("gen_ai.provider.name", provider));
        if let Some(model) = model {
            span.set_attribute(KeyValue::new("gen_ai.request.model", cut(model)));
        }
    }

    /// A tool is used.
    pub fn tool_used(&self, id: &str, name: &str) {
        let Some(turn) = &self.0 else { return };
        let mut tools = lock(&turn.tools);
        if tools.len() >= OPEN_TOOLS {
            return;
        }
        let name = cut(name);
        let attributes = [
            KeyValue::new("gen_ai.operation.name", "execute_tool"),
            KeyValue::new("gen_ai.tool.name", name.clone()),
            KeyValue::new("gen_ai.tool.call.id", cut(id)),
        ];
        if let Some(span) = turn.child(format!("execute_tool {name}"), SpanKind::Internal, attributes) {
            tools.insert(id.to_owned(), span);
        }
    }

    /// It gave its result.
    pub fn tool_ended(&self, id: &str, is_error: bool) {
        let Some(turn) = &self.0 else { return };
        let Some(mut span) = lock(&turn.tools).remove(id) else { return };
        end(&mut span, is_error.then_some("tool_error"));
    }

    /// A model is called.
    #[must_use]
    pub fn model_call(&self, provider: &'static str, model: &str) -> ModelCall {
        let model = cut(model);
        let attributes = [
            KeyValue::new("gen_ai.operation.name", "chat"),
            KeyValue::new("gen_ai.provider.name", provider),
            KeyValue::new("gen_ai.request.model", model.clone()),
        ];
        let turn = self.0.as_ref();
        ModelCall(turn.and_then(|turn| turn.child(format!("chat {model}"), SpanKind::Client, attributes)))
    }

    /// Ends the turn's span, and those of tools that gave no result.
    pub fn end(&self, how: &End) {
        let Some(turn) = &self.0 else { return };
        for (_, mut span) in std::mem::take(&mut *lock(&turn.tools)) {
            end(&mut span, Some(how.error.unwrap_or("no_result")));
        }
        let mut span = lock(&turn.span);
        span.set_attribute(KeyValue::new("turnhost.outcome", how.outcome));
        if let Some(usage) = &how.usage {
            tell_usage(&mut span, usage);
        }
        end(&mut span, how.error);
    }
}

impl Turn {
    fn child(&self, name: String, kind: SpanKind, attributes: impl IntoIterator<Item = KeyValue>) -> Option<Span> {
        let builder = SpanBuilder::from_name(name).with_kind(kind).with_attributes(attributes);
        let parent = Context::new().with_remote_span_context(self.context.clone());
        Some(tracer()?.build_with_context(builder, &parent))
    }
}

impl ModelCall {
    /// Its place in the trace, for the service that answers it.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        place(self.0.as_ref()?.span_context())
    }

    /// It came to its end; `error` is a word of ours. Dropped without it, it was given up.
    pub fn end(mut self, usage: Option<Usage>, error: Option<&'static str>) {
        let Some(span) = &mut self.0 else { return };
        if let Some(usage) = &usage {
            tell_usage(span, usage);
        }
        end(span, error);
    }
}

fn tell_usage(span: &mut Span, usage: &Usage) {
    let number = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
    span.set_attribute(KeyValue::new("gen_ai.usage.input_tokens", number(usage.input_tokens)));
    span.set_attribute(KeyValue::new("gen_ai.usage.output_tokens", number(usage.output_tokens)));
    if usage.cached_tokens > 0 {
        span.set_attribute(KeyValue::new("gen_ai.usage.cache_read.input_tokens", number(usage.cached_tokens)));
    }
}

fn end(span: &mut Span, error: Option<&'static str>) {
    if let Some(error) = error {
        span.set_attribute(KeyValue::new("error.type", error));
        // No description: what went wrong may be told in the caller's words.
        span.set_status(Status::error(""));
    }
    span.end();
}

/// A caller's place as the SDK knows it.
fn remote(parent: &TraceContext) -> Context {
    let mut headers = HashMap::from([("traceparent".to_owned(), parent.parent().to_owned())]);
    headers.extend(parent.state().map(|state| ("tracestate".to_owned(), state.to_owned())));
    TraceContextPropagator::new().extract_with_context(&Context::new(), &headers)
}

/// A span's place as others are told it.
fn place(context: &SpanContext) -> Option<TraceContext> {
    let mut headers = HashMap::new();
    let context = Context::new().with_remote_span_context(context.clone());
    TraceContextPropagator::new().inject_context(&context, &mut headers);
    TraceContext::read(headers.get("traceparent")?, headers.get("tracestate").map(String::as_str))
}

fn cut(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
