//! Files in and out: what a turn fetches before it begins, and what it leaves for its caller.
//!
//! Owns downloads (fetch, check, unpack) and the watched directories of a session (find, settle, announce, upload).
//! Knows no turns and no protocols.

pub mod download;
#[allow(clippy::unused_self, missing_docs, reason = "its form stands, its inside follows")]
pub mod handout;
pub mod unpack;
