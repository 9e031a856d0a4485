//! What others send and read: structs with serde and schemars, one file per protocol, and no behaviour.

pub mod chat;
pub mod claude;
pub mod codex;
pub mod dari;
pub mod described;
pub mod dispatch;
pub mod handler;
pub mod health;
pub mod openai;
pub mod record;
pub mod report;
pub mod runtimeuse;
pub mod session_client;
pub mod session_line;
pub mod sessions;
pub mod stored;
pub mod v1;
