//! The caller of a request: an application, a user, or both.

use std::ops::Deref;
use std::sync::Arc;
use std::time::SystemTime;

use portcullis_config::snapshot::grants::{GrantIndex, Granted, Name};
use portcullis_config::snapshot::host::GrantedRoute;

/// Maximum number of groups of a user; further ones are ignored.
pub const MAX_GROUPS: usize = 512;

/// The caller, as identified by its valid credentials.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// The calling program.
    pub application: Option<Application>,
    /// The user.
    pub user: Option<Arc<User>>,
    /// When the first of the credentials expires.
    pub until: Option<SystemTime>,
}

/// A program, by the name that grants match.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Application {
    name: Arc<str>,
    /// Length of the issuer's prefix, with which the name begins.
    prefix: usize,
}

/// A user, as identified by an issuer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct User {
    /// The name that grants match: the user claim with the issuer's prefix.
    pub name: Box<str>,
    /// Length of the issuer's prefix, with which the name and those of the groups begin.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub prefix: usize,
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

/// Evaluates all grants of a host table for a caller.
#[must_use]
pub fn granted(index: &GrantIndex, caller: &Caller) -> Granted {
    let user = caller.user.as_deref();
    let groups = user.into_iter().flat_map(User::group_names);
    index.evaluate(caller.application.as_ref().map(Application::name), user.map(User::name), groups)
}

/// Whether a route allows the caller; `granted` is the caller's.
#[must_use]
pub fn authorize(route: GrantedRoute<'_>, caller: &Caller, granted: &Granted) -> Authorization {
    let require = route.route.rule.policy.access.require;
    // All are always evaluated: timing must not reveal which of them is missing.
    let (application, user) =
        (route.grants.has_application(granted), route.grants.has_user(granted));
    let application =
        Authorization::of(require.application(), caller.application.is_some(), application);
    application.and(Authorization::of(require.user(), caller.user.is_some(), user))
}

/// Whether the user grants of a route allow this user: for the portal's list of services, where the
/// application of later requests is unknown.
#[must_use]
pub fn is_granted(route: GrantedRoute<'_>, granted: &Granted) -> bool {
    route.route.rule.policy.access.require.user() && route.grants.has_user(granted)
}

/// Evaluates all user grants of a host table for a user.
#[must_use]
pub fn granted_to_user(index: &GrantIndex, user: &User) -> Granted {
    index.evaluate(None, Some(user.name()), user.group_names())
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(length: &usize) -> bool {
    *length == 0
}

// === impl Application ===

impl Application {
    /// The application that an issuer with this prefix calls `name`.
    #[must_use]
    pub fn of_issuer(prefix: &str, name: &str) -> Self {
        Self { name: format!("{prefix}{name}").into(), prefix: prefix.len() }
    }

    /// The name that grants match.
    #[must_use]
    pub fn name(&self) -> Name<'_> {
        Name::with_prefix(&self.name, self.prefix)
    }
}

impl From<Arc<str>> for Application {
    /// An application that no issuer names.
    fn from(name: Arc<str>) -> Self {
        Self { name, prefix: 0 }
    }
}

impl From<&str> for Application {
    fn from(name: &str) -> Self {
        Arc::<str>::from(name).into()
    }
}

impl Deref for Application {
    type Target = str;

    fn deref(&self) -> &str {
        &self.name
    }
}

// === impl User ===

impl User {
    /// The name that grants match.
    #[must_use]
    pub fn name(&self) -> Name<'_> {
        Name::with_prefix(&self.name, self.prefix)
    }

    /// The groups that grants match.
    pub fn group_names(&self) -> impl Iterator<Item = Name<'_>> {
        self.groups.iter().map(|group| Name::with_prefix(group, self.prefix))
    }
}

// === impl Authorization ===

impl Authorization {
    /// Whether a part of the caller is allowed.
    fn of(is_required: bool, is_identified: bool, is_granted: bool) -> Self {
        match (is_required, is_identified, is_granted) {
            (false, _, _) | (true, true, true) => Self::Allowed,
            (true, false, _) => Self::NotIdentified,
            (true, true, false) => Self::NotGranted,
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

/// A user who calls through an application, for tests.
#[cfg(any(test, feature = "testing"))]
#[must_use]
pub fn ann() -> Caller {
    let user = User {
        name: "ann@example.com".into(),
        prefix: 0,
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
    use portcullis_config::model::{NamePattern, Origin};
    use portcullis_config::snapshot::access::{Access, Require, Subjects};
    use portcullis_config::snapshot::backend::WeightedBackends;
    use portcullis_config::snapshot::host::{HostTable, VirtualHost};
    use portcullis_config::snapshot::policy::Policy;
    use portcullis_config::snapshot::rule::{PathPrefix, Route, RouteMatch, Rule};

    use super::*;

    fn is_allowed(access: &Access, caller: &Caller) -> bool {
        authorization(access, caller) == Authorization::Allowed
    }

    fn authorization(access: &Access, caller: &Caller) -> Authorization {
        let rule = Rule {
            origin: Origin::default(),
            service: "".into(),
            filters: Vec::new(),
            backends: WeightedBackends::default(),
            split: None,
            policy: Policy { access: access.clone(), ..Policy::default() },
        };
        let route = Route { matches: RouteMatch::prefix(PathPrefix::root()), rule: Arc::new(rule) };
        let host = VirtualHost {
            pattern: "a.example".parse().unwrap(),
            environment: "".into(),
            origin: Origin::default(),
            routes: [route].into(),
        };
        let table: HostTable = [Arc::new(host)].into_iter().collect();
        let route = table.entry("a.example").unwrap().routes().next().unwrap();
        authorize(route, caller, &granted(table.grants(), caller))
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
                prefix: 0,
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
        for (caller, expected) in [
            (caller("shop", "ann", &[]), Authorization::Allowed),
            (caller("", "", &[]), Authorization::NotIdentified),
            (caller("shop", "", &[]), Authorization::NotIdentified),
            (caller("crm", "", &[]), Authorization::NotGranted),
            (caller("shop", "bob", &[]), Authorization::NotGranted),
            (caller("crm", "ann", &[]), Authorization::NotGranted),
        ] {
            assert_eq!(authorization(&both, &caller), expected, "{caller:?}");
        }
    }
}
