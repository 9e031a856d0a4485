//! The directories of a session as they are on disk: walking them, watching them, looking at what was touched.
//!
//! Owns the tree of watched directories and who of several named ones owns a file (the innermost). All of it blocks and
//! runs on threads that may. What is to be done about a file is the book's business.
//!
//! Links are not followed: what a link within the watched directories points to is announced itself, and what lies
//! outside is nobody's business.

use super::beneath::{self, Version};
use super::files::{Book, Sight};
use super::kernel::{DirectoryId, Inbox, Kernel, Touch, Waiting, Watched};
use super::rules::{RULES_FILE, Rules, is_private};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Rounds in which one sweep tries to catch up with writers.
const ROUNDS: usize = 16;
/// Up to this many files and directories a request's end looks at all of them, whatever the kernel said.
const LOOK_AT_ALL: usize = 2_000;

struct Root {
    given: String,
    real: Arc<Path>,
    rules: Rules,
    /// The rules came with a request; the directory's own file does not count.
    rules_given: bool,
    /// Its own file of rules, when it was read.
    rules_file: Option<Version>,
    /// It is not there, or not watched, at present.
    missing: bool,
}

struct Directory {
    root: usize,
    real: PathBuf,
    inode: (u64, u64),
    watch: Option<Watched>,
}

/// All directories of a session.
pub(super) struct Tree {
    kernel: Option<Arc<Kernel>>,
    inbox: Arc<Inbox>,
    book: Arc<Mutex<Book>>,
    max_files: usize,
    roots: Vec<Root>,
    directories: HashMap<DirectoryId, Directory>,
    /// By real path; what lies below one directory stands together.
    places: BTreeMap<PathBuf, DirectoryId>,
    last_id: DirectoryId,
    unwatched: usize,
    warned: HashSet<&'static str>,
}

/// When a sweep happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// A request runs, or none does: files have to be quiet.
    Meanwhile,
    /// A request ends: a file that its writer closed need not be quiet.
    RequestEnds,
    /// It waits for some files.
    RequestWaits,
}

/// What a walk came by.
#[derive(Default)]
struct Visited {
    directories: HashSet<PathBuf>,
    files: HashSet<PathBuf>,
}

impl Tree {
    pub(super) fn new(
        kernel: Option<Arc<Kernel>>,
        inbox: Arc<Inbox>,
        book: Arc<Mutex<Book>>,
        max_files: usize,
    ) -> Self {
        Self {
            kernel,
            inbox,
            book,
            max_files,
            roots: Vec::new(),
            directories: HashMap::new(),
            places: BTreeMap::new(),
            last_id: 0,
            unwatched: 0,
            warned: HashSet::new(),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn warn_once(&mut self, what: &'static str) {
        if self.warned.insert(what) {
            tracing::warn!("{what}");
        }
    }

    /// Makes a directory if need be, and begins to watch it. Named again, its rules are replaced if there are new ones.
    pub(super) fn add(&mut self, given: &str, ignore: Option<&str>) -> io::Result<()> {
        let path = std::path::absolute(given)?;
        fs::create_dir_all(&path)?;
        let real: Arc<Path> = fs::canonicalize(&path)?.into();
        fs::read_dir(&real)?;
        let index = match self.roots.iter().position(|root| root.real == real) {
            Some(index) => {
                given.clone_into(&mut self.roots[index].given);
                index
            }
            None => {
                // A directory around it may have watched it so far.
                self.drop_below(&real);
                let (rules, rules_file) = match ignore {
                    Some(_) => (Rules::from_text(""), None),
                    None => own_rules(&real),
                };
                let given = given.to_owned();
                self.roots.push(Root { given, real, rules, rules_given: false, rules_file, missing: false });
                self.roots.len() - 1
            }
        };
        if let Some(text) = ignore {
            self.roots[index].rules = Rules::from_text(text);
            self.roots[index].rules_given = true;
        }
        self.walk_root(index);
        Ok(())
    }

    /// Whether only scanning tells what happens.
    pub(super) fn is_incomplete(&self) -> bool {
        self.unwatched > 0 || self.roots.iter().any(|root| root.missing)
    }

    /// Looks at what was touched since the last time, and makes announcements due.
    pub(super) fn sweep(&mut self, quiet: Duration, when: When) {
        let small = self.book().len() + self.directories.len() <= LOOK_AT_ALL;
        let mut all = self.is_incomplete() || (when == When::RequestEnds && small);
        for _ in 0..ROUNDS {
            if let Some(kernel) = &self.kernel {
                kernel.pump();
            }
            let waiting = self.inbox.take();
            if waiting.is_empty() && !all {
                break;
            }
            all |= waiting.overflow;
            self.look_at(waiting);
            if std::mem::take(&mut all) {
                (0..self.roots.len()).for_each(|index| self.walk_root(index));
            }
        }
        self.announce(quiet, when != When::Meanwhile);
    }

    fn announce(&self, quiet: Duration, last: bool) {
        // `last`: files need not be quiet if nobody writes them.
        let candidates = self.book().candidates(Instant::now(), quiet, last);
        let mut by_word = Vec::new();
        for candidate in candidates {
            let relative = candidate.key.strip_prefix(&candidate.root).unwrap_or(&candidate.key);
            let (file, version) = match beneath::open(&candidate.root, relative) {
                Ok(opened) => opened,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.book().remove(&candidate.key);
                    continue;
                }
                Err(error) => {
                    let why = format!("cannot open the file: {error}");
                    self.book().unreadable(&candidate.key, candidate.version, why);
                    continue;
                }
            };
            if version != candidate.version {
                self.see(&candidate.key, &candidate.root, version, None, Instant::now());
            } else if candidate.quiet || beneath::has_no_writer(&file) == Some(true) {
                self.book().announce(&candidate.key, version, Instant::now());
            } else if candidate.closed && beneath::has_no_writer(&file).is_none() {
                by_word.push((candidate.key, version));
            }
        }
        // Where only the kernel's notices tell who closed what, none may have come since.
        if !by_word.is_empty() {
            if let Some(kernel) = &self.kernel {
                kernel.pump();
            }
            if self.inbox.is_empty() {
                let mut book = self.book();
                for (key, version) in by_word {
                    book.announce(&key, version, Instant::now());
                }
            }
        }
    }

    fn look_at(&mut self, waiting: Waiting) {
        for id in waiting.lost {
            let Some(directory) = self.directories.get(&id) else { continue };
            let (real, root) = (directory.real.clone(), directory.root);
            self.drop_below(&real);
            if *real == *self.roots[root].real {
                self.walk_root(root);
            }
        }
        for ((id, name), touch) in waiting.touched {
            let Some(directory) = self.directories.get(&id) else { continue };
            let (path, root) = (directory.real.join(&name), directory.root);
            if name == RULES_FILE && *directory.real == *self.roots[root].real && !self.roots[root].rules_given {
                (self.roots[root].rules, self.roots[root].rules_file) = own_rules(&self.roots[root].real);
                self.walk_root(root);
            }
            self.look_at_one(root, &path, &touch);
        }
    }

    fn look_at_one(&mut self, root: usize, path: &Path, touch: &Touch) {
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                let inode = (metadata.dev(), metadata.ino());
                let known = self.places.get(path).and_then(|id| self.directories.get(id));
                if known.is_some_and(|known| known.inode == inode) {
                    return;
                }
                if let Some(other) = self.roots.iter().position(|other| *other.real == *path) {
                    return self.walk_root(other);
                }
                self.book().remove(path);
                if !self.is_ignored(root, path, true) {
                    self.walk(root, path.to_owned(), touch.moved.then_some(true));
                }
            }
            Ok(metadata) if metadata.is_file() => {
                self.drop_below(path);
                self.look_at_file(root, path, &metadata, touch.closed, Some(touch.at));
            }
            // Gone, or something that is never handed out.
            _ => {
                self.book().remove(path);
                if self.places.contains_key(path) {
                    self.drop_below(path);
                    self.book().remove_where(|key| key.starts_with(path));
                }
            }
        }
    }

    /// Whether the file is one of ours.
    fn look_at_file(
        &mut self,
        root: usize,
        path: &Path,
        metadata: &Metadata,
        closed: Option<bool>,
        at: Option<Instant>,
    ) -> bool {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            self.warn_once("a file with a name that is not UTF-8 is not handed out");
            return false;
        };
        if is_private(name) || self.is_ignored(root, path, false) {
            self.book().set_aside(path);
            return false;
        }
        let version = Version::of(metadata);
        let now = Instant::now();
        let (known, many) = {
            let book = self.book();
            (book.knows(path), book.len() >= self.max_files)
        };
        if !known && many {
            self.warn_once("a session has too many files in its watched directories; the rest is not handed out");
            return false;
        }
        // Nobody saw how a file became that was there before: it was quiet for as long as it says.
        let before = if known { None } else { now.checked_sub(version.age()) };
        self.see(path, &self.roots[root].real.clone(), version, closed, at.or(before).unwrap_or(now));
        true
    }

    fn see(&self, path: &Path, real: &Arc<Path>, version: Version, closed: Option<bool>, changed: Instant) {
        let Some(root) = self.roots.iter().find(|root| root.real == *real) else { return };
        let relative = path.strip_prefix(real).unwrap_or(path);
        match Path::new(&root.given).join(relative).into_os_string().into_string() {
            Ok(shown) => {
                self.book().see(path, Sight { shown, root: real.clone(), version, changed, closed });
            }
            Err(_) => tracing::warn!("{} is not handed out: its path is not UTF-8", path.display()),
        }
    }

    fn is_ignored(&self, root: usize, path: &Path, is_directory: bool) -> bool {
        let root = &self.roots[root];
        path.strip_prefix(&root.real).is_ok_and(|relative| root.rules.ignores(relative, is_directory))
    }

    /// The innermost named directory around a path.
    fn owner(&self, path: &Path) -> Option<usize> {
        let around = self.roots.iter().enumerate().filter(|(_, root)| path.starts_with(&root.real));
        around.max_by_key(|(_, root)| root.real.as_os_str().len()).map(|(index, _)| index)
    }

    /// Looks at everything below a named directory, and forgets what is no longer there.
    fn walk_root(&mut self, index: usize) {
        let real = self.roots[index].real.clone();
        if !self.roots[index].rules_given && self.roots[index].rules_file != rules_version(&real) {
            (self.roots[index].rules, self.roots[index].rules_file) = own_rules(&real);
        }
        let visited = self.walk(index, real.to_path_buf(), None);
        self.roots[index].missing = !visited.directories.contains(&*real);
        let below = self.places.range(real.to_path_buf()..).take_while(|(path, _)| path.starts_with(&real));
        let gone: Vec<PathBuf> = below
            .filter(|(path, _)| self.owner(path) == Some(index) && !visited.directories.contains(*path))
            .map(|(path, _)| path.clone())
            .collect();
        for path in &gone {
            self.drop_one(path);
        }
        self.book().set_aside_where(|key| {
            key.starts_with(&real) && self.owner(key) == Some(index) && !visited.files.contains(key)
        });
    }

    /// Looks at everything below a directory. Each is watched before it is read, so that nothing is lost in between.
    fn walk(&mut self, root: usize, start: PathBuf, closed: Option<bool>) -> Visited {
        let mut visited = Visited::default();
        let mut ahead = vec![start];
        while let Some(path) = ahead.pop() {
            if !self.enter(root, &path) {
                continue;
            }
            let entries = match fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error) => {
                    tracing::warn!("{} cannot be read: {error}", path.display());
                    continue;
                }
            };
            visited.directories.insert(path);
            for entry in entries.flatten() {
                // Both are about the entry itself, not what it may point to.
                let Ok(kind) = entry.file_type() else { continue };
                let child = entry.path();
                if kind.is_dir() {
                    let named = self.roots.iter().any(|other| *other.real == *child);
                    if !named && !self.is_ignored(root, &child, true) {
                        ahead.push(child);
                    }
                } else if kind.is_file()
                    && let Ok(metadata) = entry.metadata()
                    && self.look_at_file(root, &child, &metadata, closed, None)
                {
                    visited.files.insert(child);
                }
            }
        }
        visited
    }

    /// Watches a directory unless it is watched. `false` if there is none.
    fn enter(&mut self, root: usize, path: &Path) -> bool {
        let Ok(metadata) = fs::symlink_metadata(path) else { return false };
        if !metadata.is_dir() {
            return false;
        }
        if self.directories.len() >= self.max_files && !self.places.contains_key(path) {
            self.warn_once("a session has too many directories to watch; files in the rest are not handed out");
            return false;
        }
        let inode = (metadata.dev(), metadata.ino());
        if let Some(known) = self.places.get(path).and_then(|id| self.directories.get(id)) {
            if known.inode == inode && known.watch.is_some() {
                return true;
            }
            if known.inode == inode {
                self.drop_one(path);
            } else {
                self.drop_below(path);
            }
        }
        self.last_id += 1;
        let id = self.last_id;
        let watch = match self.kernel.as_ref().map(|kernel| kernel.watch(path, false, id, &self.inbox)) {
            Some(Ok(watch)) => Some(watch),
            Some(Err(error)) if error.kind() == io::ErrorKind::StorageFull => {
                self.warn_once("the system has no watches left (fs.inotify.max_user_watches); directories are scanned");
                None
            }
            // Gone by now, or not ours to read: scanning would find no more.
            Some(Err(error)) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!("{} is not watched: {error}", path.display());
                }
                return false;
            }
            None => None,
        };
        self.unwatched += usize::from(watch.is_none());
        self.directories.insert(id, Directory { root, real: path.to_owned(), inode, watch });
        self.places.insert(path.to_owned(), id);
        true
    }

    /// Ends the watches of a directory and of all below it.
    fn drop_below(&mut self, path: &Path) {
        let below = self.places.range(path.to_owned()..).take_while(|(place, _)| place.starts_with(path));
        let below: Vec<PathBuf> = below.map(|(place, _)| place.clone()).collect();
        for place in &below {
            self.drop_one(place);
        }
    }

    fn drop_one(&mut self, path: &Path) {
        let Some(directory) = self.places.remove(path).and_then(|id| self.directories.remove(&id)) else { return };
        match (directory.watch, &self.kernel) {
            (Some(watch), Some(kernel)) => kernel.forget(watch, &self.inbox),
            _ => self.unwatched = self.unwatched.saturating_sub(1),
        }
    }
}

fn rules_version(directory: &Path) -> Option<Version> {
    fs::metadata(directory.join(RULES_FILE)).ok().map(|metadata| Version::of(&metadata))
}

/// A directory's own rules, and which version of its file they are from.
fn own_rules(directory: &Path) -> (Rules, Option<Version>) {
    // In this order a change in between is noticed the next time.
    let version = rules_version(directory);
    (Rules::of_directory(directory), version)
}

impl Drop for Tree {
    fn drop(&mut self) {
        for (_, directory) in self.directories.drain() {
            if let (Some(watch), Some(kernel)) = (directory.watch, &self.kernel) {
                kernel.forget(watch, &self.inbox);
            }
        }
    }
}
