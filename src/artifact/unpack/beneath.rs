//! Writing beneath a directory, whatever links lie in it.
//!
//! Owns the way to a place: one component after the other, each opened in the one before it and never through a link. So
//! nothing is written outside, also when somebody changes the directory meanwhile.

use super::member::Name;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A directory that is written beneath.
#[derive(Debug)]
pub struct Beneath {
    root: OwnedFd,
    /// The directory of the last member: the next one is often in the same.
    last: Option<(Vec<OsString>, OwnedFd)>,
}

const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

impl Beneath {
    /// The directory itself may be a link: the user named it.
    pub fn open(directory: &Path) -> io::Result<Self> {
        let root = open(directory, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Self { root, last: None })
    }

    /// A new file in the place of whatever file or link was there.
    pub fn new_file(&mut self, name: &Name<'_>, mode: u32) -> io::Result<File> {
        let (way, last) = name.split().ok_or_else(no_name)?;
        let parent = self.directory(way)?;
        remove(parent, last)?;
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(parent, last, flags, Mode::from_bits_truncate(mode))?;
        Ok(File::from(file))
    }

    /// A directory, if it is not there yet.
    pub fn make_directory(&mut self, name: &Name<'_>) -> io::Result<()> {
        self.directory(name.parts()).map(|_| ())
    }

    /// A symbolic link; its target was checked.
    pub fn symlink(&mut self, name: &Name<'_>, target: &[u8]) -> io::Result<()> {
        let (way, last) = name.split().ok_or_else(no_name)?;
        let parent = self.directory(way)?;
        remove(parent, last)?;
        Ok(symlinkat(OsStr::from_bytes(target), parent, last)?)
    }

    /// Another name of a file that is there.
    pub fn hard_link(&mut self, name: &Name<'_>, target: &Name<'_>) -> io::Result<()> {
        let (target_way, target_last) = target.split().ok_or_else(no_name)?;
        let target_parent = self.directory(target_way)?.try_clone_to_owned()?;
        let (way, last) = name.split().ok_or_else(no_name)?;
        if name == target {
            return Ok(());
        }
        let parent = self.directory(way)?;
        remove(parent, last)?;
        // Not through a link: the name of a link becomes another name of that link.
        Ok(linkat(&target_parent, target_last, parent, last, AtFlags::empty())?)
    }

    /// Opens a directory, and makes what is missing of its way.
    fn directory(&mut self, way: &[&OsStr]) -> io::Result<BorrowedFd<'_>> {
        if way.is_empty() {
            return Ok(self.root.as_fd());
        }
        let is_last =
            self.last.as_ref().is_some_and(|(last, _)| last.iter().map(OsString::as_os_str).eq(way.iter().copied()));
        if !is_last {
            let mut at: Option<OwnedFd> = None;
            for part in way {
                let parent = at.as_ref().map_or(self.root.as_fd(), AsFd::as_fd);
                at = Some(step(parent, part)?);
            }
            self.last = at.map(|at| (way.iter().map(|part| (*part).to_owned()).collect(), at));
        }
        Ok(self.last.as_ref().map_or(self.root.as_fd(), |(_, at)| at.as_fd()))
    }
}

fn step(parent: BorrowedFd<'_>, part: &OsStr) -> io::Result<OwnedFd> {
    match openat(parent, part, DIRECTORY, Mode::empty()) {
        Err(Errno::ENOENT) => {}
        // With both flags a link is `ENOTDIR`, as is a file.
        Err(Errno::ELOOP | Errno::ENOTDIR) => {
            let text = "a link or a file is in the way, and nothing is written through it";
            return Err(io::Error::other(text));
        }
        opened => return Ok(opened?),
    }
    match mkdirat(parent, part, Mode::from_bits_truncate(0o777)) {
        Ok(()) | Err(Errno::EEXIST) => Ok(openat(parent, part, DIRECTORY, Mode::empty())?),
        Err(error) => Err(error.into()),
    }
}

/// Makes room for a new file: a directory of this name stays, and is told.
fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => Err(io::Error::other("a directory is in its place")),
        Err(error) => Err(error.into()),
    }
}

fn no_name() -> io::Error {
    io::Error::other("it has no name")
}
