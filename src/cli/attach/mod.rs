//! `turnhost attach`: a session of a running server in this terminal.
//!
//! Owns the course of it: what typed lines and signals lead to, what is done when a connection is lost, and when it is over.
//! The connection is `link`'s, the terminal's two sides are `keyboard`'s and `screen`'s.

mod awaited;
mod keyboard;
mod link;
mod output;
mod screen;

use super::{CANNOT, INTERRUPTED, OK};
use crate::config::{AttachConfig, ConfigError};
use awaited::Awaited;
use futures_util::FutureExt;
use keyboard::{Keyboard, Signal, Typed};
use link::{Heard, Link, LinkError};
use screen::Screen;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// How often in a row a lost connection is tried again.
const TRIES: u32 = 8;
/// The first pause between two tries; each is twice as long as the one before, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A connection that held for so long, or that brought something, was a good one: tries are counted anew behind it.
const HELD: Duration = Duration::from_secs(10);
/// What a reader of our output may still take when we are to detach.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Shows a session until it ends or the user detaches.
pub fn attach(runtime: &Runtime, config: AttachConfig) -> Result<u8, ConfigError> {
    let attached = runtime.spawn(run(config));
    runtime.block_on(attached).unwrap_or_else(|error| Err(ConfigError(format!("attach broke off: {error}"))))
}

/// Why it is over.
enum Over {
    /// The session has ended with this code.
    Exited(i32),
    /// The user, or the end of what was typed.
    Detached,
    /// Nobody reads what is shown.
    Unread,
}

async fn run(config: AttachConfig) -> Result<u8, ConfigError> {
    let (keyboard, detach) = Keyboard::start().map_err(|error| ConfigError(format!("signals: {error}")))?;
    let mut screen = Screen::new();
    let mut attached =
        Attached { config, keyboard, awaited: Awaited::default(), at: None, was_connected: false, was_reached: false };
    let over = tokio::select! {
        biased;
        () = detach.cancelled() => Ok(Over::Detached),
        over = attached.attend(&mut screen) => over,
    };
    let code = match &over {
        Ok(Over::Exited(code)) => {
            screen.note(&format!("Session exited with code {code}"));
            if *code == 0 { OK } else { CANNOT }
        }
        Ok(Over::Detached) if !attached.was_reached => INTERRUPTED,
        Ok(Over::Detached) => {
            let text = format!("Detached; session {} goes on", attached.config.id);
            if attached.keyboard.was_interrupted_twice() {
                screen.note_behind_key(&text);
            } else {
                screen.note(&text);
            }
            OK
        }
        Ok(Over::Unread) => OK,
        Err(_) => CANNOT,
    };
    // Whoever reads slowly gets all of it, unless the user wants to go.
    let is_patient = matches!(over, Ok(Over::Exited(_)) | Err(_));
    let finishing = screen.finish();
    tokio::pin!(finishing);
    tokio::select! {
        () = &mut finishing => {}
        () = detach.cancelled(), if is_patient => { let _ = tokio::time::timeout(LAST_WORDS, finishing).await; }
        () = tokio::time::sleep(LAST_WORDS), if !is_patient => {}
    }
    over.map(|_| code)
}

/// One command's work.
struct Attached {
    config: AttachConfig,
    keyboard: Keyboard,
    awaited: Awaited,
    /// Everything before this byte was shown. `None`: nothing came yet.
    at: Option<u64>,
    was_connected: bool,
    /// There was a connection at all.
    was_reached: bool,
}

impl Attached {
    async fn attend(&mut self, screen: &mut Screen) -> Result<Over, ConfigError> {
        let mut tries = 0;
        loop {
            let since = self.at.or(self.config.since);
            let began = Instant::now();
            let reason = match Link::open(&self.config, since).await {
                Ok(link) => {
                    self.was_reached = true;
                    let before = self.at;
                    match self.talk(link, screen).await {
                        Ok(over) => return Ok(over),
                        Err(reason) => {
                            if self.at != before || began.elapsed() > HELD {
                                tries = 0;
                            }
                            reason
                        }
                    }
                }
                Err(LinkError::Lost(reason)) => reason,
                Err(LinkError::Refused(reason)) => return Err(ConfigError(reason)),
            };
            self.keyboard.connected(false);
            if !self.was_connected {
                return Err(ConfigError(reason));
            }
            tries += 1;
            if tries > TRIES {
                let url = &self.config.server.url;
                return Err(ConfigError(format!(
                    "the connection to {url} was lost, and {TRIES} tries did not bring it back: {reason}"
                )));
            }
            screen.system(&format!("{reason}; trying again ({tries} of {TRIES})"));
            if screen.show().await.is_err() {
                return Ok(Over::Unread);
            }
            let pause = FIRST_PAUSE * 2_u32.saturating_pow(tries - 1);
            tokio::time::sleep(pause.min(LONGEST_PAUSE)).await;
        }
    }

    /// One connection, to its end. The error is why it was lost.
    async fn talk(&mut self, mut link: Link, screen: &mut Screen) -> Result<Over, String> {
        // What comes before `connected` was there before us, the first time.
        screen.replaying(!self.was_connected);
        let mut is_live = false;
        loop {
            let heard = match link.next().now_or_never() {
                Some(heard) => Some(heard),
                None => {
                    // Nothing more comes for now: everything that came is to be seen.
                    if screen.show().await.is_err() {
                        return Ok(Over::Unread);
                    }
                    None
                }
            };
            if let Ok(signal) = self.keyboard.signals.try_recv() {
                self.signal(signal, &mut link, screen).await?;
            }
            if is_live && self.awaited.is_over() {
                return Ok(Over::Detached);
            }
            let heard = match heard {
                Some(heard) => heard,
                None => tokio::select! {
                    heard = link.next() => heard,
                    Some(signal) = self.keyboard.signals.recv(), if is_live => {
                        self.signal(signal, &mut link, screen).await?;
                        continue;
                    }
                    typed = self.keyboard.lines.recv(), if is_live && !self.awaited.is_typed => {
                        self.typed(typed, &mut link, screen).await?;
                        continue;
                    }
                },
            };
            match heard? {
                Heard::Log { bytes, end, is_gap } => {
                    if is_gap {
                        screen.system("some of the log is lost");
                    }
                    let is_cut = self.at.is_none() && self.config.since.is_some_and(|since| since > 0);
                    self.lines(&bytes, is_cut, screen);
                    self.at = Some(end);
                    if screen.show_if_much().await.is_err() {
                        return Ok(Over::Unread);
                    }
                }
                Heard::Connected { end, unanswered } => {
                    is_live = true;
                    if let Some(unanswered) = unanswered {
                        self.awaited.connected(unanswered);
                    }
                    self.at = end.or(self.at);
                    self.live(&mut link, screen).await?;
                }
                Heard::Error(error) => {
                    self.awaited.refused();
                    screen.error(&error);
                }
                Heard::Exit { code, reason } => {
                    if let Some(reason) = reason {
                        screen.error(&reason);
                    }
                    return Ok(Over::Exited(code));
                }
                Heard::Nothing => {}
            }
        }
    }

    /// From here on it is live.
    async fn live(&mut self, link: &mut Link, screen: &mut Screen) -> Result<(), String> {
        screen.replaying(false);
        if self.was_connected {
            screen.system("connected again");
        } else {
            screen.note(&format!("Connected to session {}", self.config.id));
        }
        self.was_connected = true;
        self.keyboard.connected(true);
        self.signal(Signal::Resized, link, screen).await
    }

    fn lines(&mut self, bytes: &[u8], is_cut: bool, screen: &mut Screen) {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split('\n').filter(|line| !line.is_empty());
        if is_cut {
            // The first one may be the rest of a line.
            let first = lines.next();
            if let Some(kind) = first.and_then(|first| screen.line(first)) {
                self.awaited.said(kind);
            }
        }
        for line in lines {
            match screen.line(line) {
                Some(kind) => self.awaited.said(kind),
                None => screen.system("a line of the log was no event"),
            }
        }
    }

    async fn typed(&mut self, typed: Option<Typed>, link: &mut Link, screen: &mut Screen) -> Result<(), String> {
        let Some(typed) = typed else {
            self.awaited.is_typed = true;
            return Ok(());
        };
        screen.typed();
        let frame = match typed {
            Typed::Line(text) => {
                self.awaited.prompted();
                json!({"type": "stdin", "data": format!("{text}\n")})
            }
            Typed::Steer(text) => {
                self.awaited.steered();
                json!({"type": "steer", "data": text})
            }
            Typed::Interrupt => {
                self.awaited.interrupted();
                json!({"type": "interrupt"})
            }
            Typed::Nothing => return Ok(()),
            Typed::SteerAlone => {
                screen.note("/steer needs a text: /steer TEXT");
                return Ok(());
            }
            Typed::TooLong => {
                screen.error(&format!("a line of more than {} MiB was not sent", keyboard::LINE >> 20));
                return Ok(());
            }
        };
        self.keyboard.forget_interrupt();
        self.send(link, &frame).await
    }

    async fn signal(&mut self, signal: Signal, link: &mut Link, screen: &mut Screen) -> Result<(), String> {
        match signal {
            Signal::Interrupt => {
                screen.note_behind_key("Interrupted the agent; Ctrl+C again detaches");
                self.send(link, &json!({"type": "interrupt"})).await
            }
            Signal::Resized => match keyboard::size() {
                Some((cols, rows)) => self.send(link, &json!({"type": "resize", "cols": cols, "rows": rows})).await,
                None => Ok(()),
            },
        }
    }

    async fn send(&mut self, link: &mut Link, frame: &Value) -> Result<(), String> {
        link.send(frame.to_string()).await
    }
}
