//! A gateway in one thread, for `benches/counts.rs`: one request over an in-memory pipe, and the
//! steps of one request.
//!
//! Everything is in its steady state before it is counted: connections are open, tables are filled,
//! and the caller's credentials were verified before.

mod client;
mod fixture;
mod pieces;
mod requests;

use tokio::io::DuplexStream;

use self::client::{Client, Http1, Http2};
use self::fixture::{Fixture, counted};
pub use self::pieces::{Piece, Step};
use crate::listen::socket::Protocol;

/// How often a request or a step is counted. The counts are of all of them.
pub const TIMES: usize = 100;
/// Requests before, twice: the buffers of the access log take turns.
const WARM_UP: usize = 200;

/// The HTTP version of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the versions")]
pub enum Version {
    Http1,
    Http2,
}

/// Who sends the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anyone, to a service that requires nothing.
    Open,
    /// A user with a token, to a service that requires an application and a user.
    Token,
}

/// A connection of a client on which requests are sent, one after the other.
pub struct Connection {
    fixture: Fixture,
    client: Box<dyn Client>,
}

// === impl Connection ===

impl Connection {
    /// Opens the connection, and sends requests until all is in its steady state.
    ///
    /// # Panics
    /// Panics if the gateway does not start, or a request fails.
    #[must_use]
    pub fn new(version: Version, access: Access) -> Self {
        let fixture = Fixture::new();
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let mut client = client(version, access, ours);
        fixture.serve(
            theirs,
            match version {
                Version::Http1 => Protocol::Http1,
                Version::Http2 => Protocol::Http2,
            },
        );
        for _ in 0..2 {
            fixture.runtime.block_on(client.send(WARM_UP));
            fixture.await_access_log();
        }
        Self { fixture, client }
    }

    /// Sends [`TIMES`] requests.
    ///
    /// # Panics
    /// Panics if a request fails.
    pub fn run(&mut self) {
        counted(|| self.fixture.runtime.block_on(self.client.send(TIMES)));
    }
}

fn client(version: Version, access: Access, stream: DuplexStream) -> Box<dyn Client> {
    match version {
        Version::Http1 => Box::new(Http1::new(stream, access)),
        Version::Http2 => Box::new(Http2::new(stream, access)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_and_step_that_is_counted_succeeds() {
        for version in [Version::Http1, Version::Http2] {
            for access in [Access::Open, Access::Token] {
                Connection::new(version, access).run();
            }
        }
        for step in Step::ALL {
            Piece::new(step).run();
        }
    }
}
