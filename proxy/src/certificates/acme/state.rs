//! The state that survives restarts and changes of the leader: one JSON document in the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portcullis_config::model::HostPattern;
use portcullis_config::snapshot::certificate::SecretBytes;
use portcullis_config::store::MAX_BYTES;
use serde::{Deserialize, Serialize};

use super::failed_orders::{FailedNames, FailedOrders};
use super::plan::Plan;

/// Seconds since 1970.
pub(crate) type Seconds = u64;

/// The longest error of a failed order that is stored, in octets.
pub(super) const MAX_ERROR: usize = 400;
/// The most octets of planned certificates: half of a Secret. The rest is for accounts, challenges
/// and failed names.
pub(super) const MAX_PLANNED: usize = MAX_BYTES / 2;

/// The stored document.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct State {
    /// The accounts, by the authority's directory: secret.
    pub(crate) accounts: BTreeMap<String, serde_json::Value>,
    /// The accounts whose keys are being replaced, by the authority's directory: either key may be
    /// the valid one.
    pub(crate) rolling: BTreeSet<String>,
    /// The last request to replace account keys, and its result.
    pub(crate) rollover: Rollover,
    /// The planned certificates, by name.
    pub(crate) certificates: BTreeMap<String, Record>,
    /// The ordered certificates that are no longer needed, and since when.
    #[serde(rename = "left")]
    pub(crate) unneeded: BTreeMap<String, Seconds>,
    /// The failures of authorities as a whole, which delay further requests.
    pub(crate) authorities: BTreeMap<String, Failure>,
    /// The open challenges.
    pub(crate) challenges: Vec<Challenge>,
    /// The failed orders of the last hour.
    pub(crate) failed_orders: FailedOrders,
    /// The names that could not be validated.
    pub(crate) failed_names: FailedNames,
}

/// A request to replace account keys, and its result.
#[derive(Default, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rollover {
    /// The identifier of the request.
    pub(crate) request: Option<String>,
    /// Why it failed.
    pub(crate) error: Option<String>,
}

/// A planned certificate.
#[derive(Default, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Record {
    /// Its names.
    pub(crate) names: BTreeSet<String>,
    /// The Namespace that they belong to; empty for the gateway itself.
    pub(crate) namespace: String,
    /// The directory of the authority that issued the existing one.
    pub(crate) authority: Option<String>,
    /// The last failure, if there was no success since.
    #[serde(rename = "trouble")]
    pub(crate) failure: Option<Failure>,
    /// The pending order.
    pub(crate) order: Option<Pending>,
    /// When to renew the existing certificate.
    pub(crate) renewal: Option<Renewal>,
}

/// A failure, with the time of the next retry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Failure {
    /// Consecutive failures.
    pub(crate) failures: u32,
    /// The time of the next retry.
    pub(crate) until: Seconds,
    /// The last error.
    pub(crate) error: String,
}

/// A pending order, with the key of its certificate: a new leader resumes it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pending {
    pub(crate) authority: String,
    pub(crate) url: String,
    /// In PEM: secret.
    pub(crate) key: String,
}

/// When to renew a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Renewal {
    /// The `notAfter` of the certificate that this is for; invalid for any other.
    pub(crate) not_after: Seconds,
    /// The time of the renewal.
    pub(crate) at: Seconds,
    /// When to ask the authority for advice again (RFC 9773 §4.3).
    #[serde(rename = "askAgain")]
    pub(crate) next_query: Seconds,
}

/// A challenge, with the response to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub(crate) enum Challenge {
    /// RFC 8555 §8.3.
    #[serde(rename = "http-01")]
    Http { token: String, answer: String },
    /// RFC 8737: the digest of the key authorization, in hexadecimal.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn { name: String, digest: String },
    /// RFC 8555 §8.4: a TXT record, to be removed afterwards.
    #[serde(rename = "dns-01")]
    Dns { record: String, value: String },
}

// === impl Failure ===

impl Failure {
    /// How often it failed, as the end of a sentence.
    pub(super) fn times(&self) -> String {
        match self.failures {
            1 => "once".to_owned(),
            failures => format!("{failures} times in a row"),
        }
    }
}

// === impl State ===

impl State {
    /// Parses the stored document.
    pub(crate) fn read(bytes: &SecretBytes) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes.expose())
    }

    /// Serializes the document.
    pub(crate) fn write(&self) -> SecretBytes {
        // Never fails: all map keys are strings.
        SecretBytes::from(serde_json::to_vec(self).unwrap_or_default())
    }

    /// The planned names of each certificate.
    pub(crate) fn plan(&self) -> Plan {
        let names = |record: &Record| {
            record.names.iter().filter_map(|name| name.parse::<HostPattern>().ok()).collect()
        };
        self.certificates.iter().map(|(name, record)| (name.clone(), names(record))).collect()
    }

    /// The certificates that exist.
    pub(crate) fn issued(&self) -> BTreeSet<String> {
        let issued = self.certificates.iter().filter(|(_, record)| record.authority.is_some());
        issued.map(|(name, _)| name.clone()).collect()
    }

    /// Applies a plan at `now`. Returns whether anything changed.
    pub(crate) fn apply(&mut self, plan: &Plan, now: Seconds) -> bool {
        let dropped: Vec<String> =
            self.certificates.keys().filter(|name| !plan.contains_key(*name)).cloned().collect();
        let mut changed = !dropped.is_empty();
        for name in dropped {
            let record = self.certificates.remove(&name);
            // One that was never issued need not be removed: a tenant may change names often.
            if record.is_some_and(|record| record.authority.is_some() || record.order.is_some()) {
                self.unneeded.insert(name, now);
            }
        }
        for (name, names) in plan {
            self.unneeded.remove(name);
            let names: BTreeSet<String> = names.iter().map(ToString::to_string).collect();
            let record = self.certificates.entry(name.clone()).or_default();
            if record.names != names {
                // A name that is added again continues its back-off.
                let only = names.first().filter(|_| names.len() == 1);
                let failure = only.and_then(|name| self.failed_names.get(name)).cloned();
                // A pending order for other names is useless.
                *record = Record { names, order: None, failure, ..record.clone() };
                changed = true;
            }
        }
        changed
    }

    /// Records the Namespaces that the names of each certificate belong to.
    pub(crate) fn assign(&mut self, desired: &BTreeMap<HostPattern, Arc<str>>) -> bool {
        let mut changed = false;
        for record in self.certificates.values_mut() {
            let names = record.names.iter().filter_map(|name| name.parse::<HostPattern>().ok());
            let found = names.into_iter().find_map(|name| desired.get(&name));
            if let Some(namespace) = found.filter(|found| record.namespace != ***found) {
                record.namespace = namespace.to_string();
                changed = true;
            }
        }
        changed
    }

    /// Gives new certificates, which have no Namespace yet, that of the certificate they are from.
    pub(crate) fn inherit(&mut self, namespace: &str) {
        for record in self.certificates.values_mut().filter(|record| record.namespace.is_empty()) {
            namespace.clone_into(&mut record.namespace);
        }
    }

    /// Records the failure of a certificate, and of its names if they are the reason.
    pub(crate) fn fail(
        &mut self,
        certificate: &str,
        failure: &Failure,
        is_rejected: bool,
        now: Seconds,
    ) {
        let Some(record) = self.certificates.get_mut(certificate) else { return };
        record.failure = Some(failure.clone());
        for name in record.names.iter().filter(|_| is_rejected) {
            self.failed_names.record(name, failure, now);
        }
    }

    /// Records that an order failed at an authority, or that its names could not be validated.
    pub(crate) fn count_failure(&mut self, certificate: &str, now: Seconds) {
        if let Some(record) = self.certificates.get(certificate) {
            self.failed_orders.record(&record.namespace, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificates::acme::plan::{bound, plan};

    #[test]
    fn a_written_state_can_be_read() {
        let mut state = State::default();
        state.apply(
            &Plan::from([(
                "one".to_owned(),
                BTreeSet::from(["*.a.test".parse().expect("a name")]),
            )]),
            1,
        );
        state.challenges.push(Challenge::Http { token: "t".to_owned(), answer: "t.a".to_owned() });
        let read = State::read(&state.write()).expect("readable");
        assert_eq!(read.plan(), state.plan());
        assert_eq!(read.challenges, state.challenges);
        assert!(State::read(&SecretBytes::from(b"{}".to_vec())).is_ok(), "all fields are optional");
        assert!(State::read(&SecretBytes::from(b"garbled".to_vec())).is_err());
    }

    #[test]
    fn a_changed_plan_drops_the_pending_order() {
        let plan = |name: &str| {
            Plan::from([("one".to_owned(), BTreeSet::from([name.parse().expect("a name")]))])
        };
        let mut state = State::default();
        assert!(state.apply(&plan("a.test"), 1));
        let order = Pending { authority: String::new(), url: String::new(), key: String::new() };
        state.certificates.get_mut("one").expect("there").order = Some(order);
        assert!(!state.apply(&plan("a.test"), 2));
        assert!(state.certificates["one"].order.is_some());
        assert!(state.apply(&plan("b.test"), 3));
        assert!(state.certificates["one"].order.is_none());
        state.certificates.get_mut("one").expect("there").authority = Some(String::new());
        assert!(state.apply(&Plan::new(), 4));
        assert!(state.certificates.is_empty());
        assert_eq!(state.unneeded, BTreeMap::from([("one".to_owned(), 4)]));
        assert!(!state.apply(&Plan::new(), 5));
        assert_eq!(state.unneeded["one"], 4, "the time does not change");
        assert!(state.apply(&plan("b.test"), 6));
        assert!(state.unneeded.is_empty(), "the certificate is needed again");
        assert!(state.apply(&Plan::new(), 7));
        assert!(state.unneeded.is_empty(), "it was not issued since");
    }

    #[test]
    fn the_names_of_a_tenant_do_not_fill_the_store() {
        let mut state = State::default();
        let failure = Failure { failures: 1, until: 1, error: "e".repeat(MAX_ERROR) };
        for round in 0..20 {
            let name = |number| format!("{number:04}-{round:02}.{}.test", "a.".repeat(110));
            let mut desired: BTreeMap<HostPattern, Arc<str>> = (0..3000)
                .map(|number| (name(number), "evil"))
                .chain([("shop.test".to_owned(), "shop")])
                .filter_map(|(name, of)| Some((name.replace("..", ".").parse().ok()?, of.into())))
                .collect();
            assert_eq!(desired.len(), 3001);
            let alone = desired.keys().cloned().collect();
            let mut next = plan(&desired, &state.plan(), &alone, 100);
            bound(&mut next, &desired, &state.issued(), MAX_PLANNED);
            state.apply(&next, round);
            state.assign(&desired);
            let all: Vec<String> = state.certificates.keys().cloned().collect();
            all.iter().for_each(|certificate| state.fail(certificate, &failure, true, round));
            desired.retain(|_, namespace| &**namespace == "shop");
            assert!(state.plan().values().any(|names| names.iter().eq(desired.keys())));
            assert!(state.write().expose().len() < MAX_BYTES, "{}", state.write().expose().len());
        }
    }
}
