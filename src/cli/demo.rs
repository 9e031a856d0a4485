//! `turnhost demo`: starts a server, plays two hosts against it, shows what each saw.
//!
//! Owns the two small hosts and what they expect. Needs no key and no network beyond this machine.

use super::terminal::Paint;
use super::{DIFFERED, OK};
use crate::api::{Listening, Server};
use crate::config::ConfigError;
use crate::handler::echo::Echo;
use crate::outbound;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// No answer of the demo takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Plays the demo.
pub fn demo(runtime: &Runtime) -> Result<u8, ConfigError> {
    let playing = runtime.spawn(play());
    runtime.block_on(playing).unwrap_or_else(|error| Err(ConfigError(format!("the demo broke off: {error}"))))
}

async fn play() -> Result<u8, ConfigError> {
    let began = Instant::now();
    let server = Server::builder().handler(Echo).port(0).build().listen();
    let server = server.map_err(|error| ConfigError(error.to_string()))?;
    let mut stage = Stage { paint: Paint::stdout(), seen: 0, differed: 0 };
    println!("{}", stage.paint.bold("turnhost demo: one agent, two hosts"));
    println!("a server with the echo agent listens on http://{} after {:.1?}\n", server.address(), began.elapsed());
    let dari = host_like_dari(&server, &mut stage).await;
    stage.outcome(dari);
    let runtimeuse = client_like_runtimeuse(&server, &mut stage).await;
    stage.outcome(runtimeuse);
    server.stop().await;
    if stage.differed > 0 {
        println!(
            "{}",
            stage.paint.red(&format!("{} of {} things differed from the contract", stage.differed, stage.seen))
        );
        return Ok(DIFFERED);
    }
    println!("{}", stage.paint.green(&format!("all {} things were as the contracts say", stage.seen)));
    // As it was called: built from source, it is on nobody's PATH.
    let program = std::env::args().next().unwrap_or_else(|| "turnhost".to_owned());
    println!("next: {program} --agent echo --port 3000, or {program} run --agent echo \"Hello\"");
    Ok(OK)
}

struct Stage {
    paint: Paint,
    seen: u32,
    differed: u32,
}

impl Stage {
    fn title(&self, host: &str, how: &str) {
        println!("{}  {}", self.paint.bold(host), self.paint.dim(how));
    }

    fn sent(&self, text: &str) {
        println!("  {} {}", self.paint.dim("→"), short(text));
    }

    fn got(&self, text: &str) {
        println!("  {} {}", self.paint.dim("←"), short(text));
    }

    fn check(&mut self, what: &str, as_expected: bool) {
        self.seen += 1;
        if as_expected {
            println!("  {} {what}", self.paint.green("ok"));
        } else {
            self.differed += 1;
            println!("  {} {what}", self.paint.red("DIFFERS"));
        }
    }

    /// A host that could not play its part to the end differs too.
    fn outcome(&mut self, result: Result<(), String>) {
        if let Err(problem) = result {
            self.check(&problem, false);
        }
        println!();
    }
}

fn short(text: &str) -> String {
    const LONGEST: usize = 110;
    if text.len() <= LONGEST { text.to_owned() } else { format!("{}…", &text[..text.floor_char_boundary(LONGEST)]) }
}

async fn host_like_dari(server: &Listening, stage: &mut Stage) -> Result<(), String> {
    stage.title("a Dari host", "POST /runtime/advance, one request per turn, the platform keeps the state");
    // The server is on this machine: no proxy knows it.
    let client = outbound::builder().map_err(|error| error.to_string())?.no_proxy().timeout(PATIENCE).build();
    let client = client.map_err(|error| error.to_string())?;
    let base = format!("http://{}", server.address());
    let health = client.get(format!("{base}/health")).send().await.map_err(|error| error.to_string())?;
    stage.check("GET /health answers 200", health.status().as_u16() == 200);
    let mut kept = Value::Null;
    for (n, text) in ["List the files.", "And the hidden ones."].into_iter().enumerate() {
        let body =
            json!({"input": {"text": text}, "session_id": "sess_01", "message_id": format!("msg_{n}"), "state": kept});
        let body = body.to_string();
        let answer = advance(&client, &base, &body, stage).await?;
        let again = advance(&client, &base, &body, stage).await?;
        stage.check("a retry gets the same bytes, and no second run", again == answer);
        let answer: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
        stage.check("the answer is the prompt", answer["text"] == text);
        stage.check("the state counts the turns", answer["state"]["turn"] == n + 1);
        kept = answer["state"].clone();
    }
    Ok(())
}

async fn advance(client: &reqwest::Client, base: &str, body: &str, stage: &Stage) -> Result<String, String> {
    stage.sent(body);
    let answer = client.post(format!("{base}/runtime/advance")).body(body.to_owned()).send().await;
    let text = answer.map_err(|error| error.to_string())?.text().await.map_err(|error| error.to_string())?;
    stage.got(&text);
    Ok(text)
}

async fn client_like_runtimeuse(server: &Listening, stage: &mut Stage) -> Result<(), String> {
    stage.title("a RuntimeUse client", "one WebSocket, several queries");
    let tcp = TcpStream::connect(server.address()).await.map_err(|error| error.to_string())?;
    // Two small messages in a row would otherwise wait for an acknowledgement in between.
    tcp.set_nodelay(true).map_err(|error| error.to_string())?;
    let url = format!("ws://{}/", server.address());
    let (socket, _) = tokio_tungstenite::client_async(url, tcp).await.map_err(|error| error.to_string())?;
    let mut client = Client { socket };

    client.query("@stream 3", stage).await?;
    let frames = client.until_terminal(stage).await?;
    let said: Vec<&Value> = frames.iter().filter(|frame| frame["message_type"] == "assistant_message").collect();
    let expected = ["message 1", "message 2", "message 3"];
    let in_order = said.iter().map(|frame| &frame["text_blocks"][0]).eq(expected.iter());
    stage.check("three messages, in order, before the result", in_order);

    client.query(r#"@json {"files": 2, "hidden": true}"#, stage).await?;
    let frames = client.until_terminal(stage).await?;
    let data = frames.last().map(|frame| frame["data"].clone()).unwrap_or_default();
    let expected = json!({"type": "structured_output", "structured_output": {"files": 2, "hidden": true}});
    stage.check("structured output comes as an object", data == expected);

    client.query("@sleep 60000", stage).await?;
    let cancelled = Instant::now();
    client.send(&json!({"message_type": "cancel_message"}), stage).await?;
    let frames = client.until_terminal(stage).await?;
    let terminal = frames.last().cloned().unwrap_or_default();
    let is_cancel = terminal["message_type"] == "error_message" && terminal["error"] == "Request cancelled";
    stage.check(&format!("a cancel ends a turn that sleeps, after {:.1?}", cancelled.elapsed()), is_cancel);

    client.query("still there?", stage).await?;
    let frames = client.until_terminal(stage).await?;
    let text = frames.last().map(|frame| frame["data"]["text"].clone()).unwrap_or_default();
    stage.check("the next query on the same socket works", text == "still there?");

    client.send(&json!({"message_type": "end_session_message"}), stage).await?;
    let confirm = client.receive(stage).await?;
    stage.check("the session is ended with a confirmation", confirm["message_type"] == "end_session_confirm_message");
    Ok(())
}

struct Client {
    socket: WebSocketStream<TcpStream>,
}

impl Client {
    async fn query(&mut self, prompt: &str, stage: &Stage) -> Result<(), String> {
        let message = json!({"message_type": "invocation_message", "user_prompt": prompt, "secrets_to_redact": []});
        self.send(&message, stage).await
    }

    async fn send(&mut self, message: &Value, stage: &Stage) -> Result<(), String> {
        let text = message.to_string();
        stage.sent(&text);
        self.socket.send(Message::text(text)).await.map_err(|error| error.to_string())
    }

    async fn receive(&mut self, stage: &Stage) -> Result<Value, String> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.socket.next()).await;
            let next = next.map_err(|_| format!("nothing came within {PATIENCE:?}"))?;
            match next {
                Some(Ok(Message::Text(text))) => {
                    stage.got(&text);
                    return serde_json::from_str(&text).map_err(|error| error.to_string());
                }
                Some(Ok(Message::Close(_))) | None => return Err("the connection ended early".to_owned()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.to_string()),
            }
        }
    }

    async fn until_terminal(&mut self, stage: &Stage) -> Result<Vec<Value>, String> {
        let mut frames = Vec::new();
        loop {
            let frame = self.receive(stage).await?;
            let ends = matches!(frame["message_type"].as_str(), Some("result_message" | "error_message"));
            frames.push(frame);
            if ends {
                return Ok(frames);
            }
        }
    }
}
