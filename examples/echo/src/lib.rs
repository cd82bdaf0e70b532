//! The sample service of the demo, the tests and the test cluster's pods.
//!
//! [`Echo`] is a well-behaved pod: one port for HTTP/1.1, HTTP/2 by prior knowledge, gRPC and
//! WebSocket, with switchable readiness and graceful shutdown. Requests select its behavior; see
//! [`service`] for the paths. [`Recording`] is a backend that records the octets that it receives
//! and sends scripted octets, which a well-behaved server would never send.

mod body;
mod count;
mod duration;
pub mod grpc;
mod record;
mod recording;
mod server;
pub mod service;
mod websocket;

pub use count::Counts;
pub use recording::{Recording, Step};
pub use server::{Echo, Options};
