//! Opening a file beneath its watched directory, and looking at which version of it that is.
//!
//! Owns the way from a directory to a file with no link on it, what tells two versions apart, and the question whether
//! anybody still writes. Decides nothing.

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::libc;
use nix::sys::stat::Mode;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Linux gives it this number on every machine that we are built for; `libc` has no name for it.
const F_SETSIG: libc::c_int = 10;

/// What tells two versions of a file apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Version {
    pub(super) size: u64,
    /// Seconds and nanoseconds.
    pub(super) modified: (i64, i64),
    pub(super) inode: (u64, u64),
}

impl Version {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            inode: (metadata.dev(), metadata.ino()),
        }
    }

    /// How long ago it was modified by its own account; nothing if that lies ahead.
    pub(super) fn age(&self) -> Duration {
        let Ok(seconds) = u64::try_from(self.modified.0) else { return Duration::MAX };
        let nanoseconds = u64::try_from(self.modified.1).unwrap_or(0);
        let modified = Duration::from_secs(seconds) + Duration::from_nanos(nanoseconds);
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(modified)
    }
}

/// Opens a regular file for reading. The directory itself may be a link, as the user named it; nothing below it may.
///
/// # Errors
/// `ELOOP` for a link, `EXDEV` for a way out, `InvalidInput` for what is no regular file, and the usual ones.
pub(super) fn open(directory: &Path, relative: &Path) -> io::Result<(File, Version)> {
    let base = File::open(directory)?;
    // Opening a pipe without this waits for its writer.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let opened = match openat2(base.as_fd(), relative, how) {
        // Older kernels do not have the call, and some sandboxes refuse it.
        Err(nix::Error::ENOSYS | nix::Error::EPERM) => step_by_step(base.into(), relative, flags)?,
        other => other?,
    };
    let file = File::from(opened);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let version = Version::of(&metadata);
    Ok((file, version))
}

fn step_by_step(mut at: OwnedFd, relative: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    let mut parts = relative.components().peekable();
    while let Some(part) = parts.next() {
        let Component::Normal(name) = part else { return Err(nix::Error::EXDEV) };
        let more = if parts.peek().is_some() { OFlag::O_DIRECTORY } else { OFlag::empty() };
        at = openat(at.as_fd(), name, flags | more, Mode::empty())?;
    }
    Ok(at)
}

/// Whether no process has the file open for writing. `None` where the system does not say: leases are for the owner
/// of a file, and not for every file system.
#[expect(unsafe_code, reason = "leases have no safe form; plain integers go in and out, for a descriptor that is open")]
pub(super) fn has_no_writer(file: &File) -> Option<bool> {
    let descriptor = file.as_raw_fd();
    // A writer who comes in between breaks the lease, and its usual signal would end this process. SIGURG is ignored.
    // SAFETY: the descriptor is open for the whole call and the arguments are integers.
    let (chosen, taken) = unsafe {
        let chosen = libc::fcntl(descriptor, F_SETSIG, libc::SIGURG);
        if chosen != 0 {
            return None;
        }
        (chosen, libc::fcntl(descriptor, libc::F_SETLEASE, libc::F_RDLCK))
    };
    debug_assert_eq!(chosen, 0);
    if taken != 0 {
        return (io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)).then_some(false);
    }
    // SAFETY: as above.
    unsafe { libc::fcntl(descriptor, libc::F_SETLEASE, libc::F_UNLCK) };
    Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_what_lies_beneath_is_opened() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "s").unwrap();
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("root");
        fs::create_dir_all(root.join("sub")).unwrap();
        fs::write(root.join("sub/file"), "four").unwrap();
        symlink(outside.path().join("secret"), root.join("link")).unwrap();
        symlink(outside.path(), root.join("away")).unwrap();
        symlink(&root, home.path().join("named")).unwrap();
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let slowly = |path: &str| step_by_step(File::open(&root).unwrap().into(), Path::new(path), flags);

        assert_eq!(open(&root, Path::new("sub/file")).unwrap().1.size, 4);
        assert_eq!(open(&home.path().join("named"), Path::new("sub/file")).unwrap().1.size, 4);
        assert!(slowly("sub/file").is_ok());
        for path in ["link", "away/secret", "../root/sub/file", "sub", "/etc/passwd", "none"] {
            assert!(open(&root, Path::new(path)).is_err(), "{path}");
            assert!(path == "sub" || slowly(path).is_err(), "{path}");
        }
    }

    #[test]
    fn a_writer_is_seen() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        if let Some(free) = has_no_writer(&reader) {
            assert!(!free);
            drop(writer);
            assert_eq!(has_no_writer(&reader), Some(true));
        }
    }
}
