//! Files in and out: what a turn fetches before it begins, and what it leaves for its caller.
//!
//! Owns downloads (fetch, check, unpack) and the watched directories of a session (find, settle, announce, upload).
//! Knows no turns and no protocols.

pub mod download;
pub mod handout;
pub mod unpack;
