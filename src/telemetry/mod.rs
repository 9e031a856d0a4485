//! What others see of a running server besides its answers: log lines and numbers.
//!
//! Owns both, and that neither says more than it may. Who counts or logs what is each room's own business.

mod line;
mod log;
pub mod metrics;
pub mod traces;
mod whose;

pub use log::{LogConfig, guard, start};
pub use whose::{Whose, carried, carried_call};
