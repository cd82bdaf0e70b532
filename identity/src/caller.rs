//! Who is calling: an application, a user, or both.

use std::sync::Arc;
use std::time::SystemTime;

use portcullis_config::snapshot::access::{Access, Require};

/// The most groups of a user that are known; further ones count for nothing.
pub const MAX_GROUPS: usize = 512;

/// Who is calling, as far as credentials that hold have shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The calling program's name.
    pub application: Option<Arc<str>>,
    /// The person.
    pub user: Option<Arc<User>>,
    /// When the first of the credentials ends.
    pub until: Option<SystemTime>,
}

/// A person, as an issuer named her.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct User {
    /// What grants name her by: the user claim with the issuer's prefix.
    pub name: Box<str>,
    /// Her verified e-mail address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Box<str>>,
    /// The name that she is called by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preferred_username: Option<Box<str>>,
    /// Her groups, with the issuer's prefix.
    #[serde(default)]
    pub groups: Box<[Box<str>]>,
    /// The issuer's name in the configuration.
    pub issuer: Box<str>,
    /// Her identifier at the issuer (`sub`), which never changes.
    pub subject: Box<str>,
}

/// Whether the caller may go where `access` guards. What she may not is answered by
/// the hidden answer, like what does not exist.
pub fn authorize(access: &Access, caller: &Caller) -> bool {
    let application = !access.require.application()
        || caller.application.as_deref().is_some_and(|name| may_application(access, name));
    let user =
        !access.require.user() || caller.user.as_deref().is_some_and(|user| may_user(access, user));
    // Both are always looked at: how long it takes must not tell which of them is missing.
    application & user
}

/// Whether the grants for people have this one: for the page of what she may enter, which cannot
/// know with which application she will come.
pub fn may_enter(access: &Access, user: &User) -> bool {
    matches!(access.require, Require::User | Require::ApplicationAndUser) && may_user(access, user)
}

fn may_application(access: &Access, name: &str) -> bool {
    !access.applications.is_empty()
        && access.applications.iter().all(|list| list.iter().any(|pattern| pattern.matches(name)))
}

fn may_user(access: &Access, user: &User) -> bool {
    !access.users.is_empty()
        && access
            .users
            .iter()
            .all(|circle| circle.has(&user.name, user.groups.iter().map(|group| &**group)))
}

/// A person who calls by a program, for tests.
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
    use portcullis_config::snapshot::access::Circle;

    use super::*;

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
                    Arc::new(Circle { users: patterns(users), groups: patterns(groups) })
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
    fn what_demands_nothing_is_open_to_all() {
        assert!(authorize(&access(Require::Nothing, &[], &[]), &Caller::default()));
    }

    #[test]
    fn without_a_grant_nobody_is_let_in() {
        for require in [Require::Application, Require::User, Require::ApplicationAndUser] {
            assert!(
                !authorize(&access(require, &[], &[]), &caller("shop", "ann", &["ops"])),
                "{require:?}"
            );
            assert!(
                !authorize(&access(require, &[""], &[("", "")]), &caller("shop", "ann", &["ops"])),
                "{require:?}"
            );
        }
    }

    #[test]
    fn what_is_demanded_must_be_granted_by_every_list() {
        let app = access(Require::Application, &["shop,crm", "shop"], &[]);
        assert!(authorize(&app, &caller("shop", "", &[])));
        assert!(!authorize(&app, &caller("crm", "", &[])));
        assert!(!authorize(&app, &caller("", "shop", &[])), "a user is no application");

        let user = access(Require::User, &[], &[("*@example.com", "ops"), ("", "ops,dev")]);
        assert!(authorize(&user, &caller("", "ann@example.com", &["dev"])));
        assert!(authorize(&user, &caller("", "bob@example.org", &["ops"])));
        assert!(!authorize(&user, &caller("", "ann@example.com", &["sales"])));
        assert!(
            !authorize(&user, &caller("ann@example.com", "", &["ops"])),
            "an application is no user"
        );

        let both = access(Require::ApplicationAndUser, &["shop"], &[("ann", "")]);
        assert!(authorize(&both, &caller("shop", "ann", &[])));
        assert!(!authorize(&both, &caller("shop", "", &[])));
        assert!(!authorize(&both, &caller("", "ann", &[])));
        assert!(!authorize(&both, &caller("shop", "bob", &[])));
        assert!(!authorize(&both, &caller("crm", "ann", &[])));
    }
}
