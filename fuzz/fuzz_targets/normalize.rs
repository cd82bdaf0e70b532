//! What a client may ask: see `portcullis_proxy::fuzzing::normalize`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| portcullis_proxy::fuzzing::normalize(octets));
