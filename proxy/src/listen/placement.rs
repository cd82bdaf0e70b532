//! Which worker serves a connection.
//!
//! The kernel deals connections to the workers' sockets by a hash of their addresses. Of few
//! connections one worker may get most, while another CPU is idle: it passes them on to the worker
//! with the fewest.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// How many connections wait for the worker that takes them over. What does not fit stays where it
/// was accepted.
const QUEUE: usize = 256;
/// The part of the fewest connections that a worker may have more, since passing on costs two calls
/// of the kernel, and wakes a thread.
const SLACK: usize = 16;

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
    pub(super) place: Place,
}

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
    pub(super) fn place(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        listener: &'static str,
    ) -> Option<(TcpStream, Place)> {
        let Some(worker) = self.less_loaded() else { return Some((stream, self.own_place())) };
        // The connection is closed if the kernel cannot hand it over.
        let stream = stream.into_std().ok()?;
        let place = Place::new(&self.all, worker);
        let passed = Passed { stream, address, listener, place };
        let returned = match self.all.get(worker)?.queue.try_send(passed) {
            Ok(()) => return None,
            Err(
                mpsc::error::TrySendError::Full(passed) | mpsc::error::TrySendError::Closed(passed),
            ) => passed,
        };
        Some((TcpStream::from_std(returned.stream).ok()?, self.own_place()))
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

/// The worker that a connection is passed on to, by the open connections of all; `None` if `own` has
/// hardly more than it.
fn less_loaded(open: impl Iterator<Item = usize> + Clone, own: usize) -> Option<usize> {
    let (fewest, least) = open.clone().enumerate().min_by_key(|(_, open)| *open)?;
    let own = open.clone().nth(own)?;
    (own > least + least / SLACK).then_some(fewest)
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
    use tokio::net::TcpListener;

    use super::*;

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
    fn few_more_of_many_are_no_reason_to_pass_one_on() {
        assert_eq!(chosen(&[106, 100], 0), None);
        assert_eq!(chosen(&[107, 100], 0), Some(1));
    }

    /// A connection that is accepted, and its client.
    async fn connection() -> (TcpStream, SocketAddr, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).await;
        let (stream, address) = listener.accept().await.expect("accepted");
        (stream, address, client.expect("connected"))
    }

    #[tokio::test]
    async fn the_second_connection_of_a_worker_is_passed_on_and_counted_where_it_goes() {
        let mut workers = Placement::of_workers(2);
        let (_other, mut passed) = workers.pop().expect("two");
        let (own, _) = workers.pop().expect("two");
        let (stream, address, _client) = connection().await;
        let first = own.place(stream, address, "http").expect("it stays");
        let (stream, address, _client) = connection().await;
        assert!(own.place(stream, address, "http").is_none());
        let second = passed.recv().await.expect("it is passed on");
        assert_eq!((second.address, second.listener), (address, "http"));
        // Each has one now, so the next one stays.
        let (stream, address, _client) = connection().await;
        let third = own.place(stream, address, "http").expect("it stays");
        drop((first, third));
        let (stream, address, _client) = connection().await;
        assert!(own.place(stream, address, "http").is_some());
    }

    #[tokio::test]
    async fn a_connection_stays_if_the_other_worker_has_stopped() {
        let mut workers = Placement::of_workers(2);
        drop(workers.pop());
        let (own, _) = workers.pop().expect("two");
        let (stream, address, _client) = connection().await;
        let _first = own.place(stream, address, "http").expect("it stays");
        let (stream, address, _client) = connection().await;
        assert!(own.place(stream, address, "http").is_some());
    }
}
