//! The format of the Secrets: a certificate is a Secret of type `kubernetes.io/tls`, with
//! annotations that describe it to users.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::model::vocabulary::{PREFIX, prefixed};
use crate::snapshot::certificate::{Certificate, SecretBytes};
use crate::store::{NewCertificate, StoreState, StoredCertificate, Term};

/// The label of all Secrets of the store, and of no others.
pub(super) const LABEL: &str = prefixed!("acme");
/// The recommended Kubernetes label for the tool that manages an object.
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The name of the Secret with the state.
pub(super) const STATE: &str = "portcullis-acme";
/// The key of the state in its Secret.
const STATE_KEY: &str = "state";
/// The annotation that requests a renewal.
const RENEW: &str = prefixed!("renew");
/// The annotation that requests new account keys; its value identifies the request.
const ROLLOVER: &str = prefixed!("rollover");
/// The annotation with the term that last wrote the Secret.
const TERM: &str = prefixed!("term");

/// The name of the Secret of a certificate.
pub(super) fn name(certificate: &str) -> String {
    format!("{STATE}-{certificate}")
}

/// The term that last wrote a Secret; 0 if it has none.
pub(super) fn term(secret: &Secret) -> Term {
    Term(secret.annotations().get(TERM).and_then(|term| term.parse().ok()).unwrap_or(0))
}

/// Whether a gateway created the Secret, as a certificate: Secrets of users have no term.
pub(super) fn is_own_certificate(secret: &Secret) -> bool {
    let is = |label, value| secret.labels().get(label).is_some_and(|found| found == value);
    is(LABEL, "certificate")
        && is(MANAGED_BY, "portcullis")
        && secret.annotations().contains_key(TERM)
}

/// The Secret with the state; other annotations of the current Secret stay.
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

/// The Secret with a certificate; other annotations stay, and a renewal request is removed.
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

/// The contents of all Secrets of the store. An invalid certificate is logged and left out.
pub(super) fn contents<'a>(secrets: impl Iterator<Item = &'a Secret>) -> StoreState {
    let mut contents = StoreState::default();
    for secret in secrets {
        let full = secret.name_any();
        if full == STATE {
            contents.rollover = secret.annotations().get(ROLLOVER).cloned();
            contents.state = secret
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
                let renewal_requested = secret.annotations().contains_key(RENEW);
                contents
                    .certificates
                    .insert(name.to_owned(), StoredCertificate { certificate, renewal_requested });
            }
            Err(problem) => {
                tracing::warn!(origin = %problem.origin, help = problem.help, "{}", problem.message)
            }
        }
    }
    contents
}

/// A patch that requests a renewal.
pub(super) fn renewal_patch() -> Value {
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "annotations": { RENEW: "now" } } })
}

/// A patch that requests new account keys.
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
    fn written_secrets_are_read_back() {
        let secrets = [
            certificate(Term(3), &new(), None),
            state(Term(4), &SecretBytes::from(b"state".to_vec()), None),
        ];
        let contents = contents(secrets.iter());
        assert_eq!(contents.state.unwrap().expose(), b"state");
        assert_eq!(*contents.certificates["one"].certificate.chain, *b"chain");
        assert!(!contents.certificates["one"].renewal_requested);
        assert_eq!(secrets.each_ref().map(term), [Term(3), Term(4)]);
        assert_eq!(secrets[0].annotations()["portcullis.dev/alt-names"], "a.example.com");
    }

    #[test]
    fn a_new_certificate_clears_the_renewal_request_and_keeps_other_annotations() {
        let mut before = certificate(Term(1), &new(), None);
        before
            .annotations_mut()
            .extend([(RENEW.to_owned(), "now".to_owned()), ("team".to_owned(), "shop".to_owned())]);
        assert!(contents([&before].into_iter()).certificates["one"].renewal_requested);
        let after = certificate(Term(2), &new(), Some(&before));
        assert!(!contents([&after].into_iter()).certificates["one"].renewal_requested);
        assert_eq!(after.annotations()["team"], "shop");
    }

    #[test]
    fn only_certificates_that_a_gateway_created_can_be_removed() {
        let ours = certificate(Term(1), &new(), None);
        assert!(is_own_certificate(&ours));
        assert!(!is_own_certificate(&state(Term(1), &SecretBytes::from(Vec::new()), None)));
        let mut users = ours.clone();
        users.annotations_mut().remove(TERM);
        let mut managed = ours;
        managed.labels_mut().insert(MANAGED_BY.to_owned(), "helm".to_owned());
        assert!(![users, managed, Secret::default()].iter().any(is_own_certificate));
    }

    #[test]
    fn a_rollover_request_is_kept_when_the_state_is_written() {
        let bytes = SecretBytes::from(Vec::new());
        let mut before = state(Term(1), &bytes, None);
        before.annotations_mut().insert(ROLLOVER.to_owned(), "request".to_owned());
        let after = state(Term(2), &bytes, Some(&before));
        assert_eq!(contents([&after].into_iter()).rollover.as_deref(), Some("request"));
        assert_eq!(term(&after), Term(2));
    }

    #[test]
    fn an_invalid_secret_is_left_out() {
        let mut invalid = certificate(Term(1), &new(), None);
        invalid.data = None;
        assert_eq!(contents([&invalid].into_iter()), StoreState::default());
    }
}
