//! What a turn does, in order: directories watched, files fetched, commands before, the handler or the commands that are
//! the work, commands after, files handed out.
//!
//! Owns that order, and what a failure at each step means. Who stops a turn, and when, is `run`'s business.

use super::funnel::Funnel;
use super::session::Session;
use super::turn::TurnRecord;
use super::{Inner, commands};
use crate::artifact::download;
use crate::artifact::handout::Handout;
use crate::handler::{Cancel, Failure, Reply, Sink, Turn};
use crate::model::{
    Answer, ArtifactFailure, Command, CommandEnd, Event, Fault, FaultCode, StateChange, TurnRequest, Work, even_share,
};
use futures_util::FutureExt;
use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// What came of a turn's work.
pub(super) struct Done {
    pub result: Result<Reply, Failure>,
    pub artifact_failures: Vec<ArtifactFailure>,
}

/// One turn's work.
pub(super) struct Doing<'a> {
    pub engine: &'a Arc<Inner>,
    pub session: &'a Session,
    pub record: &'a Arc<TurnRecord>,
    pub funnel: &'a Arc<Funnel>,
    pub request: Arc<TurnRequest>,
}

impl Doing<'_> {
    /// Does it all. Once the turn's switch is pulled this returns within the grace and a second, with any result: how
    /// such a turn ends is decided already.
    pub(super) async fn perform(&self, turn: Turn) -> Done {
        if self.is_plain() {
            return Done { result: self.handler(turn).await, artifact_failures: Vec::new() };
        }
        // Boxed: most turns have no such work, and their futures need not be as large.
        Box::pin(self.perform_all(turn)).await
    }

    /// Whether there is nothing to do but to run the handler.
    pub(super) fn is_plain(&self) -> bool {
        self.request.work.is_none() && self.session.handout().is_none()
    }

    async fn perform_all(&self, turn: Turn) -> Done {
        let nothing = Work::default();
        let work = self.request.work.as_deref().unwrap_or(&nothing);
        let handout = match self.watch(work).await {
            Ok(handout) => handout,
            Err(fault) => return Done { result: Err(fault.into()), artifact_failures: Vec::new() },
        };
        let Some(handout) = handout.or_else(|| self.session.handout()) else {
            return Done { result: self.steps(work, turn).await, artifact_failures: Vec::new() };
        };
        let telling = async {
            let mut announcements = handout.announcements();
            while let Some(said) = announcements.next().await {
                let _ = self.funnel.take_clean(Event::Artifact { path: said.filepath, size: said.size });
            }
            std::future::pending().await
        };
        let doing = async {
            let result = self.steps(work, turn).await;
            // Whoever stops a turn does not wait for its files.
            let settling = async {
                let _busy = self.funnel.busy();
                handout.settle().await
            };
            let artifact_failures = self.unless_stopped(settling).await.unwrap_or_default();
            Done { result, artifact_failures }
        };
        tokio::select! {
            done = doing => done,
            never = telling => never,
        }
    }

    async fn steps(&self, work: &Work, turn: Turn) -> Result<Reply, Failure> {
        self.downloads(work).await?;
        for command in &work.before {
            let end = self.command(command, 0).await?;
            if end.exit_code != 0 {
                return Err(failed("pre-agent", end).into());
            }
        }
        let reply = match &work.instead {
            Some(commands) => Reply {
                answer: Answer::Commands(self.commands(commands, work.stdout_room).await?),
                state: StateChange::Keep,
                metadata: None,
            },
            None => self.handler_within_grace(turn).await?,
        };
        for command in &work.after {
            let failure = match self.command(command, 0).await {
                Ok(end) if end.exit_code == 0 => continue,
                Ok(end) => failed("post-agent", end),
                Err(fault) => fault,
            };
            // What the handler did is done: its state stays, and its answer can be reached.
            let answered = Some(Box::new((reply.answer, reply.metadata)));
            return Err(Failure { fault: Fault { answered, ..failure }, state: reply.state });
        }
        Ok(reply)
    }

    async fn watch(&self, work: &Work) -> Result<Option<Arc<Handout>>, Fault> {
        let Some(watch) = &work.watch else { return Ok(None) };
        if watch.directories.is_empty() && self.session.handout().is_none() {
            // New rules for directories that there are none of.
            return Ok(None);
        }
        let handout = self.session.open_handout(self.engine)?;
        handout.watch(watch).await.map_err(|error| {
            Fault::new(FaultCode::DirectoryUnusable, self.funnel.redactor().text(&error.to_string()))
        })?;
        Ok(Some(handout))
    }

    async fn downloads(&self, work: &Work) -> Result<(), Fault> {
        if work.downloads.is_empty() {
            return Ok(());
        }
        let http = self.engine.http()?;
        // A download has limits of its own.
        let _busy = self.funnel.busy();
        for wanted in &work.downloads {
            let fetching = download::download(&http, wanted, &self.engine.options.work.downloads);
            let fetched = self.unless_stopped(fetching).await.ok_or_else(stopped)?;
            let warnings = fetched.map_err(|error| Fault::new(FaultCode::DownloadFailed, error.to_string()))?;
            for text in warnings {
                let text = self.funnel.redactor().text(&text).into_owned();
                tracing::warn!(turn = %self.record.id, text, "download");
                self.funnel.say_clean(Event::Warning { text, field: None }).await;
            }
        }
        Ok(())
    }

    async fn command(&self, command: &Command, room: usize) -> Result<CommandEnd, Fault> {
        commands::run(self, command, room).await
    }

    /// The commands that are the work: up to the first that fails, and that one.
    async fn commands(&self, commands: &[Command], room: usize) -> Result<Vec<CommandEnd>, Fault> {
        let mut ends: Vec<CommandEnd> = Vec::new();
        for command in commands {
            let end = self.command(command, room).await?;
            let failed = end.exit_code != 0;
            ends.push(end);
            // Cut as they come: what is kept of a thousand commands is never more than what may be answered.
            let share = even_share(ends.iter().map(|end| end.stdout.len()), room);
            for end in ends.iter_mut().filter(|end| end.stdout.len() > share) {
                end.stdout.truncate(end.stdout.floor_char_boundary(share));
                end.stdout.shrink_to_fit();
                end.stdout_cut = true;
            }
            if failed {
                break;
            }
        }
        Ok(ends)
    }

    async fn handler(&self, turn: Turn) -> Result<Reply, Failure> {
        let cancel = Cancel::new(self.record.stop.token());
        let running =
            AssertUnwindSafe(async { self.engine.handler.run(turn, Sink::new(self.funnel.clone()), cancel).await })
                .catch_unwind();
        caught(running.await)
    }

    /// Runs the handler. One that does not heed its cancel within the grace is dropped.
    async fn handler_within_grace(&self, turn: Turn) -> Result<Reply, Failure> {
        let spent = async {
            let grace = self.engine.stop_grace(self.record.stop.pulled().await);
            tokio::time::sleep(grace).await;
            grace
        };
        tokio::select! {
            biased;
            result = self.handler(turn) => result,
            grace = spent => {
                tracing::warn!(turn = %self.record.id, "a handler did not stop within {grace:?} and was dropped");
                Err(stopped().into())
            }
        }
    }

    /// The future's value, or nothing if the turn's switch is pulled first; the future is dropped then.
    async fn unless_stopped<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            _ = self.record.stop.pulled() => None,
            value = future => Some(value),
        }
    }
}

/// What a step that was stopped ends with; nobody sees it.
fn stopped() -> Fault {
    Fault::new(FaultCode::Internal, "stopped")
}

/// The fixed text is part of the protocol: clients look for it.
fn failed(which: &str, end: CommandEnd) -> Fault {
    let text = format!("{which} command failed with exit code: {}", end.exit_code);
    Fault { command: Some(Box::new(end)), ..Fault::new(FaultCode::CommandFailed, text) }
}

fn caught(result: Result<Result<Reply, Failure>, Box<dyn Any + Send>>) -> Result<Reply, Failure> {
    result.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "no text".to_owned());
        Err(Fault::new(FaultCode::HandlerPanicked, "the handler panicked").with_detail(text).into())
    })
}
