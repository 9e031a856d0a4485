//! Where in the workspace the file of an attachment lies: section 2.6 of the contract.
//!
//! Owns what may be named: regular files inside the root and outside its `.dari`. Reads no file. Everything here
//! waits for the disk, which may be a network mount: call it where blocking is allowed.

use crate::model::Attachment;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// The platform's own folder in the workspace.
const PLATFORM_FOLDER: &str = ".dari";

/// Folders in which no file is looked for by its name.
const SKIPPED: [&str; 3] = [PLATFORM_FOLDER, ".git", "node_modules"];

/// Most entries that a search by name looks at.
const MOST_ENTRIES: usize = 10_000;

/// Deepest folder that a search by name enters; the root's own entries are at depth 1.
const DEEPEST: usize = 16;

/// A workspace, for the attachments of one request: searched at most once, whatever the number of attachments.
#[derive(Debug)]
pub struct Workspace {
    named: PathBuf,
    /// Its real path, looked up at the first attachment; `None` if there is no such folder.
    root: OnceCell<Option<PathBuf>>,
    /// Where each file name lies; `None` where it is not the only one. Nothing, if there was too much to look at.
    names: OnceCell<HashMap<OsString, Option<PathBuf>>>,
}

impl Workspace {
    /// The workspace in a folder, which need not exist.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { named: root.to_owned(), root: OnceCell::new(), names: OnceCell::new() }
    }

    /// The file that the attachment's `path`, or else its `filename`, stands for, with symbolic links resolved.
    #[must_use]
    pub fn resolve(&self, attachment: &Attachment) -> Option<PathBuf> {
        let root = self.root.get_or_init(|| fs::canonicalize(&self.named).ok()).as_deref()?;
        let by_path = attachment.path.as_deref().and_then(|path| inside(root, &root.join(path)));
        by_path.or_else(|| self.only_file_named(root, attachment.filename.as_deref()?))
    }

    fn only_file_named(&self, root: &Path, name: &str) -> Option<PathBuf> {
        let mut parts = Path::new(name).components();
        let (Some(Component::Normal(plain)), None) = (parts.next(), parts.next()) else { return None };
        if plain != OsStr::new(name) {
            return None;
        }
        let names = self.names.get_or_init(|| files_by_name(root).unwrap_or_default());
        // A folder above it may have been swapped for a link since, so what was found is checked like any path.
        inside(root, names.get(plain)?.as_deref()?)
    }
}

/// The real path, if it is a regular file inside the root and outside the platform's folder.
fn inside(root: &Path, path: &Path) -> Option<PathBuf> {
    let real = fs::canonicalize(path).ok()?;
    let platform = root.join(PLATFORM_FOLDER);
    // The platform's folder may itself be a link, even to another place in the workspace.
    let platform_real = fs::canonicalize(&platform).ok();
    let reserved = real.starts_with(&platform) || platform_real.is_some_and(|folder| real.starts_with(folder));
    (real.starts_with(root) && !reserved && fs::metadata(&real).ok()?.is_file()).then_some(real)
}

/// All regular files by their name. `None` if there are too many entries to say that a name is the only one.
fn files_by_name(root: &Path) -> Option<HashMap<OsString, Option<PathBuf>>> {
    let mut names = HashMap::new();
    let mut folders = vec![(root.to_path_buf(), 1)];
    let mut seen = 0;
    while let Some((folder, depth)) = folders.pop() {
        // A folder that cannot be read has no files for the agent either.
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            seen += 1;
            if seen > MOST_ENTRIES {
                return None;
            }
            // Of the entry itself: links are neither followed nor counted.
            let Ok(kind) = entry.file_type() else { continue };
            let name = entry.file_name();
            if kind.is_dir() {
                if depth < DEEPEST && !SKIPPED.iter().any(|skipped| name == *skipped) {
                    folders.push((entry.path(), depth + 1));
                }
            } else if kind.is_file() {
                match names.entry(name) {
                    Entry::Vacant(free) => drop(free.insert(Some(entry.path()))),
                    Entry::Occupied(mut taken) => *taken.get_mut() = None,
                }
            }
        }
    }
    Some(names)
}
