//! The file `dari.yml`: read with the rules of its fields, each mistake with its place.
//!
//! Owns the order of the checks and what a start needs to know. `tree` is YAML, `rules` what all fields have in common,
//! `fields` and `extras` the fields, `command` what is started, `bundle` the files beside it.

mod bundle;
mod command;
mod extras;
mod fields;
mod rules;
mod tree;

use super::{Check, Finding, Place, Report, Verdict};
use rules::Rules;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Without it nothing can be looked at.
pub const YAML: Check = Check { name: "manifest-yaml", expected: "dari.yml can be read" };
const FIELDS: Check =
    Check { name: "manifest-fields", expected: "its fields are known, complete and of the right form" };
const FILES: Check = Check { name: "manifest-files", expected: "the files that it names are in the bundle" };
const COMMAND: Check = Check { name: "manifest-command", expected: "the command can be run as it stands" };

/// All of them, in the order in which they are made.
pub const CHECKS: &[Check] = &[YAML, FIELDS, FILES, COMMAND];

/// A longer file is none that a person wrote.
const LONGEST: u64 = 1 << 20;

/// What a start needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The folder of the bundle, absolute.
    pub bundle: PathBuf,
    /// What is started; empty if the platform's own agent runs and nothing is.
    pub command: Vec<String>,
    /// The port that a sandbox exposes.
    pub port: u16,
    /// Where the health of the server is asked for.
    pub health_path: String,
    /// Where turns are sent.
    pub advance_path: String,
    /// Whether the sandbox reaches the network.
    pub internet: bool,
    /// Further variables.
    pub env: BTreeMap<String, String>,
    /// Variables whose values the platform keeps.
    pub secrets: Vec<String>,
}

/// Makes the checks of a file. `None`: what it says cannot be started.
pub fn check(report: &mut Report, path: &Path) -> Option<Manifest> {
    let shown = path.display().to_string();
    let began = Instant::now();
    let text = match text(path) {
        Ok(text) => text,
        Err(message) => {
            add(report, YAML, vec![whole(&shown, message)], "", began);
            report.skip_rest(CHECKS, "the file cannot be read");
            return None;
        }
    };
    let tree = match tree::read(&text) {
        Ok(tree) => tree,
        Err((at, message)) => {
            let place = Place {
                line: at.map(|at| at.line),
                column: at.map(|at| at.column),
                ..whole(&shown, format!("this is no YAML that can be read: {message}"))
            };
            add(report, YAML, vec![place], "", began);
            report.skip_rest(CHECKS, "the file cannot be read");
            return None;
        }
    };
    add(report, YAML, Vec::new(), "", began);
    let began = Instant::now();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let bundle = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mut rules = Rules { file: &shown, bundle: &bundle, fields: vec![], files: vec![], notes: vec![] };
    let manifest = fields::read(&mut rules, &tree);
    bundle::look(&mut rules);
    let Rules { fields, files, notes, .. } = rules;
    let sound = fields.is_empty() && files.is_empty();
    add(report, FIELDS, fields, &notes.join("; "), began);
    add(report, FILES, files, "", began);
    let Some((manifest, at)) = manifest else {
        report.skip(&COMMAND, "the fields that say what is started are to be mended first");
        return None;
    };
    if manifest.command.is_empty() {
        report.skip(&COMMAND, "the harness is `pi`: the platform's own agent runs, and this bundle starts nothing");
        return None;
    }
    let began = Instant::now();
    let mut rules = Rules { file: &shown, bundle: &bundle, fields: vec![], files: vec![], notes: vec![] };
    command::look(&mut rules, &manifest, at);
    let fine = rules.fields.is_empty();
    add(report, COMMAND, rules.fields, &rules.notes.join("; "), began);
    (sound && fine).then_some(manifest)
}

fn text(path: &Path) -> Result<String, String> {
    let length = std::fs::metadata(path).map(|meta| meta.len()).unwrap_or_default();
    if length > LONGEST {
        return Err(format!("is {length} bytes long; a manifest has at most {LONGEST}"));
    }
    std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "is not there; `turnhost init` writes one".to_owned(),
        std::io::ErrorKind::InvalidData => "is not UTF-8; save it so".to_owned(),
        _ => format!("cannot be read: {error}"),
    })
}

fn whole(file: &str, message: String) -> Place {
    Place { file: file.to_owned(), line: None, column: None, field: String::new(), message }
}

fn add(report: &mut Report, check: Check, places: Vec<Place>, note: &str, began: Instant) {
    let differs = !places.is_empty();
    let seen = match places.len() {
        0 => note.to_owned(),
        1 => "1 mistake".to_owned(),
        many => format!("{many} mistakes"),
    };
    let verdict = if differs { Verdict::Differs } else { Verdict::Holds };
    report.add(Finding {
        check,
        verdict,
        seen,
        places,
        took: Instant::now().duration_since(began).max(Duration::ZERO),
    });
}
