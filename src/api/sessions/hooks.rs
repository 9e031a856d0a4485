//! The programs around a session's agent.
//!
//! Owns which one runs when, what it is told, and what its failure means.

use super::lines::Lines;
use crate::api::Runtime;
use crate::engine::Hook;
use crate::wire::sessions::{Lifecycle, Mount, SessionRecord};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How long a hook may take when nobody says otherwise.
const TIMEOUT: u32 = 30;
/// How long one that runs beside the agent may take to end.
const GRACE: Duration = Duration::from_secs(5);
/// How long any other may take that is stopped.
const SHORT_GRACE: Duration = Duration::from_secs(1);
/// Lines that wait to be written.
const LINES: usize = 256;

/// The hooks of a session.
pub struct Hooks {
    lifecycle: Lifecycle,
    mounts: Vec<Mount>,
    cwd: Option<PathBuf>,
    env: Vec<(&'static str, String)>,
}

/// One that runs beside the agent.
pub struct Beside {
    lines: mpsc::Receiver<String>,
    stop: CancellationToken,
}

impl Hooks {
    pub fn new(lifecycle: Lifecycle, mounts: Vec<Mount>, cwd: Option<PathBuf>, record: &SessionRecord) -> Self {
        let work_dir = cwd.as_deref().map_or_else(String::new, |cwd| cwd.to_string_lossy().into_owned());
        let env = vec![
            ("SESSION_ID", record.id.clone()),
            ("TASK_ID", record.task_id.clone()),
            ("AGENT", record.agent.clone()),
            ("WORK_DIR", work_dir),
        ];
        Self { lifecycle, mounts, cwd, env }
    }

    /// They work in this folder, if it is one, and know the session by this name, if it is not empty.
    pub fn work_in(&mut self, folder: &Path, session_id: &str) {
        if folder.is_dir() {
            self.cwd = Some(folder.to_owned());
        }
        for (name, value) in &mut self.env {
            match *name {
                "WORK_DIR" => *value = folder.to_string_lossy().into_owned(),
                "SESSION_ID" if !session_id.is_empty() => session_id.clone_into(value),
                _ => {}
            }
        }
    }

    /// Whether one of them is to know the agent's process.
    pub fn need_agent(&self) -> bool {
        !self.lifecycle.post_init.is_empty() || !self.lifecycle.sidecar.is_empty()
    }

    /// The agent runs: those that come from here on are told where.
    pub fn agent_runs(&mut self, pid: u32) {
        self.env.push(("AGENT_PID", pid.to_string()));
    }

    fn path(&self, name: &str) -> &str {
        match name {
            "pre_init" => &self.lifecycle.pre_init,
            "post_init" => &self.lifecycle.post_init,
            "sidecar" => &self.lifecycle.sidecar,
            _ => &self.lifecycle.post_run,
        }
    }

    /// The hook of this name, and its path as it was sent; none where it was not sent.
    fn hook(&self, name: &str, timeout: Option<Duration>) -> Option<(Hook, String)> {
        let sent = self.path(name);
        if sent.is_empty() {
            return None;
        }
        let program = self.on_this_machine(sent);
        let grace = if timeout.is_none() { GRACE } else { SHORT_GRACE };
        let hook = Hook { program, cwd: self.cwd.clone(), env: self.env.clone(), timeout, grace };
        Some((hook, sent.to_owned()))
    }

    /// A path as a container would see it is mapped back by the mounts.
    fn on_this_machine(&self, sent: &str) -> PathBuf {
        let mapped = self.mounts.iter().filter(|mount| !mount.container.is_empty()).find_map(|mount| {
            let rest = Path::new(sent).strip_prefix(&mount.container).ok()?;
            Some(Path::new(&mount.host).join(rest))
        });
        mapped.unwrap_or_else(|| PathBuf::from(sent))
    }

    /// Runs one to its end.
    ///
    /// # Errors
    /// Why it did not end well.
    pub async fn run(
        &self,
        name: &'static str,
        runtime: &Runtime,
        lines: &mut Lines,
        stop: &CancellationToken,
    ) -> Result<(), String> {
        let seconds = if self.lifecycle.hook_timeout == 0 { TIMEOUT } else { self.lifecycle.hook_timeout };
        let times = if name == "post_run" { 2 } else { 1 };
        let timeout = Duration::from_secs(u64::from(seconds) * times);
        let Some((hook, sent)) = self.hook(name, Some(timeout)) else { return Ok(()) };
        if !hook.program.exists() {
            notice(lines, name, &format!("{name} hook skipped: {sent} does not exist"));
            return Ok(());
        }
        notice(lines, name, &format!("{name} hook started"));
        let (to, mut said) = mpsc::channel(LINES);
        let running = runtime.engine.run_hook(hook, to, stop.clone());
        tokio::pin!(running);
        let mut ended = None;
        loop {
            tokio::select! {
                biased;
                line = said.recv() => match line {
                    Some(line) => output(lines, name, &line),
                    None if ended.is_some() => break,
                    // All is said; its end comes at once.
                    None => ended = Some((&mut running).await),
                },
                end = &mut running, if ended.is_none() => ended = Some(end),
            }
            if ended.is_some() && said.is_closed() && said.is_empty() {
                break;
            }
            let _ = lines.flush().await;
        }
        let ended = ended.unwrap_or(Ok(()));
        match &ended {
            Ok(()) => notice(lines, name, &format!("{name} hook completed")),
            Err(reason) => notice(lines, name, &format!("{name} hook failed: {reason}")),
        }
        ended
    }

    /// Starts the one that runs beside the agent.
    pub fn beside(&self, runtime: &Runtime, lines: &mut Lines) -> Option<Beside> {
        let (hook, sent) = self.hook("sidecar", None)?;
        if !hook.program.exists() {
            notice(lines, "sidecar", &format!("sidecar hook skipped: {sent} does not exist"));
            return None;
        }
        notice(lines, "sidecar", "sidecar hook started");
        let (to, said) = mpsc::channel(LINES);
        let stop = CancellationToken::new();
        let (engine, token) = (runtime.engine.clone(), stop.clone());
        let _task = runtime.engine.spawn(async move { engine.run_hook(hook, to, token).await });
        Some(Beside { lines: said, stop })
    }
}

impl Beside {
    /// What it says next; `None` once it has ended. Cancel-safe.
    pub async fn next(beside: &mut Option<Self>) -> Option<String> {
        match beside {
            Some(one) => one.lines.recv().await,
            None => std::future::pending().await,
        }
    }

    /// Stops it, and writes what it still says.
    pub async fn end(mut self, lines: &mut Lines) {
        self.stop.cancel();
        let rest = async {
            while let Some(line) = self.lines.recv().await {
                output(lines, "sidecar", &line);
            }
        };
        let _ = tokio::time::timeout(GRACE * 2, rest).await;
        notice(lines, "sidecar", "sidecar hook stopped");
    }
}

fn notice(lines: &mut Lines, name: &str, text: &str) {
    lines.system([("subtype", "lifecycle".into()), ("source", format!("hook:{name}").into()), ("text", text.into())]);
}

/// A line that a hook said.
pub fn output(lines: &mut Lines, name: &str, text: &str) {
    lines.system([("source", format!("hook:{name}").into()), ("text", text.into())]);
}
