//! Signature checks take turns: one of a worker's at a time, and what else there is to do comes in
//! between.
//!
//! A check costs some times what a whole request does. Whoever shows tokens by the thousand that
//! nobody has seen before waits for herself: requests whose credentials are known wait for one
//! check at the most, and other clients' tokens for one check of hers.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

use tokio::sync::{Notify, oneshot};

/// The part of an IPv6 address that belongs to one client, in bits.
const NETWORK: u32 = 64;

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
    /// Clients in the order of their next turns, each once.
    order: VecDeque<IpAddr>,
    waiting: HashMap<IpAddr, VecDeque<oneshot::Sender<()>>>,
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
    pub(crate) async fn wait(&self, client: IpAddr) {
        let turn = self.state.borrow_mut().join(network(client));
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
    fn join(&mut self, client: IpAddr) -> oneshot::Receiver<()> {
        let waiting = self.waiting.entry(client).or_default();
        if waiting.is_empty() {
            self.order.push_back(client);
        }
        let (sender, receiver) = oneshot::channel();
        waiting.push_back(sender);
        receiver
    }

    /// Gives the next turn; `false` where nobody waits any more.
    fn next(&mut self) -> bool {
        while let Some(client) = self.order.pop_front() {
            let Some(waiting) = self.waiting.get_mut(&client) else { continue };
            // Who has left meanwhile has no turn.
            let given =
                std::iter::from_fn(|| waiting.pop_front()).any(|turn| turn.send(()).is_ok());
            if waiting.is_empty() {
                self.waiting.remove(&client);
            } else {
                self.order.push_back(client);
            }
            if given {
                return true;
            }
        }
        false
    }
}

/// What counts as one client.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & u128::MAX << (128 - NETWORK)).into()
        }
        client => client,
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tokio::task::{LocalSet, spawn_local};

    use super::*;

    fn client(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
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
            assert!(
                turns.state.borrow().waiting.is_empty() && turns.state.borrow().order.is_empty()
            );
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

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let network = |address: &str| network(address.parse().expect("an address"));
        assert_eq!(network("2001:db8::1"), network("2001:db8::2:0:0:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }
}
