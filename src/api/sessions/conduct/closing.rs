//! The end of a session: what still runs is stopped, the agent is waited for, the last lines are written.
//!
//! Owns the order of all that, what a limit of ours does to a session, and what it exits with.

use super::{Conductor, HEARTBEAT, at, next_of, stopped_by, ticker};
use crate::api::sessions::book;
use crate::api::sessions::ending::{self, Exit, TurnEnd};
use crate::api::sessions::times::now;
use crate::handler::Closed;
use crate::model::CancelReason;
use crate::wire::session_line::{ErrorData, ExitData};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a turn that is stopped may take; the engine's own grace is less.
const STOPPING: Duration = Duration::from_secs(5);
/// How long an agent may take to end after SIGTERM.
const KILLING: Duration = Duration::from_secs(1);
/// What a stopping server leaves to the last hook.
const LAST_HOOK: Duration = Duration::from_secs(1);

impl Conductor {
    pub(super) fn tell_error(&mut self, end: &TurnEnd, is_fatal: bool) {
        if let Some("stall" | "timeout") = end.exit.category {
            self.tell_kill("stall_timeout", end.exit.detail.as_deref().unwrap_or_default());
        }
        self.lines.error(ErrorData {
            message: end.message.as_deref().unwrap_or("the turn failed"),
            code: None,
            error_category: end.exit.category,
            fatal: Some(is_fatal),
            retryable: end.exit.retryable,
        });
    }

    fn tell_kill(&mut self, reason: &str, message: &str) {
        self.lines.system([("subtype", "stall_kill".into()), ("reason", reason.into()), ("message", message.into())]);
    }

    /// A turn has been silent for too long.
    pub(super) fn stalled(&mut self) -> Exit {
        let message = format!("the agent was silent for {} seconds", self.last_said.elapsed().as_secs());
        self.is_over(Exit::limit("stall", true, message))
    }

    pub(super) fn out_of_time(&mut self) -> Exit {
        let message = "the session's time is over".to_owned();
        self.lines.error(ErrorData {
            message: &message,
            code: None,
            error_category: Some("timeout"),
            fatal: Some(true),
            retryable: Some(false),
        });
        Exit::limit("timeout", false, message)
    }

    /// There is no use in going on.
    pub(super) fn is_over(&mut self, exit: Exit) -> Exit {
        let end = TurnEnd { message: exit.detail.clone(), exit, ..TurnEnd::default() };
        self.tell_error(&end, true);
        end.exit
    }

    /// Somebody wants the end of the session, or of the server.
    pub(super) fn killed(&self) -> Option<Exit> {
        if self.session.kill.is_cancelled() {
            return Some(Exit::killed("the session was deleted"));
        }
        self.runtime.engine.is_draining().then(|| Exit::killed("the server is stopping"))
    }

    /// Stops what still runs, and writes the last lines.
    pub(super) async fn end(mut self, mut exit: Exit) {
        self.session.close();
        if let Some(turn) = self.running.clone() {
            self.runtime.engine.cancel(&turn, CancelReason::Caller);
            let rest = async {
                while self.running.is_some() {
                    let batch = next_of(&mut self.follower).await;
                    self.take(batch).await;
                }
            };
            if tokio::time::timeout(STOPPING, rest).await.is_err() {
                tracing::error!(session = %self.session.engine_id, "a turn did not end when it was stopped");
            }
        }
        if self.may_leave {
            exit = self.leave(exit).await;
        } else {
            self.runtime.engine.end_session(&self.session.engine_id, KILLING).await;
        }
        if let Some(beside) = self.beside.take() {
            beside.end(&mut self.lines).await;
        }
        // Its failure changes nothing any more, and it may not hold up the server's end.
        let (stop, draining) = (CancellationToken::new(), self.runtime.engine.draining());
        let late = async {
            draining.cancelled().await;
            tokio::time::sleep(LAST_HOOK).await;
        };
        let _ = stopped_by(self.hooks.run("post_run", &self.runtime, &mut self.lines, &stop), late, &stop).await;
        self.write_end(&exit).await;
    }

    /// Waits for an agent that has done what it was asked for: it ends by itself, and writes what it has to write.
    async fn leave(&mut self, exit: Exit) -> Exit {
        let (runtime, session) = (self.runtime.clone(), self.session.clone());
        let (stop, draining) = (CancellationToken::new(), runtime.engine.draining());
        let patience = runtime.sessions.options.stalls.result;
        let closing = runtime.engine.close_session(&session.engine_id, patience, &stop);
        tokio::pin!(closing);
        let mut heartbeat = ticker(HEARTBEAT);
        let closed = loop {
            tokio::select! {
                biased;
                closed = &mut closing => break closed,
                () = session.kill.cancelled(), if !stop.is_cancelled() => stop.cancel(),
                () = draining.cancelled(), if !stop.is_cancelled() => stop.cancel(),
                () = at(self.deadline), if !stop.is_cancelled() => stop.cancel(),
                _ = heartbeat.tick() => {
                    self.lines.heartbeat(true);
                    let _ = self.lines.flush().await;
                }
            }
        };
        match closed {
            Closed::Nothing => exit,
            Closed::Ended { code, stderr, untold } => {
                for line in untold.lines().filter(|line| !line.trim().is_empty()) {
                    self.lines.system([("subtype", "stderr".into()), ("text", line.into())]);
                }
                match code.filter(|code| *code != 0) {
                    Some(code) if exit.code == 0 => {
                        Exit { code, ..Exit::killed(ending::detail(&stderr, "the agent failed after its result")) }
                    }
                    Some(code) => Exit { code, ..exit },
                    None => exit,
                }
            }
            Closed::Hangs => {
                let exit = if let Some(killed) = self.killed() {
                    killed
                } else if stop.is_cancelled() {
                    self.out_of_time()
                } else {
                    let seconds = patience.unwrap_or_default().as_secs_f64();
                    let text = format!("the agent did not end within {seconds} seconds after its result");
                    self.tell_kill("result_timeout", &text);
                    exit
                };
                let _ = self.lines.flush().await;
                runtime.engine.end_session(&session.engine_id, KILLING).await;
                exit
            }
        }
    }

    async fn write_end(mut self, exit: &Exit) {
        let detail = exit.detail.as_deref();
        if exit.code != 0 {
            self.lines.system([
                ("subtype", "agent_error".into()),
                ("code", exit.code.into()),
                ("error_detail", detail.unwrap_or_default().into()),
            ]);
        }
        self.lines.exit(ExitData {
            code: exit.code,
            error_detail: detail,
            error_category: exit.category,
            retryable: exit.retryable,
        });
        if let Err(error) = self.lines.flush().await {
            tracing::error!(session = %self.session.engine_id, %error, "the end of a session could not be noted");
        }
        self.session.change(|record| {
            if exit.code == 0 { "completed" } else { "failed" }.clone_into(&mut record.state);
            record.exit_code = Some(exit.code);
            record.ended_at = Some(now());
            record.error_category = exit.category.map(str::to_owned);
            record.retryable = exit.retryable;
            record.error_detail.clone_from(&exit.detail);
        });
        let session = self.session.clone();
        let saved = tokio::task::spawn_blocking(move || book::save(&session.folder, &session.record())).await;
        self.session.log.finish();
        self.session.over.cancel();
        let (runtime, session) = (self.runtime.clone(), self.session.clone());
        let ended = move || runtime.sessions.book.ended(&session, saved.unwrap_or(false));
        let _ = tokio::task::spawn_blocking(ended).await;
    }
}
