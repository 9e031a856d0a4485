//! Archives that mean well, and archives that do not.

use super::*;
use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use std::fs;
use std::io::{Cursor, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use tempfile::TempDir;
use zip::write::SimpleFileOptions;

const LIMITS: UnpackLimits = UnpackLimits { max_bytes: 1 << 20, max_entries: 100 };

/// A directory to unpack into, in a directory that must not change.
struct Place {
    outer: TempDir,
}

impl Place {
    fn new() -> Self {
        let outer = TempDir::new().unwrap();
        fs::create_dir(outer.path().join("inner")).unwrap();
        fs::write(outer.path().join("victim"), "untouched").unwrap();
        Self { outer }
    }

    fn inner(&self) -> PathBuf {
        self.outer.path().join("inner")
    }

    fn unpack(&self, kind: Kind, archive: &[u8]) -> Result<Vec<String>, Problem> {
        let result = unpack(kind, Cursor::new(archive), &self.inner(), &LIMITS, &|| false);
        assert_eq!(fs::read_to_string(self.outer.path().join("victim")).unwrap(), "untouched");
        let mut outside: Vec<_> = fs::read_dir(self.outer.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        outside.sort();
        assert_eq!(outside, ["inner", "victim"]);
        result
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.inner().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

enum Member<'a> {
    File(&'a str, &'a str, u32),
    Folder(&'a str),
    Symlink(&'a str, &'a str),
    Hardlink(&'a str, &'a str),
    Fifo(&'a str),
}

use Member::{Fifo, File as Plain, Folder, Hardlink, Symlink};

fn tar(members: &[Member<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for member in members {
        let mut header = tar::Header::new_gnu();
        let (name, kind, content, target, mode) = match member {
            Plain(name, content, mode) => (name, tar::EntryType::Regular, *content, None, *mode),
            Folder(name) => (name, tar::EntryType::Directory, "", None, 0o755),
            Symlink(name, target) => (name, tar::EntryType::Symlink, "", Some(target), 0o777),
            Hardlink(name, target) => (name, tar::EntryType::Link, "", Some(target), 0o777),
            Fifo(name) => (name, tar::EntryType::Fifo, "", None, 0o644),
        };
        // Raw, since the library refuses to write what it should not read.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if let Some(target) = target {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        }
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_cksum();
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

fn zip(members: &[Member<'_>]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for member in members {
        let options = SimpleFileOptions::default();
        match member {
            Plain(name, content, mode) => {
                writer.start_file(*name, options.unix_permissions(*mode)).unwrap();
                writer.write_all(content.as_bytes()).unwrap();
            }
            Folder(name) => writer.add_directory(*name, options).unwrap(),
            Symlink(name, target) => writer.add_symlink(*name, *target, options).unwrap(),
            Hardlink(..) | Fifo(_) => panic!("a zip has none"),
        }
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn what_means_well_is_unpacked() {
    let members = [
        Folder("dir/"),
        Plain("dir/file", "one", 0o644),
        Plain("run.sh", "two", 0o4755),
        Symlink("dir/up", "../run.sh"),
        Plain("./deep/er/x", "three", 0o600),
        Plain("dir/file", "the last one wins", 0o644),
    ];
    for (kind, archive) in [(Kind::Zip, zip(&members[..5])), (Kind::TarGz, tar(&members))] {
        let place = Place::new();
        fs::write(place.inner().join("run.sh"), "old").unwrap();
        assert_eq!(place.unpack(kind, &archive), Ok(vec![]), "{kind:?}");
        let file = if kind == Kind::Zip { "one" } else { "the last one wins" };
        assert_eq!(place.text("dir/file"), file);
        assert_eq!((place.text("dir/up").as_str(), place.text("deep/er/x").as_str()), ("two", "three"));
        let mode = fs::metadata(place.inner().join("run.sh")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7100, 0o100, "executable, and not as somebody else: {mode:o}");
    }
    let place = Place::new();
    let archive = tar(&[Plain("a", "1", 0o644), Hardlink("b", "a"), Fifo("pipe"), Plain("c", "2", 0o644)]);
    assert_eq!(
        place.unpack(Kind::TarGz, &archive),
        Ok(vec!["member \"pipe\" was skipped: it is neither a file nor a directory nor a link".to_owned()])
    );
    assert_eq!((place.text("b"), place.text("c")), ("1".to_owned(), "2".to_owned()));
}

#[test]
fn what_would_leave_the_directory_is_refused_by_name() {
    let attacks: [(&[Member<'_>], &str); 9] = [
        (&[Plain("../victim", "x", 0o644)], "../victim"),
        (&[Plain("a/../../victim", "x", 0o644)], "a/../../victim"),
        (&[Plain("/tmp/turnhost-attack", "x", 0o644)], "/tmp/turnhost-attack"),
        (&[Plain("..\\victim", "x", 0o644)], "..\\victim"),
        (&[Symlink("out", "..")], "out"),
        (&[Symlink("out", "/etc")], "out"),
        (&[Symlink("in", "."), Symlink("out", "in/../..")], "out"),
        (&[Folder("a/"), Symlink("a/d", ".."), Symlink("l", "a/d/../victim")], "l"),
        (&[Folder("d/"), Symlink("l", "d"), Plain("l/x", "through a link", 0o644)], "l/x"),
    ];
    for (members, name) in attacks {
        for (kind, archive) in [(Kind::Zip, zip(members)), (Kind::TarGz, tar(members))] {
            let place = Place::new();
            match place.unpack(kind, &archive) {
                Err(Problem::Refused(text)) => assert!(text.contains(&format!("\"{name}\"")), "{kind:?}: {text}"),
                other => panic!("{kind:?} {name}: {other:?}"),
            }
            // The names of a zip are known before anything is written.
            if kind == Kind::Zip && members.len() == 1 && name.contains("..") {
                assert_eq!(fs::read_dir(place.inner()).unwrap().count(), 0);
            }
        }
    }
    for (link, target) in [("l", "../victim"), ("l", "/etc/passwd"), ("../victim", "l")] {
        let place = Place::new();
        assert!(matches!(place.unpack(Kind::TarGz, &tar(&[Hardlink(link, target)])), Err(Problem::Refused(_))));
    }
}

/// Links that were there before are not written through either.
#[test]
fn a_link_in_the_way_is_replaced_or_refused() {
    let place = Place::new();
    symlink("../victim", place.inner().join("file")).unwrap();
    symlink("..", place.inner().join("dir")).unwrap();
    assert_eq!(place.unpack(Kind::TarGz, &tar(&[Plain("file", "new", 0o644)])), Ok(vec![]));
    assert_eq!(place.text("file"), "new");
    assert!(place.unpack(Kind::TarGz, &tar(&[Plain("dir/x", "new", 0o644)])).is_err());
    assert!(place.unpack(Kind::TarGz, &tar(&[Folder("dir/sub")])).is_err());
}

#[test]
fn limits_hold_by_what_comes_out() {
    let large = "x".repeat(2 << 20);
    let names: Vec<String> = (0..101).map(|n| format!("f{n}")).collect();
    let many: Vec<Member<'_>> = names.iter().map(|name| Plain(name, "", 0o644)).collect();
    for (kind, archive) in [
        (Kind::Zip, zip(&[Plain("bomb", &large, 0o644)])),
        (Kind::TarGz, tar(&[Plain("bomb", &large, 0o644)])),
        (Kind::Zip, zip(&many)),
        (Kind::TarGz, tar(&many)),
    ] {
        match Place::new().unpack(kind, &archive) {
            Err(Problem::Refused(text)) => assert!(text.contains("that are allowed"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_no_archive_is_told_apart() {
    let place = Place::new();
    let whole = tar(&[Plain("a", &"text ".repeat(1000), 0o644)]);
    for (kind, bytes) in [
        (Kind::Zip, b"not a zip".as_slice()),
        (Kind::TarGz, b"not a tar".as_slice()),
        (Kind::Zip, b""),
        (Kind::TarGz, &whole[..whole.len() / 2]),
    ] {
        assert!(matches!(place.unpack(kind, bytes), Err(Problem::Unreadable(_))), "{kind:?}");
    }
}

#[test]
fn it_stops_when_it_is_told() {
    let place = Place::new();
    let archive = zip(&[Plain("a", "1", 0o644)]);
    let result = unpack(Kind::Zip, Cursor::new(archive), &place.inner(), &LIMITS, &|| true);
    assert!(matches!(result, Err(Problem::Refused(_))));
    assert!(!place.inner().join("a").exists());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever names and links an archive has: nothing outside changes.
    #[test]
    fn nothing_outside_changes(
        members in prop::collection::vec(
            (0..4usize, "[ab./\\\\]{1,8}", prop::sample::select(vec!["..", ".", "a", "/", "../victim", "a/..", "b"])),
            1..8,
        ),
    ) {
        let members: Vec<Member<'_>> = members
            .iter()
            .map(|(kind, name, target)| match kind {
                0 => Plain(name, "x", 0o644),
                1 => Folder(name),
                2 => Symlink(name, target),
                _ => Hardlink(name, target),
            })
            .collect();
        let _ = Place::new().unpack(Kind::TarGz, &tar(&members));
    }
}
