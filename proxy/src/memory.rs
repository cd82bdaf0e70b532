//! How much memory the heads of requests may hold: of one connection, and of one client over all of
//! its connections.
//!
//! A head is held while its request waits: for its turn to be authenticated, for an issuer, for the
//! portal, for a backend. What limits the number of requests (connections, and streams of each)
//! lets one client hold gigabytes by heads as large as they may be; so their memory is counted.
//!
//! A connection counts for itself, without a lock, and takes what it needs from its client's budget
//! in large steps: most connections never need any.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;
use portcullis_config::settings::Limits;

use crate::clients::{Client, Clients};
use crate::exchange::{RequestHead, Target};
use crate::telemetry::Meter;

/// What a connection has for itself, in octets: a few heads of the usual size.
const FREE: usize = 16 * 1024;
/// What is taken from the client's budget at once.
const STEP: usize = 64 * 1024;
/// A head up to this size counts as small: it is worth no work to hold less of it.
pub(crate) const SMALL: usize = 4 * 1024;
/// What a header map needs for each field that it has room for, but for the octets of names and
/// values. (http 1: a slot of the table, and an entry with its hash, name, value and links.)
const ENTRY: usize = 120;

/// The memory of one connection's requests.
pub(crate) struct Account {
    payer: Payer,
    per_connection: usize,
    per_client: usize,
    held: Cell<usize>,
    /// What was taken of the client's budget.
    granted: Cell<usize>,
    meter: Rc<Meter>,
}

/// Whose requests they are.
enum Payer {
    /// One client's.
    Client(Client),
    /// Many clients': a proxy says whose each is. What it says is looked up for heads alone that are
    /// not small.
    Proxy(Arc<Clients>),
}

/// What one head holds, until this is dropped.
pub(crate) struct Charge {
    account: Rc<Account>,
    octets: usize,
    /// Who pays for it besides the connection, and how much.
    proxied: Option<(Client, usize)>,
}

// === impl Account ===

impl Account {
    /// For a connection of `client`; where there is none, for one of a trusted proxy.
    pub(crate) fn new(
        limits: &Limits,
        client: Option<&Client>,
        clients: &Arc<Clients>,
        meter: Rc<Meter>,
    ) -> Rc<Self> {
        Rc::new(Self {
            payer: match client {
                Some(client) => Payer::Client(client.clone()),
                None => Payer::Proxy(Arc::clone(clients)),
            },
            per_connection: limits.request_memory_per_connection.get(),
            per_client: limits.request_memory_per_client.get(),
            held: Cell::new(0),
            granted: Cell::new(0),
            meter,
        })
    }

    fn take(&self, octets: usize) -> bool {
        let Some(held) = self.held.get().checked_add(octets) else { return false };
        if let Payer::Client(client) = &self.payer {
            if held > self.per_connection {
                return false;
            }
            let missing = held.saturating_sub(FREE + self.granted.get());
            if missing > 0 {
                let step = missing.next_multiple_of(STEP);
                if !client.take(step, self.per_client) {
                    return false;
                }
                self.granted.set(self.granted.get() + step);
            }
        }
        self.held.set(held);
        self.meter.heads_taken(octets);
        true
    }

    fn give_back(&self, octets: usize) {
        let held = self.held.get().saturating_sub(octets);
        self.held.set(held);
        self.meter.heads_given_back(octets);
        let granted = self.granted.get();
        if granted == 0 {
            return;
        }
        let needed = held.saturating_sub(FREE).next_multiple_of(STEP);
        // One step more is kept for as long as any is needed, lest it be given and taken by turns.
        let kept = if needed == 0 { 0 } else { needed + STEP };
        if kept < granted
            && let Payer::Client(client) = &self.payer
        {
            client.give_back(granted - kept);
            self.granted.set(kept);
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if let Payer::Client(client) = &self.payer {
            client.give_back(self.granted.get());
        }
    }
}

// === impl Charge ===

impl Charge {
    /// Of nothing yet.
    pub(crate) fn new(account: &Rc<Account>) -> Self {
        Self { account: Rc::clone(account), octets: 0, proxied: None }
    }

    /// What is held.
    pub(crate) fn octets(&self) -> usize {
        self.octets
    }

    /// Holds so many octets from now on, of a head that is not whole yet. `false` where that is more
    /// than may be held: then it holds what it did.
    #[must_use]
    pub(crate) fn resize(&mut self, octets: usize) -> bool {
        if octets <= self.octets {
            self.shrink(octets);
            return true;
        }
        let taken = self.account.take(octets - self.octets);
        if taken {
            self.octets = octets;
        }
        taken
    }

    /// Holds less.
    pub(crate) fn shrink(&mut self, octets: usize) {
        if octets >= self.octets {
            return;
        }
        self.account.give_back(self.octets - octets);
        self.octets = octets;
        if octets <= SMALL
            && let Some((client, octets)) = self.proxied.take()
        {
            client.give_back(octets);
        }
    }

    /// Holds a head. `client` says whose it is, where it came by a proxy. `false` where that is more
    /// than may be held.
    #[must_use]
    pub(crate) fn cover(&mut self, head: &RequestHead, client: impl FnOnce() -> IpAddr) -> bool {
        let octets = head_weight(head);
        if let Payer::Proxy(clients) = &self.account.payer
            && octets > SMALL
        {
            let client = clients.client(client());
            if !client.take(octets, self.account.per_client) {
                return false;
            }
            self.proxied = Some((client, octets));
        }
        self.resize(octets)
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

/// What a head holds in memory, in octets. A map of many small fields is much larger than they are.
fn head_weight(head: &RequestHead) -> usize {
    let target = match &head.target {
        Target::Path(path) => path.as_str().len(),
        Target::Asterisk | Target::Authority => 0,
    };
    target + weight(&head.headers)
}

/// What header fields hold in memory, in octets.
pub(crate) fn weight(headers: &HeaderMap) -> usize {
    let octets: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    // Further values of a name lie in a list of their own, which may have grown to twice its need.
    let further = headers.len() - headers.keys_len();
    octets + (headers.capacity() + 2 * further) * ENTRY
}

#[cfg(test)]
pub(crate) mod tests {
    use std::num::NonZeroUsize;
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::normalize::tests::head;
    use crate::telemetry::{CertificateStatus, Telemetry};

    const LIMITS: (usize, usize) = (300_000, 400_000);

    fn accounts<const N: usize>(by_proxy: bool) -> (Arc<Clients>, [Rc<Account>; N]) {
        let size = |number| NonZeroUsize::new(number).expect("not zero");
        let limits = Limits {
            request_memory_per_connection: size(LIMITS.0),
            request_memory_per_client: size(LIMITS.1),
            ..Limits::default()
        };
        let clients = Arc::default();
        let client = Clients::client(&clients, address(1));
        let meter = Rc::new(meter());
        let account =
            |_| Account::new(&limits, (!by_proxy).then_some(&client), &clients, Rc::clone(&meter));
        let accounts = std::array::from_fn(account);
        (clients, accounts)
    }

    fn meter() -> Meter {
        let settings = r#"{"zone": "apps.example.com", "source": {"directory": "manifests"}, "accessLog": {"format": "none"}}"#;
        let settings = serde_json::from_str(settings).expect("settings");
        let certificates = CertificateStatus::default;
        Telemetry::new(&settings, Arc::default(), certificates, UNIX_EPOCH)
            .expect("no log to open")
            .meter()
    }

    /// What this head is charged where nothing limits it.
    pub(crate) fn charge(head: &RequestHead) -> Charge {
        let (_, [account]) = accounts(false);
        let mut charge = Charge::new(&account);
        assert!(charge.cover(head, || unreachable!()));
        charge
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn charged(account: &Rc<Account>, octets: usize) -> Option<Charge> {
        let mut charge = Charge::new(account);
        charge.resize(octets).then_some(charge)
    }

    fn large(name: &str) -> RequestHead {
        head(&format!("GET / HTTP/1.1\nHost: a\n{name}: {}", "x".repeat(60_000)))
    }

    #[test]
    fn a_connection_holds_no_more_than_its_limit() {
        let (_, [account]) = accounts(false);
        let held: Vec<_> = std::iter::from_fn(|| charged(&account, 1_000)).collect();
        assert_eq!(held.len(), LIMITS.0 / 1_000);
        drop(held);
        assert!(charged(&account, LIMITS.0).is_some());
        assert!(charged(&account, LIMITS.0 + 1).is_none());
    }

    #[test]
    fn the_connections_of_a_client_share_one_budget_but_for_a_few_heads_each() {
        let (_, [one, two, three]) = accounts(false);
        let all = (charged(&one, 250_000), charged(&two, 140_000));
        assert!(all.0.is_some() && all.1.is_some());
        assert!(charged(&three, FREE + 1).is_none());
        assert!(charged(&three, FREE).is_some());
        drop(all);
        assert!(charged(&three, LIMITS.0).is_some());
    }

    #[test]
    fn what_is_not_held_any_more_is_the_clients_again() {
        let (clients, [one, two]) = accounts(false);
        let client = clients.client(address(1));
        let mut held = charged(&one, 290_000).expect("within the limits");
        held.shrink(10);
        assert!(client.take(LIMITS.1, LIMITS.1), "the whole budget");
        client.give_back(LIMITS.1);
        let _held = charged(&two, 290_000);
        drop((held, one, two));
        assert!(!client.take(LIMITS.1, LIMITS.1));
        drop(_held);
        assert!(client.take(LIMITS.1, LIMITS.1), "the whole budget");
    }

    #[test]
    fn by_a_proxy_each_client_has_its_own_budget() {
        let (clients, [one, two]) = accounts(true);
        let held: Vec<_> = std::iter::from_fn(|| {
            let mut charge = Charge::new(&one);
            charge.cover(&large("x"), || address(7)).then_some(charge)
        })
        .collect();
        assert_eq!(held.len(), LIMITS.1 / 61_000);
        let mut again = Charge::new(&two);
        assert!(!again.cover(&large("x"), || address(7)), "nor by another connection");
        assert!(again.cover(&large("x"), || address(8)));
        assert!(again.cover(&head("GET / HTTP/1.1\nHost: a"), || unreachable!()), "a small one");
        drop((held, again));
        assert_eq!(clients.len(), 0);
    }

    #[test]
    fn many_small_fields_weigh_what_they_hold() {
        let fields: String = (0..1_000).map(|number| format!("\nx{number}: ")).collect();
        let many = head(&format!("GET / HTTP/1.1\nHost: a{fields}"));
        assert!(head_weight(&many) > 100_000);
        let same = head(&format!("GET / HTTP/1.1\nHost: a{}", "\nx: ".repeat(1_000)));
        assert!(head_weight(&same) > 100_000);
    }
}
