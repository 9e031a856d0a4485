//! `turnhost init`: a new bundle, whole and working.
//!
//! Owns which files there are for which language; their texts are in `init/`.

use super::OK;
use crate::config::{BundleLanguage, ConfigError, InitFlags};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A file of the bundle.
struct File {
    path: &'static str,
    text: String,
    executable: bool,
}

/// What differs between the languages.
struct Kind {
    /// The option of `--handler`.
    handler: &'static str,
    /// The file a person changes.
    source: &'static str,
    runtimes: &'static str,
    /// The handler's own files.
    files: &'static [(&'static str, &'static str, bool)],
    /// What has to be done before the handler runs.
    build: Option<&'static str>,
}

const PYTHON: Kind = Kind {
    handler: "handler.py",
    source: "handler.py",
    runtimes: "  runtimes:\n    python: \"3.13\"\n",
    files: &[("handler.py", include_str!("init/handler.py"), false)],
    build: None,
};

const JAVASCRIPT: Kind = Kind {
    handler: "handler.mjs",
    source: "handler.mjs",
    runtimes: "  runtimes:\n    node: \"22\"\n",
    files: &[("handler.mjs", include_str!("init/handler.mjs"), false)],
    build: None,
};

const SHELL: Kind = Kind {
    handler: "handler.sh",
    source: "handler.sh",
    runtimes: "",
    files: &[("handler.sh", include_str!("init/handler.sh"), true)],
    build: None,
};

/// It speaks the stdio protocol instead of being linked with us: it then builds in seconds, from one small crate, and goes
/// with any version of the server.
const RUST: Kind = Kind {
    handler: "bin/agent",
    source: "handler/src/main.rs",
    runtimes: "",
    files: &[
        ("handler/Cargo.toml", include_str!("init/handler.toml"), false),
        ("handler/src/main.rs", include_str!("init/handler.rs"), false),
        ("handler/.gitignore", "target/\n", false),
        ("build.sh", include_str!("init/build.sh"), true),
    ],
    build: Some("./build.sh"),
};

/// Writes the bundle.
pub fn init(flags: &InitFlags) -> Result<u8, ConfigError> {
    let kind = match flags.language {
        BundleLanguage::Python => PYTHON,
        BundleLanguage::Javascript => JAVASCRIPT,
        BundleLanguage::Shell => SHELL,
        BundleLanguage::Rust => RUST,
    };
    let folder = &flags.folder;
    let cannot = |what: &Path, error: std::io::Error| ConfigError(format!("{}: {error}", what.display()));
    fs::create_dir_all(folder).map_err(|error| cannot(folder, error))?;
    let name = match &flags.name {
        Some(name) if name.trim().is_empty() || name.contains(['\n', '"']) => {
            return Err(ConfigError("--name: give a word without quotes".to_owned()));
        }
        Some(name) => name.clone(),
        None => folder_name(folder),
    };
    let files = files(&kind, &name);
    let there: Vec<&str> = files.iter().filter(|file| is_other(folder, file)).map(|file| file.path).collect();
    if !there.is_empty() && !flags.force {
        let what = if there.len() == 1 { "is there already" } else { "are there already" };
        return Err(ConfigError(format!("{} {what}; nothing was written. --force overwrites", there.join(", "))));
    }
    for file in &files {
        let path = folder.join(file.path);
        write(&path, file).map_err(|error| cannot(&path, error))?;
    }
    tell(folder, &files, &kind);
    Ok(OK)
}

fn files(kind: &Kind, name: &str) -> Vec<File> {
    let (build, build_row) = match kind.build {
        Some(build) => {
            (format!("{build}\n"), format!("| `{}` | builds the handler into `{}` |\n", &build[2..], kind.handler))
        }
        None => (String::new(), String::new()),
    };
    let fill = |text: &str| {
        text.replace("@NAME@", name)
            .replace("@HANDLER@", kind.handler)
            .replace("@SOURCE@", kind.source)
            .replace("@RUNTIMES@", kind.runtimes)
            .replace("@BUILD@", &build)
            .replace("@BUILD_ROW@\n", &format!("{build_row}\n"))
    };
    let usual = [
        ("dari.yml", include_str!("init/dari.yml"), false),
        ("setup.sh", include_str!("init/setup.sh"), true),
        ("prompts/system.md", include_str!("init/system.md"), false),
        ("README.md", include_str!("init/README.md"), false),
    ];
    let all = usual.iter().chain(kind.files);
    all.map(|(path, text, executable)| File { path, text: fill(text), executable: *executable }).collect()
}

/// What has this name and says something else would be lost.
fn is_other(folder: &Path, file: &File) -> bool {
    let path = folder.join(file.path);
    path.symlink_metadata().is_ok() && fs::read(&path).ok().as_deref() != Some(file.text.as_bytes())
}

fn write(path: &Path, file: &File) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    // Not through a link to elsewhere.
    if path.is_symlink() {
        fs::remove_file(path)?;
    }
    fs::write(path, &file.text)?;
    if file.executable {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// A name that needs no quotes in YAML.
fn folder_name(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| PathBuf::from("agent"));
    let name = whole.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let words: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let name = words.join("-");
    // A number, or a word that YAML reads as something else, is none.
    if name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.len() > 3
        && name != "true"
        && name != "false"
        && name != "null"
    {
        name
    } else {
        format!("agent-{name}").trim_end_matches('-').to_owned()
    }
}

fn tell(folder: &Path, files: &[File], kind: &Kind) {
    let wrote = files.iter().map(|file| {
        let path = folder.join(file.path);
        format!("wrote {}\n", path.strip_prefix("./").unwrap_or(&path).display())
    });
    let wrote: String = wrote.collect();
    let enter = if folder == Path::new(".") { String::new() } else { quoted(folder) };
    let build = kind.build.map_or(String::new(), |build| format!("{build} && "));
    let text = format!("{wrote}next: {enter}{build}turnhost check\n");
    // Whoever closed our output has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn quoted(folder: &Path) -> String {
    let folder = folder.display().to_string();
    let quoted = shlex::try_quote(&folder).map_or_else(|_| folder.clone(), |quoted| quoted.into_owned());
    format!("cd {quoted} && ")
}
