//! The integration tests: the real binary on a free port, real clients, real processes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on ends with a panic; programs under test are started, and their environment is set, here"
)]

mod support;

mod bridges;
mod misbehaviour;
mod parity;
mod readme;
mod real_client;
mod smoke;
mod stdio_protocol;
