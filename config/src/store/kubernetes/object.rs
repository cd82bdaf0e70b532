//! What the Secrets look like: a certificate's is of type `kubernetes.io/tls`, with annotations
//! that tell people what it is.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::model::vocabulary::{PREFIX, prefixed};
use crate::snapshot::certificate::{Certificate, SecretBytes};
use crate::store::{Held, Kept, NewCertificate, Term};

/// The label that all Secrets of the store have, and no other one.
pub(super) const LABEL: &str = prefixed!("acme");
/// Who made it, as Kubernetes' recommended labels tell it.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The name of the Secret that holds the state.
pub(super) const STATE: &str = "portcullis-acme";
/// The state's key in it.
const STATE_KEY: &str = "state";
/// The annotation that asks for a renewal.
const RENEW: &str = prefixed!("renew");
/// The annotation that asks to have the keys of accounts replaced, with what tells this time from
/// others.
const ROLLOVER: &str = prefixed!("rollover");
/// The annotation with the term that wrote a Secret.
const TERM: &str = prefixed!("term");

/// The name of the Secret of a certificate.
pub(super) fn name(certificate: &str) -> String {
    format!("{STATE}-{certificate}")
}

/// The term that wrote a Secret; the first of all where none is told.
pub(super) fn term(secret: &Secret) -> Term {
    Term(secret.annotations().get(TERM).and_then(|term| term.parse().ok()).unwrap_or(0))
}

/// Whether the gateway has made it, as a certificate: what people have put there lacks the term.
pub(super) fn is_certificate_of_ours(secret: &Secret) -> bool {
    let is = |label, value| secret.labels().get(label).is_some_and(|found| found == value);
    is(LABEL, "certificate")
        && is(MANAGED_BY, "portcullis")
        && secret.annotations().contains_key(TERM)
}

/// What others have written on the Secret stays.
pub(super) fn state(term: Term, state: &SecretBytes, before: Option<&Secret>) -> Secret {
    let mut annotations = before.map(|secret| secret.annotations().clone()).unwrap_or_default();
    annotations.insert(TERM.to_owned(), term.0.to_string());
    Secret {
        metadata: metadata(STATE.to_owned(), "state", annotations),
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from([(STATE_KEY.to_owned(), ByteString(state.expose().to_vec()))])),
        ..Secret::default()
    }
}

/// What others have written on the Secret stays, but for what asked for the renewal.
pub(super) fn certificate(
    term: Term,
    certificate: &NewCertificate,
    before: Option<&Secret>,
) -> Secret {
    let mut annotations = before.map(|secret| secret.annotations().clone()).unwrap_or_default();
    annotations.remove(RENEW);
    annotations.insert(TERM.to_owned(), term.0.to_string());
    annotations.extend(
        certificate.about.iter().map(|(name, value)| (format!("{PREFIX}{name}"), value.clone())),
    );
    let data =
        [("tls.crt", certificate.chain.clone()), ("tls.key", certificate.key.expose().to_vec())];
    Secret {
        metadata: metadata(name(&certificate.name), "certificate", annotations),
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(
            data.into_iter().map(|(name, bytes)| (name.to_owned(), ByteString(bytes))).collect(),
        ),
        ..Secret::default()
    }
}

fn metadata(name: String, kind: &str, annotations: BTreeMap<String, String>) -> ObjectMeta {
    let labels = [(LABEL, kind), (MANAGED_BY, "portcullis")];
    ObjectMeta {
        name: Some(name),
        labels: Some(
            labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        ),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    }
}

/// What all Secrets of the store hold together. One that is no certificate any more is told, and is
/// not there.
pub(super) fn held<'a>(secrets: impl Iterator<Item = &'a Secret>) -> Held {
    let mut held = Held::default();
    for secret in secrets {
        let full = secret.name_any();
        if full == STATE {
            held.rollover = secret.annotations().get(ROLLOVER).cloned();
            held.state = secret
                .data
                .as_ref()
                .and_then(|data| data.get(STATE_KEY))
                .map(|state| SecretBytes::from(state.0.clone()));
            continue;
        }
        let Some(name) = full.strip_prefix(STATE).and_then(|rest| rest.strip_prefix('-')) else {
            continue;
        };
        match Certificate::from_secret(secret, None) {
            Ok(certificate) => {
                let renewal_asked = secret.annotations().contains_key(RENEW);
                held.certificates.insert(name.to_owned(), Kept { certificate, renewal_asked });
            }
            Err(problem) => {
                tracing::warn!(origin = %problem.origin, help = problem.help, "{}", problem.message)
            }
        }
    }
    held
}

/// Asks for a renewal.
pub(super) fn renewal_patch() -> Value {
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "annotations": { RENEW: "now" } } })
}

/// Asks to have the keys of accounts replaced.
pub(super) fn rollover_patch(request: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "annotations": { ROLLOVER: request } } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> NewCertificate {
        NewCertificate {
            name: "one".to_owned(),
            chain: b"chain".to_vec(),
            key: SecretBytes::from(b"key".to_vec()),
            about: BTreeMap::from([("alt-names", "a.example.com".to_owned())]),
        }
    }

    #[test]
    fn what_is_written_is_what_is_held() {
        let secrets = [
            certificate(Term(3), &new(), None),
            state(Term(4), &SecretBytes::from(b"state".to_vec()), None),
        ];
        let held = held(secrets.iter());
        assert_eq!(held.state.unwrap().expose(), b"state");
        assert_eq!(*held.certificates["one"].certificate.chain, *b"chain");
        assert!(!held.certificates["one"].renewal_asked);
        assert_eq!(secrets.each_ref().map(term), [Term(3), Term(4)]);
        assert_eq!(secrets[0].annotations()["portcullis.dev/alt-names"], "a.example.com");
    }

    #[test]
    fn a_new_certificate_answers_what_asked_for_it_and_keeps_what_others_wrote() {
        let mut before = certificate(Term(1), &new(), None);
        before
            .annotations_mut()
            .extend([(RENEW.to_owned(), "now".to_owned()), ("team".to_owned(), "shop".to_owned())]);
        assert!(held([&before].into_iter()).certificates["one"].renewal_asked);
        let after = certificate(Term(2), &new(), Some(&before));
        assert!(!held([&after].into_iter()).certificates["one"].renewal_asked);
        assert_eq!(after.annotations()["team"], "shop");
    }

    #[test]
    fn only_certificates_that_the_gateway_made_may_be_removed() {
        let ours = certificate(Term(1), &new(), None);
        assert!(is_certificate_of_ours(&ours));
        assert!(!is_certificate_of_ours(&state(Term(1), &SecretBytes::from(Vec::new()), None)));
        let mut brought = ours.clone();
        brought.annotations_mut().remove(TERM);
        let mut managed = ours;
        managed.labels_mut().insert(MANAGED_BY.to_owned(), "helm".to_owned());
        assert!(![brought, managed, Secret::default()].iter().any(is_certificate_of_ours));
    }

    #[test]
    fn what_was_asked_for_the_keys_of_accounts_outlives_a_new_state() {
        let bytes = SecretBytes::from(Vec::new());
        let mut before = state(Term(1), &bytes, None);
        before.annotations_mut().insert(ROLLOVER.to_owned(), "request".to_owned());
        let after = state(Term(2), &bytes, Some(&before));
        assert_eq!(held([&after].into_iter()).rollover.as_deref(), Some("request"));
        assert_eq!(term(&after), Term(2));
    }

    #[test]
    fn a_garbled_secret_is_not_there() {
        let mut garbled = certificate(Term(1), &new(), None);
        garbled.data = None;
        assert_eq!(held([&garbled].into_iter()), Held::default());
    }
}
