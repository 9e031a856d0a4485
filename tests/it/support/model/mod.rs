//! A model on loopback that speaks the real wires: Anthropic's Messages, OpenAI's Responses and chat completions.
//!
//! A test says beforehand what the model answers, call by call, and sees afterwards what it was asked. Mistakes that the
//! real services refuse are refused here too.

mod chat;
mod messages;
mod responses;

use super::files::{Asked, read};
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What the model does when it is called.
#[derive(Debug, Clone)]
pub enum Play {
    /// Says these blocks, in pieces.
    Say(Vec<Block>),
    /// Answers with an error.
    Status { status: u16, code: &'static str, message: &'static str, headers: Vec<(&'static str, String)> },
    /// Says some text, then the connection breaks.
    Cut(&'static str),
    /// Says some text, then nothing more until the caller hangs up.
    Hang(&'static str),
    /// Says some text, then breaks off for a reason: `max_output_tokens`, `content_filter`, or a code of an error.
    Break(&'static str, &'static str),
    /// Waits before it does the other.
    After(Duration, Box<Play>),
}

/// One thing that the model says.
#[derive(Debug, Clone)]
pub enum Block {
    Text(String),
    Thinking(&'static str),
    /// A call of a tool by its name.
    Tool(&'static str, Value),
    /// The service's own shell: commands, and what else the action has.
    Shell(Value),
    /// A call whose arguments are this text, whatever it is.
    Function(&'static str, &'static str),
    /// A search that the service made.
    Search,
    Refusal(&'static str),
}

/// A text.
pub fn text(text: impl Into<String>) -> Play {
    Play::Say(vec![Block::Text(text.into())])
}

/// One call of a tool.
pub fn tool(name: &'static str, input: Value) -> Play {
    Play::Say(vec![Block::Tool(name, input)])
}

/// An error without anything special.
pub fn status(status: u16, code: &'static str) -> Play {
    Play::Status { status, code, message: "the fake model says no", headers: Vec::new() }
}

/// One call as it came.
#[derive(Debug, Clone)]
pub struct Called {
    pub path: String,
    pub headers: HashMap<String, String>,
    pub body: Value,
    pub at: Instant,
    /// When the first byte of the answer was sent.
    pub answered: Option<Instant>,
    /// Whether the caller left before the answer was whole.
    pub hung_up: bool,
}

#[derive(Default)]
struct Shared {
    plays: VecDeque<Play>,
    calls: Vec<Called>,
    /// Responses by id, with the calls in them that were not answered yet.
    responses: HashMap<String, Vec<String>>,
    answers: usize,
}

/// The fake. Calls beyond the script are answered with "ok".
#[derive(Clone)]
pub struct Model {
    pub address: SocketAddr,
    knows_responses: bool,
    shared: Arc<Mutex<Shared>>,
}

impl Model {
    pub async fn start(plays: Vec<Play>) -> Self {
        Self::start_with(plays, true).await
    }

    /// One that knows chat completions alone.
    pub async fn of_chat(plays: Vec<Play>) -> Self {
        Self::start_with(plays, false).await
    }

    async fn start_with(plays: Vec<Play>, knows_responses: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let model = Self { address, knows_responses, shared: Arc::default() };
        model.shared.lock().unwrap().plays.extend(plays);
        let serving = model.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let _ = socket.set_nodelay(true);
                let serving = serving.clone();
                tokio::spawn(async move {
                    let _ = serving.serve(BufReader::new(socket)).await;
                });
            }
        });
        model
    }

    /// Adds to the script.
    pub fn play(&self, plays: impl IntoIterator<Item = Play>) {
        self.shared.lock().unwrap().plays.extend(plays);
    }

    /// The calls that came so far.
    pub fn calls(&self) -> Vec<Called> {
        self.shared.lock().unwrap().calls.clone()
    }

    /// The body of the last call.
    pub fn last(&self) -> Value {
        self.calls().last().expect("the model was called").body.clone()
    }

    /// `http://HOST:PORT`, as Anthropic's clients want it.
    pub fn root(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `http://HOST:PORT/v1`, as OpenAI's clients want it.
    pub fn base(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    async fn serve(&self, mut socket: BufReader<TcpStream>) -> std::io::Result<()> {
        while let Some(Asked { method, path, headers, body }) = read(&mut socket).await? {
            let route = path.split('?').next().unwrap_or_default().to_owned();
            let is_call =
                method == "POST" && ["/v1/messages", "/v1/responses", "/v1/chat/completions"].contains(&route.as_str());
            if !is_call || (route == "/v1/responses" && !self.knows_responses) {
                let (status, body) = if route == "/v1/messages/count_tokens" {
                    ("200 OK", json!({"input_tokens": 10}).to_string())
                } else if method == "HEAD" {
                    ("200 OK", String::new())
                } else {
                    ("404 Not Found", "no such route".to_owned())
                };
                whole(socket.get_mut(), status, &[], &body).await?;
                continue;
            }
            let body: Value = serde_json::from_slice(&body).expect("JSON");
            let at = self.note(Called {
                path: route.clone(),
                headers: headers.clone(),
                body: body.clone(),
                at: Instant::now(),
                answered: None,
                hung_up: false,
            });
            let refused = refusal(&headers, &body).or_else(|| {
                (route == "/v1/responses").then(|| responses::refusal(&self.shared.lock().unwrap(), &body)).flatten()
            });
            let mut play = match refused {
                Some(play) => play,
                None => self.shared.lock().unwrap().plays.pop_front().unwrap_or_else(|| text("ok")),
            };
            if let Play::After(delay, then) = play {
                tokio::time::sleep(delay).await;
                play = *then;
            }
            self.answer(&mut socket, &route, &body, at, play).await?;
        }
        Ok(())
    }

    fn note(&self, call: Called) -> usize {
        let mut shared = self.shared.lock().unwrap();
        shared.calls.push(call);
        shared.calls.len() - 1
    }

    async fn answer(
        &self,
        socket: &mut BufReader<TcpStream>,
        route: &str,
        body: &Value,
        at: usize,
        play: Play,
    ) -> std::io::Result<()> {
        let id = {
            let mut shared = self.shared.lock().unwrap();
            shared.answers += 1;
            shared.calls[at].answered = Some(Instant::now());
            shared.answers
        };
        if let Play::Status { status, code, message, headers } = &play {
            let error = match route {
                "/v1/messages" => json!({"type": "error", "error": {"type": code, "message": message}}),
                _ => json!({"error": {"code": code, "message": message, "type": "error"}}),
            };
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            return whole(socket.get_mut(), &format!("{status} Fake"), &headers, &error.to_string()).await;
        }
        let is_streamed = body["stream"] == true;
        let frames = match route {
            "/v1/messages" => messages::frames(id, body, &play),
            "/v1/responses" => responses::frames(&mut self.shared.lock().unwrap(), id, body, &play),
            _ => chat::frames(id, body, &play),
        };
        if !is_streamed {
            assert_eq!(route, "/v1/messages", "only Claude Code falls back to answers that are not streamed");
            return whole(socket.get_mut(), "200 OK", &[], &messages::whole(id, body, &play).to_string()).await;
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        let socket_out = socket.get_mut();
        socket_out.write_all(head.as_bytes()).await?;
        for frame in frames {
            let chunk = format!("{:x}\r\n{frame}\r\n", frame.len());
            if socket_out.write_all(chunk.as_bytes()).await.is_err() {
                self.shared.lock().unwrap().calls[at].hung_up = true;
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
        }
        match play {
            Play::Cut(_) => Err(std::io::ErrorKind::ConnectionAborted.into()),
            Play::Hang(_) => {
                let mut nothing = [0];
                let left = socket.read(&mut nothing).await;
                assert!(!matches!(left, Ok(1..)), "a request came before the answer was whole");
                self.shared.lock().unwrap().calls[at].hung_up = true;
                Ok(())
            }
            _ => socket.get_mut().write_all(b"0\r\n\r\n").await,
        }
    }
}

/// What every service refuses.
fn refusal(headers: &HashMap<String, String>, body: &Value) -> Option<Play> {
    let key = headers.get("x-api-key").or(headers.get("authorization"));
    let model = body["model"].as_str().unwrap_or_default();
    let error = |status, code, message| Some(Play::Status { status, code, message, headers: Vec::new() });
    match key {
        None => error(401, "authentication_error", "no key was given"),
        Some(key) if key.contains("bad") => error(401, "authentication_error", "the key bad-key-123 is not valid"),
        Some(_) if model.contains("unknown") => {
            let code = if headers.contains_key("x-api-key") { "not_found_error" } else { "model_not_found" };
            error(404, code, "there is no such model")
        }
        Some(_) => None,
    }
}

/// Text in pieces of a few characters.
fn pieces(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    characters.chunks(5).map(|piece| piece.iter().collect()).collect()
}

async fn whole(socket: &mut TcpStream, status: &str, headers: &[(&str, &str)], body: &str) -> std::io::Result<()> {
    let mut answer =
        format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n", body.len());
    answer.extend(headers.iter().flat_map(|(name, value)| [*name, ": ", *value, "\r\n"]));
    answer.push_str("\r\n");
    answer.push_str(body);
    socket.write_all(answer.as_bytes()).await
}
