//! What a person sees: colour on a terminal, none elsewhere.

use std::io::IsTerminal;

/// Paints text, if anybody can see it.
#[derive(Clone, Copy)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// For text on standard output.
    pub fn stdout() -> Self {
        Self { on: std::io::stdout().is_terminal() }
    }

    /// For text on standard error.
    pub fn stderr() -> Self {
        Self { on: std::io::stderr().is_terminal() }
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub fn bold(self, text: &str) -> String {
        self.with("1", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.with("2", text)
    }

    pub fn green(self, text: &str) -> String {
        self.with("32", text)
    }

    pub fn red(self, text: &str) -> String {
        self.with("31", text)
    }
}
