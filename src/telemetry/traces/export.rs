//! The way of spans to a collector: batches on a thread of their own, over HTTP.
//!
//! Owns that no turn waits for a collector: the queue is bounded, what does not fit is dropped, and a collector that does
//! not answer is told of once. The SDK reads the rest of its standard variables itself.

use super::TracesConfig;
use crate::outbound;
use opentelemetry::KeyValue;
use opentelemetry::trace::{SpanId, TraceId, TracerProvider as _};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{IdGenerator, SdkTracer, SdkTracerProvider};
use std::future::Future;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the end of the program waits for what is not sent yet.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// The most of a collector's answer that is read.
const ANSWER_BYTES: usize = 64 << 10;

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// What makes spans; `None` where nobody collects them.
pub fn tracer() -> Option<&'static SdkTracer> {
    TRACER.get()
}

/// Sends what is not sent yet when it is dropped, within a bound.
#[derive(Debug)]
pub struct Flush(Option<SdkTracerProvider>);

impl Drop for Flush {
    fn drop(&mut self) {
        if let Some(provider) = &self.0 {
            // What cannot be sent has been told of.
            let _ = provider.shutdown_with_timeout(LAST_SPANS);
        }
    }
}

/// Starts to export, if the environment asks for it.
pub fn start(config: &TracesConfig) -> Flush {
    let (json, timeout) = match config {
        TracesConfig::Off => return Flush(None),
        TracesConfig::Refused(why) => {
            tracing::warn!("no traces are exported: {why}");
            return Flush(None);
        }
        TracesConfig::On { json, timeout } => (*json, *timeout),
    };
    match provider(json, timeout) {
        Ok(provider) => {
            // A second start, as in a test of an embedder, keeps the first tracer.
            let _ = TRACER.set(provider.tracer(env!("CARGO_PKG_NAME")));
            Flush(Some(provider))
        }
        Err(why) => {
            tracing::warn!("no traces are exported: {why}");
            Flush(None)
        }
    }
}

fn provider(json: bool, timeout: Duration) -> Result<SdkTracerProvider, String> {
    let client = Client::new(timeout)?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(if json { Protocol::HttpJson } else { Protocol::HttpBinary })
        .with_timeout(timeout)
        .build()
        .map_err(|error| error.to_string())?;
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_id_generator(Ids);
    Ok(provider.with_resource(resource()).build())
}

/// What the environment says of this service, and our name where it gives none.
fn resource() -> Resource {
    let found = Resource::builder().build();
    let name = found.get(&"service.name".into()).map(|name| name.to_string()).unwrap_or_default();
    let builder = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    if name.is_empty() || name.starts_with("unknown_service") {
        builder.with_service_name(env!("CARGO_PKG_NAME")).build()
    } else {
        builder.build()
    }
}

/// Ids from the system at each use: two copies of one memory snapshot do not draw the same.
#[derive(Debug)]
struct Ids;

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        TraceId::from_bytes(uuid::Uuid::new_v4().into_bytes())
    }

    fn new_span_id(&self) -> SpanId {
        // Six bits of the sixteen bytes are no chance: half of each is taken, and together there are enough.
        let (first, second) = uuid::Uuid::new_v4().as_u64_pair();
        SpanId::from_bytes((first ^ second).to_be_bytes())
    }
}

/// The HTTP client of the exporter's thread, which waits in it.
#[derive(Debug)]
struct Client {
    runtime: tokio::runtime::Runtime,
    http: reqwest::Client,
    timeout: Duration,
    /// The last request failed, and that was told.
    is_failing: AtomicBool,
}

impl Client {
    fn new(timeout: Duration) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        Ok(Self {
            runtime: runtime.map_err(|error| error.to_string())?,
            http: outbound::client_without_redirects().map_err(|error| error.to_string())?,
            timeout,
            is_failing: AtomicBool::new(false),
        })
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, String> {
        // URLs may hold a password.
        let told = |error: reqwest::Error| {
            let error = error.without_url();
            std::error::Error::source(&error).map_or_else(|| error.to_string(), |why| format!("{error}: {why}"))
        };
        let request = reqwest::Request::try_from(request).map_err(told)?;
        let mut answer = self.http.execute(request).await.map_err(told)?;
        let mut body = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(told)? {
            if body.len() + piece.len() > ANSWER_BYTES {
                return Err(format!("its answer has over {ANSWER_BYTES} bytes"));
            }
            body.extend_from_slice(&piece);
        }
        let mut response = Response::builder().status(answer.status());
        for (name, value) in answer.headers() {
            response = response.header(name, value);
        }
        response.body(body.into()).map_err(|error| error.to_string())
    }

    /// Tells of the first failure, and of the first success after one.
    fn tell(&self, sent: &Result<Response<Bytes>, String>) {
        let failure = match sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("it answers {}", response.status())),
            Err(why) => Some(why.clone()),
        };
        match failure {
            Some(why) if !self.is_failing.swap(true, Ordering::Relaxed) => {
                tracing::warn!("the collector of traces takes nothing, and spans are lost until it does: {why}");
            }
            None if self.is_failing.swap(false, Ordering::Relaxed) => {
                tracing::info!("the collector of traces takes spans again");
            }
            _ => {}
        }
    }
}

impl HttpClient for Client {
    fn send_bytes<'s, 'f>(
        &'s self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        // The exporter's thread has no runtime and nothing else to do: it waits right here.
        Box::pin(async move {
            let sent = self.runtime.block_on(async { tokio::time::timeout(self.timeout, self.send(request)).await });
            let sent = sent.unwrap_or_else(|_| Err(format!("no answer within {:?}", self.timeout)));
            self.tell(&sent);
            sent.map_err(Into::into)
        })
    }
}
