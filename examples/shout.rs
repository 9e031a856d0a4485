//! A handler written in Rust, served to every host: `cargo run --example shout -- 3000`.

use std::process::ExitCode;
use turnhost::{Cancel, Failure, Fault, FaultCode, Handler, RawJson, Reply, Server, Sink, StateChange, Turn};

/// Says everything louder, and counts how often it did.
struct Shout;

impl Handler for Shout {
    fn name(&self) -> &'static str {
        "shout"
    }

    async fn run(&self, turn: Turn, sink: Sink, cancel: Cancel) -> Result<Reply, Failure> {
        let words: Vec<&str> = turn.request.prompt.split_whitespace().collect();
        if words.is_empty() {
            return Err(Fault::new(FaultCode::HandlerFailed, "there is nothing to shout").into());
        }
        for word in words {
            // What is said is seen at once; whoever cancels does not want the rest.
            let _ = sink.text(word.to_uppercase()).await;
            if cancel.has_fired() {
                break;
            }
        }
        let shouted = turn.state.and_then(|state| state.as_str().parse::<u64>().ok()).unwrap_or(0) + 1;
        let reply = Reply::text(format!("{}!", turn.request.prompt.to_uppercase()));
        Ok(reply.with_state(StateChange::Set(RawJson::from_valid(shouted.to_string()))))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(3000);
    let listening = match Server::builder().handler(Shout).port(port).build().listen() {
        Ok(listening) => listening,
        Err(error) => {
            eprintln!("Error: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("turnhost listening on port {0} (http://127.0.0.1:{0})", listening.address().port());
    if tokio::signal::ctrl_c().await.is_ok() {
        listening.stop().await;
    }
    ExitCode::SUCCESS
}
