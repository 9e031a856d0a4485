//! The page of all options, made of the command line's own definitions.
//!
//! Owns its form only; what an option means stands where it is defined.

use super::OK;
use crate::config::{CommandLine, ConfigError};
use clap::{Arg, Command, CommandFactory};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

const HEAD: &str = "# Options

Made of the program's own definitions by `make schema`; `turnhost COMMAND --help` prints the same. An option wins over its
environment variable, and the variable over the default.
";

/// Writes the page to a file.
///
/// # Errors
/// One sentence when it cannot be written.
pub fn write(path: &Path) -> Result<u8, ConfigError> {
    std::fs::write(path, page()).map_err(|error| ConfigError(format!("--options: {}: {error}", path.display())))?;
    Ok(OK)
}

fn page() -> String {
    let all = CommandLine::command();
    let mut page = HEAD.to_owned();
    let mut told = BTreeSet::new();
    let serve = all.get_subcommands().filter(|command| command.get_name() == "serve");
    let others = all.get_subcommands().filter(|command| command.get_name() != "serve" && !command.is_hide_set());
    for command in serve.chain(others) {
        section(&mut page, command, &mut told);
    }
    page
}

/// One command; options that an earlier one has in the same words are named only.
fn section(page: &mut String, command: &Command, told: &mut BTreeSet<String>) {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    // Writing to memory cannot fail.
    let _ = write!(page, "\n## {}\n\n{about}.\n", command.get_name());
    let (mut rows, mut known) = (String::new(), 0);
    let visible = |arg: &&Arg| !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str());
    for arg in command.get_arguments().filter(visible) {
        let row = row(arg);
        if told.insert(row.clone()) { rows.push_str(&row) } else { known += 1 }
    }
    if !rows.is_empty() {
        let _ = write!(page, "\n| option | environment | default | tells |\n| --- | --- | --- | --- |\n{rows}");
    }
    if known > 0 {
        let _ = write!(page, "\nAnd {known} options that stand above.\n");
    }
}

fn row(arg: &Arg) -> String {
    let value = arg.get_value_names().filter(|_| arg.get_action().takes_values()).map(|names| names.join(" "));
    let name = match (arg.get_long(), value) {
        (Some(long), Some(value)) => format!("--{long} {value}"),
        (Some(long), None) => format!("--{long}"),
        (None, value) => value.unwrap_or_else(|| arg.get_id().to_string()),
    };
    let variable = arg.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
    let defaults: Vec<String> =
        arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy())).collect();
    let takes_values = arg.get_action().takes_values();
    let default = if takes_values { defaults.join(", ") } else { String::new() };
    let help = arg.get_help().map(|help| help.to_string().replace('|', "\\|")).unwrap_or_default();
    format!("| `{name}` | {variable} | {default} | {help} |\n")
}
