//! The integration tests: the real binary on a free port, real clients, real processes.

mod support;

mod smoke;
