//! Which instructions the agent gets: section 6.3 of the contract.
//!
//! Owns the order of the places, the reading of the one key of `dari.yml` that names a file, and a cache, so that a
//! turn costs no look at the disk. The places themselves are passed in: only `config` reads the environment. Nothing
//! here fails: a file that cannot be used is passed over with a warning.

mod manifest;
#[cfg(test)]
#[path = "instructions_tests.rs"]
mod tests;

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// The agent's instructions where none are given.
pub const DEFAULT: &str = "You are a helpful assistant working in a sandbox on the user's behalf. \
    Do what the user asks with the tools you have, check your work, and answer briefly and plainly. \
    If something cannot be done, say what is missing.";

/// Largest file that is read.
const LARGEST: u64 = 1024 * 1024;

/// How long what was found is used without a look at the disk.
const RECHECK: Duration = Duration::from_secs(1);

/// How many file names out of requests are remembered. A platform sends one; more is somebody trying names.
const MOST_NAMES: usize = 16;

/// Instructions and where they are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instructions {
    /// The text.
    pub text: String,
    /// Where it is from.
    pub source: Source,
    /// What went wrong on the way, one sentence each. A [`Finder`] gives them once, not with every turn.
    pub warnings: Vec<String>,
}

/// Where instructions are from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The text in the request.
    Request,
    /// The file of the bundle that the request names.
    RequestedFile(PathBuf),
    /// The file that the server was started with.
    SystemPromptFile(PathBuf),
    /// A file of one of the folders, named by its `dari.yml` or in the usual place.
    Bundle(PathBuf),
    /// There are none: [`DEFAULT`]. Comes with a warning.
    BuiltIn,
}

/// Finds the instructions of one turn, with a look at the disk.
///
/// `request` is the text in the request, if any; one line that ends in `.md` names a file in one of the `folders`.
/// `system_prompt_file` is the file that the server was started with.
#[cfg(test)]
fn find(request: Option<&str>, system_prompt_file: Option<&Path>, folders: &[PathBuf]) -> Instructions {
    let name = match said(request) {
        Said::Text(text) => return given(text),
        Said::File(name) => Some(name),
        Said::Nothing => None,
    };
    search(name, system_prompt_file, folders, &mut Disk::default())
}

/// What a request says about the instructions.
enum Said<'a> {
    Nothing,
    Text(&'a str),
    File(&'a str),
}

#[expect(clippy::case_sensitive_file_extension_comparisons, reason = "the rule is about a line of text, not a file")]
fn said(request: Option<&str>) -> Said<'_> {
    let Some(text) = request else { return Said::Nothing };
    let line = text.trim();
    if line.is_empty() {
        Said::Nothing
    } else if line.ends_with(".md") && !line.contains(['\n', '\r']) {
        Said::File(line)
    } else {
        Said::Text(text)
    }
}

fn given(text: &str) -> Instructions {
    Instructions { text: text.to_owned(), source: Source::Request, warnings: Vec::new() }
}

/// Looks through the files, first the one that the request names.
fn search(name: Option<&str>, system_prompt_file: Option<&Path>, folders: &[PathBuf], disk: &mut Disk) -> Instructions {
    let (text, source) = place(name, system_prompt_file, folders, disk).unwrap_or_else(|| {
        disk.warnings.push("no instructions found: the built-in ones are used".to_owned());
        (DEFAULT.to_owned(), Source::BuiltIn)
    });
    Instructions { text, source, warnings: std::mem::take(&mut disk.warnings) }
}

fn place(
    name: Option<&str>,
    system_prompt_file: Option<&Path>,
    folders: &[PathBuf],
    disk: &mut Disk,
) -> Option<(String, Source)> {
    if let Some(name) = name {
        let found = in_folders(name, folders, disk);
        if found.is_some() {
            return found;
        }
        disk.warnings.push(format!("the request's instructions file {name:?} is in none of the bundle's folders"));
    }
    if let Some(path) = system_prompt_file {
        if let Some(text) = disk.read(path) {
            return Some((text, Source::SystemPromptFile(path.to_owned())));
        }
        disk.warnings.push(format!("the system prompt file {} cannot be used", path.display()));
    }
    folders.iter().find_map(|folder| in_bundle(folder, disk))
}

fn in_folders(name: &str, folders: &[PathBuf], disk: &mut Disk) -> Option<(String, Source)> {
    let name = relative(name)?;
    folders.iter().find_map(|folder| {
        let path = folder.join(name);
        disk.read(&path).map(|text| (text, Source::RequestedFile(path)))
    })
}

fn in_bundle(folder: &Path, disk: &mut Disk) -> Option<(String, Source)> {
    let manifest = folder.join("dari.yml");
    if let Some(name) = disk.read(&manifest).as_deref().and_then(manifest::system) {
        let path = relative(&name).map(|name| folder.join(name));
        if let Some((text, path)) = path.and_then(|path| Some((disk.read(&path)?, path))) {
            return Some((text, Source::Bundle(path)));
        }
        disk.warnings.push(format!("{} names the instructions {name:?}, which cannot be used", manifest.display()));
    }
    let usual = folder.join("prompts/system.md");
    disk.read(&usual).map(|text| (text, Source::Bundle(usual)))
}

/// The name as a path that stays below the folder it is looked up in.
fn relative(name: &str) -> Option<&Path> {
    let path = Path::new(name);
    let stays = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    (stays && !name.is_empty() && !name.contains('\0')).then_some(path)
}

/// Reads files and remembers which it looked at, to tell later whether another search would end otherwise.
#[derive(Default)]
struct Disk {
    seen: Vec<(PathBuf, Stamp)>,
    warnings: Vec<String>,
}

impl Disk {
    /// The text of a file. A file that is not there, or blank, is none; so is one that cannot be read or is too
    /// large, with a warning.
    fn read(&mut self, path: &Path) -> Option<String> {
        let stamp = Stamp::of(path);
        self.seen.push((path.to_owned(), stamp));
        // Opening what is no regular file may block for ever, so it is not even tried.
        let Stamp::File { length, .. } = stamp else { return None };
        if length > LARGEST {
            self.warnings.push(format!("{} is ignored: it is larger than 1 MiB", path.display()));
            return None;
        }
        match contents(path) {
            Ok(text) if text.trim().is_empty() => None,
            Ok(text) => Some(text),
            Err(error) => {
                self.warnings.push(format!("{} cannot be read: {error}", path.display()));
                None
            }
        }
    }
}

fn contents(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST).read_to_end(&mut bytes)?;
    let text = String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

/// What tells one version of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stamp {
    /// Not there, or no regular file.
    None,
    File {
        /// `None` where the file system keeps none.
        modified: Option<SystemTime>,
        length: u64,
    },
}

impl Stamp {
    fn of(path: &Path) -> Self {
        let file = fs::metadata(path).ok().filter(Metadata::is_file);
        file.map_or(Self::None, |file| Self::File { modified: file.modified().ok(), length: file.len() })
    }
}

/// Finds the instructions of one turn after another. Between two looks at the disk lies at least a second, and no
/// turn waits for the look of another: while it lasts, the others get what was found before.
#[derive(Debug)]
pub struct Finder {
    system_prompt_file: Option<PathBuf>,
    folders: Vec<PathBuf>,
    /// By the file that the request names. Never held while the disk is looked at.
    known: Mutex<HashMap<Option<String>, Known>>,
}

#[derive(Debug)]
struct Known {
    found: Instructions,
    seen: Vec<(PathBuf, Stamp)>,
    checked: Instant,
}

impl Finder {
    /// A finder for the file that the server was started with and the bundle's folders, in their order.
    #[must_use]
    pub fn new(system_prompt_file: Option<PathBuf>, folders: Vec<PathBuf>) -> Self {
        Self { system_prompt_file, folders, known: Mutex::default() }
    }

    /// The instructions of one turn: from memory if the last look at the disk is less than a second old. Warnings come once
    /// for each time that the files have changed.
    #[must_use]
    pub fn find(&self, request: Option<&str>) -> Instructions {
        self.find_at(request, Instant::now())
    }

    /// Whether the usual instructions were looked at less than a second ago: then most turns need not look at the disk.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.lock().get(&None).is_some_and(|known| is_fresh(known, Instant::now()))
    }

    fn find_at(&self, request: Option<&str>, now: Instant) -> Instructions {
        let name = match said(request) {
            Said::Text(text) => return given(text),
            Said::File(name) => Some(name.to_owned()),
            Said::Nothing => None,
        };
        let seen = {
            let mut known = self.lock();
            match known.get_mut(&name) {
                Some(known) if is_fresh(known, now) => return known.found.clone(),
                Some(known) => {
                    // This turn looks; the ones that come meanwhile see a check that has been made.
                    known.checked = now;
                    Some((known.seen.clone(), known.found.clone()))
                }
                None => None,
            }
        };
        if let Some((seen, found)) = seen
            && seen.iter().all(|(path, stamp)| Stamp::of(path) == *stamp)
        {
            return found;
        }
        let mut disk = Disk::default();
        let found = search(name.as_deref(), self.system_prompt_file.as_deref(), &self.folders, &mut disk);
        let silent = Instructions { warnings: Vec::new(), ..found.clone() };
        let mut known = self.lock();
        if known.len() >= MOST_NAMES && !known.contains_key(&name) {
            known.retain(|name, _| name.is_none());
        }
        known.insert(name, Known { found: silent, seen: disk.seen, checked: now });
        found
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Option<String>, Known>> {
        // Nothing is left half done under this lock, so a panic elsewhere does not spoil it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_fresh(known: &Known, now: Instant) -> bool {
    now.saturating_duration_since(known.checked) < RECHECK
}
