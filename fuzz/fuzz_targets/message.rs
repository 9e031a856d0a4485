//! See `turnhost::fuzz::message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| turnhost::fuzz::message(data));
