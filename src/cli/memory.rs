//! How the system gets memory back.
//!
//! Owns three settings of glibc, made once, before there are threads, and what a server gives back while it has nothing to
//! do. Only the program does so: whoever embeds the library has an allocator of his own choice.

use nix::time::{ClockId, clock_gettime};
use rustix::mm::{Advice, madvise};
use std::convert::Infallible;
use std::time::Duration;

/// So long after its start a server gives back what only the start needed.
const STARTED: Duration = Duration::from_millis(250);
/// How often it is looked whether there is nothing to do.
const LOOK: Duration = Duration::from_secs(10);
/// Who used less of a processor than this since the last look has nothing to do but to say that it is well.
const LITTLE: Duration = Duration::from_millis(100);

/// Large blocks come from the system and go back to it at once, small ones from two arenas, and the free end of an arena
/// is given back early. Left to itself glibc raises the first two bounds as it goes, so that a burst of large messages
/// stays with the process: with a reader that stopped, a stream of 1 MB messages took 28 MiB, and takes 12 like this.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the settings have no safe form; plain integers go in")]
pub fn settle() {
    use nix::libc::{M_ARENA_MAX, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, mallopt};
    // SAFETY: integers that the manual allows, before another thread exists. What is refused stays as it was.
    unsafe {
        mallopt(M_ARENA_MAX, 2);
        mallopt(M_MMAP_THRESHOLD, 128 << 10);
        mallopt(M_TRIM_THRESHOLD, 1 << 20);
    }
}

/// Other allocators need no telling.
#[cfg(not(target_env = "gnu"))]
pub fn settle() {}

/// Gives back what can be given back behind the start, and behind work once it is over. Never ends.
pub async fn give_back_when_quiet() -> Infallible {
    tokio::time::sleep(STARTED).await;
    let (mut at_last_look, mut at_last_time) = (Duration::ZERO, None);
    loop {
        let used = processor_time();
        let has_worked = at_last_time.is_none_or(|time| used.saturating_sub(time) >= LITTLE);
        let is_quiet = at_last_time.is_none() || used.saturating_sub(at_last_look) < LITTLE;
        if has_worked && is_quiet {
            // Not on a thread that serves: with much to look through it takes some milliseconds.
            let _ = tokio::task::spawn_blocking(give_back).await;
            at_last_time = Some(processor_time());
        }
        at_last_look = used;
        tokio::time::sleep(LOOK).await;
    }
}

/// What this process used of the processors. By the C library: `rustix` looks for the kernel's own function itself, and takes
/// the process down where that is not where it should be, as under valgrind.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Free blocks of the allocator, and the program's own pages: the kernel has them in the file, and gets those again that are
/// still needed. Of 9 MiB of code the start goes through 7, a server that waits for requests needs 2.
fn give_back() {
    free_blocks();
    let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else { return };
    for (start, length) in untouched(&maps, give_back as *const () as usize) {
        let_go(start, length);
    }
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no safe form")]
fn free_blocks() {
    // SAFETY: any thread may call it at any time.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

#[cfg(not(target_env = "gnu"))]
fn free_blocks() {}

#[expect(unsafe_code, reason = "no safe form")]
fn let_go(start: usize, length: usize) {
    // SAFETY: the kernel says that this is a mapping of our own program's file, that nothing may write to it and that nobody
    // has (no anonymous pages): what is let go of is read again from the file, with the same bytes. Where it fails, the
    // pages stay.
    let _ = unsafe { madvise(start as *mut core::ffi::c_void, length, Advice::LinuxDontNeed) };
}

/// The mappings of the file that `code` is mapped from which nobody may write to and nobody has written to, by the kernel's
/// own account; where each begins, and how long it is.
fn untouched(maps: &str, code: usize) -> Vec<(usize, usize)> {
    let mut all = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some("Anonymous:"), Some(size)) => {
                if let Some(Mapping { is_untouched, .. }) = all.last_mut() {
                    *is_untouched = size == "0";
                }
            }
            (Some(range), Some(rights)) if !range.ends_with(':') => {
                all.extend(Mapping::of(range, rights, words.next_back()));
            }
            _ => {}
        }
    }
    let own = all.iter().find(|one| (one.start..one.end).contains(&code)).map(|one| one.file);
    let is_own = |one: &&Mapping<'_>| Some(one.file) == own && !one.is_writable && one.is_untouched;
    all.iter().filter(is_own).map(|one| (one.start, one.end - one.start)).collect()
}

struct Mapping<'a> {
    start: usize,
    end: usize,
    is_writable: bool,
    is_untouched: bool,
    file: &'a str,
}

impl<'a> Mapping<'a> {
    /// From the first line about it: `5566d000-5566f000 r-xp 00002000 fe:00 1234  /usr/bin/turnhost`.
    fn of(range: &str, rights: &str, file: Option<&'a str>) -> Option<Self> {
        let (start, end) = range.split_once('-')?;
        let number = |hex| usize::from_str_radix(hex, 16).ok();
        let is_writable = rights.contains('w');
        Some(Self { start: number(start)?, end: number(end)?, is_writable, is_untouched: false, file: file? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
00400000-00500000 r--p 00000000 fe:00 17 /usr/bin/turnhost
Rss: 4 kB
Anonymous: 0 kB
VmFlags: rd mr mw me
00500000-00900000 r-xp 00100000 fe:00 17 /usr/bin/turnhost
Anonymous: 0 kB
00900000-00a00000 r--p 00500000 fe:00 17 /usr/bin/turnhost
Anonymous: 444 kB
00a00000-00b00000 rw-p 00600000 fe:00 17 /usr/bin/turnhost
Anonymous: 0 kB
00b00000-00c00000 rw-p 00000000 00:00 0
Anonymous: 12 kB
7f000000-7f100000 r-xp 00000000 fe:00 18 /usr/lib/libc.so.6
Anonymous: 0 kB
";

    #[test]
    fn only_what_nobody_has_written_to() {
        assert_eq!(untouched(MAPS, 0x50_0010), [(0x40_0000, 0x10_0000), (0x50_0000, 0x40_0000)]);
        // A page of code that was changed, by a debugger for example.
        let changed = MAPS.replacen(
            "fe:00 17 /usr/bin/turnhost\nAnonymous: 0 kB\n00900",
            "fe:00 17 /usr/bin/turnhost\nAnonymous: 4 kB\n00900",
            1,
        );
        assert_eq!(untouched(&changed, 0x50_0010), [(0x40_0000, 0x10_0000)]);
        assert_eq!(untouched(MAPS, 0x10), []);
        assert_eq!(untouched("no - map\nAnonymous:\n1-2\n", 1), []);
    }

    #[test]
    fn the_program_goes_on_with_its_pages_given_back() {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        assert!(!untouched(&maps, give_back as *const () as usize).is_empty(), "{maps}");
        // What this test needs is back at once, and what those beside it need: they may need more than before.
        let falls = |_| {
            let before = resident();
            give_back();
            resident() < before
        };
        assert!((0..50).any(falls), "{} kB", resident());
    }

    /// Pages of files in memory, in KiB.
    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}
