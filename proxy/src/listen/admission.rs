//! Connection limits: in total, and per client.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use portcullis_config::settings::Limits;

use crate::clients::{Client, Clients};

/// Counts the connections of all workers.
pub(crate) struct Admission {
    connections: usize,
    per_client: usize,
    open: AtomicUsize,
    clients: Arc<Clients>,
}

/// Why a connection was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// [`Limits::connections`] is reached.
    Connections,
    /// [`Limits::connections_per_client`] is reached for this client.
    Client,
}

/// One connection, counted until this is dropped.
pub(crate) struct Permit {
    admission: Arc<Admission>,
    client: Option<Client>,
}

// === impl Admission ===

impl Admission {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            connections: limits.connections.get(),
            per_client: limits.connections_per_client.get(),
            open: AtomicUsize::new(0),
            clients: Arc::default(),
        })
    }

    /// Admits one more connection, before its client is determined.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<Permit, Full> {
        self.open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| {
                (open < self.connections).then_some(open + 1)
            })
            .map_err(|_| Full::Connections)?;
        Ok(Permit { admission: Arc::clone(self), client: None })
    }

    /// Connections that are open.
    #[cfg(test)]
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

// === impl Permit ===

impl Permit {
    /// Assigns the connection to a client. Must be called at most once.
    pub(crate) fn claim(&mut self, address: IpAddr) -> Result<(), Full> {
        let client = self.admission.clients.client(address);
        if !client.connect(self.admission.per_client) {
            return Err(Full::Client);
        }
        self.client = Some(client);
        Ok(())
    }

    /// Returns the client, if the connection was [claimed](Self::claim).
    pub(super) fn client(&self) -> Option<&Client> {
        self.client.as_ref()
    }

    /// All clients.
    pub(super) fn clients(&self) -> &Arc<Clients> {
        &self.admission.clients
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.open.fetch_sub(1, Ordering::Relaxed);
        if let Some(client) = &self.client {
            client.disconnect();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn admission(connections: usize, per_client: usize) -> Arc<Admission> {
        let size = |number| NonZeroUsize::new(number).expect("not zero");
        let limits = Limits {
            connections: size(connections),
            connections_per_client: size(per_client),
            ..Limits::default()
        };
        Admission::new(&limits)
    }

    fn claimed(admission: &Arc<Admission>, client: &str) -> Result<Permit, Full> {
        let mut permit = admission.admit()?;
        permit.claim(client.parse().expect("an address"))?;
        Ok(permit)
    }

    #[test]
    fn a_connection_over_the_limit_is_rejected_until_one_closes() {
        let admission = admission(2, 9);
        let first = admission.admit().map_err(|_| ()).expect("admitted");
        let _second = admission.admit().map_err(|_| ()).expect("admitted");
        assert_eq!(admission.admit().err(), Some(Full::Connections));
        drop(first);
        assert!(admission.admit().is_ok());
    }

    #[test]
    fn the_limit_applies_to_each_client_separately() {
        let admission = admission(9, 1);
        let _first = claimed(&admission, "192.0.2.1");
        assert_eq!(claimed(&admission, "192.0.2.1").err(), Some(Full::Client));
        assert_eq!(claimed(&admission, "::ffff:192.0.2.1").err(), Some(Full::Client));
        assert!(claimed(&admission, "192.0.2.2").is_ok());
        assert_eq!(admission.open(), 1);
    }

    #[test]
    fn an_ipv6_client_is_its_64_bit_network() {
        let admission = admission(9, 1);
        let _first = claimed(&admission, "2001:db8::1");
        assert_eq!(claimed(&admission, "2001:db8::ffff:2").err(), Some(Full::Client));
        assert!(claimed(&admission, "2001:db8:0:1::1").is_ok());
    }

    #[test]
    fn clients_without_connections_are_removed() {
        let admission = admission(9, 2);
        let permits = [
            claimed(&admission, "192.0.2.1"),
            claimed(&admission, "192.0.2.1"),
            claimed(&admission, "192.0.2.9"),
        ];
        drop(permits);
        assert_eq!(admission.clients.len(), 0);
        assert_eq!(admission.open(), 0);
    }
}
