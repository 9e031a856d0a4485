//! A server under 200 clients at once for as long as asked: `make soak`, or `cargo bench --bench soak -- MINUTES`.
//!
//! The clients speak all three protocols, cancel, leave and let the handler crash, at random by a seed that is printed. Twice
//! they pause: after the first minute and at the end. The server's memory, descriptors, threads and children must be where
//! they were. Ends with exit code 1 if they are not, or a turn got a wrong answer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a measurement that cannot go on ends with a panic; programs are started here"
)]

mod served;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use served::Served;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;

const CLIENTS: u64 = 200;
const FIRST: Duration = Duration::from_mins(1);
const PATIENCE: Duration = Duration::from_mins(1);

fn main() -> ExitCode {
    let minutes: f64 = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(30.0);
    let seed = std::env::var("SOAK_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_121);
    let whole = Duration::from_secs_f64(minutes * 60.0);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let handler = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/peers/fragile.py");
    let data = folder.path().to_str().expect("text");
    // What is kept has reached its bound long before the end.
    let bounds = ["--keep-bytes", "32MiB", "--log-max-bytes", "16MiB", "--agent-def", "echo2=--agent echo"];
    let mut server = Served::turnhost(&[&["--handler", handler, "--data-dir", data], &bounds[..]].concat());
    rustls::crypto::ring::default_provider().install_default().expect("the first");
    println!("{CLIENTS} clients for {minutes} minutes, seed {seed}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let tally = Arc::new(Tally::default());
    let first = runtime.block_on(phase(&server, FIRST.min(whole / 2), seed, &tally));
    println!("after the first minute  {first}");
    let rest = whole.saturating_sub(FIRST.min(whole / 2));
    let last = runtime.block_on(phase(&server, rest, seed + CLIENTS, &tally));
    println!("at the end              {last}");
    tally.tell();
    let wrong = tally.wrong.load(Relaxed);
    if server.lives() && wrong == 0 && last.is_like(&first) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What happened, by kind.
#[derive(Default)]
struct Tally {
    counts: [AtomicU64; 8],
    wrong: AtomicU64,
}

const KINDS: [&str; 8] =
    ["answered", "cancelled", "left", "crashed", "another's crash", "refused", "session ended", "session deleted"];

impl Tally {
    fn count(&self, kind: &str) {
        if let Some(at) = KINDS.iter().position(|one| *one == kind) {
            self.counts[at].fetch_add(1, Relaxed);
        } else {
            self.wrong.fetch_add(1, Relaxed);
            eprintln!("WRONG: {kind}");
        }
    }

    fn tell(&self) {
        for (kind, count) in KINDS.iter().zip(&self.counts) {
            println!("{:>9} {kind}", count.load(Relaxed));
        }
        println!("{:>9} wrong", self.wrong.load(Relaxed));
    }
}

/// Lets all clients go on for so long, waits until nothing runs, and looks at the server.
async fn phase(server: &Served, time: Duration, seed: u64, tally: &Arc<Tally>) -> Look {
    let stop = Arc::new(AtomicBool::new(false));
    let client = reqwest::Client::builder().timeout(PATIENCE).pool_max_idle_per_host(8).build().expect("a client");
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let (stop, tally, http, port) = (stop.clone(), tally.clone(), client.clone(), server.port);
            let dice = Dice(seed.wrapping_add(n).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            tokio::spawn(async move { live(Client { port, n, http, dice, tally }, &stop).await })
        })
        .collect();
    let began = Instant::now();
    let mut ticks = tokio::time::interval(Duration::from_mins(1));
    while began.elapsed() < time {
        tokio::select! {
            _ = ticks.tick() => println!("{:>6.0} s                {}", began.elapsed().as_secs_f64(), Look::at(server)),
            () = tokio::time::sleep(time.saturating_sub(began.elapsed())) => {}
        }
    }
    stop.store(true, Relaxed);
    for client in clients {
        client.await.expect("a client's life");
    }
    drop(client);
    settled(server).await
}

/// The server once it has not changed for some time: quiet sessions, processes that nobody uses and the idle threads of a
/// pool are let go of.
async fn settled(server: &Served) -> Look {
    let mut before = Look::at(server);
    let deadline = Instant::now() + Duration::from_secs(90);
    let mut same = 0;
    while same < 15 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = Look::at(server);
        same = if now == before { same + 1 } else { 0 };
        before = now;
    }
    before
}

/// What a server uses.
#[derive(Debug, Clone, PartialEq)]
struct Look {
    rss_mib: u64,
    files: usize,
    threads: u64,
    processes: usize,
}

impl Look {
    fn at(server: &Served) -> Self {
        let processes = descendants(server.id());
        Self {
            rss_mib: server.status_kib("VmRSS:") / 1024,
            files: std::fs::read_dir(format!("/proc/{}/fd", server.id())).expect("its files").count(),
            threads: server.status_kib("Threads:"),
            processes: processes.len(),
        }
    }

    /// Within what differs between two looks at the same server: memory that the allocator keeps, idle connections.
    fn is_like(&self, first: &Self) -> bool {
        self.rss_mib <= first.rss_mib + first.rss_mib / 4 + 8
            && self.files <= first.files + 8
            && self.threads <= first.threads + 2
            && self.processes <= first.processes
    }
}

impl std::fmt::Display for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rss_mib, files, threads, processes } = self;
        write!(f, "{rss_mib:>4} MiB RSS, {files:>4} descriptors, {threads:>3} threads, {processes:>3} processes below")
    }
}

fn descendants(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").expect("processes").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((_, after)) = stat.rsplit_once(") ") else { continue };
        let parent = after.split(' ').nth(1).and_then(|parent| parent.parse().ok()).unwrap_or_default();
        children.entry(parent).or_default().push(pid);
    }
    let (mut all, mut next) = (Vec::new(), vec![root]);
    while let Some(pid) = next.pop() {
        for child in children.get(&pid).into_iter().flatten() {
            all.push(*child);
            next.push(*child);
        }
    }
    all
}

/// Numbers that only look random.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

struct Client {
    port: u16,
    n: u64,
    http: reqwest::Client,
    dice: Dice,
    tally: Arc<Tally>,
}

async fn live(mut client: Client, stop: &AtomicBool) {
    let mut message = 0;
    while !stop.load(Relaxed) {
        message += 1;
        let what = match client.dice.next() % 10 {
            0..4 => client.query(message).await,
            4..8 => client.advance(message).await,
            _ => client.session().await,
        };
        let kind = what.unwrap_or_else(|problem| problem);
        client.tally.count(&kind);
        let pause = Duration::from_millis(client.dice.next() % 800);
        tokio::time::sleep(pause).await;
    }
}

impl Client {
    /// What is asked of the handler; one in so many lets it crash.
    fn prompt(&mut self) -> (String, bool) {
        if self.dice.one_in(400) {
            return ("crash".to_owned(), true);
        }
        (format!("wait {} client {} says {}", self.dice.next() % 100, self.n, self.dice.next() % 1000), false)
    }

    /// One query over a RuntimeUse WebSocket.
    async fn query(&mut self, message: u64) -> Result<String, String> {
        let (prompt, crashes) = self.prompt();
        let named = if self.dice.one_in(2) { format!("?session=w{}", self.n) } else { String::new() };
        let url = format!("ws://127.0.0.1:{}/{named}", self.port);
        let tcp = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.map_err(|error| error.to_string())?;
        let socket = tokio::time::timeout(PATIENCE, tokio_tungstenite::client_async(&url, tcp));
        let socket = socket.await.map_err(|_| "no upgrade".to_owned())?;
        let (mut socket, _) = socket.map_err(|error| error.to_string())?;
        let ask = json!({"message_type": "invocation_message", "user_prompt": prompt, "secrets_to_redact": [],
            "metadata": {"n": message}});
        socket.send(Message::text(ask.to_string())).await.map_err(|error| error.to_string())?;
        if self.dice.one_in(20) {
            return Ok("left".to_owned());
        }
        let cancels = self.dice.one_in(10);
        if cancels {
            let cancel = json!({"message_type": "cancel_message"}).to_string();
            socket.send(Message::text(cancel)).await.map_err(|error| error.to_string())?;
        }
        loop {
            let next = tokio::time::timeout(PATIENCE, socket.next()).await.map_err(|_| "silence".to_owned())?;
            let text = match next {
                Some(Ok(Message::Text(text))) => text,
                // A turn that waits for long is a silence, in which the server asks whether its client is there.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                other => return Err(format!("the socket ended: {other:?}")),
            };
            let frame: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            match frame["message_type"].as_str() {
                Some("result_message") if frame["data"]["text"] == prompt => return Ok("answered".to_owned()),
                Some("result_message") => return Err(format!("another's answer to {prompt:?}: {frame}")),
                Some("error_message") if cancels && frame["error"] == "Request cancelled" => {
                    return Ok("cancelled".to_owned());
                }
                Some("error_message") => return failed(&frame.to_string(), crashes),
                _ => {}
            }
        }
    }

    /// One turn of Dari, sometimes left and asked for again.
    async fn advance(&mut self, message: u64) -> Result<String, String> {
        let (prompt, crashes) = self.prompt();
        let url = format!("http://127.0.0.1:{}/runtime/advance", self.port);
        let id = format!("m{message}-{}", self.dice.next());
        let body = json!({"input": prompt, "session_id": format!("d{}", self.n), "message_id": id, "state": null});
        let request = || self.http.post(&url).body(body.to_string());
        if self.dice.one_in(10) {
            let request = request().timeout(Duration::from_millis(self.dice.next() % 50)).send();
            drop(request.await);
        }
        let answer = self.http.post(&url).body(body.to_string()).send().await.map_err(|error| format!("{error:?}"))?;
        let status = answer.status().as_u16();
        let text = answer.text().await.map_err(|error| format!("{error:?}"))?;
        match status {
            200 if text.contains(&prompt) => Ok("answered".to_owned()),
            429 => Ok("refused".to_owned()),
            _ => failed(&text, crashes),
        }
    }

    /// One session of agentruntime: to its end, or deleted.
    async fn session(&mut self) -> Result<String, String> {
        let url = format!("http://127.0.0.1:{}/sessions", self.port);
        let prompt = format!("@sleep {}", self.dice.next() % 100);
        let body = json!({"agent": "echo2", "prompt": prompt}).to_string();
        let answer = self.http.post(&url).body(body).send().await.map_err(|error| format!("{error:?}"))?;
        let created: Value = answer.json().await.map_err(|error| format!("{error:?}"))?;
        let Some(id) = created["session_id"].as_str() else { return Err(format!("no session: {created}")) };
        let url = format!("{url}/{id}");
        if self.dice.one_in(4) {
            let answer = self.http.delete(&url).send().await.map_err(|error| format!("{error:?}"))?;
            return if answer.status().is_success() {
                Ok("session deleted".to_owned())
            } else {
                Err(format!("{answer:?}"))
            };
        }
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let answer = self.http.get(&url).send().await.map_err(|error| format!("{error:?}"))?;
            // What is kept of ended sessions is bounded.
            if answer.status().as_u16() == 404 {
                return Ok("session ended".to_owned());
            }
            let now: Value = answer.json().await.map_err(|error| format!("{error:?}"))?;
            match now["state"].as_str() {
                Some("completed") => return Ok("session ended".to_owned()),
                Some("pending" | "running") => tokio::time::sleep(Duration::from_millis(50)).await,
                _ => return Err(format!("a session came to {now}")),
            }
        }
        Err(format!("{id} does not end"))
    }
}

/// An error is right only where the handler crashed: in this turn, or beside it in the same process.
fn failed(text: &str, crashes: bool) -> Result<String, String> {
    match crashes {
        true => Ok("crashed".to_owned()),
        false if text.contains("exit") || text.contains("handler") => Ok("another's crash".to_owned()),
        false => Err(text.to_owned()),
    }
}
