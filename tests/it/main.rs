//! The integration tests: the real binary on a free port, real clients, real processes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on ends with a panic; programs under test are started, and their environment is set, here"
)]

mod support;

mod agents_alike;
mod agents_cut;
mod agents_scenarios;
mod any_bytes;
mod artifacts;
mod at_rest;
mod bridges;
mod burst;
mod cancels;
mod chat;
mod check;
mod claude;
mod claude_misbehaves;
mod codex;
mod codex_states;
mod command_line;
mod commands;
mod conform;
mod contracts;
mod crash;
mod dari;
mod dist;
mod docs;
mod downloads;
mod durable;
mod liveness;
mod logs;
mod malformed;
mod metrics;
mod misbehaviour;
mod mock;
mod openai;
mod parity;
mod quiesce;
mod readme;
mod real_client;
mod real_client_work;
mod sdk;
mod sessions;
mod sessions_of_a_socket;
mod slow_reader;
mod smoke;
mod stdio_protocol;
mod steer;
mod stopped;
mod surface;
mod terminal;
mod trace;
mod turn_keys;
mod v1;
mod v1_socket;
mod what_leaves_a_socket;
mod who_may_call;
