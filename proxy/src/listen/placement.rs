//! Which worker serves a connection.
//!
//! The kernel deals connections to the workers' sockets by a hash of their addresses. Of few
//! connections one worker may get most, while another CPU is idle: it passes them on to the worker
//! with the fewest.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio::sync::mpsc::{self, error::TrySendError};

use super::admission::Permit;

/// How many connections wait for the worker that takes them over. What does not fit stays where it
/// was accepted.
const QUEUE: usize = 256;
/// If each worker has as many connections, a new one stays where it was accepted: the kernel's
/// distribution of so many is even enough, and passing on costs two calls of the kernel, and wakes a
/// thread. It also bounds how many connections a client can direct to one worker, by closing all of
/// its own there.
const MANY: usize = 64;

/// One worker's view of all.
pub(crate) struct Placement {
    all: Arc<[Worker]>,
    own: usize,
}

/// What others see of a worker. Each has a cache line of its own.
#[repr(align(128))]
struct Worker {
    /// Connections that it serves, or is about to take over.
    open: AtomicUsize,
    queue: mpsc::Sender<Passed>,
}

/// A connection of a worker, counted until this is dropped.
pub(crate) struct Place {
    all: Arc<[Worker]>,
    worker: usize,
}

/// A connection that another worker has accepted.
pub(crate) struct Passed {
    pub(super) stream: std::net::TcpStream,
    pub(super) address: SocketAddr,
    pub(super) listener: &'static str,
    pub(super) permit: Permit,
    pub(super) place: Place,
}

/// A connection that stays where it was accepted.
pub(crate) type Kept = (TcpStream, Permit, Place);

// === impl Placement ===

impl Placement {
    /// One for each of `count` workers, with what others pass on to it.
    pub(crate) fn of_workers(count: usize) -> Vec<(Self, mpsc::Receiver<Passed>)> {
        let (all, queues): (Vec<Worker>, Vec<_>) = (0..count)
            .map(|_| {
                let (queue, passed) = mpsc::channel(QUEUE);
                (Worker { open: AtomicUsize::new(0), queue }, passed)
            })
            .unzip();
        let all: Arc<[Worker]> = all.into();
        let view = |(own, passed)| (Self { all: Arc::clone(&all), own }, passed);
        queues.into_iter().enumerate().map(view).collect()
    }

    /// Places a connection that this worker has accepted: returns it if it is to be served here.
    ///
    /// # Errors
    /// The kernel did not hand it over. It is closed.
    pub(super) fn place(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        listener: &'static str,
        permit: Permit,
    ) -> io::Result<Option<Kept>> {
        let other = self.less_loaded().and_then(|worker| Some((worker, self.all.get(worker)?)));
        let Some((worker, other)) = other else {
            return Ok(Some((stream, permit, self.own_place())));
        };
        let place = Place::new(&self.all, worker);
        let passed = Passed { stream: stream.into_std()?, address, listener, permit, place };
        match other.queue.try_send(passed) {
            Ok(()) => Ok(None),
            Err(TrySendError::Full(back) | TrySendError::Closed(back)) => {
                Ok(Some((TcpStream::from_std(back.stream)?, back.permit, self.own_place())))
            }
        }
    }

    /// The place of a connection that stays.
    pub(super) fn own_place(&self) -> Place {
        Place::new(&self.all, self.own)
    }

    fn less_loaded(&self) -> Option<usize> {
        if self.all.len() == 1 {
            return None;
        }
        less_loaded(self.all.iter().map(|worker| worker.open.load(Ordering::Relaxed)), self.own)
    }
}

/// The worker that a connection is passed on to, by the open connections of all; `None` if it stays.
fn less_loaded(open: impl Iterator<Item = usize> + Clone, own: usize) -> Option<usize> {
    let own = open.clone().nth(own)?;
    let (fewest, least) = open.enumerate().min_by_key(|(_, open)| *open)?;
    (own > least && least < MANY).then_some(fewest)
}

// === impl Place ===

impl Place {
    fn new(all: &Arc<[Worker]>, worker: usize) -> Self {
        if let Some(worker) = all.get(worker) {
            worker.open.fetch_add(1, Ordering::Relaxed);
        }
        Self { all: Arc::clone(all), worker }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(worker) = self.all.get(self.worker) {
            worker.open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use portcullis_config::settings::Limits;
    use tokio::net::TcpListener;

    use super::*;
    use crate::listen::admission::Admission;

    fn chosen(open: &[usize], own: usize) -> Option<usize> {
        less_loaded(open.iter().copied(), own)
    }

    #[test]
    fn a_connection_stays_unless_another_worker_has_fewer() {
        assert_eq!(chosen(&[0, 0], 1), None);
        assert_eq!(chosen(&[1, 2], 0), None);
        assert_eq!(chosen(&[1, 0], 0), Some(1));
        assert_eq!(chosen(&[3, 2, 1], 0), Some(2));
    }

    #[test]
    fn of_many_connections_none_is_passed_on() {
        assert_eq!(chosen(&[900, MANY - 1], 0), Some(1));
        assert_eq!(chosen(&[900, MANY], 0), None);
    }

    /// A connection that is accepted, and its client.
    async fn connection() -> (TcpStream, SocketAddr, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).await;
        let (stream, address) = listener.accept().await.expect("accepted");
        (stream, address, client.expect("connected"))
    }

    /// Places a new connection, and returns it with its address if it stays.
    async fn place(worker: &Placement, admission: &Arc<Admission>) -> (Option<Kept>, SocketAddr) {
        let (stream, address, _client) = connection().await;
        let permit = admission.admit().map_err(drop).expect("admitted");
        let kept = worker.place(stream, address, "http", permit);
        (kept.expect("the kernel hands it over"), address)
    }

    #[tokio::test]
    async fn the_second_connection_of_a_worker_is_passed_on_and_counted_where_it_goes() {
        let admission = Admission::new(&Limits::default());
        let mut workers = Placement::of_workers(2);
        let (_other, mut passed) = workers.pop().expect("two");
        let (own, _) = workers.pop().expect("two");
        let (first, _) = place(&own, &admission).await;
        assert!(first.is_some());
        let (second, address) = place(&own, &admission).await;
        assert!(second.is_none());
        let second = passed.recv().await.expect("it is passed on");
        assert_eq!((second.address, second.listener), (address, "http"));
        // Each has one now, so the next one stays.
        let (third, _) = place(&own, &admission).await;
        assert!(third.is_some());
        assert_eq!(admission.open(), 3);
        drop((first, third));
        assert!(place(&own, &admission).await.0.is_some());
        drop(second);
        assert_eq!(admission.open(), 0);
    }

    #[tokio::test]
    async fn a_connection_stays_if_the_other_worker_has_stopped() {
        let admission = Admission::new(&Limits::default());
        let mut workers = Placement::of_workers(2);
        drop(workers.pop());
        let (own, _) = workers.pop().expect("two");
        let first = place(&own, &admission).await;
        assert!(first.0.is_some());
        assert!(place(&own, &admission).await.0.is_some());
    }
}
