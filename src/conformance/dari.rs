//! The contract of `dari-runtime-v1`, as a platform sees it over HTTP.

use super::Check;

const HEALTH: Check =
    Check { name: "dari-health", expected: "the health path answers 200 once the server can take a turn" };

/// All of them, in the order in which they are made.
pub const CHECKS: &[Check] = &[HEALTH];
