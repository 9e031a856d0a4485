//! Unpacking an archive into a directory, and nowhere else.
//!
//! Owns what members an archive may have, and the limits on them. Where they go is `beneath`; this blocks its thread.

mod beneath;
mod member;
#[cfg(test)]
mod tests;

use beneath::Beneath;
use flate2::bufread::MultiGzDecoder;
use member::Name;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;
use zip::ZipArchive;
use zip::result::ZipError;

/// How much is unpacked between two looks at whether to go on.
const CHUNK: usize = 64 << 10;
/// Longer targets of links are no paths.
const LONGEST_TARGET: u64 = 4096;
/// Warnings about single members; more are only counted.
const MOST_WARNINGS: usize = 20;

/// The archives that can be unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `.zip`
    Zip,
    /// `.tar.gz` and `.tgz`
    TarGz,
}

impl Kind {
    /// By the end of a name, in any letter case.
    pub fn of_name(name: &str) -> Option<Self> {
        let name = name.as_bytes();
        let ends = |end: &[u8]| name.len() >= end.len() && name[name.len() - end.len()..].eq_ignore_ascii_case(end);
        if ends(b".zip") {
            Some(Self::Zip)
        } else if ends(b".tar.gz") || ends(b".tgz") {
            Some(Self::TarGz)
        } else {
            None
        }
    }
}

/// What a file is by its first bytes.
pub fn kind_of_content(path: &Path) -> io::Result<Option<Kind>> {
    let mut first = Vec::new();
    File::open(path)?.take(4).read_to_end(&mut first)?;
    Ok(match first.as_slice() {
        b"PK\x03\x04" | b"PK\x05\x06" => Some(Kind::Zip),
        [0x1f, 0x8b, ..] => Some(Kind::TarGz),
        _ => None,
    })
}

/// Bounds of one archive, by what really comes out of it.
#[derive(Debug, Clone, Copy)]
pub struct UnpackLimits {
    /// Bytes of all members.
    pub max_bytes: u64,
    /// Members.
    pub max_entries: u64,
}

/// Why an archive was not unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// It is no archive, or a broken one.
    Unreadable(String),
    /// Something in it is not allowed, a limit was reached, or it cannot be written.
    Refused(String),
}

/// Unpacks into a directory that exists. What is returned are warnings.
///
/// # Errors
/// [`Problem`] with one sentence; what was unpacked until then stays.
pub fn unpack(
    kind: Kind,
    archive: impl Read + Seek,
    directory: &Path,
    limits: &UnpackLimits,
    stopped: &dyn Fn() -> bool,
) -> Result<Vec<String>, Problem> {
    let root = Beneath::open(directory).map_err(|error| Problem::Refused(error.to_string()))?;
    let mut unpacking =
        Unpacking { root, limits: *limits, bytes: 0, entries: 0, warnings: Vec::new(), skipped: 0, stopped };
    match kind {
        Kind::Zip => unpacking.zip(archive)?,
        Kind::TarGz => unpacking.tar(archive)?,
    }
    if unpacking.skipped > unpacking.warnings.len() {
        let more = unpacking.skipped - unpacking.warnings.len();
        unpacking.warnings.push(format!("{more} more members were skipped"));
    }
    Ok(unpacking.warnings)
}

struct Unpacking<'a> {
    root: Beneath,
    limits: UnpackLimits,
    bytes: u64,
    entries: u64,
    warnings: Vec<String>,
    skipped: usize,
    stopped: &'a dyn Fn() -> bool,
}

fn refused<T>(name: &[u8], reason: impl std::fmt::Display) -> Result<T, Problem> {
    Err(Problem::Refused(format!("member \"{}\": {reason}", shown(name))))
}

/// A name from outside, fit for a sentence.
fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).chars().take(200).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn unreadable(error: impl std::fmt::Display) -> Problem {
    Problem::Unreadable(format!("the archive cannot be read: {error}"))
}

impl Unpacking<'_> {
    fn zip(&mut self, archive: impl Read + Seek) -> Result<(), Problem> {
        let mut archive = ZipArchive::new(BufReader::new(archive)).map_err(unreadable)?;
        self.count(archive.len() as u64)?;
        // The directory of a zip lists all names: nothing is written of an archive with a wrong one.
        for name in archive.file_names() {
            let name = name.map_err(unreadable)?;
            Name::parse(name.as_bytes()).or_else(|reason| refused(name.as_bytes(), reason))?;
        }
        for at in 0..archive.len() {
            self.look()?;
            let mut member = match archive.by_index(at) {
                Ok(member) => member,
                Err(ZipError::UnsupportedArchive(reason)) => return refused(format!("#{}", at + 1).as_bytes(), reason),
                Err(error) => return Err(unreadable(error)),
            };
            let raw = member.name().map_err(unreadable)?.into_owned().into_bytes();
            let name = Name::parse(&raw).or_else(|reason| refused(&raw, reason))?;
            if member.is_dir() {
                self.directory(&raw, &name)?;
            } else if member.is_symlink() {
                let mut target = Vec::new();
                (&mut member).take(LONGEST_TARGET).read_to_end(&mut target).map_err(unreadable)?;
                self.symlink(&raw, &name, &target)?;
            } else {
                let mode = member.unix_mode();
                // Of a device or a pipe a zip can only tell the mode.
                if mode.is_some_and(|mode| mode & 0o170_000 != 0 && mode & 0o170_000 != 0o100_000) {
                    self.skip(&raw, "it is no file");
                } else {
                    self.file(&raw, &name, mode, &mut member)?;
                }
            }
        }
        Ok(())
    }

    fn tar(&mut self, archive: impl Read) -> Result<(), Problem> {
        use tar::EntryType as Type;
        let mut archive = tar::Archive::new(MultiGzDecoder::new(BufReader::with_capacity(CHUNK, archive)));
        for entry in archive.entries().map_err(unreadable)? {
            self.look()?;
            self.count(1)?;
            let mut entry = entry.map_err(unreadable)?;
            let raw = entry.path_bytes().into_owned();
            let kind = entry.header().entry_type();
            if matches!(kind, Type::XGlobalHeader | Type::XHeader) {
                continue;
            }
            let name = Name::parse(&raw).or_else(|reason| refused(&raw, reason))?;
            match kind {
                Type::Regular | Type::Continuous | Type::GNUSparse => {
                    let mode = entry.header().mode().ok();
                    self.file(&raw, &name, mode, &mut entry)?;
                }
                Type::Directory => self.directory(&raw, &name)?,
                Type::Symlink => {
                    let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                    self.symlink(&raw, &name, &target)?;
                }
                Type::Link => {
                    let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                    let to = Name::parse(&target).or_else(|reason| refused(&raw, format!("its target: {reason}")))?;
                    let linked = self.root.hard_link(&name, &to);
                    linked.or_else(|error| refused(&raw, error))?;
                }
                _ => self.skip(&raw, "it is neither a file nor a directory nor a link"),
            }
        }
        Ok(())
    }

    fn look(&self) -> Result<(), Problem> {
        if (self.stopped)() { Err(Problem::Refused("unpacking was stopped".to_owned())) } else { Ok(()) }
    }

    fn count(&mut self, entries: u64) -> Result<(), Problem> {
        self.entries += entries;
        if self.entries > self.limits.max_entries {
            let text = format!("the archive has more than the {} members that are allowed", self.limits.max_entries);
            return Err(Problem::Refused(text));
        }
        Ok(())
    }

    fn skip(&mut self, name: &[u8], reason: &str) {
        self.skipped += 1;
        if self.warnings.len() < MOST_WARNINGS {
            self.warnings.push(format!("member \"{}\" was skipped: {reason}", shown(name)));
        }
    }

    fn directory(&mut self, raw: &[u8], name: &Name<'_>) -> Result<(), Problem> {
        self.root.make_directory(name).or_else(|error| refused(raw, error))
    }

    fn symlink(&mut self, raw: &[u8], name: &Name<'_>, target: &[u8]) -> Result<(), Problem> {
        name.check_target(target).or_else(|reason| refused(raw, reason))?;
        self.root.symlink(name, target).or_else(|error| refused(raw, error))
    }

    fn file(&mut self, raw: &[u8], name: &Name<'_>, mode: Option<u32>, content: &mut impl Read) -> Result<(), Problem> {
        // Who may do what stays; running as somebody else does not.
        let mode = mode.map_or(0o666, |mode| mode & 0o777);
        let mut file = self.root.new_file(name, mode).or_else(|error| refused(raw, error))?;
        let mut chunk = vec![0; CHUNK];
        loop {
            self.look()?;
            let read = match content.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(unreadable(error)),
            };
            self.bytes += read as u64;
            if self.bytes > self.limits.max_bytes {
                let text =
                    format!("the archive unpacks to more than the {} bytes that are allowed", self.limits.max_bytes);
                return Err(Problem::Refused(text));
            }
            io::Write::write_all(&mut file, &chunk[..read]).or_else(|error| refused(raw, error))?;
        }
    }
}
