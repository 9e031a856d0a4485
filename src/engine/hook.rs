//! Programs around a session, which are no part of any turn.
//!
//! Owns how one is run: in which environment, for how long, and what becomes of what it says.

use super::Engine;
use crate::handler::{Closed, Inputs, Turn};
use crate::model::{SessionId, StateIn, TurnId, TurnRequest};
use crate::process::{ShellCommand, ShellCut, ShellOutput, ShellStream, run_shell};
use crate::telemetry::Whose;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The agents' keys are none of a hook's business.
const KEYS: [&str; 3] = ["ANTHROPIC_API_KEY", "OPENAI_API_KEY", "CODEX_API_KEY"];
/// What a hook has left running is read for no longer than this.
const PIPES_QUIET: Duration = Duration::from_secs(1);

/// A program to be run.
#[derive(Debug, Clone)]
pub struct Hook {
    /// Its path; it gets no arguments.
    pub program: PathBuf,
    /// Where it runs.
    pub cwd: Option<PathBuf>,
    /// Variables besides the server's own.
    pub env: Vec<(&'static str, String)>,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// How long it may take to end when it is stopped.
    pub grace: Duration,
}

/// Passes lines on.
struct Pieces<'a> {
    to: mpsc::Sender<String>,
    engine: &'a Engine,
    open: [String; 2],
}

/// A line without an end is passed on as it is beyond this.
const LINE: usize = 16 << 10;

impl Pieces<'_> {
    async fn pass(&self, line: &str) {
        // Nobody listens any more: the hook is not held up by that.
        let _ = self.to.send(self.engine.0.redactor.text(line).into_owned()).await;
    }

    async fn finish(self) {
        for rest in self.open.iter().filter(|rest| !rest.is_empty()) {
            self.pass(rest).await;
        }
    }
}

impl ShellOutput for Pieces<'_> {
    async fn take(&mut self, stream: ShellStream, text: String) {
        let at = usize::from(stream == ShellStream::Stderr);
        let mut whole = std::mem::take(&mut self.open[at]) + &text;
        let end = if whole.len() > LINE { whole.len() } else { whole.rfind('\n').map_or(0, |at| at + 1) };
        self.open[at] = whole.split_off(end);
        for line in whole.lines() {
            self.pass(line).await;
        }
    }
}

impl Engine {
    /// Runs a program to its end, or until `stop`; every line that it says goes to `lines`.
    ///
    /// # Errors
    /// Why it did not end well, in the words of a shell.
    pub async fn run_hook(
        &self,
        hook: Hook,
        lines: mpsc::Sender<String>,
        stop: CancellationToken,
    ) -> Result<(), String> {
        let own = self.0.options.work.environment.clone();
        let env = KEYS.iter().fold(own, |env, key| env.without(key));
        let env = hook.env.into_iter().fold(env, |env, (name, value)| env.with(name, value));
        let command = ShellCommand {
            // No shell stays: the program takes its place.
            command: "hook=$TURNHOST_HOOK; unset TURNHOST_HOOK; exec \"$hook\"".to_owned(),
            cwd: hook.cwd,
            env: env.with("TURNHOST_HOOK", hook.program),
            timeout: hook.timeout,
            grace: hook.grace,
            pipes_quiet: Some(PIPES_QUIET),
        };
        let mut pieces = Pieces { to: lines, engine: self, open: <[String; 2]>::default() };
        let stopped = async {
            stop.cancelled().await;
            hook.grace
        };
        let ended = run_shell(command, &self.0.tasks, stopped, &mut pieces).await;
        pieces.finish().await;
        match ended {
            Err(error) => Err(error.to_string()),
            Ok(ended) => match ended.cut {
                None if ended.exit_code == 0 => Ok(()),
                None => Err(format!("exit status {}", ended.exit_code)),
                Some(ShellCut::Signal(signal)) => Err(format!("signal {signal}")),
                Some(ShellCut::Timeout) => Err(format!("timed out after {:?}", hook.timeout.unwrap_or_default())),
                Some(ShellCut::Stopped) => Err("stopped".to_owned()),
            },
        }
    }

    /// A session is gone for good: nothing that its handler keeps for it is left when this returns.
    pub async fn end_session(&self, id: &SessionId, grace: Duration) {
        self.0.registry.forget(id);
        Whose::session(id).does(self.0.handler.end_session(id, grace)).await;
    }

    /// Has a session's agent started ahead of its first turn, which is to be like this one: its process id, where it has
    /// one.
    pub async fn prepare_session(&self, request: TurnRequest) -> Option<u32> {
        let state = match &request.state {
            StateIn::Given(state) => state.clone(),
            StateIn::Stored => None,
        };
        let turn = Turn {
            id: TurnId::from_drawn("prepare".to_owned()),
            session: request.session.clone(),
            attempt: 1,
            state,
            request: Arc::new(request),
            inputs: Inputs::default(),
            cut: None,
        };
        Whose::session(&turn.session).does(self.0.handler.prepare(turn)).await
    }

    /// Comes back once the agent of a session that has no turn has ended by itself, see [`crate::handler::Handler::left`].
    pub async fn agent_left(&self, id: &SessionId) {
        self.0.handler.left(id).await;
    }

    /// A session had its last turn: its agent may end by itself, see [`crate::handler::Handler::close_session`].
    pub async fn close_session(&self, id: &SessionId, patience: Option<Duration>, stop: &CancellationToken) -> Closed {
        self.0.registry.forget(id);
        Whose::session(id).does(self.0.handler.close_session(id, patience, stop)).await
    }
}
