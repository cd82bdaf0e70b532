//! Secrets that store client keys, as objects and as manifests.
//! [`Credential::from_secret`] reads them.
//!
//! [`Credential::from_secret`]: crate::resources::credential::Credential::from_secret

use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

use super::{is_well_formed, write_hash};
use crate::model::credential::{APPLICATION, CLIENT_KEY, CREDENTIAL, EXPIRES, HASH};
use crate::model::vocabulary::PREFIX;
use crate::model::{NamePattern, Origin};
use crate::snapshot::access::ClientKey;

/// The most characters of an application's name in the name of its Secret.
const MAX_SLUG: usize = 40;

/// The text is not a valid application name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it is not a valid application name: write 1 to 256 bytes without `*` and white space; a key \
     cannot be a name"
)]
pub struct InvalidApplication;

/// Creates the stored form of a new key. `random` makes the name of its Secret unique.
///
/// # Errors
/// The application's name is not valid: no grant could match it.
pub fn new(
    namespace: &str,
    application: &str,
    hash: [u8; 32],
    expires: Option<SystemTime>,
    random: [u8; 4],
) -> Result<ClientKey, InvalidApplication> {
    if !is_application(application) {
        return Err(InvalidApplication);
    }
    let name = format!("{}-{:08x}", slug(application), u32::from_be_bytes(random));
    let origin =
        Origin { kind: "Secret", namespace: namespace.into(), name: name.into(), place: None };
    Ok(ClientKey { origin, application: application.into(), hash, expires })
}

/// Whether grants can match the name. A key is rejected: a name is shown, so one that was pasted
/// here by mistake would leak.
pub(crate) fn is_application(name: &str) -> bool {
    name.parse::<NamePattern>().is_ok() && !name.contains('*') && !is_well_formed(name)
}

/// The time `validity` after `now`, in whole seconds; `None` beyond the year 9999.
#[must_use]
pub fn expiry(now: SystemTime, validity: Duration) -> Option<SystemTime> {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.checked_add(validity)?.as_secs();
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok().map(SystemTime::from)
}

/// Writes a time to the second (RFC 3339); empty beyond the year 9999.
#[must_use]
pub fn write_time(time: SystemTime) -> String {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_secs()).ok());
    seconds
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .map(|time| time.to_string())
        .unwrap_or_default()
}

/// The Secret of a key.
#[must_use]
pub fn object(key: &ClientKey) -> v1::Secret {
    let annotations =
        key.expires.map(|expires| [(format!("{PREFIX}{EXPIRES}"), write_time(expires))].into());
    let data = [(APPLICATION, key.application.to_string()), (HASH, write_hash(&key.hash))];
    v1::Secret {
        metadata: ObjectMeta {
            name: Some(key.origin.name.to_string()),
            namespace: Some(key.origin.namespace.to_string()),
            labels: Some([(CREDENTIAL.to_owned(), CLIENT_KEY.to_owned())].into()),
            annotations,
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(
            data.map(|(name, value)| (name.to_owned(), ByteString(value.into_bytes()))).into(),
        ),
        ..v1::Secret::default()
    }
}

/// The manifest of a key's Secret, for `kubectl apply`.
#[must_use]
pub fn manifest(key: &ClientKey) -> String {
    let ClientKey { origin, application, hash, expires } = key;
    let annotations = expires
        .map(|expires| {
            format!("  annotations:\n    {PREFIX}{EXPIRES}: \"{}\"\n", write_time(expires))
        })
        .unwrap_or_default();
    format!(
        "# A client key of {}: only its hash; the key itself is not stored.
apiVersion: v1
kind: Secret
metadata:
  name: {}
  namespace: {}
  labels:
    {CREDENTIAL}: {CLIENT_KEY}
{annotations}type: Opaque
stringData:
  {APPLICATION}: {}
  {HASH}: {}
",
        serde_json::Value::from(&**application),
        origin.name,
        serde_json::Value::from(&*origin.namespace),
        serde_json::Value::from(&**application),
        write_hash(hash),
    )
}

/// The part of an application's name that is allowed in the name of a Secret (RFC 1123).
fn slug(application: &str) -> String {
    let words = application
        .split(|char: char| !char.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty());
    let joined = words.collect::<Vec<_>>().join("-").to_ascii_lowercase();
    let short: String = joined.chars().take(MAX_SLUG).collect();
    let short = short.trim_matches('-');
    if short.is_empty() { CLIENT_KEY.to_owned() } else { short.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::model::Hostname;
    use crate::resources::Object;
    use crate::resources::credential::Credential;
    use crate::source::Secrets;
    use crate::source::manifest::{Manifests, read_manifests};

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn read(manifest: &str) -> Vec<ClientKey> {
        let secrets = Secrets { credentials: Some("portcullis".into()), ..Secrets::default() };
        let Manifests { objects, problems, .. } =
            read_manifests(&Arc::new("key.yaml".into()), manifest.as_bytes(), &secrets);
        assert_eq!(problems, [], "{manifest}");
        let keys = objects.into_iter().map(|object| match object {
            Object::Credential(Credential::ClientKey(key)) => {
                ClientKey { origin: Origin { place: None, ..key.origin }, ..key }
            }
            other => panic!("{other:?}"),
        });
        keys.collect()
    }

    proptest! {
        #[test]
        fn a_written_key_is_read_back(application in "\\PC{1,80}|[a-z0-9:/@.-]{1,256}", hash: [u8; 32], random: [u8; 4], lasts in proptest::option::of(0..9_000_000_000_u64)) {
            let expires = lasts.and_then(|lasts| expiry(NOW, Duration::from_secs(lasts)));
            if let Ok(key) = new("portcullis", &application, hash, expires, random) {
                prop_assert!(key.origin.name.parse::<Hostname>().is_ok(), "{}", key.origin.name);
                prop_assert_eq!(read(&manifest(&key)), std::slice::from_ref(&key));
                let Ok(Credential::ClientKey(parsed)) = Credential::from_secret(&object(&key), None) else { panic!("{key:?}") };
                prop_assert_eq!(parsed, key);
            }
        }
    }

    #[test]
    fn a_secret_is_named_after_its_application() {
        let name = |application| {
            new("portcullis", application, [0; 32], None, [0, 0, 1, 0xff])
                .map(|key| key.origin.name.to_string())
        };
        assert_eq!(name("billing").as_deref(), Ok("billing-000001ff"));
        assert_eq!(
            name("spiffe://Example.org/ns/prod").as_deref(),
            Ok("spiffe-example-org-ns-prod-000001ff")
        );
        assert_eq!(name("\u{e9}").as_deref(), Ok("client-key-000001ff"));
        for wrong in [
            "",
            "team-*",
            "a b",
            "a\n",
            "pck_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf1T7Jj1",
            &"a".repeat(257),
        ] {
            assert_eq!(name(wrong), Err(InvalidApplication), "{wrong}");
        }
    }

    #[test]
    fn the_expiry_of_a_key_is_a_whole_second_that_can_be_written() {
        let expiry =
            expiry(NOW + Duration::from_millis(1_500), Duration::from_secs(86_400)).unwrap();
        assert_eq!(write_time(expiry), "1970-01-02T00:00:01Z");
        assert_eq!(super::expiry(NOW, Duration::MAX), None);
        assert_eq!(super::expiry(NOW, Duration::from_secs(1 << 40)), None);
    }
}
