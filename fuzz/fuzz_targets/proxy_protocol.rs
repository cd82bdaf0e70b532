//! What a balancer in front may send first: see `portcullis_proxy::fuzzing::proxy_protocol`.
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| portcullis_proxy::fuzzing::proxy_protocol(octets));
