//! How a user's handler is started: which interpreter, which arguments.
//!
//! Owns what a path to a handler means. Looks at the disk, starts nothing.

use super::ConfigError;
use super::values::bundle_folders;
use crate::process::{is_program, on_path};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// How a user's handler is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandlerProgram {
    /// A program that speaks the stdio protocol on its standard streams.
    Stdio {
        /// The program.
        program: PathBuf,
        /// Its arguments.
        args: Vec<OsString>,
    },
    /// A module that our bridge for its language loads.
    Module {
        /// The language.
        language: Language,
        /// The interpreter.
        interpreter: PathBuf,
        /// The module, absolute.
        module: PathBuf,
        /// The module as the user named it.
        named: PathBuf,
    },
}

/// A language that we have a bridge for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// Run by Node.js.
    JavaScript,
    /// Run by CPython 3.9 or later.
    Python,
}

/// The interpreters that were asked for.
pub struct Interpreters<'a> {
    /// `--node`
    pub node: Option<&'a Path>,
    /// `--python`
    pub python: Option<&'a Path>,
}

/// Finds out how the handler at `path` is started.
pub fn handler_program(
    path: &Path,
    interpreters: &Interpreters<'_>,
    environment: &BTreeMap<OsString, OsString>,
) -> Result<HandlerProgram, ConfigError> {
    let shown = path.display();
    let module = in_bundle(path, environment).canonicalize().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => ConfigError(format!("handler not found: {shown}")),
        _ => ConfigError(format!("handler {shown} cannot be read: {error}")),
    })?;
    if !module.is_file() {
        return Err(ConfigError(format!("handler {shown} is not a file")));
    }
    std::fs::File::open(&module).map_err(|error| ConfigError(format!("handler {shown} cannot be read: {error}")))?;
    let language = match path.extension().and_then(|extension| extension.to_str()) {
        Some("js" | "mjs" | "cjs" | "ts" | "mts") => Language::JavaScript,
        Some("py") => Language::Python,
        extension => return stdio_program(path, module, extension),
    };
    let (asked, name, missing) = match language {
        Language::JavaScript => (interpreters.node, "node", "running a JavaScript handler needs Node.js"),
        Language::Python => (interpreters.python, "python3", "running a Python handler needs python3"),
    };
    let interpreter = match asked {
        Some(asked) if is_program(asked) => Some(asked.to_owned()),
        Some(asked) => return Err(ConfigError(format!("{missing}: {} is not a program", asked.display()))),
        None => environment.get(OsStr::new("PATH")).and_then(|path| on_path(name, path)),
    };
    let interpreter = interpreter.ok_or_else(|| ConfigError(missing.to_owned()))?;
    Ok(HandlerProgram::Module { language, interpreter, module, named: path.to_owned() })
}

/// A relative path that is not there from here is looked for where a platform may have put the bundle: it may start the
/// server in any folder.
fn in_bundle(path: &Path, environment: &BTreeMap<OsString, OsString>) -> PathBuf {
    if path.is_absolute() || path.exists() {
        return path.to_owned();
    }
    let mut places = bundle_folders(environment).into_iter().map(|folder| folder.join(path));
    places.find(|place| place.is_file()).unwrap_or_else(|| path.to_owned())
}

fn stdio_program(path: &Path, program: PathBuf, extension: Option<&str>) -> Result<HandlerProgram, ConfigError> {
    if is_program(&program) {
        return Ok(HandlerProgram::Stdio { program, args: Vec::new() });
    }
    // A script that came without its executable bit, as out of a zip archive, still says what it is.
    if extension == Some("sh") {
        return Ok(HandlerProgram::Stdio { program: "bash".into(), args: vec![program.into()] });
    }
    Err(ConfigError(format!("handler {} is not executable; chmod +x makes it so", path.display())))
}
