//! The load of the benchmarks for what h2load does not do: requests at given times, WebSockets,
//! streams of gRPC, and connections that are idle.
//!
//! Its only argument is [`Order`] as JSON. It prints its result as JSON, and fails unless every
//! exchange was answered as it should be.

mod connection;
mod counted;
mod echo;
mod exchange;
mod http1;
mod http2;
mod idle;
mod paced;
mod ticker;
mod websocket;

use std::error::Error;
use std::net::SocketAddr;

use serde::Deserialize;

use crate::exchange::Target;

/// What can go wrong with an exchange.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// What is to be done.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Order {
    /// As many exchanges as `requests`, as fast as they are answered.
    Counted { target: Target, requests: u64 },
    /// `a_second` exchanges a second at even times, or in bursts of `burst` of them.
    Paced { target: Target, a_second: u64, seconds: u64, burst: u64 },
    /// One exchange on each connection; then they are held open until the standard input ends.
    Idle { target: Target },
    /// The backend: it echoes WebSockets on one address, and streams of gRPC on the other one.
    Echo { websocket: SocketAddr, grpc: SocketAddr },
}

fn main() -> Result<(), Failure> {
    let order = std::env::args().nth(1).ok_or("usage: load ORDER")?;
    let order = serde_json::from_str(&order)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, run(order))
}

async fn run(order: Order) -> Result<(), Failure> {
    match order {
        Order::Counted { target, requests } => counted::run(&target, requests).await,
        Order::Paced { target, a_second, seconds, burst } => {
            paced::run(&target, a_second, seconds, burst).await
        }
        Order::Idle { target } => idle::run(&target).await,
        Order::Echo { websocket, grpc } => echo::run(websocket, grpc).await,
    }
}
