//! Limits the memory of request heads, per connection and per client.
//!
//! A head stays in memory while its request waits for authentication, an issuer, the portal or a
//! backend. Limits of connections and streams alone would allow a client to occupy gigabytes with
//! heads of maximum size.
//!
//! Each connection counts without a lock, and takes large steps from its client's budget when it
//! needs more than a free allowance: most connections never do.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;
use portcullis_config::settings::Limits;

use crate::clients::{Client, Clients};
use crate::exchange::{RequestHead, Target};
use crate::telemetry::Meter;

/// The free allowance of a connection, in octets: a few heads of typical size.
const FREE: usize = 16 * 1024;
/// The step by which a connection takes from its client's budget, in octets.
const STEP: usize = 64 * 1024;
/// The size up to which a head counts as small, and is not worth shrinking, in octets.
pub(crate) const SMALL: usize = 4 * 1024;
/// The memory of a header map per field of capacity, without names and values, in octets. (http 1:
/// a slot of the table, and an entry with its hash, name, value and links.)
const ENTRY: usize = 120;

/// The memory of one connection's requests.
pub(crate) struct Account {
    owner: Owner,
    per_connection: usize,
    per_client: usize,
    used: Cell<usize>,
    /// What the connection took from the client's budget.
    granted: Cell<usize>,
    meter: Rc<Meter>,
}

/// The client whose requests they are.
enum Owner {
    /// The same client for all requests.
    Client(Client),
    /// A trusted proxy, which reports the client of each request. The client is looked up only for
    /// heads that are not small.
    Proxy(Arc<Clients>),
}

/// The memory charged for a request, until this is dropped: its head, and what is held of its body.
pub(crate) struct Charge {
    account: Rc<Account>,
    octets: usize,
    /// The client behind a proxy that is charged, too, and how much.
    proxied: Option<(Client, usize)>,
}

/// How much of a limit may be used.
#[derive(Debug, Clone, Copy)]
enum Part {
    Whole,
    Quarter,
}

// === impl Part ===

impl Part {
    fn of(self, limit: usize) -> usize {
        match self {
            Self::Whole => limit,
            Self::Quarter => limit / 4,
        }
    }
}

// === impl Account ===

impl Account {
    /// Creates the account of a connection of `client`; `None` for a trusted proxy.
    pub(crate) fn new(
        limits: &Limits,
        client: Option<&Client>,
        clients: &Arc<Clients>,
        meter: Rc<Meter>,
    ) -> Rc<Self> {
        Rc::new(Self {
            owner: match client {
                Some(client) => Owner::Client(client.clone()),
                None => Owner::Proxy(Arc::clone(clients)),
            },
            per_connection: limits.request_memory_per_connection.get(),
            per_client: limits.request_memory_per_client.get(),
            used: Cell::new(0),
            granted: Cell::new(0),
            meter,
        })
    }

    /// Takes `octets`. Returns `false` if more than that part of a limit would be in use.
    fn take(&self, octets: usize, part: Part) -> bool {
        let Some(used) = self.used.get().checked_add(octets) else { return false };
        if let Owner::Client(client) = &self.owner {
            if used > part.of(self.per_connection) {
                return false;
            }
            let missing = used.saturating_sub(FREE + self.granted.get());
            if missing > 0 {
                let step = missing.next_multiple_of(STEP);
                if !client.take(step, part.of(self.per_client)) {
                    return false;
                }
                self.granted.set(self.granted.get() + step);
            }
        }
        self.used.set(used);
        self.meter.heads_taken(octets);
        true
    }

    fn release(&self, octets: usize) {
        let used = self.used.get().saturating_sub(octets);
        self.used.set(used);
        self.meter.heads_released(octets);
        let granted = self.granted.get();
        if granted == 0 {
            return;
        }
        let needed = used.saturating_sub(FREE).next_multiple_of(STEP);
        // Keep a spare step while any is needed, to avoid taking and releasing it repeatedly.
        let keep = if needed == 0 { 0 } else { needed + STEP };
        if keep < granted
            && let Owner::Client(client) = &self.owner
        {
            client.release(granted - keep);
            self.granted.set(keep);
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if let Owner::Client(client) = &self.owner {
            client.release(self.granted.get());
        }
    }
}

// === impl Charge ===

impl Charge {
    /// Creates an empty charge.
    pub(crate) fn new(account: &Rc<Account>) -> Self {
        Self { account: Rc::clone(account), octets: 0, proxied: None }
    }

    /// Returns the charged octets.
    pub(crate) fn octets(&self) -> usize {
        self.octets
    }

    /// Changes the charge to `octets`, while the head is being read. Returns `false` and changes
    /// nothing if that exceeds a limit.
    #[must_use]
    pub(crate) fn resize(&mut self, octets: usize) -> bool {
        if octets <= self.octets {
            self.shrink(octets);
            return true;
        }
        self.grow(octets, Part::Whole)
    }

    fn grow(&mut self, octets: usize, part: Part) -> bool {
        let taken = self.account.take(octets - self.octets, part);
        if taken {
            self.octets = octets;
        }
        taken
    }

    /// Reduces the charge to `octets`.
    pub(crate) fn shrink(&mut self, octets: usize) {
        if octets >= self.octets {
            return;
        }
        self.account.release(self.octets - octets);
        self.octets = octets;
        if let Some((client, taken)) = &mut self.proxied {
            let needed = if octets <= SMALL { 0 } else { octets };
            client.release(taken.saturating_sub(needed));
            *taken = needed.min(*taken);
        }
    }

    /// Charges `octets` more, for a part of the request's body; `client` is the client behind a
    /// proxy. Returns `false` if the rest of the memory is for heads: requests can do without held
    /// bodies.
    #[must_use]
    pub(crate) fn extend(&mut self, octets: usize, client: IpAddr) -> bool {
        let octets = self.octets + octets;
        if let Owner::Proxy(clients) = &self.account.owner
            && octets > SMALL
        {
            let (client, taken) = self.proxied.get_or_insert_with(|| (clients.client(client), 0));
            let per_client = Part::Quarter.of(self.account.per_client);
            if !client.take(octets.saturating_sub(*taken), per_client) {
                return false;
            }
            *taken = octets.max(*taken);
        }
        self.grow(octets, Part::Quarter)
    }

    /// Charges for a head; `client` returns the client behind a proxy. Returns `false` if that
    /// exceeds a limit.
    #[must_use]
    pub(crate) fn cover(&mut self, head: &RequestHead, client: impl FnOnce() -> IpAddr) -> bool {
        let octets = head_weight(head);
        if let Owner::Proxy(clients) = &self.account.owner
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

/// Returns the memory of a head, in octets. Many small fields need much more than their octets.
fn head_weight(head: &RequestHead) -> usize {
    let target = match &head.target {
        Target::Path(path) => path.len(),
        Target::Asterisk | Target::Authority => 0,
    };
    target + weight(&head.headers)
}

/// Returns the memory of header fields, in octets.
pub(crate) fn weight(headers: &HeaderMap) -> usize {
    let octets: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    // Further values of a name are in a separate list, whose capacity can be twice its length.
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

    /// A worker's meter, without an access log.
    pub(crate) fn meter() -> Meter {
        let settings = r#"{"zone": "apps.example.com", "source": {"directory": "manifests"}, "accessLog": {"format": "none"}}"#;
        let settings = serde_json::from_str(settings).expect("settings");
        let certificates = CertificateStatus::default;
        Telemetry::new(&settings, Arc::default(), certificates, UNIX_EPOCH)
            .expect("no log to open")
            .meter()
    }

    /// Charges for a head without limits.
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
    fn a_connection_has_a_limit() {
        let (_, [account]) = accounts(false);
        let charges: Vec<_> = std::iter::from_fn(|| charged(&account, 1_000)).collect();
        assert_eq!(charges.len(), LIMITS.0 / 1_000);
        drop(charges);
        assert!(charged(&account, LIMITS.0).is_some());
        assert!(charged(&account, LIMITS.0 + 1).is_none());
    }

    #[test]
    fn connections_of_a_client_share_a_budget_beyond_the_free_allowance() {
        let (_, [one, two, three]) = accounts(false);
        let all = (charged(&one, 250_000), charged(&two, 140_000));
        assert!(all.0.is_some() && all.1.is_some());
        assert!(charged(&three, FREE + 1).is_none());
        assert!(charged(&three, FREE).is_some());
        drop(all);
        assert!(charged(&three, LIMITS.0).is_some());
    }

    #[test]
    fn released_memory_returns_to_the_client() {
        let (clients, [one, two]) = accounts(false);
        let client = clients.client(address(1));
        let mut first = charged(&one, 290_000).expect("within the limits");
        first.shrink(10);
        assert!(client.take(LIMITS.1, LIMITS.1), "the whole budget");
        client.release(LIMITS.1);
        let second = charged(&two, 290_000);
        drop((first, one, two));
        assert!(!client.take(LIMITS.1, LIMITS.1));
        drop(second);
        assert!(client.take(LIMITS.1, LIMITS.1), "the whole budget");
    }

    #[test]
    fn bodies_leave_three_quarters_of_a_budget_to_heads() {
        for by_proxy in [false, true] {
            let (clients, [account]) = accounts(by_proxy);
            let mut charge = Charge::new(&account);
            let held = (0..).take_while(|_| charge.extend(1_000, address(1))).count();
            let limit = if by_proxy { LIMITS.1 } else { LIMITS.0 };
            assert_eq!(held, limit / 4 / 1_000);
            assert!(by_proxy || charged(&account, LIMITS.0 - held * 1_000).is_some());
            charge.shrink(5_000);
            assert!(charge.extend(1_000, address(1)), "what was released is there again");
            drop((charge, account));
            assert!(clients.client(address(1)).take(LIMITS.1, LIMITS.1), "the whole budget");
        }
    }

    #[test]
    fn clients_behind_a_proxy_have_separate_budgets() {
        let (clients, [one, two]) = accounts(true);
        let charges: Vec<_> = std::iter::from_fn(|| {
            let mut charge = Charge::new(&one);
            charge.cover(&large("x"), || address(7)).then_some(charge)
        })
        .collect();
        assert_eq!(charges.len(), LIMITS.1 / 61_000);
        let mut charge = Charge::new(&two);
        assert!(!charge.cover(&large("x"), || address(7)), "the budget covers all connections");
        assert!(charge.cover(&large("x"), || address(8)));
        assert!(charge.cover(&head("GET / HTTP/1.1\nHost: a"), || unreachable!()), "a small one");
        drop((charges, charge));
        assert_eq!(clients.len(), 0);
    }

    #[test]
    fn many_small_fields_count_with_their_overhead() {
        let fields: String = (0..1_000).map(|number| format!("\nx{number}: ")).collect();
        let many = head(&format!("GET / HTTP/1.1\nHost: a{fields}"));
        assert!(head_weight(&many) > 100_000);
        let same = head(&format!("GET / HTTP/1.1\nHost: a{}", "\nx: ".repeat(1_000)));
        assert!(head_weight(&same) > 100_000);
    }
}
