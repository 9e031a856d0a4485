use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

const QUIET: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
enum Step {
    Write { file: usize, size: u64, closed: bool },
    Delete(usize),
    Wait(u64),
    Answer(usize),
    End { file: usize, how: u8 },
    GiveUp,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let file = 0..3_usize;
    proptest::collection::vec(
        prop_oneof![
            (file.clone(), 0..3_u64, any::<bool>()).prop_map(|(file, size, closed)| Step::Write { file, size, closed }),
            file.clone().prop_map(Step::Delete),
            (0..3_000_u64).prop_map(Step::Wait),
            file.clone().prop_map(Step::Answer),
            (file, 0..3_u8).prop_map(|(file, how)| Step::End { file, how }),
            Just(Step::GiveUp),
        ],
        0..60,
    )
}

/// A book, a clock, and what must never happen.
struct World {
    book: Book,
    now: Instant,
    writes: i64,
    sending: HashMap<PathBuf, Version>,
    /// Announced versions that were not void afterwards.
    announced: HashSet<(PathBuf, Version)>,
}

impl World {
    fn announce(&mut self) {
        for candidate in self.book.candidates(self.now, QUIET, false) {
            assert!(candidate.quiet && candidate.version.size > 0);
            assert!(self.book.announce(&candidate.key, candidate.version, self.now));
            assert!(self.announced.insert((candidate.key, candidate.version)), "a version was announced twice");
        }
    }

    fn answer(&mut self, file: usize) {
        if let Ok((key, _, version)) = self.book.answer(&format!("d/{file}"), self.now) {
            assert!(self.sending.insert(key, version).is_none() || self.book.last_answer.is_some());
        }
    }

    fn end(&mut self, key: &Path, how: Sent) {
        let Some(version) = self.sending.remove(key) else { return };
        if how == Sent::Void {
            self.announced.remove(&(key.to_owned(), version));
        }
        self.book.sent(key, version, how, self.now);
    }
}

proptest! {
    #[test]
    fn each_version_is_announced_once_and_all_come_to_an_end(steps in steps()) {
        let mut world = World {
            book: Book::default(),
            now: Instant::now(),
            writes: 0,
            sending: HashMap::new(),
            announced: HashSet::new(),
        };
        let key = |file: usize| PathBuf::from(format!("/d/{file}"));
        for step in steps {
            match step {
                Step::Write { file, size, closed } => {
                    world.writes += 1;
                    let version = Version { size, modified: (world.writes, 0), inode: (0, 0) };
                    let (shown, root) = (format!("d/{file}"), Path::new("/d").into());
                    let sight = Sight { shown, root, version, changed: world.now, closed: Some(closed) };
                    world.book.see(&key(file), sight);
                }
                Step::Delete(file) => world.book.remove(&key(file)),
                Step::Wait(ms) => {
                    world.now += Duration::from_millis(ms);
                    world.announce();
                }
                Step::Answer(file) => world.answer(file),
                Step::End { file, how } => {
                    let how = [Sent::Done, Sent::Void, Sent::Failed("no".into())][usize::from(how)].clone();
                    world.end(&key(file), how);
                }
                Step::GiveUp => {
                    let all = world.book.waited_for();
                    world.book.give_up(&all, false, &|state| state.to_owned());
                    // What is newer than the announcement nobody answered is still to be announced.
                    prop_assert!(world.book.waited_for().iter().all(|key| world.book.files[key].is_owed()));
                }
            }
        }
        for _ in 0..10 {
            world.now += QUIET;
            world.announce();
            (0..3).for_each(|file| world.answer(file));
            (0..3).for_each(|file| world.end(&key(file), Sent::Done));
        }
        prop_assert!(world.book.waited_for().is_empty());
        prop_assert!(world.book.due.is_empty() && world.book.open.is_empty());
        let sent = |file: &File| file.seen.size == 0 || file.told == Some(file.seen);
        prop_assert!(world.book.files.values().all(sent));
    }
}
