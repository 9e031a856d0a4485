//! How the end of a handler's process is told to those whose turns it had.
//!
//! Owns the sentences; when they are said is `worker`'s.

use crate::model::{Fault, FaultCode, ProcessEnd};
use crate::process::Exit;

/// Of a process that ended while it had a turn.
pub fn fault(exit: &Exit, stderr_tail: String) -> Fault {
    let message = match exit {
        // The words of the handler protocol.
        Exit::Code(code) => format!("Handler process exited with code {code}"),
        Exit::NotStarted(_) => "the handler could not be started".to_owned(),
        Exit::Signal(_) | Exit::Lost => format!("Handler process {exit}"),
    };
    let mut fault = Fault::new(FaultCode::HandlerExited, message);
    fault.process = Some(ProcessEnd { exit_code: exit.code(), signal: exit.signal(), stderr_tail });
    fault
}

/// Of one that ended before it took turns; `broken` is what it said about it.
pub fn before_ready(mut fault: Fault, exit: &Exit, broken: Option<String>) -> Fault {
    fault.code = FaultCode::HandlerUnavailable;
    fault.detail = Some(match (broken, exit) {
        (Some(message), _) => message,
        (None, Exit::NotStarted(error)) => error.to_string(),
        (None, Exit::Code(code)) => format!("the handler exited with code {code} before it was ready"),
        (None, _) => "the handler ended before it was ready".to_owned(),
    });
    "the handler could not be started".clone_into(&mut fault.message);
    fault
}
