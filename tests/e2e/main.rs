//! The built gateway over real sockets, one module a capability.
//!
//! One binary, because linking costs more than running. What every test needs is in [`harness`].

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by a panic"
)]
#![allow(
    clippy::large_futures,
    clippy::needless_pass_by_value,
    clippy::print_stdout,
    reason = "a test keeps buffers where they are read, owns what it is given, and tells on \
              standard output what it found"
)]

mod harness;

mod access;
mod acme;
mod affinity;
mod api_server;
mod bad_http1;
mod bad_http2;
mod balancing;
mod chart;
mod command_line;
mod cors;
mod demo;
mod development;
mod documentation;
mod drain;
mod early_responses;
mod endpoints;
mod failover;
mod fairness;
mod grpc;
mod h2spec;
mod health_checks;
mod http;
mod image;
mod install;
mod key;
mod limits;
mod listeners;
mod login;
mod manifests;
mod permissions;
mod public_paths;
mod pulumi;
mod rate_limits;
mod reading;
mod releases;
mod response_heads;
mod retries;
mod routing;
mod shadow;
mod timeouts;
mod tls;
mod traffic_feed;
mod traffic_set;
mod trailers;
mod upstream;
mod variants;
mod websocket;
mod workers;
