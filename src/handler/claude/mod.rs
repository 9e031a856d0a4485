//! The built-in `claude` agent: turns by Claude Code's own program, spoken to in stream-json.
//!
//! Owns its options, and what a process is begun with. Where the program is found is in `find`, one process is `live`'s,
//! which process runs which turn `pool`'s; a turn is in `turn`, what it says in `saying`, how it ends in `ending`.

mod ending;
mod find;
mod live;
mod pool;
mod saying;
mod turn;

use super::agent_error::{AgentError, Category};
use super::{Cancel, Closed, Failure, Handler, Reply, Sink, Turn};
use crate::model::SessionId;
use crate::process::{Environment, ShellCommand, ShellOutput, ShellStream, run_shell};
use crate::wire::claude::RequestOptions;
use pool::Pool;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long the program may take to tell its version.
const VERSION_WITHIN: Duration = Duration::from_secs(10);

/// Options of the agent.
#[derive(Debug, Clone)]
pub struct ClaudeOptions {
    /// The program, if it was named.
    pub program: Option<PathBuf>,
    /// Its first arguments. What is said by ours behind them counts.
    pub args: Vec<OsString>,
    /// The model of turns that name none.
    pub model: Option<String>,
    /// Whether the system prompt of a turn is added to the program's own instead of replacing it.
    pub append_system_prompt: bool,
    /// Which tools may be used without asking; nobody is there to be asked.
    pub permission_mode: String,
    /// The built-in tools; all if absent.
    pub tools: Option<String>,
    /// Rounds of a turn.
    pub max_turns: Option<u32>,
    /// A file that says which servers of tools there are.
    pub mcp_config: Option<PathBuf>,
    /// Which settings files are read: `user`, `project`, `local`, or none.
    pub settings: String,
    /// How often a failed call is tried again.
    pub retries: u32,
    /// Processes that may live at once.
    pub processes: usize,
    /// How long a process is kept for the next turn of its session.
    pub keep: Duration,
    /// Whether a process is started ahead of need.
    pub spare: bool,
    /// How long a process's tree may take to end after SIGTERM.
    pub stop_grace: Duration,
    /// The server's own environment, which the program gets.
    pub environment: Environment,
    /// Where it runs.
    pub workspace: PathBuf,
}

/// What a process is begun with, and cannot change any more.
#[derive(Debug, Clone, PartialEq)]
pub struct Begin {
    /// The conversation it goes on with.
    pub resume: Option<String>,
    /// The turn's system prompt.
    pub system_prompt: Option<String>,
    /// The turn's schema, as text.
    pub schema: Option<String>,
    /// What the request wants otherwise.
    pub options: RequestOptions,
    /// Variables that only a new process takes.
    pub environment: Vec<(String, OsString)>,
    /// Whether it sees the request's environment, and little of the server's.
    pub is_own_environment: bool,
    /// Where it works; the server's workspace if absent.
    pub cwd: Option<PathBuf>,
}

impl Begin {
    /// Whether any process that was started without a wish will do: the rest is told to it when it is taken.
    fn is_plain(&self) -> bool {
        self.resume.is_none()
            && self.options == RequestOptions::default()
            && self.environment.is_empty()
            && !self.is_own_environment
            && self.cwd.is_none()
    }
}

/// Runs turns with Claude Code.
pub struct Claude {
    pool: Arc<Pool>,
}

impl Claude {
    /// An agent whose processes are owned by tasks of `tasks`.
    #[must_use]
    pub fn new(options: ClaudeOptions, tasks: TaskTracker) -> Self {
        Self { pool: Arc::new(Pool::new(options, tasks)) }
    }
}

/// Keeps what a command says on standard output.
#[derive(Default)]
struct Said(String);

impl ShellOutput for Said {
    async fn take(&mut self, stream: ShellStream, text: String) {
        if stream == ShellStream::Stdout && self.0.len() < 1024 {
            self.0.push_str(&text);
        }
    }
}

impl Handler for Claude {
    fn name(&self) -> &'static str {
        "claude"
    }

    async fn start(&self) -> Result<(), String> {
        let program = self.pool.program()?;
        let command = ShellCommand {
            command: "exec \"$CLAUDE_PROGRAM\" --version".to_owned(),
            cwd: Some(self.pool.options.workspace.clone()),
            env: self.pool.options.environment.clone().with("CLAUDE_PROGRAM", program),
            timeout: Some(VERSION_WITHIN),
            grace: Duration::from_millis(200),
            pipes_quiet: None,
        };
        let mut said = Said::default();
        let ended = run_shell(command, &self.pool.tasks, std::future::pending(), &mut said).await;
        match ended {
            Ok(ended) if ended.exit_code == 0 && ended.cut.is_none() => {}
            _ => return Err(format!("{} --version did not work: is it the Claude CLI?", program.display())),
        }
        tracing::info!(program = %program.display(), version = said.0.trim(), "Claude CLI");
        self.pool.replenish();
        Ok(())
    }

    async fn run(&self, turn: Turn, sink: Sink, cancel: Cancel) -> Result<Reply, Failure> {
        turn::run(&self.pool, &turn, &sink, &cancel).await
    }

    fn session_ended(&self, session: &SessionId) {
        self.pool.session_ended(session);
    }

    async fn end_session(&self, session: &SessionId, grace: Duration) {
        self.pool.end_session(session, grace).await;
    }

    async fn prepare(&self, turn: Turn) -> Option<u32> {
        turn::prepare(&self.pool, &turn).await
    }

    async fn close_session(&self, session: &SessionId, patience: Option<Duration>, stop: &CancellationToken) -> Closed {
        self.pool.close_session(session, patience, stop).await
    }

    async fn left(&self, session: &SessionId) {
        self.pool.left(session).await;
    }

    async fn stop(&self, grace: Duration) {
        self.pool.stop(grace).await;
    }
}

/// The arguments of a process. Nothing of a turn is among them but the id of its conversation: others can read them.
fn arguments(
    options: &ClaudeOptions,
    begin: &Begin,
) -> Result<(Vec<OsString>, Option<tempfile::TempPath>), AgentError> {
    let mut args = options.args.clone();
    let mut add = |more: &[&str]| args.extend(more.iter().map(OsString::from));
    add(&["-p", "--output-format", "stream-json", "--input-format", "stream-json"]);
    let sources = begin.options.setting_sources.as_ref().unwrap_or(&options.settings);
    add(&["--verbose", "--include-partial-messages", "--setting-sources", sources]);
    let mode = begin.options.permission_mode.as_deref().unwrap_or(&options.permission_mode);
    if mode == "bypassPermissions" {
        add(&["--dangerously-skip-permissions"]);
    } else {
        add(&["--permission-mode", mode]);
    }
    if let Some(id) = &begin.resume {
        add(&["--resume", id]);
    }
    if let Some(turns) = begin.options.max_turns.or(options.max_turns) {
        add(&["--max-turns", &turns.to_string()]);
    }
    if let Some(tools) = begin.options.tools.as_ref().map(|tools| tools.join(",")).or(options.tools.clone()) {
        add(&["--tools", &tools]);
    }
    if let Some(file) = &begin.options.settings_file {
        add(&["--settings", file]);
    }
    for tool in &begin.options.allowed_tools {
        add(&[&format!("--allowedTools={tool}")]);
    }
    if begin.options.bare {
        add(&["--bare"]);
    }
    if let Some(team) = &begin.options.team {
        add(&["--agent-id", &team.agent_id, "--agent-name", &team.agent_name, "--team-name", &team.name]);
    }
    let mut file = None;
    if let Some(path) = &begin.options.mcp_config {
        add(&["--mcp-config", path]);
        if sources.is_empty() || begin.options.strict_mcp_config {
            add(&["--strict-mcp-config"]);
        }
    } else if let Some(servers) = &begin.options.mcp_servers {
        // Servers come with keys, and arguments can be read by everybody.
        let text = serde_json::json!({"mcpServers": servers}).to_string();
        let written = tempfile::NamedTempFile::with_prefix("turnhost-mcp-").and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            Ok(file.into_temp_path())
        });
        let failed =
            |error| AgentError::new(Category::StartupCrash, format!("cannot write the list of servers: {error}"));
        let path = written.map_err(failed)?;
        args.extend(["--mcp-config".into(), path.as_os_str().to_owned(), "--strict-mcp-config".into()]);
        file = Some(path);
    } else if let Some(path) = &options.mcp_config {
        args.extend(["--mcp-config".into(), path.as_os_str().to_owned(), "--strict-mcp-config".into()]);
    } else if sources.is_empty() || begin.options.strict_mcp_config {
        args.push("--strict-mcp-config".into());
    }
    Ok((args, file))
}

/// The environment of a process: the server's, and what makes the program fit to be driven.
fn environment(options: &ClaudeOptions, begin: &Begin) -> Environment {
    let mut env = options.environment.clone();
    if begin.is_own_environment {
        env = env.only_allowed();
    }
    let ours = [
        // Its permissions may be bypassed as root, too.
        ("IS_SANDBOX", "1"),
        ("CLAUDE_CODE_STARTUP_FAILURE_RESULTS", "1"),
        // One prompt, one result.
        ("CLAUDE_CODE_DISABLE_BACKGROUND_TASKS", "1"),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
        ("DISABLE_AUTOUPDATER", "1"),
        ("CLAUDE_CODE_ENTRYPOINT", "turnhost"),
    ];
    for (name, value) in ours {
        env = env.with(name, value);
    }
    if env.get("CLAUDE_CODE_MAX_RETRIES").is_none() {
        env = env.with("CLAUDE_CODE_MAX_RETRIES", options.retries.to_string());
    }
    // A server that was started by an agent is none of its children.
    env = env.without("CLAUDECODE").without("CLAUDE_CODE_SESSION_ID").without("CLAUDE_CODE_CHILD_SESSION");
    for (name, value) in &begin.environment {
        env = env.with(name, value);
    }
    env
}

/// Variables that name a key, or another place than Anthropic's own where none is needed.
const KEYS: [&str; 6] = [
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_USE_FOUNDRY",
];

/// Whether a turn may have a key. The program would say so itself, but later, and not which variable is missing.
fn may_have_key(options: &ClaudeOptions, turn: &Turn) -> bool {
    // Settings may name a program that gives keys, and somebody may have logged in.
    let home = options.environment.get("HOME").map(|home| PathBuf::from(home).join(".claude"));
    let folder = options.environment.get("CLAUDE_CONFIG_DIR").map(PathBuf::from).or(home);
    KEYS.iter().any(|name| turn.variable(name, &options.environment).is_some())
        || !options.settings.is_empty()
        || folder.is_some_and(|folder| folder.join(".credentials.json").exists())
}

/// Whether a variable means something to the program while it starts, so that a live process does not take it.
fn is_for_the_start(name: &str) -> bool {
    ["HOME", "PATH", "IS_SANDBOX", "NODE_EXTRA_CA_CERTS"].contains(&name)
        || name.starts_with("CLAUDE_C")
        || name.to_ascii_lowercase().ends_with("_proxy")
}
