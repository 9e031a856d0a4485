//! Real files: what is written is read, the limit holds, space comes back.

use super::*;
use crate::model::{Ending, Outcome};

fn said(seq: u64, turn: &str, text: &str) -> Arc<Entry> {
    let event = Event::Text { block: None, parts: vec![text.to_owned()] };
    Arc::new(Entry { seq: Seq(seq), turn: TurnId::from_drawn(turn.into()), at_ms: 7 + seq, what: What::Said(event) })
}

fn ended(seq: u64, turn: &str) -> Arc<Entry> {
    let outcome = Arc::new(Outcome::new(Ending::Interrupted));
    Arc::new(Entry { seq: Seq(seq), turn: TurnId::from_drawn(turn.into()), at_ms: 7, what: What::Ended(outcome) })
}

fn limits(most: u64) -> SpillLimits {
    SpillLimits { folder: None, most }
}

/// Everything behind `after` that is in the spill.
fn read(spill: &Spill, mut after: Seq) -> Vec<Arc<Entry>> {
    let mut all = Vec::new();
    while let Some(found) = spill.find(after) {
        let entries = match found {
            Spilled::Kept(entry) => vec![entry],
            Spilled::Written(extent) => extent.read().unwrap(),
        };
        all.extend(entries.into_iter().filter(|entry| entry.seq > after));
        after = all.last().unwrap().seq;
    }
    all
}

fn store(spill: &mut Spill, entries: &[Arc<Entry>], limits: &SpillLimits) -> Result<Seq, SpillError> {
    let written = spill.write(entries.to_vec(), limits).run(limits)?;
    let last = written.last();
    spill.written(written);
    Ok(last)
}

#[test]
fn entries_come_back_in_order_from_any_place() {
    let mut spill = Spill::default();
    let mut entries: Vec<_> = (1..=3000).map(|n| said(n, "a", &format!("message {n} é\n"))).collect();
    entries.push(ended(3001, "a"));
    entries.extend((3002..=3010).map(|n| said(n, "b", "x")));
    for batch in entries.chunks(700) {
        store(&mut spill, batch, &limits(1 << 30)).unwrap();
    }
    for after in [0, 1, 699, 700, 2999, 3000, 3001, 3009, 3010] {
        let back = read(&spill, Seq(after));
        assert_eq!(back.len() as u64, 3010 - after);
        for (one, other) in back.iter().zip(entries.iter().skip(usize::try_from(after).unwrap())) {
            assert_eq!((one.seq, &one.turn, one.at_ms), (other.seq, &other.turn, other.at_ms));
            match (&one.what, &other.what) {
                (What::Said(one), What::Said(other)) => assert_eq!(one, other),
                (What::Ended(_), What::Ended(_)) => {}
                _ => panic!("another kind of entry"),
            }
        }
    }
    assert_eq!(spill.kept(), ended(1, "a").weight());
    assert!(spill.pieces.len() < 30, "{} pieces: an index of every entry", spill.pieces.len());
}

#[test]
fn the_limit_takes_what_fits_and_there_is_room_again() {
    let mut spill = Spill::default();
    let entries: Vec<_> = (1..=100).map(|n| said(n, "a", &"x".repeat(30_000))).collect();
    let limits = limits(1 << 20);
    let mut last = Seq(0);
    while let Ok(more) = store(&mut spill, &entries[usize::try_from(last.0).unwrap()..][..5], &limits) {
        last = more;
    }
    assert!((30..36).contains(&last.0), "{last}");
    assert!(spill.in_files() <= 1 << 20);
    let rest = &entries[usize::try_from(last.0).unwrap()..];
    assert!(matches!(store(&mut spill, rest, &limits), Err(SpillError::Full)));
    assert!(spill.forget(Seq(1)).is_none(), "the rest of the first file is needed");
    assert!(matches!(store(&mut spill, rest, &limits), Err(SpillError::Full)));
    assert!(spill.forget(Seq(12)).is_some());
    let then = store(&mut spill, rest, &limits).unwrap();
    assert!(then > last);
    assert_eq!(
        read(&spill, Seq(12)).iter().map(|entry| entry.seq.0).collect::<Vec<_>>(),
        (13..=then.0).collect::<Vec<_>>()
    );
}

#[test]
fn space_comes_back_when_everything_was_read_and_not_under_a_reader() {
    let mut spill = Spill::default();
    store(&mut spill, &[said(1, "a", "x"), said(2, "a", "y")], &limits(1000)).unwrap();
    let Some(Spilled::Written(reading)) = spill.find(Seq(1)) else { panic!("not written") };
    let file = Arc::downgrade(&reading.file);
    drop(spill.forget(Seq(2)));
    assert_eq!((spill.in_files(), spill.first()), (0, None));
    assert_eq!(reading.read().unwrap().len(), 2, "who has begun to read reads on");
    drop(reading);
    assert!(file.upgrade().is_none(), "the file is still open");
}

#[test]
fn a_folder_that_cannot_be_written_to_is_an_error() {
    let limits = SpillLimits { folder: Some("/proc/nowhere".into()), most: 1000 };
    let error = store(&mut Spill::default(), &[said(1, "a", "x")], &limits).unwrap_err();
    assert!(matches!(error, SpillError::Failed(_)), "{error}");
    let full = File::options().write(true).open("/dev/full").unwrap();
    let spill = Spill { open: Some((Arc::new(full), 0)), ..Spill::default() };
    let error = spill.write(vec![said(1, "a", "x")], &limits).run(&limits).unwrap_err();
    assert!(matches!(&error, SpillError::Failed(error) if error.kind() == io::ErrorKind::StorageFull), "{error}");
}

#[test]
fn a_damaged_file_is_an_error() {
    let mut spill = Spill::default();
    store(&mut spill, &[said(1, "a", "x"), said(2, "a", "y")], &limits(1000)).unwrap();
    let Some(Spilled::Written(extent)) = spill.find(Seq(0)) else { panic!("not written") };
    extent.file.write_all_at(&[0xff; 20], 0).unwrap();
    assert!(extent.read().unwrap_err().to_string().contains("damaged"));
    extent.file.set_len(5).unwrap();
    assert!(extent.read().is_err());
}
