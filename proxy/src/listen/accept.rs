//! Accepting: one loop for each listener of each worker. It ends when the gateway drains, and for
//! no other reason.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;
use tokio::net::{TcpListener, TcpStream};

use super::connection::Entrance;
use super::drain::Drain;

/// How long nothing is accepted once descriptors or memory have run out: first, and at most.
/// Meanwhile connections wait in the kernel's queue, and those that end give back what is missing.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Accepts until the gateway drains, and then what the kernel still has in its queue: closing the
/// listener would reset it.
pub(crate) async fn accept(listener: TcpListener, entrance: Rc<Entrance>, drain: Drain) {
    let mut draining = drain.draining();
    let mut back_off = BACK_OFF.0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut draining => break,
        };
        match outcome(accepted) {
            Outcome::Accepted(stream, address) => {
                back_off = BACK_OFF.0;
                entrance.enter(stream, address, &drain);
            }
            Outcome::Gone => entrance.failed("other"),
            Outcome::Exhausted(error) => {
                entrance.failed("exhausted");
                tracing::warn!(listener = entrance.listener, %error, wait = ?back_off, "no connection can be accepted for now");
                tokio::select! {
                    () = tokio::time::sleep(back_off) => {}
                    () = &mut draining => break,
                }
                back_off = (back_off * 2).min(BACK_OFF.1);
            }
        }
    }
    while let Some(Ok((stream, address))) = listener.accept().now_or_never() {
        entrance.enter(stream, address, &drain);
    }
}

/// What accepting came to.
enum Outcome {
    Accepted(TcpStream, SocketAddr),
    /// That one connection is lost (Linux passes on errors that are pending on the new socket): the
    /// next may be good.
    Gone,
    /// The next one would fail as well.
    Exhausted(io::Error),
}

fn outcome(accepted: io::Result<(TcpStream, SocketAddr)>) -> Outcome {
    match accepted {
        Ok((stream, address)) => Outcome::Accepted(stream, address),
        Err(error) if is_of_one_connection(&error) => Outcome::Gone,
        Err(error) => Outcome::Exhausted(error),
    }
}

/// Whether an error of `accept` is about that one connection alone.
pub(crate) fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted,
        NetworkDown, NetworkUnreachable, PermissionDenied, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | PermissionDenied
            | TimedOut
    )
}
