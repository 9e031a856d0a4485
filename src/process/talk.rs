//! What the server and its shim say to each other on the control socket.
//!
//! First the [`Plan`], once, with the descriptors that go with it; then lines of text both ways: [`Ask`] from the
//! server, [`Report`] from the shim. Both ends are the same binary, so there are no versions. No reading or writing here.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

/// What becomes of a program's descendants when the program itself has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// They are killed at once.
    KillRest,
    /// They live on until they end, are stopped, or the server ends.
    SpareRest,
}

/// Where a program's standard input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdinFrom {
    /// `/dev/null`: at its end from the start.
    Null,
    /// A pipe from the server.
    Pipe,
}

/// All a shim needs to know to start its program.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub on_exit: OnExit,
    pub grace: Duration,
    pub stdin: StdinFrom,
    pub channel: bool,
    pub cwd: Option<PathBuf>,
    pub program: OsString,
    pub args: Vec<OsString>,
    pub env: Vec<(OsString, OsString)>,
}

/// A plan starts with its length in this many bytes.
pub(super) const LENGTH_BYTES: usize = 4;

impl Plan {
    /// The plan as it is sent: its length, then its parts, each ended by a NUL byte. `None` when a part contains a NUL
    /// byte or a variable's name is empty or contains `=`, which no program could be given anyway.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let mut out = vec![0; LENGTH_BYTES];
        let on_exit = match self.on_exit {
            OnExit::KillRest => "kill",
            OnExit::SpareRest => "spare",
        };
        let stdin = match self.stdin {
            StdinFrom::Null => "null",
            StdinFrom::Pipe => "pipe",
        };
        let mut put = |part: &[&[u8]]| {
            out.extend(part.iter().copied().flatten());
            out.push(0);
            part.iter().all(|bytes| !bytes.contains(&0)).then_some(())
        };
        put(&[on_exit.as_bytes()])?;
        put(&[self.grace.as_millis().to_string().as_bytes()])?;
        put(&[stdin.as_bytes()])?;
        put(&[if self.channel { b"channel" } else { b"" }])?;
        put(&[self.cwd.as_ref().map_or(b"", |path| path.as_os_str().as_bytes())])?;
        put(&[self.program.as_bytes()])?;
        put(&[self.args.len().to_string().as_bytes()])?;
        for arg in &self.args {
            put(&[arg.as_bytes()])?;
        }
        for (name, value) in &self.env {
            let name = name.as_bytes();
            if name.is_empty() || name.contains(&b'=') {
                return None;
            }
            put(&[name, b"=", value.as_bytes()])?;
        }
        let length = u32::try_from(out.len() - LENGTH_BYTES).ok()?;
        out[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
        Some(out)
    }

    /// The plan back from its bytes, without the length.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut parts = bytes.strip_suffix(&[0])?.split(|byte| *byte == 0);
        let number = |part: &[u8]| std::str::from_utf8(part).ok()?.parse::<u64>().ok();
        let owned = |part: &[u8]| OsString::from_vec(part.to_vec());
        let on_exit = match parts.next()? {
            b"kill" => OnExit::KillRest,
            b"spare" => OnExit::SpareRest,
            _ => return None,
        };
        let grace = Duration::from_millis(number(parts.next()?)?);
        let stdin = match parts.next()? {
            b"null" => StdinFrom::Null,
            b"pipe" => StdinFrom::Pipe,
            _ => return None,
        };
        let channel = !parts.next()?.is_empty();
        let cwd = Some(parts.next()?).filter(|part| !part.is_empty()).map(|part| PathBuf::from(owned(part)));
        let program = owned(parts.next()?);
        let count = usize::try_from(number(parts.next()?)?).ok()?;
        let args: Vec<_> = parts.by_ref().take(count).map(owned).collect();
        let env: Option<Vec<_>> = parts
            .map(|part| {
                let middle = part.iter().position(|byte| *byte == b'=')?;
                Some((OsStr::from_bytes(&part[..middle]).into(), OsStr::from_bytes(&part[middle + 1..]).into()))
            })
            .collect();
        (args.len() == count).then_some(Self { on_exit, grace, stdin, channel, cwd, program, args, env: env? })
    }
}

/// What the server asks of a running shim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// SIGINT to the program's own process group, as a terminal's Ctrl+C: it may go on.
    Interrupt,
    /// SIGTERM to the whole tree, SIGKILL to what is left after this time.
    Stop(Duration),
    /// SIGKILL to the whole tree now.
    Kill,
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stop(grace) => writeln!(f, "stop {}", grace.as_millis()),
            Self::Kill => f.write_str("kill\n"),
            Self::Interrupt => f.write_str("interrupt\n"),
        }
    }
}

impl Ask {
    /// A line without its end back to what it asks; `stop` alone means the grace of the plan.
    pub(super) fn parse(line: &str, grace: Duration) -> Option<Self> {
        match line.split_once(' ') {
            Some(("stop", ms)) => Some(Self::Stop(Duration::from_millis(ms.parse().ok()?))),
            None if line == "stop" => Some(Self::Stop(grace)),
            None if line == "kill" => Some(Self::Kill),
            None if line == "interrupt" => Some(Self::Interrupt),
            _ => None,
        }
    }
}

/// Which step of a start failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Before anything about the program mattered.
    Setup,
    /// Entering the working directory.
    Directory,
    /// Forking, or executing the program.
    Program,
}

/// What a shim tells the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    /// The shim waits for its plan.
    Ready,
    /// The program runs, with this process id.
    Started(i32),
    /// It could not be started; the error is an errno.
    Failed(Step, i32),
    /// It ended with this code.
    Exit(i32),
    /// It ended by this signal.
    Signal(i32),
    /// The shim gives up on this many descendants that SIGKILL does not end.
    Left(usize),
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready\n"),
            Self::Started(pid) => writeln!(f, "started {pid}"),
            Self::Failed(step, errno) => {
                let step = match step {
                    Step::Setup => "setup",
                    Step::Directory => "directory",
                    Step::Program => "program",
                };
                writeln!(f, "failed {step} {errno}")
            }
            Self::Exit(code) => writeln!(f, "exit {code}"),
            Self::Signal(signal) => writeln!(f, "signal {signal}"),
            Self::Left(count) => writeln!(f, "left {count}"),
        }
    }
}

impl Report {
    /// A line without its end back to what it reports.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "ready" if rest.is_empty() => Some(Self::Ready),
            "started" => Some(Self::Started(rest.parse().ok()?)),
            "failed" => {
                let (step, errno) = rest.split_once(' ')?;
                let step = match step {
                    "setup" => Step::Setup,
                    "directory" => Step::Directory,
                    "program" => Step::Program,
                    _ => return None,
                };
                Some(Self::Failed(step, errno.parse().ok()?))
            }
            "exit" => Some(Self::Exit(rest.parse().ok()?)),
            "signal" => Some(Self::Signal(rest.parse().ok()?)),
            "left" => Some(Self::Left(rest.parse().ok()?)),
            _ => None,
        }
    }
}

/// Takes the first whole line out of `buffer`. What is no UTF-8 comes back as an empty line, which nobody understands.
pub(super) fn take_line(buffer: &mut Vec<u8>) -> Option<String> {
    let end = buffer.iter().position(|byte| *byte == b'\n')?;
    let line = buffer.drain(..=end).take(end).collect();
    Some(String::from_utf8(line).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            on_exit: OnExit::SpareRest,
            grace: Duration::from_millis(1500),
            stdin: StdinFrom::Pipe,
            channel: true,
            cwd: Some("/some where".into()),
            program: "sh".into(),
            args: vec!["-c".into(), OsString::new(), OsString::from_vec(vec![0xff, b'\n'])],
            env: vec![("A".into(), "b=c".into()), ("EMPTY".into(), OsString::new())],
        }
    }

    #[test]
    fn a_plan_survives_the_way() {
        for plan in [plan(), Plan { cwd: None, args: vec![], env: vec![], channel: false, ..plan() }] {
            let bytes = plan.encode().unwrap();
            let (length, body) = bytes.split_at(LENGTH_BYTES);
            assert_eq!(u32::from_le_bytes(length.try_into().unwrap()) as usize, body.len());
            assert_eq!(Plan::decode(body), Some(plan));
        }
    }

    #[test]
    fn what_no_program_could_be_given_is_refused() {
        assert_eq!(Plan { args: vec!["a\0b".into()], ..plan() }.encode(), None);
        assert_eq!(Plan { env: vec![("".into(), "x".into())], ..plan() }.encode(), None);
        assert_eq!(Plan { env: vec![("A=B".into(), "x".into())], ..plan() }.encode(), None);
        assert_eq!(Plan { env: vec![("A".into(), "x\0".into())], ..plan() }.encode(), None);
    }

    #[test]
    fn broken_plans_do_not_panic() {
        let bytes = plan().encode().unwrap();
        for cut in LENGTH_BYTES..bytes.len() {
            let _ = Plan::decode(&bytes[LENGTH_BYTES..cut]);
        }
        assert_eq!(Plan::decode(b""), None);
        assert_eq!(Plan::decode(b"kill\x00-1\0"), None);
    }

    #[test]
    fn lines_survive_the_way() {
        for report in [
            Report::Ready,
            Report::Started(7),
            Report::Failed(Step::Directory, 2),
            Report::Failed(Step::Setup, 0),
            Report::Failed(Step::Program, 13),
            Report::Exit(255),
            Report::Signal(9),
            Report::Left(3),
        ] {
            assert_eq!(Report::parse(report.to_string().trim_end()), Some(report));
        }
        let grace = Duration::from_secs(9);
        for ask in [Ask::Interrupt, Ask::Kill, Ask::Stop(Duration::from_millis(20))] {
            assert_eq!(Ask::parse(ask.to_string().trim_end(), grace), Some(ask));
        }
        assert_eq!(Ask::parse("stop", grace), Some(Ask::Stop(grace)));
        for nonsense in ["", "stop x", "kill 9", "exit", "exit x", "failed setup", "failed x 1"] {
            assert_eq!((Ask::parse(nonsense, grace), Report::parse(nonsense)), (None, None), "{nonsense}");
        }
    }

    #[test]
    fn lines_are_taken_whole() {
        let mut buffer = b"one\ntwo\nthr".to_vec();
        assert_eq!(take_line(&mut buffer).as_deref(), Some("one"));
        assert_eq!(take_line(&mut buffer).as_deref(), Some("two"));
        assert_eq!(take_line(&mut buffer), None);
        assert_eq!(buffer, b"thr");
    }
}
