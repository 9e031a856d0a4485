//! What a turn does besides its handler: files to fetch, commands to run, directories to watch.

use crate::redact::Secret;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// What a turn does around its handler, or instead of it.
#[derive(Debug, Clone, Default)]
pub struct Work {
    /// Files to fetch first, in order.
    pub downloads: Vec<Download>,
    /// Commands before the main work, in order. One that fails ends the turn.
    pub before: Vec<Command>,
    /// Commands that are the main work: the handler is not called. `Some` with none of them is an answer without items.
    pub instead: Option<Vec<Command>>,
    /// Commands after the main work, in order. One that fails ends the turn.
    pub after: Vec<Command>,
    /// Directories whose files the caller wants.
    pub watch: Option<Watch>,
    /// How many bytes of all the commands' standard output the answer may hold; each command has an even share.
    pub stdout_room: usize,
}

/// The share of each when `room` is divided evenly, but nobody gets more than it needs: whoever needs less than the
/// share has all of it, and what is left goes to the others. `usize::MAX` when there is enough for all.
#[must_use]
pub fn even_share(needs: impl IntoIterator<Item = usize>, room: usize) -> usize {
    let mut needs: Vec<usize> = needs.into_iter().collect();
    needs.sort_unstable();
    let mut room = room;
    for (done, need) in needs.iter().enumerate() {
        let share = room / (needs.len() - done);
        if *need > share {
            return share;
        }
        room -= need;
    }
    usize::MAX
}

/// A shell command.
#[derive(Debug, Clone)]
pub struct Command {
    /// What `/bin/sh -c` is given.
    pub command: Arc<str>,
    /// The working directory, made if it is missing; the server's own if absent. A relative one starts there.
    pub cwd: Option<PathBuf>,
    /// Variables besides the server's own.
    pub env: BTreeMap<String, Secret>,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// Whether its output is only collected and not said.
    pub silent: bool,
}

/// A file to fetch.
#[derive(Debug, Clone)]
pub struct Download {
    /// Where it is. A signed URL is a secret.
    pub url: Secret,
    /// The directory it is put into, made if it is missing; a relative one starts at the server's own.
    pub directory: PathBuf,
    /// The digest it must have.
    pub sha256: Option<[u8; 32]>,
    /// It may have this many bytes at most, if that is less than the server's limit.
    pub max_bytes: Option<u64>,
    /// How long it may take, if that is less than the server's limit.
    pub timeout: Option<Duration>,
    /// `true`: it is an archive whatever its name, and must be one. `false`: it stays a file. Absent: the name decides.
    pub extract: Option<bool>,
}

/// Directories whose files are to be handed out while they come and when they are complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    /// The directories as the caller named them; made if they are missing.
    pub directories: Vec<String>,
    /// Rules like those of a `.gitignore`, instead of the directory's own file and the usual list.
    pub ignore: Option<String>,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandEnd {
    /// The command as it was given.
    pub command: Arc<str>,
    /// The shell's code; -1 if it did not end by itself.
    pub exit_code: i32,
    /// Why it did not.
    pub cut: Option<CutBy>,
    /// How long it took.
    pub took: Duration,
    /// The beginning of its standard output, cut at the border of a character.
    pub stdout: String,
    /// How many bytes it wrote to its standard output, in all and as they were before redaction.
    pub stdout_bytes: u64,
    /// Whether `stdout` is less than all of it.
    pub stdout_cut: bool,
    /// The end of its standard output.
    pub stdout_tail: String,
    /// The end of its standard error.
    pub stderr_tail: String,
}

impl CommandEnd {
    /// About how many bytes of memory it takes.
    #[must_use]
    pub fn weight(&self) -> usize {
        200 + self.command.len() + self.stdout.len() + self.stdout_tail.len() + self.stderr_tail.len()
    }
}

/// Why a command did not end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutBy {
    /// A signal ended its shell.
    Signal(i32),
    /// It took longer than it might.
    Timeout,
}

/// A file that was not handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtifactFailure {
    /// Its path as it was announced.
    pub path: String,
    /// One sentence; never the URL.
    pub error: String,
}

#[cfg(test)]
mod tests {
    use super::even_share;

    #[test]
    fn who_needs_little_gets_it_all() {
        assert_eq!(even_share([], 10), usize::MAX);
        assert_eq!(even_share([5, 5], 10), usize::MAX);
        assert_eq!(even_share([5, 6], 10), 5);
        assert_eq!(even_share([1, 100, 2, 100], 23), 10);
        assert_eq!(even_share([100, 100, 100], 2), 0);
    }
}
