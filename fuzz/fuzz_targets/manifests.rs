//! What may lie in a folder of manifests: see `portcullis_config::fuzzing::manifests`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| portcullis_config::fuzzing::manifests(octets));
