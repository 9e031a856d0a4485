//! What the tests stand on: the real server as a child process, an HTTP host, a WebSocket client, a look into `/proc`.
//!
//! Every wait has a deadline; nothing is waited for by sleeping a fixed time.

pub mod agents;
pub mod bridge;
pub mod clients;
pub mod files;
pub mod http;
pub mod model;
pub mod network;
pub mod proc;
pub mod programs;
pub mod pty;
pub mod raw_http;
pub mod raw_ws;
pub mod root;
pub mod stub;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Longer than anything that works takes, also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a busy machine may add to something that comes at once.
pub const SOON: Duration = Duration::from_secs(3);

/// The binary under test.
pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_turnhost")
}

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The Python that `make test` sets up, with the real clients. Without it what they show is not tested: a failure.
pub fn python() -> PathBuf {
    let python =
        std::env::var_os("TURNHOST_TEST_PYTHON").map_or_else(|| repository(".cache/venv/bin/python"), PathBuf::from);
    assert!(python.is_file(), "{} is not there: run it through `make test`", python.display());
    python
}

/// Waits until `check` gives a value; panics with `what` after [`PATIENCE`].
pub async fn eventually<T>(what: &str, check: impl FnMut() -> Option<T>) -> T {
    eventually_within(PATIENCE, what, check).await
}

/// The same with a deadline that is part of what is tested.
pub async fn eventually_within<T>(within: Duration, what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {within:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A running server. Killed, with everything under it, when dropped.
pub struct Server {
    child: Child,
    pub port: u16,
    /// Everything it has written to standard error so far.
    pub log: Arc<Mutex<String>>,
    /// The same for standard output.
    pub out: Arc<Mutex<String>>,
    client: reqwest::Client,
    // Keeps a piped standard input open.
    _stdin: Option<ChildStdin>,
}

/// An HTTP answer, read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAnswer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl HttpAnswer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// The command that starts a server as tests want it: a clean environment, a free port.
pub fn server_command(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args).env_clear();
    // A folder of its own is what a test asks for where it means it.
    command.env("TURNHOST_DATA_DIR", "memory");
    for name in ["PATH", "HOME", "LANG", "TMPDIR", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// A program that has come to its end.
#[derive(Debug)]
pub struct Finished {
    /// `None`: a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command that ends by itself.
pub async fn finish(command: Command) -> Finished {
    let mut command = tokio::process::Command::from(command);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, output).await.expect("an end in time").expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Finished { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Runs `turnhost ARGS` to its end.
pub async fn turnhost(args: &[&str]) -> Finished {
    finish(server_command(args)).await
}

impl Server {
    /// Starts `turnhost ARGS --port 0` and waits until it listens.
    pub fn start(args: &[&str]) -> Self {
        Self::start_with(args, |_| {})
    }

    /// The same with a last word on the command: environment, folder.
    pub fn start_with(args: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let mut command = server_command(args);
        if !args.contains(&"--port") {
            command.args(["--port", "0"]);
        }
        change(&mut command);
        Self::spawn(command)
    }

    /// Starts a command and waits for the line that says where it listens.
    pub fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the server starts");
        let log = Arc::new(Mutex::new(String::new()));
        let out = Arc::new(Mutex::new(String::new()));
        let (lines, line) = mpsc::channel();
        let stdout = child.stdout.take().unwrap();
        let kept = out.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                kept.lock().unwrap().extend([line.as_str(), "\n"]);
                let _ = lines.send(line);
            }
        });
        let mut stderr = child.stderr.take().unwrap();
        let kept = log.clone();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(read) = stderr.read(&mut chunk) {
                if read == 0 {
                    break;
                }
                kept.lock().unwrap().push_str(&String::from_utf8_lossy(&chunk[..read]));
            }
        });
        let said = line.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            let _ = child.kill();
            let status = child.wait();
            // The reader of standard error ends with the process.
            std::thread::sleep(Duration::from_millis(100));
            panic!("the server did not say that it listens: {status:?}\n{}", log.lock().unwrap())
        });
        let port = said.split("on port ").nth(1).and_then(|rest| rest.split(' ').next()).and_then(|n| n.parse().ok());
        let port = port.unwrap_or_else(|| panic!("no port in {said:?}"));
        // Plain HTTP only, but the client is not made without one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE * 4).build().unwrap();
        Self { child, port, log, out, client, _stdin: None }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Sends a signal to the server's own process.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid()).unwrap());
        nix::sys::signal::kill(pid, signal).expect("the server runs");
    }

    /// Waits for the server's own exit.
    pub async fn exited(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("the server's exit", || child.try_wait().unwrap()).await
    }

    /// Whether this very process still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until no turn runs or waits.
    pub async fn idle(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.get("/health").await.json()["busy"] != false {
            assert!(Instant::now() < deadline, "a turn goes on: not idle within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a turn runs.
    pub async fn busy(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.get("/health").await.json()["busy"] != true {
            assert!(Instant::now() < deadline, "no turn began within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, self.url(path))
    }

    pub async fn get(&self, path: &str) -> HttpAnswer {
        read(self.request(reqwest::Method::GET, path)).await
    }

    /// `POST /runtime/advance`
    pub async fn advance(&self, body: &Value) -> HttpAnswer {
        self.advance_raw(body.to_string()).await
    }

    pub async fn advance_raw(&self, body: impl Into<reqwest::Body>) -> HttpAnswer {
        read(self.request(reqwest::Method::POST, "/runtime/advance").body(body)).await
    }

    /// Opens a WebSocket.
    pub async fn connect(&self, path: &str) -> WsClient {
        WsClient::connect(self.address(), path).await
    }
}

/// Sends a request and reads the whole answer.
pub async fn read(request: reqwest::RequestBuilder) -> HttpAnswer {
    let answer = request.send().await.expect("an answer");
    let status = answer.status().as_u16();
    let headers = answer.headers().iter();
    let headers =
        headers.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into())).collect();
    HttpAnswer { status, headers, body: answer.text().await.expect("a whole body") }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A RuntimeUse client that checks nothing: tests see every frame as it came.
pub struct WsClient {
    pub socket: WebSocketStream<TcpStream>,
}

impl WsClient {
    pub async fn connect(address: SocketAddr, path: &str) -> Self {
        let tcp = TcpStream::connect(address).await.expect("the port is open");
        tcp.set_nodelay(true).unwrap();
        let url = format!("ws://{address}{path}");
        let mut config = tokio_tungstenite::tungstenite::protocol::WebSocketConfig::default();
        config.max_message_size = None;
        config.max_frame_size = None;
        let upgraded = tokio_tungstenite::client_async_with_config(url, tcp, Some(config));
        let (socket, _) = tokio::time::timeout(PATIENCE, upgraded).await.expect("an upgrade").expect("a WebSocket");
        Self { socket }
    }

    pub async fn send(&mut self, message: &Value) {
        self.send_text(message.to_string()).await;
    }

    pub async fn send_text(&mut self, text: impl Into<String>) {
        self.socket.send(Message::text(text.into())).await.expect("the socket takes a message");
    }

    /// An `invocation_message` with this prompt and nothing else.
    pub async fn query(&mut self, prompt: &str) {
        self.query_with(prompt, serde_json::json!({})).await;
    }

    /// The same with more fields.
    pub async fn query_with(&mut self, prompt: &str, more: Value) {
        let mut message = serde_json::json!({"message_type": "invocation_message", "user_prompt": prompt});
        for (name, value) in more.as_object().expect("an object of fields") {
            message[name] = value.clone();
        }
        self.send(&message).await;
    }

    /// The next message that is text; `None` when the connection has ended.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("a frame in time");
            match next {
                Some(Ok(Message::Text(text))) => {
                    return Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")));
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(_)) => {}
            }
        }
    }

    /// Every text that comes before the answer to a ping: what the server had to say to everything sent so far. Turns
    /// that run may say more later.
    pub async fn said(&mut self) -> Vec<Value> {
        self.socket.send(Message::Ping("said".into())).await.expect("the socket takes a ping");
        let mut said = Vec::new();
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("a frame in time");
            match next.expect("an open connection").expect("a frame") {
                Message::Text(text) => said.push(serde_json::from_str(&text).expect("JSON")),
                Message::Pong(payload) if payload == "said" => return said,
                Message::Close(reason) => panic!("closed: {reason:?}"),
                _ => {}
            }
        }
    }

    /// The code of the close frame, once it comes; 1005 for one without, `None` when the connection ends without one.
    pub async fn close_code(&mut self) -> Option<u16> {
        loop {
            match tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("an end in time") {
                Some(Ok(Message::Close(frame))) => return Some(frame.map_or(1005, |frame| frame.code.into())),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// Everything up to the terminal of a request, that included.
    pub async fn until_terminal(&mut self) -> Vec<Value> {
        let mut frames = Vec::new();
        loop {
            let frame = self.next().await.unwrap_or_else(|| panic!("the connection ended after {frames:?}"));
            let kind = frame["message_type"].as_str().unwrap_or_default().to_owned();
            let goes_on = frame["terminal"] == false;
            frames.push(frame);
            if matches!(kind.as_str(), "result_message" | "error_message" | "command_execution_result_message")
                && !goes_on
            {
                return frames;
            }
        }
    }

    /// Only the terminal.
    pub async fn terminal(&mut self) -> Value {
        self.until_terminal().await.pop().unwrap()
    }
}
