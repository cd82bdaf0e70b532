//! The caller's identity for backends, as header fields that only the gateway can set.
//!
//! | field | value |
//! | --- | --- |
//! | `X-Auth-Request-User`, `X-Forwarded-User` | the user, as grants name them |
//! | `X-Auth-Request-Email` | the user's verified e-mail address |
//! | `X-Auth-Request-Groups` | the user's groups, separated by commas |
//! | `X-Auth-Request-Preferred-Username` | the user's preferred name |
//! | `X-Auth-Request-App` | the application |
//! | `X-Portcullis-Jwt-Assertion` | all of the above, signed: see [`assertion`](super::assertion) |
//!
//! The names are those of oauth2-proxy. A field without a value is not sent.
//! [`normalize`](crate::normalize) removes fields that a client sent under these names, in every
//! spelling.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use portcullis_identity::caller::{Caller, User};

static USER: HeaderName = HeaderName::from_static("x-auth-request-user");
static EMAIL: HeaderName = HeaderName::from_static("x-auth-request-email");
static GROUPS: HeaderName = HeaderName::from_static("x-auth-request-groups");
static PREFERRED_USERNAME: HeaderName =
    HeaderName::from_static("x-auth-request-preferred-username");
static APPLICATION: HeaderName = HeaderName::from_static("x-auth-request-app");
static ASSERTION: HeaderName = HeaderName::from_static("x-portcullis-jwt-assertion");
static FORWARDED_USER: HeaderName = HeaderName::from_static("x-forwarded-user");

/// The most octets of groups to send: many backends reject longer header fields.
const MAX_GROUPS_OCTETS: usize = 4096;

/// An identity header: its name and value.
pub(super) type Field = (&'static HeaderName, HeaderValue);

/// The identity headers of `caller`.
pub(super) fn fields(caller: &Caller, assertion: Option<HeaderValue>) -> Vec<Field> {
    let user = caller.user.as_deref();
    let name = user.and_then(|user| value(&user.name));
    let fields = [
        (&ASSERTION, assertion),
        (&APPLICATION, caller.application.as_deref().and_then(value)),
        (&USER, name.clone()),
        (&FORWARDED_USER, name),
        (&EMAIL, user.and_then(|user| user.email.as_deref()).and_then(value)),
        (
            &PREFERRED_USERNAME,
            user.and_then(|user| user.preferred_username.as_deref()).and_then(value),
        ),
        (&GROUPS, user.and_then(groups)),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// The groups as a list. A name with a comma is left out: a backend would read it as two.
fn groups(user: &User) -> Option<HeaderValue> {
    let groups: Vec<_> =
        forwarded_groups(user).filter(|group| !group.contains(',') && is_plain(group)).collect();
    if groups.is_empty() { None } else { HeaderValue::from_maybe_shared(groups.join(",")).ok() }
}

/// The groups to send to backends: as many as fit.
pub(super) fn forwarded_groups(user: &User) -> impl Iterator<Item = &str> {
    let mut left = MAX_GROUPS_OCTETS;
    user.groups.iter().map(|group| &**group).take_while(move |group| {
        match left.checked_sub(group.len() + 1) {
            Some(rest) => {
                left = rest;
                true
            }
            None => false,
        }
    })
}

/// Encodes a header value: printable ASCII is sent unchanged, but for `%`. Text with other octets
/// (RFC 9110 §5.5 leaves them without a meaning), or with `%`, is percent-encoded, so that no two
/// names collide.
fn value(text: &str) -> Option<HeaderValue> {
    if text.is_empty() {
        return None;
    }
    if is_plain(text) && !text.contains('%') {
        return HeaderValue::from_str(text).ok();
    }
    let mut encoded = Vec::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(byte);
        } else {
            encoded.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    HeaderValue::from_maybe_shared(Bytes::from(encoded)).ok()
}

fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~')) && text.trim() == text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(application: Option<&str>, user: Option<User>) -> Vec<String> {
        let caller = Caller {
            application: application.map(Into::into),
            user: user.map(Into::into),
            until: None,
        };
        fields(&caller, None)
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect()
    }

    fn user(name: &str, groups: &[&str]) -> User {
        let groups = groups.iter().map(|group| (*group).into()).collect();
        User {
            name: name.into(),
            prefix: 0,
            email: Some("a@b".into()),
            preferred_username: None,
            groups,
            issuer: "corp".into(),
            subject: "1".into(),
        }
    }

    #[test]
    fn only_known_values_are_sent() {
        assert_eq!(sent(None, None), [""; 0]);
        assert_eq!(sent(Some("shop"), None), ["x-auth-request-app: shop"]);
        let expected = [
            "x-auth-request-user: ann",
            "x-forwarded-user: ann",
            "x-auth-request-email: a@b",
            "x-auth-request-groups: dev,ops",
        ];
        assert_eq!(sent(None, Some(user("ann", &["dev", "ops"]))), expected);
    }

    #[test]
    fn no_two_names_encode_alike() {
        assert!(
            sent(None, Some(user("ann", &["a,admin", "ops"])))
                .contains(&"x-auth-request-groups: ops".to_owned())
        );
        assert!(sent(None, Some(user("zoë%", &[])))[0].ends_with("user: zo%C3%AB%25"));
        assert!(sent(None, Some(user("zo%C3%AB", &[])))[0].ends_with("user: zo%25C3%25AB"));
        assert_eq!(sent(Some("%20a"), None), ["x-auth-request-app: %2520a"]);
        assert!(
            sent(None, Some(user("ann", &["100%", "ops"])))
                .contains(&"x-auth-request-groups: 100%,ops".to_owned())
        );
        assert!(
            sent(None, Some(user("a\r\nx-forwarded-user: root", &[])))[0]
                .ends_with("user: a%0D%0Ax-forwarded-user: root")
        );
        let many: Vec<String> = (0..2000).map(|number| format!("group-{number}")).collect();
        let sent =
            sent(None, Some(user("ann", &many.iter().map(String::as_str).collect::<Vec<_>>())));
        assert!(sent.last().unwrap().len() < MAX_GROUPS_OCTETS + 100);
    }
}
