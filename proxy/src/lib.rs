//! Portcullis' request path.
//!
//! The first of the four ways through the house, "a request", is one page: `request.rs`. Each step
//! on it is one call into one module:
//!
//! | step | module |
//! | --- | --- |
//! | accept, TLS, HTTP/1.1 or HTTP/2 | `listen` |
//! | refuse what is ambiguous | `normalize` |
//! | find the route | `route` |
//! | who is calling, and may they | `access`, and the crate `portcullis_identity` |
//! | change what the rule says | `filter` |
//! | choose variant and endpoint | `choose` |
//! | headers for the backend | `forwarding` |
//! | send it, with tries | `forward`, `upstream` |
//! | answer ourselves | `answer`, `hidden`, `page` |
//! | promise HTTPS | `hsts` |
//! | count and log | `telemetry` |
//!
//! Each worker is one thread with a runtime, listeners and upstream connections of its own; the
//! only thing that workers share is the snapshot. Nothing here knows Kubernetes.

pub(crate) mod access;
pub mod admin;
pub(crate) mod balance;
pub mod certificates;
pub(crate) mod clients;
pub(crate) mod exchange;
pub mod explain;
pub(crate) mod filter;
pub(crate) mod forward;
#[cfg(any(test, feature = "fuzzing"))]
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
pub mod telemetry;
pub(crate) mod upstream;
pub(crate) mod worker;
pub(crate) mod worker_context;
