//! See `turnhost::fuzz::redactor`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| turnhost::fuzz::redactor(data));
