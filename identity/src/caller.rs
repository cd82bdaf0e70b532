//! The caller of a request: an application, a user, or both.

use std::sync::Arc;
use std::time::SystemTime;

use portcullis_config::snapshot::access::{Access, Require};

/// Maximum number of groups of a user; further ones are ignored.
pub const MAX_GROUPS: usize = 512;

/// The caller, as identified by its valid credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The calling program's name.
    pub application: Option<Arc<str>>,
    /// The user.
    pub user: Option<Arc<User>>,
    /// When the first of the credentials expires.
    pub until: Option<SystemTime>,
}

/// A user, as identified by an issuer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct User {
    /// The name that grants match: the user claim with the issuer's prefix.
    pub name: Box<str>,
    /// The verified e-mail address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Box<str>>,
    /// The display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_username: Option<Box<str>>,
    /// The groups, with the issuer's prefix.
    #[serde(default)]
    pub groups: Box<[Box<str>]>,
    /// The issuer's name in the configuration.
    pub issuer: Box<str>,
    /// The identifier at the issuer (`sub`), which never changes.
    pub subject: Box<str>,
}

/// Whether a caller is allowed. A denied request gets the hidden answer, like an unknown host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorization {
    /// The caller is allowed.
    Allowed,
    /// A required application or user is not identified; what is identified is granted access.
    NotIdentified,
    /// The application or the user is identified, and not granted access.
    NotGranted,
}

/// Whether `access` allows the caller.
#[must_use]
pub fn authorize(access: &Access, caller: &Caller) -> Authorization {
    let application = Authorization::of(
        access.require.application(),
        caller.application.as_deref().map(|name| application_granted(access, name)),
    );
    let user = Authorization::of(
        access.require.user(),
        caller.user.as_deref().map(|user| user_granted(access, user)),
    );
    // Both are always evaluated: timing must not reveal which of them is missing.
    application.and(user)
}

/// Whether the user grants allow this user: for the portal's list of services, where the
/// application of later requests is unknown.
pub fn is_granted(access: &Access, user: &User) -> bool {
    matches!(access.require, Require::User | Require::ApplicationAndUser)
        && user_granted(access, user)
}

// === impl Authorization ===

impl Authorization {
    /// Whether a part of the caller is allowed; `is_granted` is `None` if it is not identified.
    fn of(is_required: bool, is_granted: Option<bool>) -> Self {
        match (is_required, is_granted) {
            (false, _) | (true, Some(true)) => Self::Allowed,
            (true, None) => Self::NotIdentified,
            (true, Some(false)) => Self::NotGranted,
        }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Allowed, Self::Allowed) => Self::Allowed,
            (Self::NotGranted, _) | (_, Self::NotGranted) => Self::NotGranted,
            _ => Self::NotIdentified,
        }
    }
}

fn application_granted(access: &Access, name: &str) -> bool {
    !access.applications.is_empty()
        && access.applications.iter().all(|list| list.iter().any(|pattern| pattern.matches(name)))
}

fn user_granted(access: &Access, user: &User) -> bool {
    !access.users.is_empty()
        && access
            .users
            .iter()
            .all(|subjects| subjects.has(&user.name, user.groups.iter().map(|group| &**group)))
}

/// A user who calls through an application, for tests.
#[cfg(any(test, feature = "testing"))]
#[must_use]
pub fn ann() -> Caller {
    let user = User {
        name: "ann@example.com".into(),
        email: Some("ann@example.com".into()),
        preferred_username: None,
        groups: ["dev".into()].into(),
        issuer: "corp".into(),
        subject: "1".into(),
    };
    Caller { application: Some("shop".into()), user: Some(user.into()), until: None }
}

#[cfg(test)]
mod tests {
    use portcullis_config::model::NamePattern;
    use portcullis_config::snapshot::access::Subjects;

    use super::*;

    fn is_allowed(access: &Access, caller: &Caller) -> bool {
        authorize(access, caller) == Authorization::Allowed
    }

    fn patterns(list: &str) -> Vec<NamePattern> {
        list.split(',').filter(|item| !item.is_empty()).map(|item| item.parse().unwrap()).collect()
    }

    fn access(require: Require, applications: &[&str], users: &[(&str, &str)]) -> Access {
        Access {
            require,
            applications: applications.iter().map(|list| patterns(list).into()).collect(),
            users: users
                .iter()
                .map(|(users, groups)| {
                    Arc::new(Subjects { users: patterns(users), groups: patterns(groups) })
                })
                .collect(),
            ..Access::default()
        }
    }

    fn caller(application: &str, user: &str, groups: &[&str]) -> Caller {
        let named = |name: &str| (!name.is_empty()).then(|| name.into());
        let user = named(user).map(|name| {
            let groups = groups.iter().map(|group| (*group).into()).collect();
            Arc::new(User {
                name,
                email: None,
                preferred_username: None,
                groups,
                issuer: "corp".into(),
                subject: "1".into(),
            })
        });
        Caller {
            application: (!application.is_empty()).then(|| application.into()),
            user,
            until: None,
        }
    }

    #[test]
    fn require_nothing_allows_everyone() {
        assert!(is_allowed(&access(Require::Nothing, &[], &[]), &Caller::default()));
    }

    #[test]
    fn without_a_grant_every_caller_is_denied() {
        for require in [Require::Application, Require::User, Require::ApplicationAndUser] {
            assert!(
                !is_allowed(&access(require, &[], &[]), &caller("shop", "ann", &["ops"])),
                "{require:?}"
            );
            assert!(
                !is_allowed(&access(require, &[""], &[("", "")]), &caller("shop", "ann", &["ops"])),
                "{require:?}"
            );
        }
    }

    #[test]
    fn every_list_must_grant_what_is_required() {
        let app = access(Require::Application, &["shop,crm", "shop"], &[]);
        assert!(is_allowed(&app, &caller("shop", "", &[])));
        assert!(!is_allowed(&app, &caller("crm", "", &[])));
        assert!(!is_allowed(&app, &caller("", "shop", &[])), "a user is no application");

        let user = access(Require::User, &[], &[("*@example.com", "ops"), ("", "ops,dev")]);
        assert!(is_allowed(&user, &caller("", "ann@example.com", &["dev"])));
        assert!(is_allowed(&user, &caller("", "bob@example.org", &["ops"])));
        assert!(!is_allowed(&user, &caller("", "ann@example.com", &["sales"])));
        assert!(
            !is_allowed(&user, &caller("ann@example.com", "", &["ops"])),
            "an application is no user"
        );

        let both = access(Require::ApplicationAndUser, &["shop"], &[("ann", "")]);
        assert!(is_allowed(&both, &caller("shop", "ann", &[])));
        assert!(!is_allowed(&both, &caller("shop", "", &[])));
        assert!(!is_allowed(&both, &caller("", "ann", &[])));
        assert!(!is_allowed(&both, &caller("shop", "bob", &[])));
        assert!(!is_allowed(&both, &caller("crm", "ann", &[])));
    }

    #[test]
    fn a_denial_distinguishes_who_is_missing_from_who_is_not_granted() {
        let both = access(Require::ApplicationAndUser, &["shop"], &[("ann", "")]);
        for (caller, authorization) in [
            (caller("shop", "ann", &[]), Authorization::Allowed),
            (caller("", "", &[]), Authorization::NotIdentified),
            (caller("shop", "", &[]), Authorization::NotIdentified),
            (caller("crm", "", &[]), Authorization::NotGranted),
            (caller("shop", "bob", &[]), Authorization::NotGranted),
            (caller("crm", "ann", &[]), Authorization::NotGranted),
        ] {
            assert_eq!(authorize(&both, &caller), authorization, "{caller:?}");
        }
    }
}
