//! Programs that end by themselves: runs one to its end, within a deadline, and keeps what it said.

use std::fmt;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What a program left.
pub struct Finished {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl fmt::Display for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "exit code {:?} after {:?}", self.code, self.took)?;
        writeln!(f, "stdout:\n{}\nstderr:\n{}", self.stdout.trim_end(), self.stderr.trim_end())
    }
}

/// A program that runs.
pub struct Program {
    child: Child,
    began: Instant,
    stdout: Reading,
    stderr: Reading,
}

impl Program {
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = Reading::of(child.stdout.take().unwrap());
        let stderr = Reading::of(child.stderr.take().unwrap());
        Self { child, began: Instant::now(), stdout, stderr }
    }

    /// What it has written to standard output so far.
    pub fn said(&self) -> String {
        self.stdout.so_far()
    }

    /// The same for standard error.
    pub fn complained(&self) -> String {
        self.stderr.so_far()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, signal).expect("the program runs");
    }

    /// Waits for its end. One that takes longer than `deadline` is killed, and the test fails with what it said.
    pub async fn end(mut self, deadline: Duration) -> Finished {
        loop {
            let ended = self.child.try_wait().unwrap();
            if ended.is_none() && self.began.elapsed() < deadline {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
            let took = self.began.elapsed();
            let _ = self.child.kill();
            let _ = self.child.wait();
            // Somebody it started may hold its pipes: what is there by now must do.
            let until = Instant::now() + Duration::from_secs(2);
            while Instant::now() < until && !(self.stdout.is_whole() && self.stderr.is_whole()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let code = ended.and_then(|status| status.code());
            let finished = Finished { code, stdout: self.stdout.so_far(), stderr: self.stderr.so_far(), took };
            assert!(ended.is_some(), "not at its end within {deadline:?}:\n{finished}");
            return finished;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pipe that is read by a thread of its own.
struct Reading {
    text: Arc<Mutex<Vec<u8>>>,
    thread: std::thread::JoinHandle<()>,
}

impl Reading {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let kept = text.clone();
        let thread = std::thread::spawn(move || {
            let mut chunk = [0; 16384];
            while let Ok(read) = pipe.read(&mut chunk) {
                if read == 0 {
                    break;
                }
                kept.lock().unwrap().extend_from_slice(&chunk[..read]);
            }
        });
        Self { text, thread }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into()
    }

    fn is_whole(&self) -> bool {
        self.thread.is_finished()
    }
}
