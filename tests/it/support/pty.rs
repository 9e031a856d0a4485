//! A pseudo-terminal with a program in it: what is typed, what its screen shows.

use super::{PATIENCE, eventually};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Lines that have left the screen and are still looked at.
const SCROLLBACK: usize = 1000;

struct Seen {
    parser: vt100::Parser,
    /// The newest bytes as they came.
    raw: Vec<u8>,
}

/// A program on a terminal of its own, as a user has it: Ctrl+C is a signal, what is typed is shown.
pub struct Pty {
    child: Child,
    keys: File,
    seen: Arc<Mutex<Seen>>,
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Pty {
    /// Starts the command on a terminal of this size.
    pub fn start(command: &Command, columns: u16, rows: u16) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master: OwnedFd = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
        tcsetwinsize(&master, size(columns, rows)).unwrap();
        // A session of its own, whose terminal is the one on its standard input.
        let mut leader = Command::new("setsid");
        leader.arg("--ctty").arg(command.get_program()).args(command.get_args()).env_clear();
        leader.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("TERM", "xterm-256color");
        if let Some(folder) = command.get_current_dir() {
            leader.current_dir(folder);
        }
        leader.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave);
        let child = leader.spawn().expect("setsid of util-linux");
        let nonzero = |number: u16| NonZeroU16::new(number).unwrap();
        let parser = vt100::Parser::new(nonzero(rows), nonzero(columns), SCROLLBACK);
        let seen = Arc::new(Mutex::new(Seen { parser, raw: Vec::new() }));
        let kept = seen.clone();
        let keys = File::from(master);
        let mut screen = keys.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut chunk = vec![0; 65536];
            // The end is an error here: nobody has the other side open any more.
            while let Ok(read @ 1..) = screen.read(&mut chunk) {
                let mut seen = kept.lock().unwrap();
                seen.parser.process(&chunk[..read]);
                seen.raw.extend_from_slice(&chunk[..read]);
                let excess = seen.raw.len().saturating_sub(1 << 20);
                seen.raw.drain(..excess);
            }
        });
        drop(leader);
        Self { child, keys, seen }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Presses keys.
    pub fn type_keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Types a line.
    pub fn type_line(&mut self, line: &str) {
        self.type_keys(&format!("{line}\r"));
    }

    pub fn ctrl_c(&mut self) {
        self.type_keys("\x03");
    }

    /// Gives the terminal another size, as a user who pulls at its window.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        tcsetwinsize(&self.keys, size(columns, rows)).unwrap();
    }

    /// What the screen shows.
    pub fn shown(&self) -> String {
        self.seen.lock().unwrap().parser.screen().contents()
    }

    /// What came, commands to the terminal included.
    pub fn raw(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap().raw).into_owned()
    }

    /// Waits until the screen shows this.
    pub async fn shows(&self, text: &str) {
        self.shows_within(PATIENCE, text).await;
    }

    pub async fn shows_within(&self, within: Duration, text: &str) {
        let deadline = Instant::now() + within;
        while !self.shown().contains(text) {
            assert!(Instant::now() < deadline, "no {text:?} within {within:?} on the screen:\n{}", self.shown());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).expect("the program runs");
    }

    /// Waits for the program's end: its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let child = &mut self.child;
        eventually("the program's end", || child.try_wait().unwrap()).await.code()
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
