//! See `turnhost::fuzz::unpack`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| turnhost::fuzz::unpack(data));
