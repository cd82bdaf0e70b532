//! What callers may show: see `portcullis_proxy::fuzzing::credentials`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| portcullis_proxy::fuzzing::credentials(octets));
