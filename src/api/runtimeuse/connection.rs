//! One WebSocket connection: reads messages, runs one request at a time.
//!
//! Owns what each message leads to, and the connection's end; what is written, and when, is `writer`'s. A connection owns no work: the turn of a named session outlives
//! it; a plain connection's request is cancelled with it, by contract.
//!
//! Two tasks on the connection's worker: the reader never waits for the socket to take anything, so that a cancel or a
//! disconnect is seen while the writer is held up by a slow peer.

use super::frames::{self, Context};
use super::read::{self, Extras, Incoming, Refusal, Request};
use super::writer::{InFlight, Order, Running, Writer};
use crate::api::Runtime;
use crate::api::hangup::Hangup;
use crate::api::websocket::{Heard, Messages};
use crate::artifact::handout::Handout;
use crate::model::{
    CancelReason, Conflict, EnvPolicy, Lifetime, OnDrain, Repeat, Seq, SessionId, StateIn, TraceContext, TurnRequest,
};
use crate::redact::Secret;
use crate::telemetry::carried;
use actix_web::web;
use actix_ws::{AggregatedMessage, Session};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Frames besides those of the turn that may wait for the writer.
const ASIDES: usize = 64;
/// A peer that provokes more of them, and takes none for this long, is cut. Until then it is only read no further.
const UNTAKEN_FOR: Duration = Duration::from_secs(5);
/// How long the end of a connection may take: what is ordered is written, and what still comes is read away.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// One connection.
pub struct Connection {
    pub runtime: web::Data<Runtime>,
    pub session: SessionId,
    pub lifetime: Lifetime,
    /// Whether requests go on with the session's state; otherwise each begins anew.
    pub is_going_on: bool,
    /// The key of the one request that this connection makes, however often.
    pub key: Option<String>,
    /// Who runs its turns, if the client has said.
    pub agent: Option<Arc<str>>,
    /// Where the connection stands in its client's trace, and its turns with it.
    pub trace: Option<Box<TraceContext>>,
    pub hangup: Option<Hangup>,
    /// Where a client that lost its connection wants to go on, and what it had opted in to.
    pub goes_on: Option<(Seq, Extras)>,
}

impl Connection {
    /// Serves the connection to its end.
    pub async fn serve(self, socket: Session, mut messages: Messages) {
        let (orders, taken) = mpsc::channel(ASIDES);
        let in_flight = InFlight::default();
        let writer = Writer::new(&self, in_flight.clone(), socket);
        let writing = actix_web::rt::spawn(carried(writer.write(taken)));
        let reader = Reader { connection: &self, orders, in_flight, ending: Cell::new(false) };
        reader.go_on().await;
        reader.read(&mut messages).await;
        // The reader is through; the writer ends when it has written what was ordered, or cannot.
        let written = tokio::time::timeout(LAST_WORDS, writing).await;
        if self.lifetime == Lifetime::Connection {
            self.runtime.engine.close_connection_session(&self.session);
        }
        if let Some(hangup) = &self.hangup {
            match written {
                Ok(_) => hangup.after_reading_away(LAST_WORDS).await,
                Err(_) => hangup.shutdown(),
            }
        }
    }
}

struct Reader<'a> {
    connection: &'a Connection,
    orders: mpsc::Sender<Order>,
    in_flight: InFlight,
    /// The client has asked for the end of the session.
    ending: Cell<bool>,
}

/// The peer does not take what it provokes.
struct Flooded;

impl Reader<'_> {
    /// Gives a client that lost its connection what came since, and goes on live.
    async fn go_on(&self) {
        let connection = self.connection;
        let Some((after, extras)) = &connection.goes_on else { return };
        let gone_on = connection.runtime.engine.go_on(&connection.session, *after).await;
        // Its files are announced to whoever listens, those first that nobody has answered for.
        let handout = self.handout();
        let Some((turn, follower)) = gone_on else {
            if let Some(handout) = handout {
                let _ = self.order(Order::Files(handout)).await;
            }
            return;
        };
        let context = Context { extras: extras.clone(), is_named: true };
        *self.in_flight.borrow_mut() = Some((turn.clone(), context.clone()));
        let running = Running { turn, follower, context, began: Instant::now(), before: None };
        let _ = self.order(Order::Request(Box::new(running), handout)).await;
    }

    async fn read(self, messages: &mut Messages) {
        loop {
            let handled = match messages.next().await {
                Heard::Message(AggregatedMessage::Text(text)) => self.message(&text).await,
                Heard::Message(AggregatedMessage::Binary(bytes)) => {
                    self.message(&String::from_utf8_lossy(&bytes)).await
                }
                Heard::Message(AggregatedMessage::Ping(bytes)) => self.order(Order::Pong(bytes)).await,
                Heard::Message(_) => Ok(()),
                Heard::Closing(reason) => {
                    let _ = self.order(Order::Close(reason)).await;
                    break;
                }
                Heard::Gone => break,
                Heard::Silence => {
                    tracing::info!(session = %self.connection.session, "the peer gave no sign of life and was cut");
                    self.hang_up();
                    break;
                }
            };
            if handled.is_err() {
                tracing::warn!(session = %self.connection.session, "the peer reads nothing of what it provokes and was cut");
                self.hang_up();
                break;
            }
        }
        self.gone();
    }

    /// Losing a plain connection cancels its request; losing a named session's does not.
    fn gone(&self) {
        if self.connection.lifetime == Lifetime::Connection
            && let Some((turn, _)) = &*self.in_flight.borrow()
        {
            self.connection.runtime.engine.cancel(turn, CancelReason::Disconnected);
        }
    }

    fn hang_up(&self) {
        if let Some(hangup) = &self.connection.hangup {
            hangup.shutdown();
        }
    }

    async fn order(&self, order: Order) -> Result<(), Flooded> {
        match self.orders.send_timeout(order, UNTAKEN_FOR).await {
            Ok(()) | Err(mpsc::error::SendTimeoutError::Closed(_)) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(Flooded),
        }
    }

    async fn message(&self, text: &str) -> Result<(), Flooded> {
        match read::read(text, &self.connection.runtime.limits.requests) {
            Err(refusal) => self.refuse(&refusal).await,
            Ok(Incoming::Request(request)) => self.begin(*request, text).await,
            Ok(Incoming::Cancel { request_id }) => {
                if let Some((turn, context)) = &*self.in_flight.borrow()
                    && (request_id.is_none() || request_id == context.extras.request_id)
                {
                    self.connection.runtime.engine.cancel(turn, CancelReason::Caller);
                }
                Ok(())
            }
            Ok(Incoming::Input { request_id, text }) => self.input(request_id.as_deref(), text).await,
            Ok(Incoming::EndSession) => {
                self.ending.set(true);
                self.cancel_if_nothing_is_watched();
                self.order(Order::EndSession).await
            }
            Ok(Incoming::ArtifactAnswer { filepath, url, content_type }) => {
                self.artifact_answer(&filepath, url, &content_type).await
            }
        }
    }

    /// A message into the request in flight. That it was taken shows in what the request says next.
    async fn input(&self, request_id: Option<&str>, text: String) -> Result<(), Flooded> {
        let taken = match &*self.in_flight.borrow() {
            Some((turn, context)) if request_id.is_none() || request_id == context.extras.request_id.as_deref() => {
                turn.steer(text).map_err(|refused| refused.to_string())
            }
            _ => Err("no such request is running".to_owned()),
        };
        let Err(problem) = taken else { return Ok(()) };
        let refusal = Refusal {
            text: format!("input_message: {problem}"),
            field: None,
            request_id: request_id.map(str::to_owned),
            is_request: false,
        };
        self.refuse(&refusal).await
    }

    fn handout(&self) -> Option<Arc<Handout>> {
        self.connection.runtime.engine.handout(&self.connection.session)
    }

    /// At the end of a session a request has no time to finish, unless its files are waited for: then the writer gives it
    /// some. Its terminal precedes the confirm.
    fn cancel_if_nothing_is_watched(&self) {
        let is_watching = self.handout().is_some_and(|handout| handout.is_watching());
        if !is_watching && let Some((turn, _)) = &*self.in_flight.borrow() {
            self.connection.runtime.engine.cancel(turn, CancelReason::Caller);
        }
    }

    async fn artifact_answer(&self, filepath: &str, url: Secret, content_type: &str) -> Result<(), Flooded> {
        // A session that watches nothing ignores it.
        let Some(handout) = self.handout() else { return Ok(()) };
        let Err(refused) = handout.answer(filepath, url, content_type) else { return Ok(()) };
        let text = refused.to_string();
        tracing::warn!(session = %self.connection.session, text, "an artifact answer was refused");
        let notices = self.in_flight.borrow().as_ref().is_some_and(|(_, context)| context.extras.notices);
        if !notices {
            return Ok(());
        }
        let text = format!("artifact_upload_response_message.filepath: {text}");
        let refusal = Refusal { text, field: Some("filepath".to_owned()), request_id: None, is_request: false };
        self.order(Order::Frame(frames::refusal_notice(&refusal))).await
    }

    async fn refuse(&self, refusal: &Refusal) -> Result<(), Flooded> {
        let running = self.in_flight.borrow().as_ref().map(|(_, context)| context.extras.notices);
        let Some(notices) = running else { return self.order(Order::Frame(frames::refusal(refusal, false))).await };
        // An error would end the running call of a client that knows no ids. Where the peer answers too, or the frame
        // was meant as a request, it gets one all the same; otherwise it is told only to those who asked for notices.
        let invalid_json = refusal.text.starts_with("Invalid JSON");
        if refusal.is_request || invalid_json {
            return self.order(Order::Frame(frames::refusal(refusal, true))).await;
        }
        tracing::warn!(session = %self.connection.session, text = refusal.text, "a message was not understood");
        if notices { self.order(Order::Frame(frames::refusal_notice(refusal))).await } else { Ok(()) }
    }

    async fn begin(&self, request: Request, text: &str) -> Result<(), Flooded> {
        let repeat = self.connection.key.as_ref().map_or(Repeat::Never, |key| Repeat::ById {
            id: key.clone(),
            body: read::fingerprint(text),
            conflict: Conflict::Refuse,
        });
        let running = self.in_flight.borrow().as_ref().map(|(turn, _)| turn.clone());
        if let Some(turn) = running {
            if turn.is_repeated_by(&repeat) {
                // A client that lost its socket is attached already.
                return Ok(());
            }
            return self.order(Order::Frame(frames::in_flight(request.extras.request_id.as_deref()))).await;
        }
        let connection = self.connection;
        let is_named = connection.lifetime == Lifetime::Named;
        let context = Context { extras: request.extras.clone(), is_named };
        let watches = request.work.watch.as_ref().is_some_and(|watch| !watch.directories.is_empty());
        let began = Instant::now();
        let engine = &connection.runtime.engine;
        match engine.submit_and_follow(turn_request(request, repeat, connection)).await {
            Ok((ticket, follower)) => {
                *self.in_flight.borrow_mut() = Some((ticket.turn.clone(), context.clone()));
                let handout = if watches { engine.open_handout(&connection.session) } else { None };
                if self.ending.get() {
                    self.cancel_if_nothing_is_watched();
                }
                let running = Running { turn: ticket.turn, follower, context, began, before: None };
                self.order(Order::Request(Box::new(running), handout)).await
            }
            Err(fault) => self.order(Order::Frame(context.refused(&fault))).await,
        }
    }
}

fn turn_request(request: Request, repeat: Repeat, connection: &Connection) -> TurnRequest {
    let named = connection.lifetime == Lifetime::Named;
    let work = &request.work;
    let is_plain = work.downloads.is_empty()
        && work.before.is_empty()
        && work.instead.is_none()
        && work.after.is_empty()
        && work.watch.is_none();
    TurnRequest {
        lifetime: connection.lifetime,
        repeat,
        agent: connection.agent.clone(),
        trace: connection.trace.clone(),
        source_id: request.source_id,
        system_prompt: request.system_prompt,
        model: request.model,
        output_format: request.output_format,
        metadata: request.metadata,
        env: request.env,
        env_policy: EnvPolicy::Inherit,
        secrets: request.secrets,
        timeout: request.extras.timeout,
        on_drain: if named { OnDrain::Grace } else { OnDrain::Cancel },
        // A plain query is independent of the one before; a named session's goes on where that left off.
        state: if connection.is_going_on { StateIn::Stored } else { StateIn::Given(None) },
        work: (!is_plain).then(|| Box::new(request.work)),
        ..TurnRequest::new(connection.session.clone(), "runtimeuse", request.user_prompt)
    }
}
