//! Signature checks take turns: one of a worker's at a time, and what else there is to do comes in
//! between.
//!
//! A check costs some times what a whole request does. Whoever shows tokens by the thousand that
//! nobody has seen before waits for herself: requests whose credentials are known wait for one
//! check at the most, and other clients' tokens for one check of hers.

use std::cell::RefCell;

use tokio::sync::{Notify, oneshot};

use portcullis_identity::client_network::ClientNetwork;
use portcullis_identity::round_robin::RoundRobin;

/// Whose turn it is on one worker.
#[derive(Default)]
pub(crate) struct Turns {
    state: RefCell<State>,
    begun: Notify,
}

#[derive(Default)]
struct State {
    /// One was given since the worker has looked for other work.
    is_given: bool,
    waiting: RoundRobin<oneshot::Sender<()>>,
}

// === impl Turns ===

impl Turns {
    /// Takes a turn, if it can be had at once.
    pub(crate) fn take(&self) -> bool {
        let mut state = self.state.borrow_mut();
        if state.is_given {
            return false;
        }
        state.is_given = true;
        self.begun.notify_one();
        true
    }

    /// Waits for a turn of this client's. As many wait as there are requests under way, which the
    /// limits bound.
    pub(crate) async fn wait(&self, client: ClientNetwork) {
        let turn = self.state.borrow_mut().join(client);
        self.begun.notify_one();
        // An error is the worker's end.
        let _ = turn.await;
    }

    /// Gives turns, forever: a task of the worker's.
    pub(crate) async fn give(&self) {
        loop {
            self.begun.notified().await;
            loop {
                // All that is ready, and all that has arrived meanwhile, is done first.
                tokio::task::yield_now().await;
                let mut state = self.state.borrow_mut();
                state.is_given = state.next();
                if !state.is_given {
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

    /// Gives the next turn; `false` where nobody waits any more.
    fn next(&mut self) -> bool {
        // Who has left meanwhile has no turn.
        std::iter::from_fn(|| self.waiting.pop(|_| true)).any(|(_, turn)| turn.send(()).is_ok())
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

    /// Lets `number` requests of a client wait, and notes each that has its turn.
    fn crowd(turns: &Rc<Turns>, log: &Rc<RefCell<Vec<u8>>>, last: u8, number: usize) {
        for _ in 0..number {
            let (turns, log) = (Rc::clone(turns), Rc::clone(log));
            spawn_local(async move {
                turns.wait(client(last)).await;
                log.borrow_mut().push(last);
            });
        }
    }

    fn begin() -> (Rc<Turns>, Rc<RefCell<Vec<u8>>>) {
        let turns = Rc::new(Turns::default());
        let giving = Rc::clone(&turns);
        spawn_local(async move { giving.give().await });
        (turns, Rc::default())
    }

    #[tokio::test]
    async fn one_is_given_at_once_and_the_next_after_other_work() {
        let test = async {
            let (turns, log) = begin();
            assert!(turns.take());
            assert!(!turns.take());
            crowd(&turns, &log, 1, 3);
            for given in 0..3 {
                assert!(
                    log.borrow().len() <= given + 1,
                    "never two without other work between them"
                );
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
            }
            while !turns.take() {
                tokio::task::yield_now().await;
            }
            assert_eq!(log.borrow().len(), 3, "those who wait come first");
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn a_crowd_of_one_client_holds_up_no_other() {
        let test = async {
            let (turns, log) = begin();
            crowd(&turns, &log, 1, 500);
            crowd(&turns, &log, 2, 2);
            while log.borrow().len() < 502 {
                tokio::task::yield_now().await;
            }
            assert!(
                log.borrow()[..6].iter().filter(|last| **last == 2).count() == 2,
                "{:?}",
                &log.borrow()[..6]
            );
            assert!(turns.state.borrow().waiting.is_empty());
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn who_has_left_has_no_turn() {
        let turns = Turns::default();
        drop((0..3).map(|_| turns.state.borrow_mut().join(client(1))).collect::<Vec<_>>());
        let stays = turns.state.borrow_mut().join(client(2));
        assert!(turns.state.borrow_mut().next());
        assert_eq!(stays.await, Ok(()));
        assert!(!turns.state.borrow_mut().next());
    }
}
