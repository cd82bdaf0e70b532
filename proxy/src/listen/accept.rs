//! The accept loop: one per listener and worker. It ends only when the gateway drains.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::coop::unconstrained;

use super::connection::ListenerContext;
use super::drain::Drain;
use super::placement::Passed;

/// Initial and maximum back-off when file descriptors or memory are exhausted. Until then
/// connections wait in the kernel's queue, and connections that close free resources.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// Accepts until the gateway drains, and then what is left in the kernel's queue: closing the
/// listener would reset those connections.
pub(crate) async fn accept(listener: TcpListener, context: Rc<ListenerContext>, drain: Drain) {
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
                context.place(stream, address, &drain);
            }
            Outcome::ConnectionFailed => context.accept_failed("other"),
            Outcome::Exhausted(error) => {
                context.accept_failed("exhausted");
                tracing::warn!(
                    listener = context.listener,
                    %error,
                    wait = ?back_off,
                    "failed to accept a connection"
                );
                tokio::select! {
                    () = tokio::time::sleep(back_off) => {}
                    () = &mut draining => break,
                }
                back_off = (back_off * 2).min(BACK_OFF.1);
            }
        }
    }
    for accepted in queued(&listener) {
        match outcome(accepted) {
            Outcome::Accepted(stream, address) => context.keep(stream, address, &drain),
            Outcome::ConnectionFailed => context.accept_failed("other"),
            Outcome::Exhausted(_) => {
                context.accept_failed("exhausted");
                break;
            }
        }
    }
}

/// What the kernel has in the listener's queue. However many there are: a task's budget (which tokio
/// counts) would end the queue early.
fn queued(
    listener: &TcpListener,
) -> impl Iterator<Item = io::Result<(TcpStream, SocketAddr)>> + '_ {
    std::iter::from_fn(|| unconstrained(listener.accept()).now_or_never())
}

/// Takes over connections that other workers have accepted, until the gateway drains, and then what
/// is left of them. `listeners` are those of this worker.
pub(crate) async fn take_over(
    mut passed: mpsc::Receiver<Passed>,
    listeners: Vec<Rc<ListenerContext>>,
    drain: Drain,
) {
    let take = |passed: Passed| {
        let context = listeners.iter().find(|context| context.listener == passed.listener);
        if let Some(context) = context {
            context.take(passed, &drain);
        }
    };
    let mut draining = drain.draining();
    loop {
        tokio::select! {
            Some(passed) = passed.recv() => take(passed),
            () = &mut draining => break,
        }
    }
    passed.close();
    while let Some(passed) = passed.recv().await {
        take(passed);
    }
}

/// The result of an `accept` call.
enum Outcome {
    Accepted(TcpStream, SocketAddr),
    /// Only that connection failed (Linux reports errors that are pending on the new socket); the
    /// next one may succeed.
    ConnectionFailed,
    /// The next call would fail as well.
    Exhausted(io::Error),
}

fn outcome(accepted: io::Result<(TcpStream, SocketAddr)>) -> Outcome {
    match accepted {
        Ok((stream, address)) => Outcome::Accepted(stream, address),
        Err(error) if is_of_one_connection(&error) => Outcome::ConnectionFailed,
        Err(error) => Outcome::Exhausted(error),
    }
}

/// Whether an error of `accept` concerns only that connection.
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

#[cfg(test)]
mod tests {
    use tokio::net::TcpSocket;

    use super::*;

    #[tokio::test]
    async fn all_queued_connections_are_accepted() {
        const QUEUED: usize = 300;
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(([127, 0, 0, 1], 0).into()).expect("bound");
        let listener = socket.listen(1024).expect("it listens");
        let address = listener.local_addr().expect("bound");
        let mut clients = Vec::new();
        for _ in 0..QUEUED {
            clients.push(TcpStream::connect(address).await.expect("connected"));
        }
        // The listener is known to be readable, as in the accept loop.
        let first = listener.accept().await;
        let accepted: Vec<_> = queued(&listener).collect();
        assert!(first.is_ok() && accepted.iter().all(Result::is_ok));
        assert_eq!(accepted.len(), QUEUED - 1);
    }
}
