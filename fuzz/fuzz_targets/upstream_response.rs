//! What a backend may send: see `portcullis_proxy::fuzzing::upstream_response`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| portcullis_proxy::fuzzing::upstream_response(octets));
