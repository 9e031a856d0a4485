//! The only place that starts a program.
//!
//! Owns processes from start to reaping: their pipes, their trees, their environment, and the lines they say. Knows
//! nothing of turns, handlers or protocols.
//!
//! # How a program runs
//!
//! The server never starts a program itself. It starts its own binary again as a **shim** (`/proc/self/exe __shim`),
//! one per program, and the shim starts the program:
//!
//! ```text
//! server ──control──▶ shim (child subreaper, own session) ──▶ program ──▶ whatever it starts
//!    ▲                                                          │
//!    └────────────── stdin, stdout, stderr, 3, 4 ───────────────┘
//! ```
//!
//! A child subreaper inherits every descendant whose parent dies, also one that called `setsid` and forked twice. So
//! the shim's descendants are exactly the program's tree, and the shim ends when that tree has ended: no marker, no
//! guess. The control socket tells the shim what to do, and its end of file tells it that the server died, however it
//! died. A main child whose shim is killed dies by its parent-death signal, and what that leaves falls to the server
//! ([`become_subreaper`]).
//!
//! The program, its arguments and its environment go to the shim over the socket and not on its command line: an agent's
//! `pkill -f vite` would otherwise find the shim that runs it, and an `LD_PRELOAD` meant for the program would be loaded
//! into the shim.
//!
//! # What is where
//!
//! | file | owns |
//! | --- | --- |
//! | `launch` | [`Launch`], the pipes, handing a plan to a shim, what can go wrong |
//! | `spare` | starting shims, one ahead of need |
//! | `child` | [`Child`], and the one task that owns a running program |
//! | `shim` | what runs in the re-executed binary |
//! | `talk` | what the two say to each other |
//! | `tree` | finding and signalling descendants |
//! | `program` | which files are programs, and which one a name means |
//! | `marked` | ending what a mark in the environment tells from the rest |
//! | `raw` | the `unsafe` of this folder |
//! | `reaper` | the server's own orphans |
//! | `environment` | what variables a program sees |
//! | `shell` | one shell command from its start to its end |
//! | `lines`, `text`, `tail` | reading what a program says, within bounds |
//!
//! # For `main`
//!
//! [`run_if_asked`] comes first, before a runtime or an argument parser exists. A program that embeds the library has to
//! call it too; [`launch()`] refuses to work until it was called, since the "shim" would be a second copy of that program.

#[allow(dead_code, reason = "what commands and the sessions protocol need is here and tested; they come next")]
mod child;
#[allow(dead_code, reason = "what commands and the sessions protocol need is here and tested; they come next")]
mod environment;
#[allow(dead_code, reason = "what commands and the sessions protocol need is here and tested; they come next")]
mod launch;
mod lines;
mod marked;
mod program;
#[expect(unsafe_code, reason = "the system has no safe form of these few calls; each says why it is sound")]
mod raw;
mod reaper;
mod shell;
mod shim;
mod spare;
#[allow(dead_code, reason = "what commands and the sessions protocol need is here and tested; they come next")]
mod tail;
mod talk;
mod text;
mod tree;

pub use child::{Child, Exit};
pub use environment::{Environment, TOKEN_VARIABLE};
pub use launch::{Launch, LaunchCause, LaunchError, Running, launch};
pub use lines::{Limits, Line, LineReader};
pub use marked::kill_marked;
pub use program::{is_program, on_path};
pub use reaper::become_subreaper;
pub use shell::{ShellCommand, ShellCut, ShellEnd, ShellOutput, ShellStream, run_shell};
pub use shim::run_if_asked;
pub use tail::Tail;
pub use talk::{OnExit, StdinFrom};
