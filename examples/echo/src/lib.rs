//! The sample service of the demo, the tests and the test cluster's pods.
//!
//! [`Echo`] is a well-behaved pod: one port for HTTP/1.1, HTTP/2 by prior knowledge, gRPC and
//! WebSocket, told by the request how to behave (the paths are listed in [`service`]), with a
//! readiness that can be switched, and a shutdown that lets what is under way finish. [`Recording`]
//! is the opposite: a backend that stores what it receives octet by octet and answers scripted
//! octets, for all that a well-behaved server would never send.

mod body;
mod count;
mod duration;
pub mod grpc;
mod recording;
mod server;
pub mod service;
mod websocket;

pub use count::Counts;
pub use recording::{Recording, Step};
pub use server::{Echo, Options};
