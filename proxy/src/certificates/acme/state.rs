//! What must not be forgotten between two starts, or when another replica takes the lead: kept as
//! one document in the store.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_config::model::HostPattern;
use portcullis_config::snapshot::certificate::SecretBytes;
use serde::{Deserialize, Serialize};

use super::plan::Plan;

/// Seconds since 1970.
pub(crate) type Seconds = u64;

/// The document.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct State {
    /// The accounts, by the authority's directory: secret.
    pub(crate) accounts: BTreeMap<String, serde_json::Value>,
    /// The accounts whose keys are being replaced, by the authority's directory: it is not known
    /// which key is good.
    pub(crate) rolling: BTreeSet<String>,
    /// The last request to replace the keys of accounts, and what came of it.
    pub(crate) rollover: Rollover,
    /// The certificates that there should be, by name.
    pub(crate) certificates: BTreeMap<String, Record>,
    /// Certificates that were ordered and that nobody needs any more, and since when.
    pub(crate) left: BTreeMap<String, Seconds>,
    /// Authorities that are not asked for a while.
    pub(crate) authorities: BTreeMap<String, Trouble>,
    /// What is to be answered to authorities.
    pub(crate) challenges: Vec<Challenge>,
}

/// What came of a request to replace the keys of accounts.
#[derive(Default, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Rollover {
    /// The request.
    pub(crate) request: Option<String>,
    /// Why keys were not replaced.
    pub(crate) error: Option<String>,
}

/// A certificate that there should be.
#[derive(Default, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Record {
    /// Its names.
    pub(crate) names: BTreeSet<String>,
    /// The directory of the authority that issued what there is.
    pub(crate) authority: Option<String>,
    /// Why there is none, or no newer one.
    pub(crate) trouble: Option<Trouble>,
    /// The order that is under way.
    pub(crate) order: Option<Pending>,
    /// When what there is is to be renewed.
    pub(crate) renewal: Option<Renewal>,
}

/// Something that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Trouble {
    /// How often in a row.
    pub(crate) failures: u32,
    /// Not tried again before.
    pub(crate) until: Seconds,
    /// What went wrong the last time.
    pub(crate) error: String,
}

/// An order at an authority, and the key of the certificate that comes of it: whoever leads next
/// goes on with it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pending {
    pub(crate) authority: String,
    pub(crate) url: String,
    /// In PEM: secret.
    pub(crate) key: String,
}

/// When a certificate is to be renewed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Renewal {
    /// The `notAfter` of the certificate that this is about: for another one it says nothing.
    pub(crate) not_after: Seconds,
    /// The time.
    pub(crate) at: Seconds,
    /// The authority is asked again then (RFC 9773 §4.3).
    pub(crate) ask_again: Seconds,
}

/// An answer that an authority looks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub(crate) enum Challenge {
    /// RFC 8555 §8.3.
    #[serde(rename = "http-01")]
    Http { token: String, answer: String },
    /// RFC 8737: the digest of the answer, in hexadecimal.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn { name: String, digest: String },
    /// RFC 8555 §8.4: a TXT record that was made, to be removed.
    #[serde(rename = "dns-01")]
    Dns { record: String, value: String },
}

// === impl State ===

impl State {
    /// Reads what the store holds.
    pub(crate) fn read(bytes: &SecretBytes) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes.expose())
    }

    /// For the store.
    pub(crate) fn write(&self) -> SecretBytes {
        // A map with text as its keys can always be written.
        SecretBytes::from(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Which names share a certificate.
    pub(crate) fn plan(&self) -> Plan {
        let names = |record: &Record| {
            record.names.iter().filter_map(|name| name.parse::<HostPattern>().ok()).collect()
        };
        self.certificates.iter().map(|(name, record)| (name.clone(), names(record))).collect()
    }

    /// Follows a plan from `now` on. Says whether it is another one.
    pub(crate) fn follow(&mut self, plan: &Plan, now: Seconds) -> bool {
        let dropped: Vec<String> =
            self.certificates.keys().filter(|name| !plan.contains_key(*name)).cloned().collect();
        let mut changed = !dropped.is_empty();
        for name in dropped {
            self.certificates.remove(&name);
            self.left.insert(name, now);
        }
        for (name, names) in plan {
            self.left.remove(name);
            let names: BTreeSet<String> = names.iter().map(ToString::to_string).collect();
            let record = self.certificates.entry(name.clone()).or_default();
            if record.names != names {
                // An order for other names is of no use.
                *record = Record { names, order: None, trouble: None, ..record.clone() };
                changed = true;
            }
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut state = State::default();
        state.follow(
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
        assert!(
            State::read(&SecretBytes::from(b"{}".to_vec())).is_ok(),
            "a later version may have added something"
        );
        assert!(State::read(&SecretBytes::from(b"garbled".to_vec())).is_err());
    }

    #[test]
    fn an_order_for_other_names_is_given_up() {
        let plan = |name: &str| {
            Plan::from([("one".to_owned(), BTreeSet::from([name.parse().expect("a name")]))])
        };
        let mut state = State::default();
        assert!(state.follow(&plan("a.test"), 1));
        let order = Pending { authority: String::new(), url: String::new(), key: String::new() };
        state.certificates.get_mut("one").expect("there").order = Some(order);
        assert!(!state.follow(&plan("a.test"), 2));
        assert!(state.certificates["one"].order.is_some());
        assert!(state.follow(&plan("b.test"), 3));
        assert!(state.certificates["one"].order.is_none());
        assert!(state.follow(&Plan::new(), 4));
        assert!(state.certificates.is_empty());
        assert_eq!(state.left, BTreeMap::from([("one".to_owned(), 4)]));
        assert!(!state.follow(&Plan::new(), 5));
        assert_eq!(state.left["one"], 4, "it counts from when it was left");
        assert!(state.follow(&plan("b.test"), 6));
        assert!(state.left.is_empty(), "it is needed again");
    }
}
