//! The data plane of Portcullis.
//!
//! `request.rs` is the request path on one page. Each step is a call into one module:
//!
//! | step | module |
//! | --- | --- |
//! | accept, TLS, HTTP/1.1 or HTTP/2 | `listen` |
//! | reject ambiguous requests | `normalize` |
//! | authenticate | `access`, and the crate `portcullis_identity` |
//! | match the route, and authorize the caller | `decision`, `route` |
//! | apply the rule's filters | `filter` |
//! | select the endpoint | `balance` |
//! | set headers for the backend | `proxy_headers` |
//! | forward, with retries | `forward`, `upstream` |
//! | reply locally | `local_reply`, `hidden` |
//! | set `Strict-Transport-Security` | `hsts` |
//! | metrics and access log | `telemetry` |
//!
//! Each worker is a thread with its own runtime, listeners and upstream connections. The crate does
//! not depend on Kubernetes.

pub(crate) mod access;
pub mod admin;
pub(crate) mod balance;
pub mod certificates;
pub(crate) mod choose;
pub(crate) mod clients;
pub(crate) mod decision;
pub(crate) mod exchange;
pub mod explain;
pub(crate) mod filter;
pub(crate) mod forward;
#[cfg(any(test, feature = "fuzzing"))]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what is fuzzed fails by a panic"
)]
pub mod fuzzing;
pub mod gateway;
pub(crate) mod hidden;
pub(crate) mod hsts;
pub(crate) mod http1;
pub(crate) mod http2;
pub(crate) mod itoa;
pub(crate) mod limit;
pub(crate) mod listen;
pub mod live_table;
pub(crate) mod local_reply;
pub(crate) mod memory;
pub(crate) mod normalize;
pub(crate) mod proxy_headers;
pub(crate) mod random;
pub(crate) mod relay;
pub(crate) mod request;
pub(crate) mod route;
mod shadow;
pub mod telemetry;
pub(crate) mod upstream;
pub(crate) mod worker;
pub(crate) mod worker_context;
