//! The gateway in a real Kubernetes: installed as a user would, and watched while the cluster
//! changes, breaks and mends.
//!
//! These tests run inside the node that `tests/cluster/run` starts, so plain `cargo test` leaves
//! them out and says so; `tests/cluster/test` builds what they need and runs them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by a panic"
)]

mod client;
mod environment;
mod gateway;
mod load;
mod node;
mod pods;

mod access;
mod audit;
mod builder;
mod changes;
mod disruptions;
mod documentation;
mod endpoints;
mod installation;
mod killed;
mod large;
mod moves;
mod pulumi;
mod rollouts;
mod telemetry;
mod upgrades;
mod weights;
