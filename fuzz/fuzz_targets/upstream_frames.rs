//! What a backend may send in HTTP/2: see `portcullis_proxy::fuzzing::upstream_frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| portcullis_proxy::fuzzing::upstream_frames(octets));
