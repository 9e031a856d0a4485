//! What a connection writes, and in which order: the frames of the request in flight, asides, files to be uploaded, and
//! the confirm at the end of the session.
//!
//! Owns the socket's writing end. It never waits for the reader, nor the reader for the socket: a cancel or a disconnect
//! is seen while a slow peer holds the writer up.

use super::connection::Connection;
use super::frames::{self, Context};
use crate::api::Runtime;
use crate::api::websocket::send_text;
use crate::artifact::handout::{Announcement, Announcements, Handout};
use crate::engine::{Followed, Follower, TurnRecord};
use crate::model::{ArtifactFailure, CancelReason, Event, Lifetime, Seq, What};
use actix_web::web;
use actix_ws::{CloseCode, CloseReason, Closed, Session};
use bytes::Bytes;
use futures_util::future::BoxFuture;
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
/// How long a request may go on at the end of a session whose directories are watched.
const LAST_WORK: Duration = Duration::from_secs(3);
/// How long the end of a session may take before it is confirmed all the same: clients wait for 60 s.
const DRAIN: Duration = Duration::from_secs(50);

/// What the reader asks the writer to do.
pub enum Order {
    Frame(String),
    Pong(Bytes),
    /// In a box: the queue of orders has room for each from the start, on each connection.
    Request(Box<Running>, Option<Arc<Handout>>),
    /// Announces the session's files from now on.
    Files(Arc<Handout>),
    EndSession,
    Close(Option<CloseReason>),
}

/// The request in flight, as the writer sees it.
pub struct Running {
    pub turn: Arc<TurnRecord>,
    pub follower: Follower,
    pub context: Context,
    pub began: Instant,
    /// On a plain connection `seq` counts from 1 per request: this is the number before the first that is sent.
    pub before: Option<Seq>,
}

/// The request in flight, as the reader sees it; the writer clears it once the terminal is out.
pub type InFlight = Rc<RefCell<Option<(Arc<TurnRecord>, Context)>>>;

/// Writes what a connection says, in order.
pub struct Writer {
    runtime: web::Data<Runtime>,
    socket: Session,
    in_flight: InFlight,
    is_named: bool,
    current: Option<Box<Running>>,
    /// When the client asked for the end of the session.
    ending: Option<Instant>,
    /// When the request in flight has to end because of that.
    cut_at: Option<Instant>,
    handout: Option<Arc<Handout>>,
    announcements: Option<Announcements>,
    /// Waits for the last files of the session.
    draining: Option<BoxFuture<'static, Vec<ArtifactFailure>>>,
    frames: Vec<String>,
}

/// Whether the connection goes on.
enum Next {
    GoOn,
    Over,
}

impl Writer {
    pub fn new(connection: &Connection, in_flight: InFlight, socket: Session) -> Self {
        Self {
            runtime: connection.runtime.clone(),
            socket,
            in_flight,
            is_named: connection.lifetime == Lifetime::Named,
            current: None,
            ending: None,
            cut_at: None,
            handout: None,
            announcements: None,
            draining: None,
            frames: Vec::new(),
        }
    }

    /// Obeys until the connection ends.
    pub async fn write(mut self, mut orders: mpsc::Receiver<Order>) {
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
                // Before what the turn says: a long stream must not hold them up.
                file = next_file(&mut self.announcements) => self.announce(&file).await,
                followed = next_of(&mut self.current) => self.say(followed).await,
                _ = heartbeat.tick(), if self.current.is_some() => self.beat().await,
                () = tick_of(&mut ping) => self.socket.ping(b"").await.map(|()| Next::GoOn),
                () = at(self.cut_at), if self.current.is_some() => {
                    self.cut();
                    Ok(Next::GoOn)
                }
                failures = drained(&mut self.draining) => self.confirm(&failures).await,
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
            Order::Request(running, handout) => {
                heartbeat.reset();
                self.cut_at = self.ending.map(|began| (Instant::now() + LAST_WORK).min(began + DRAIN));
                self.current = Some(running);
                if let Some(handout) = handout {
                    self.hand_out(handout);
                }
                return self.tell_if_over().await;
            }
            Order::Files(handout) => self.hand_out(handout),
            Order::EndSession => {
                if self.ending.is_none() {
                    self.ending = Some(Instant::now());
                    self.cut_at = Some(Instant::now() + LAST_WORK);
                }
                return self.end_if_due().await;
            }
            Order::Close(reason) => {
                let _ = self.socket.clone().close(reason).await;
                return Ok(Next::Over);
            }
        }
        Ok(Next::GoOn)
    }

    fn hand_out(&mut self, handout: Arc<Handout>) {
        if self.handout.is_none() {
            self.announcements = Some(handout.announcements());
            self.handout = Some(handout);
        }
    }

    /// A turn that is over, and whose entries are not in the log any more, tells its outcome at once.
    async fn tell_if_over(&mut self) -> Result<Next, Closed> {
        let is_over = |running: &Running| running.turn.ended().is_some() && running.follower.is_at_end();
        if self.current.as_deref().is_some_and(is_over) { self.say(Vec::new()).await } else { Ok(Next::GoOn) }
    }

    /// Sends what the turn said; its end makes the connection ready for the next request.
    async fn say(&mut self, followed: Vec<Followed>) -> Result<Next, Closed> {
        let Some(running) = &mut self.current else { return Ok(Next::GoOn) };
        let mut frames = std::mem::take(&mut self.frames);
        let (mut ended, mut gone) = (false, running.follower.after());
        for item in followed {
            let entry = match item {
                Followed::Entry(entry) => entry,
                Followed::Gap { from, to } => {
                    tracing::error!(turn = %running.turn.id, %from, %to, "a reader fell behind what is kept");
                    gone = to;
                    let text = format!("the entries {from} to {to} of the session's log are no longer kept");
                    running.context.event(to, &Event::Warning { text, field: None }, &mut frames);
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
        if !ended
            && running.follower.is_at_end()
            && let Some(outcome) = running.turn.ended()
        {
            // Its end is among what is no longer kept; the turn itself remembers it.
            frames.push(running.context.terminal(gone, &outcome));
            ended = true;
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

    async fn announce(&mut self, file: &Announcement) -> Result<Next, Closed> {
        let context = self.current.as_ref().map(|running| &running.context);
        let frame = Context::upload_request(context, file);
        self.send(frame).await?;
        Ok(Next::GoOn)
    }

    /// The session ends, and the request in flight has had its time.
    fn cut(&mut self) {
        self.cut_at = None;
        if let Some(running) = &self.current {
            self.runtime.engine.cancel(&running.turn, CancelReason::Caller);
        }
    }

    /// Ends the session, once nothing runs in it any more and its files are out.
    async fn end_if_due(&mut self) -> Result<Next, Closed> {
        let Some(began) = self.ending.filter(|_| self.current.is_none()) else { return Ok(Next::GoOn) };
        let Some(handout) = self.handout.clone() else { return self.confirm(&[]).await };
        if self.draining.is_none() {
            let left = (began + DRAIN).saturating_duration_since(Instant::now());
            self.draining =
                Some(Box::pin(async move { tokio::time::timeout(left, handout.drain()).await.unwrap_or_default() }));
        }
        Ok(Next::GoOn)
    }

    async fn confirm(&mut self, failures: &[ArtifactFailure]) -> Result<Next, Closed> {
        self.draining = None;
        if self.current.is_some() {
            // A request came meanwhile: its end leads here again.
            return Ok(Next::GoOn);
        }
        self.send(frames::end_session_confirm(failures)).await?;
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
        send_text(&mut self.socket, frame, FRAME_BYTES).await
    }
}

async fn next_of(current: &mut Option<Box<Running>>) -> Vec<Followed> {
    match current {
        Some(running) => running.follower.next(BATCH_BYTES).await,
        None => std::future::pending().await,
    }
}

async fn next_file(announcements: &mut Option<Announcements>) -> Announcement {
    if let Some(reader) = announcements
        && let Some(file) = reader.next().await
    {
        return file;
    }
    std::future::pending().await
}

async fn drained(draining: &mut Option<BoxFuture<'static, Vec<ArtifactFailure>>>) -> Vec<ArtifactFailure> {
    match draining {
        Some(draining) => draining.await,
        None => std::future::pending().await,
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
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
