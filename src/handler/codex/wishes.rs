//! What a request wants of Codex besides its prompt: `metadata.codex`.
//!
//! Owns its form, and how it goes into the settings of a thread.

use crate::handler::Turn;
use crate::handler::agent_error::{AgentError, Category};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The wishes of a request.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Wishes {
    /// When it asks before it does something; whatever it asks is allowed.
    pub approval_policy: Option<String>,
    /// Instructions, in addition to its own.
    pub instructions: Option<String>,
    /// Members of its configuration file.
    pub config: Map<String, Value>,
}

impl Wishes {
    /// Those of a turn.
    pub fn of(turn: &Turn) -> Result<Self, AgentError> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Metadata {
            codex: Wishes,
        }
        let Some(metadata) = turn.request.metadata.as_ref() else { return Ok(Self::default()) };
        serde_json::from_str::<Metadata>(metadata.as_str())
            .map(|metadata| metadata.codex)
            .map_err(|error| AgentError::new(Category::InvalidRequest, format!("metadata.codex: {error}")))
    }
}
