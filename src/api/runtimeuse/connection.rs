//! One WebSocket connection: reads messages, runs one request at a time, writes frames.
//!
//! Owns the order of frames and the connection's end. A connection owns no work: the turn of a named session outlives
//! it; a plain connection's request is cancelled with it, by contract.
//!
//! Two tasks on the connection's worker: the reader never waits for the socket to take anything, so that a cancel or a
//! disconnect is seen while the writer is held up by a slow peer.

use super::frames::{self, Context};
use super::inspect::Seen;
use super::read::{self, Incoming, Invocation, Refusal};
use crate::api::Runtime;
use crate::api::hangup::Hangup;
use crate::engine::{Followed, Follower, TurnRecord};
use crate::model::{CancelReason, EnvPolicy, Lifetime, OnDrain, Repeat, Seq, SessionId, TurnRequest, What};
use actix_web::web;
use actix_ws::{
    AggregatedMessage, AggregatedMessageStream, CloseCode, CloseReason, Closed, Item, ProtocolError, Session,
};
use bytes::Bytes;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// Longer texts go out as continuation frames of this size: they cost little more than their own size that way.
const FRAME_BYTES: usize = 64 << 10;
/// Entries taken from the log at once, in bytes.
const BATCH_BYTES: usize = 64 << 10;
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
    pub seen: Seen,
    pub hangup: Option<Hangup>,
}

/// What the reader asks the writer to do.
enum Order {
    Frame(String),
    Pong(Bytes),
    Request(Running),
    EndSession,
    Close(Option<CloseReason>),
}

/// The request in flight, as the writer sees it.
struct Running {
    turn: Arc<TurnRecord>,
    follower: Follower,
    context: Context,
    began: Instant,
    /// On a plain connection `seq` counts from 1 per request: this is the number before the first that is sent.
    before: Option<Seq>,
}

/// The request in flight, as the reader sees it; the writer clears it once the terminal is out.
type InFlight = Rc<RefCell<Option<(Arc<TurnRecord>, Context)>>>;

impl Connection {
    /// Serves the connection to its end.
    pub async fn serve(self, socket: Session, mut messages: AggregatedMessageStream) {
        let (orders, taken) = mpsc::channel(ASIDES);
        let in_flight = InFlight::default();
        let writer = Writer::new(&self, in_flight.clone(), socket);
        let writing = actix_web::rt::spawn(writer.write(taken));
        let reader = Reader { connection: &self, orders, in_flight };
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
}

/// The peer does not take what it provokes.
struct Flooded;

impl Reader<'_> {
    async fn read(self, messages: &mut AggregatedMessageStream) {
        loop {
            let Some(next) = self.next(messages).await else {
                tracing::info!(session = %self.connection.session, "the peer gave no sign of life and was cut");
                self.hang_up();
                break;
            };
            let handled = match next {
                Some(Ok(AggregatedMessage::Text(text))) => self.message(&text).await,
                Some(Ok(AggregatedMessage::Binary(bytes))) => self.message(&String::from_utf8_lossy(&bytes)).await,
                Some(Ok(AggregatedMessage::Ping(bytes))) => self.order(Order::Pong(bytes)).await,
                Some(Ok(AggregatedMessage::Pong(_))) => Ok(()),
                end => {
                    if let Some(close) = self.last_order(end) {
                        let _ = self.order(close).await;
                    }
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

    /// The close frame that the end of the messages is answered with; none if the connection is simply gone.
    fn last_order(&self, end: Option<Result<AggregatedMessage, ProtocolError>>) -> Option<Order> {
        let reason = match end {
            Some(Ok(AggregatedMessage::Close(None))) => return Some(Order::Close(None)),
            Some(Ok(AggregatedMessage::Close(Some(reason)))) => Some(reason.code.into()),
            Some(Err(error)) => close_reason(&error),
            _ => self.connection.seen.wrong().map(CloseReason::from),
        };
        reason.map(|reason| Order::Close(Some(reason)))
    }

    /// The next message; `None` in the second place at the end of the stream, in the first when the peer is dead.
    async fn next(
        &self,
        messages: &mut AggregatedMessageStream,
    ) -> Option<Option<Result<AggregatedMessage, ProtocolError>>> {
        let Some(silence) = self.connection.runtime.limits.dead_after else { return Some(messages.recv().await) };
        // Bytes move the end of silence without waking anybody: the timer looks again when it fires.
        loop {
            let dead_at = self.connection.seen.last() + silence;
            match tokio::time::timeout_at(dead_at, messages.recv()).await {
                Ok(next) => return Some(next),
                Err(_) if self.connection.seen.last() + silence > Instant::now() => {}
                Err(_) => return None,
            }
        }
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
        match read::read(text) {
            Err(refusal) => self.refuse(&refusal).await,
            Ok(Incoming::Invocation(invocation)) => self.invoke(*invocation).await,
            Ok(Incoming::Cancel { request_id }) => {
                if let Some((turn, context)) = &*self.in_flight.borrow()
                    && (request_id.is_none() || request_id == context.extras.request_id)
                {
                    self.connection.runtime.engine.cancel(turn, CancelReason::Caller);
                }
                Ok(())
            }
            Ok(Incoming::EndSession) => {
                // Nothing is watched: the running request is cancelled at once, its terminal precedes the confirm.
                if let Some((turn, _)) = &*self.in_flight.borrow() {
                    self.connection.runtime.engine.cancel(turn, CancelReason::Caller);
                }
                self.order(Order::EndSession).await
            }
            Ok(Incoming::ArtifactAnswer) => {
                tracing::debug!(session = %self.connection.session, "an artifact answer came though nothing was announced");
                Ok(())
            }
        }
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

    async fn invoke(&self, invocation: Invocation) -> Result<(), Flooded> {
        if self.in_flight.borrow().is_some() {
            return self.order(Order::Frame(frames::in_flight(invocation.extras.request_id.as_deref()))).await;
        }
        let connection = self.connection;
        let is_named = connection.lifetime == Lifetime::Named;
        let context = Context { extras: invocation.extras.clone(), is_named };
        let began = Instant::now();
        let request = turn_request(invocation, connection);
        match connection.runtime.engine.submit_and_follow(request).await {
            Ok((ticket, follower)) => {
                *self.in_flight.borrow_mut() = Some((ticket.turn.clone(), context.clone()));
                let running = Running { turn: ticket.turn, follower, context, began, before: None };
                self.order(Order::Request(running)).await
            }
            Err(fault) => self.order(Order::Frame(context.refused(&fault))).await,
        }
    }
}

fn turn_request(invocation: Invocation, connection: &Connection) -> TurnRequest {
    let named = connection.lifetime == Lifetime::Named;
    TurnRequest {
        lifetime: connection.lifetime,
        repeat: Repeat::Never,
        source_id: invocation.source_id,
        system_prompt: invocation.system_prompt,
        model: invocation.model,
        output_format: invocation.output_format,
        env: invocation.env,
        env_policy: EnvPolicy::Inherit,
        secrets: invocation.secrets,
        timeout: invocation.extras.timeout,
        on_drain: if named { OnDrain::Grace } else { OnDrain::Cancel },
        // A plain query is independent of the one before; a named session's goes on where that left off.
        state: if named { crate::model::StateIn::Stored } else { crate::model::StateIn::Given(None) },
        ..TurnRequest::new(connection.session.clone(), "runtimeuse", invocation.user_prompt)
    }
}

struct Writer {
    runtime: web::Data<Runtime>,
    socket: Session,
    in_flight: InFlight,
    is_named: bool,
    current: Option<Running>,
    ending: bool,
    frames: Vec<String>,
}

/// Whether the connection goes on.
enum Next {
    GoOn,
    Over,
}

impl Writer {
    fn new(connection: &Connection, in_flight: InFlight, socket: Session) -> Self {
        Self {
            runtime: connection.runtime.clone(),
            socket,
            in_flight,
            is_named: connection.lifetime == Lifetime::Named,
            current: None,
            ending: false,
            frames: Vec::new(),
        }
    }

    async fn write(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut heartbeat = ticker(self.runtime.limits.heartbeat);
        let mut ping = self.runtime.limits.ping.map(ticker);
        let stopping = self.runtime.stopping.clone();
        loop {
            let next = tokio::select! {
                biased;
                order = orders.recv() => match order {
                    Some(order) => self.obey(order, &mut heartbeat).await,
                    None => Ok(Next::Over),
                },
                followed = next_of(&mut self.current) => self.say(followed).await,
                _ = heartbeat.tick(), if self.current.is_some() => self.beat().await,
                () = tick_of(&mut ping) => self.socket.ping(b"").await.map(|()| Next::GoOn),
                () = stopping.cancelled(), if self.current.is_none() => {
                    let _ = self.socket.clone().close(Some(CloseCode::Away.into())).await;
                    return;
                }
            };
            match next {
                Ok(Next::GoOn) => {}
                // The socket is gone: the reader sees it too.
                Ok(Next::Over) | Err(Closed) => return,
            }
        }
    }

    async fn obey(&mut self, order: Order, heartbeat: &mut Interval) -> Result<Next, Closed> {
        match order {
            Order::Frame(frame) => self.send(frame).await?,
            Order::Pong(bytes) => self.socket.pong(&bytes).await?,
            Order::Request(running) => {
                heartbeat.reset();
                self.current = Some(running);
            }
            Order::EndSession => {
                self.ending = true;
                return self.end_if_due().await;
            }
            Order::Close(reason) => {
                let _ = self.socket.clone().close(reason).await;
                return Ok(Next::Over);
            }
        }
        Ok(Next::GoOn)
    }

    /// Sends what the turn said; its end makes the connection ready for the next request.
    async fn say(&mut self, followed: Vec<Followed>) -> Result<Next, Closed> {
        let Some(running) = &mut self.current else { return Ok(Next::GoOn) };
        let mut frames = std::mem::take(&mut self.frames);
        let mut ended = false;
        for item in followed {
            let entry = match item {
                Followed::Entry(entry) => entry,
                Followed::Gap { from, to } => {
                    tracing::error!(turn = %running.turn.id, %from, %to, "a reader fell behind what is kept");
                    continue;
                }
            };
            if entry.turn != running.turn.id {
                continue;
            }
            // Nothing is sent of the acceptance, which a turn that was withdrawn does not have.
            let is_sent = !matches!(entry.what, What::Accepted { .. });
            let before = *running.before.get_or_insert(Seq(entry.seq.0 - u64::from(is_sent)));
            let seq = if self.is_named { entry.seq } else { Seq(entry.seq.0 - before.0) };
            match &entry.what {
                What::Accepted { .. } => {}
                What::Said(event) => running.context.event(seq, event, &mut frames),
                What::Ended(outcome) => {
                    frames.push(running.context.terminal(seq, outcome));
                    ended = true;
                }
            }
        }
        if ended {
            // Before the terminal goes out, not after: whoever has read it may send the next request at once. That one
            // is taken from the orders only when everything below is sent.
            self.current = None;
            *self.in_flight.borrow_mut() = None;
        }
        for frame in frames.drain(..) {
            self.send(frame).await?;
        }
        self.frames = frames;
        if ended { self.end_if_due().await } else { Ok(Next::GoOn) }
    }

    async fn end_if_due(&mut self) -> Result<Next, Closed> {
        if !self.ending || self.current.is_some() {
            return Ok(Next::GoOn);
        }
        self.send(frames::end_session_confirm()).await?;
        let _ = self.socket.clone().close(Some(CloseCode::Normal.into())).await;
        Ok(Next::Over)
    }

    async fn beat(&mut self) -> Result<Next, Closed> {
        if let Some(running) = &self.current {
            let frame = running.context.heartbeat(running.began.elapsed());
            self.send(frame).await?;
        }
        Ok(Next::GoOn)
    }

    async fn send(&mut self, frame: String) -> Result<(), Closed> {
        if frame.len() <= FRAME_BYTES {
            return self.socket.text(frame).await;
        }
        let mut rest = Bytes::from(frame);
        self.socket.continuation(Item::FirstText(rest.split_to(FRAME_BYTES))).await?;
        while rest.len() > FRAME_BYTES {
            self.socket.continuation(Item::Continue(rest.split_to(FRAME_BYTES))).await?;
        }
        self.socket.continuation(Item::Last(rest)).await
    }
}

async fn next_of(current: &mut Option<Running>) -> Vec<Followed> {
    match current {
        Some(running) => running.follower.next(BATCH_BYTES).await,
        None => std::future::pending().await,
    }
}

async fn tick_of(ticker: &mut Option<Interval>) {
    match ticker {
        Some(ticker) => {
            ticker.tick().await;
        }
        None => std::future::pending().await,
    }
}

fn ticker(period: Duration) -> Interval {
    let mut ticker = tokio::time::interval_at(Instant::now() + period, period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}

/// The close code that says what was wrong with a frame. A connection that is simply gone has none.
fn close_reason(error: &ProtocolError) -> Option<CloseReason> {
    match error {
        ProtocolError::Overflow => Some(CloseCode::Size.into()),
        ProtocolError::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => Some(CloseCode::Invalid.into()),
        ProtocolError::Io(_) => None,
        _ => Some(CloseCode::Protocol.into()),
    }
}
