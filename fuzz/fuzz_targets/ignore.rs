//! See `turnhost::fuzz::ignore`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| turnhost::fuzz::ignore(data));
