//! A server of sessions that says what a test wants, and notes what it was told.

use super::{PATIENCE, eventually};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

/// What it does on a connection, one after the other. At the end the connection stays.
#[derive(Debug, Clone)]
pub enum Step {
    Say(Value),
    /// Waits until it was told something of this type.
    Hear(&'static str),
    /// Ends the connection without a word.
    Cut,
    /// Nobody listens from now on.
    Gone,
}

/// The server.
pub struct Bridge {
    pub address: SocketAddr,
    told: Arc<Mutex<Vec<Value>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Bridge {
    /// One list of steps per connection, in their order.
    pub async fn start(connections: Vec<Vec<Step>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let bridge = Self { address: listener.local_addr().unwrap(), told: Arc::default(), asked: Arc::default() };
        let (told, asked) = (bridge.told.clone(), bridge.asked.clone());
        tokio::spawn(async move {
            for steps in connections {
                let (stream, _) = listener.accept().await.unwrap();
                if !play(stream, steps, told.clone(), asked.clone()).await {
                    return;
                }
            }
            // Whoever comes behind them waits.
            std::future::pending::<()>().await;
        });
        bridge
    }

    /// The frames it was told so far.
    pub fn told(&self) -> Vec<Value> {
        self.told.lock().unwrap().clone()
    }

    /// The paths that were asked for, each with its `authorization`.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// Waits until it was told this.
    pub async fn hears(&self, frame: &Value) {
        let heard = || self.told().contains(frame).then_some(());
        eventually(&format!("{frame} among {:?}", self.told()), heard).await;
    }
}

/// Whether there is another connection after this one.
async fn play(
    stream: TcpStream,
    steps: Vec<Step>,
    told: Arc<Mutex<Vec<Value>>>,
    asked: Arc<Mutex<Vec<String>>>,
) -> bool {
    let note = |request: &Request, response: Response| {
        let token = request.headers().get("authorization").map_or("", |token| token.to_str().unwrap());
        asked.lock().unwrap().push(format!("{} {token}", request.uri()).trim().to_owned());
        Ok(response)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(stream, note).await.unwrap();
    for step in steps {
        match step {
            Step::Say(frame) => socket.send(Message::text(frame.to_string())).await.unwrap(),
            Step::Cut => return true,
            Step::Gone => return false,
            Step::Hear(kind) => loop {
                let next = tokio::time::timeout(PATIENCE, socket.next()).await.expect("a frame in time");
                let Some(Ok(message)) = next else { return true };
                if let Message::Text(text) = message {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    let is_it = frame["type"] == kind;
                    told.lock().unwrap().push(frame);
                    if is_it {
                        break;
                    }
                }
            },
        }
    }
    // To the end of the connection.
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Text(text) = message {
            told.lock().unwrap().push(serde_json::from_str(&text).unwrap());
        }
    }
    true
}
