//! `turnhost schema`: the JSON Schema of every wire, and our HTTP as an OpenAPI document.
//!
//! Owns the list of wires; their shapes are in `wire`.

use super::OK;
use crate::api::openapi;
use crate::config::ConfigError;
use crate::wire::{dari, described, handler, record, report, runtimeuse, sessions, v1};
use schemars::schema_for;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

/// Prints one JSON object: a schema for each kind of message; or writes a file for each wire into a folder.
///
/// # Errors
/// One sentence when a file cannot be written.
pub fn schema(folder: Option<&Path>) -> Result<u8, ConfigError> {
    let all = all();
    let Some(folder) = folder else {
        // A reader that has seen enough closes the pipe: that is no failure.
        let _ = writeln!(std::io::stdout(), "{all:#}");
        return Ok(OK);
    };
    let wrong = |path: &Path, error: &std::io::Error| ConfigError(format!("--dir: {}: {error}", path.display()));
    std::fs::create_dir_all(folder).map_err(|error| wrong(folder, &error))?;
    for (name, schemas) in all.as_object().into_iter().flatten() {
        let path = folder.join(format!("{name}.json"));
        std::fs::write(&path, format!("{schemas:#}\n")).map_err(|error| wrong(&path, &error))?;
    }
    Ok(OK)
}

fn all() -> Value {
    json!({
        "dari": {
            "advance_request": schema_for!(dari::AdvanceRequest<'_>),
            "advance_response": schema_for!(dari::AdvanceResponse<'_>),
            "error": schema_for!(dari::ErrorBody<'_>),
            "health": schema_for!(dari::Health),
        },
        "handler": {
            "from_handler": schema_for!(handler::FromHandler<'_>),
            "to_handler": schema_for!(handler::ToHandler<'_>),
        },
        "runtimeuse": {
            "client_message": schema_for!(runtimeuse::ClientMessage),
            "server_message": schema_for!(runtimeuse::ServerMessage<'_>),
        },
        "sessions": {
            "session_request": schema_for!(sessions::SessionRequest<'_>),
            "session_response": schema_for!(sessions::SessionResponse<'_>),
            "client_frame": schema_for!(sessions::ClientFrame<'_>),
            "server_frame": schema_for!(sessions::ServerFrame<'_>),
            "sidecar_command": schema_for!(sessions::Command<'_>),
        },
        "v1": {
            "new_turn": schema_for!(v1::NewTurn<'_>),
            "new_input": schema_for!(v1::NewInput),
            "turn": schema_for!(described::TurnShown),
            "log_entry": schema_for!(described::LogEntry<'_>),
        },
        "report": schema_for!(report::ReportRecord<'_>),
        "event": schema_for!(record::EventRecord<'_>),
        "openapi": openapi::document(),
    })
}
