//! See `turnhost::fuzz::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| turnhost::fuzz::frame(data));
