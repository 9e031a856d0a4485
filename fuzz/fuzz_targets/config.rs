//! See `turnhost::fuzz::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| turnhost::fuzz::config(data));
