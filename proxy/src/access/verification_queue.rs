//! A fair queue of signature checks: a worker runs one at a time, and other ready work in between.
//!
//! A check costs several times as much as a whole request. A client that floods the gateway with
//! new tokens delays only itself: requests with cached credentials wait for at most one check, and
//! tokens of other clients for one of its checks.

use std::cell::RefCell;

use tokio::sync::{Notify, oneshot};

use portcullis_identity::client_network::ClientNetwork;
use portcullis_identity::round_robin::RoundRobin;

/// The queue of one worker.
#[derive(Default)]
pub(crate) struct VerificationQueue {
    state: RefCell<State>,
    started: Notify,
}

#[derive(Default)]
struct State {
    /// A permit was granted since the worker last ran other work.
    is_granted: bool,
    waiting: RoundRobin<oneshot::Sender<()>>,
}

// === impl VerificationQueue ===

impl VerificationQueue {
    /// Takes a permit for one check, if there is one now.
    pub(crate) fn try_acquire(&self) -> bool {
        let mut state = self.state.borrow_mut();
        if state.is_granted {
            return false;
        }
        state.is_granted = true;
        self.started.notify_one();
        true
    }

    /// Waits for a permit. The number of waiting requests is bounded by the request limits.
    pub(crate) async fn acquire(&self, client: ClientNetwork) {
        let permit = self.state.borrow_mut().join(client);
        self.started.notify_one();
        // An error means that the worker stops.
        let _ = permit.await;
    }

    /// Grants permits, forever: a task of the worker.
    pub(crate) async fn run(&self) {
        loop {
            self.started.notified().await;
            loop {
                // Everything that is ready runs first.
                tokio::task::yield_now().await;
                let mut state = self.state.borrow_mut();
                state.is_granted = state.next();
                if !state.is_granted {
                    break;
                }
            }
        }
    }
}

// === impl State ===

impl State {
    fn join(&mut self, client: ClientNetwork) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.push(client, sender);
        receiver
    }

    /// Grants the next permit; `false` if the queue is empty. Cancelled requests are skipped.
    fn next(&mut self) -> bool {
        std::iter::from_fn(|| self.waiting.pop(|_| true)).any(|(_, permit)| permit.send(()).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::rc::Rc;

    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    fn client(last: u8) -> ClientNetwork {
        IpAddr::from([192, 0, 2, last]).into()
    }

    /// Queues `number` requests of a client, and logs each permit.
    fn enqueue(queue: &Rc<VerificationQueue>, log: &Rc<RefCell<Vec<u8>>>, last: u8, number: usize) {
        for _ in 0..number {
            let (queue, log) = (Rc::clone(queue), Rc::clone(log));
            spawn_local(async move {
                queue.acquire(client(last)).await;
                log.borrow_mut().push(last);
            });
        }
    }

    fn start() -> (Rc<VerificationQueue>, Rc<RefCell<Vec<u8>>>) {
        let queue = Rc::new(VerificationQueue::default());
        let running = Rc::clone(&queue);
        spawn_local(async move { running.run().await });
        (queue, Rc::default())
    }

    #[tokio::test]
    async fn one_permit_is_granted_at_once_and_the_next_after_other_work() {
        let test = async {
            let (queue, log) = start();
            assert!(queue.try_acquire());
            assert!(!queue.try_acquire());
            enqueue(&queue, &log, 1, 3);
            for given in 0..3 {
                assert!(
                    log.borrow().len() <= given + 1,
                    "never two without other work between them"
                );
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
            }
            while !queue.try_acquire() {
                tokio::task::yield_now().await;
            }
            assert_eq!(log.borrow().len(), 3, "waiting requests come first");
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn a_flood_of_one_client_does_not_delay_others() {
        let test = async {
            let (queue, log) = start();
            enqueue(&queue, &log, 1, 500);
            enqueue(&queue, &log, 2, 2);
            while log.borrow().len() < 502 {
                tokio::task::yield_now().await;
            }
            assert!(
                log.borrow()[..6].iter().filter(|last| **last == 2).count() == 2,
                "{:?}",
                &log.borrow()[..6]
            );
            assert!(queue.state.borrow().waiting.is_empty());
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn cancelled_requests_are_skipped() {
        let queue = VerificationQueue::default();
        drop((0..3).map(|_| queue.state.borrow_mut().join(client(1))).collect::<Vec<_>>());
        let stays = queue.state.borrow_mut().join(client(2));
        assert!(queue.state.borrow_mut().next());
        assert_eq!(stays.await, Ok(()));
        assert!(!queue.state.borrow_mut().next());
    }
}
