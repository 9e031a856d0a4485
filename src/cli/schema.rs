//! `turnhost schema`: the JSON Schema of every wire.
//!
//! Owns the list of wires; their shapes are in `wire`.

use super::OK;
use crate::wire::{dari, handler, record, report, runtimeuse, sessions};
use schemars::schema_for;
use serde_json::json;
use std::io::Write;

/// Prints one JSON object: a schema for each kind of message.
pub fn schema() -> u8 {
    let all = json!({
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
        "report": schema_for!(report::ReportRecord<'_>),
        "event": schema_for!(record::EventRecord<'_>),
    });
    // A reader that has seen enough closes the pipe: that is no failure.
    let _ = writeln!(std::io::stdout(), "{all:#}");
    OK
}
