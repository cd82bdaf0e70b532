//! Callers of the API: their keys or tokens, and what they may do.
//!
//! Keys are client keys of the same format as those of the gateway, looked up by hash. Users present
//! a token of an issuer, which identifies them as it does at the gateway. A grant is a scope for
//! services in environments. What a caller may not read does not exist for it.

mod uses;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use futures::future::join_all;
use portcullis_config::client_key;
use portcullis_config::model::Origin;
use portcullis_config::settings::access::AccessSettings;
use portcullis_config::snapshot::access::ClientKey;
use portcullis_identity::authenticator::Authenticator;
use portcullis_identity::caller::User;
use portcullis_identity::client_keys::ClientKeys;
use portcullis_identity::presented::{Bearer, Presented};
use portcullis_identity::session::NoRandomness;

use crate::model::{EnvironmentName, Placement, Placements, Scope, ServiceName, USER_PREFIX};
use crate::settings::{CallerSettings, GrantSettings, UserSettings, time};

pub use self::uses::KeyUses;

/// All callers.
pub struct Callers {
    keys: ClientKeys,
    grants: HashMap<Arc<str>, Arc<[Grant]>>,
    /// Identifies the users by their tokens.
    authenticator: Authenticator,
    users: Vec<UserGrants>,
}

/// What some users and groups may do.
struct UserGrants {
    users: Vec<String>,
    groups: Vec<String>,
    grants: Vec<Grant>,
}

/// The name of a key: the beginning of its hash, which reveals nothing of the key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(String);

/// A caller that was authenticated.
#[derive(Debug, Clone)]
pub struct Principal {
    name: Arc<str>,
    grants: Arc<[Grant]>,
    key: Option<KeyName>,
}

/// A scope for services in environments.
#[derive(Debug, Clone)]
struct Grant {
    scope: Scope,
    services: Names,
    environments: Names,
}

/// Names, or all of them.
#[derive(Debug, Clone)]
enum Names {
    All,
    These(Vec<String>),
}

// === impl Callers ===

impl Callers {
    /// Builds the table from validated settings. A key that is not valid admits no one.
    ///
    /// # Errors
    /// The system returned no random numbers.
    pub fn new(
        callers: &[CallerSettings],
        access: &AccessSettings,
        users: &[UserSettings],
    ) -> Result<Self, NoRandomness> {
        let mut keys = Vec::new();
        let mut grants: HashMap<Arc<str>, Arc<[Grant]>> = HashMap::new();
        for caller in callers {
            let application: Arc<str> = caller.name.as_str().into();
            for key in &caller.keys {
                let Some(hash) = client_key::read_hash(&key.hash) else { continue };
                let expires = key.expires.as_deref();
                let expires = expires.map(|text| time(text).unwrap_or(SystemTime::UNIX_EPOCH));
                keys.push(ClientKey {
                    origin: Origin::default(),
                    application: Arc::clone(&application),
                    hash,
                    expires,
                });
            }
            grants.insert(application, caller.grants.iter().map(Grant::new).collect());
        }
        Ok(Self {
            keys: ClientKeys::new(&keys),
            grants,
            authenticator: Authenticator::new(access, None)?,
            users: users.iter().map(UserGrants::new).collect(),
        })
    }

    /// Fetches the keys of the issuers, and keeps them current, forever.
    pub async fn watch(&self) {
        join_all(self.authenticator.issuers().iter().map(|issuer| issuer.watch())).await;
    }

    /// Authenticates the bearer of a key or of a token.
    #[must_use]
    pub fn authenticate(&self, bearer: &str, now: SystemTime) -> Option<Principal> {
        match Bearer::of(bearer) {
            Bearer::ClientKey(key) => self.bearer_of_key(key, now),
            token @ Bearer::Token(_) => self.bearer_of_token(token, now),
        }
    }

    fn bearer_of_key(&self, key: &str, now: SystemTime) -> Option<Principal> {
        let application = self.keys.find(key, now).ok()?.application?;
        let (name, grants) = self.grants.get_key_value(&*application)?;
        let key = Some(KeyName::of(&client_key::hash(key)));
        Some(Principal { name: Arc::clone(name), grants: Arc::clone(grants), key })
    }

    /// The user of a token, if they have a grant. Programs have keys: a token that has no evidence
    /// of a person admits no one.
    fn bearer_of_token(&self, token: Bearer<'_>, now: SystemTime) -> Option<Principal> {
        let presented = Presented { bearer: Some(token), ..Presented::default() };
        // Connections are few, and one verifies one signature at a time.
        let found = self.authenticator.authenticate(&presented, "", now, &None, || true).ok()?;
        let user = found.caller.user?;
        let granted = self.users.iter().filter(|entry| entry.is_for(&user));
        let grants: Vec<Grant> = granted.flat_map(|entry| entry.grants.clone()).collect();
        let name = format!("{USER_PREFIX}{}", user.name);
        (!grants.is_empty()).then(|| Principal {
            name: name.into(),
            grants: grants.into(),
            key: None,
        })
    }
}

// === impl UserGrants ===

impl UserGrants {
    fn new(settings: &UserSettings) -> Self {
        Self {
            users: settings.users.clone(),
            groups: settings.groups.clone(),
            grants: settings.grants.iter().map(Grant::new).collect(),
        }
    }

    fn is_for(&self, user: &User) -> bool {
        let is_user = |name: &String| {
            // As in the gateway's grants: e-mail addresses are compared ignoring case.
            name == &*user.name || (name.contains('@') && name.eq_ignore_ascii_case(&user.name))
        };
        self.users.iter().any(is_user)
            || user.groups.iter().any(|group| self.groups.iter().any(|name| name == &**group))
    }
}

// === impl KeyName ===

impl KeyName {
    /// The name of the key with this hash.
    #[must_use]
    pub fn of(hash: &[u8; 32]) -> Self {
        const DIGITS: usize = 12;
        let mut digits = hex::encode(hash);
        digits.truncate(DIGITS);
        Self(digits)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// === impl Principal ===

impl Principal {
    /// The caller's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key that it presented, if it did.
    #[must_use]
    pub fn key(&self) -> Option<&KeyName> {
        self.key.as_ref()
    }

    /// Whether it has a scope for a service in an environment.
    #[must_use]
    pub fn may(&self, scope: Scope, placement: &Placement) -> bool {
        self.grants.iter().any(|grant| {
            grant.scope >= scope
                && grant.services.contains(placement.service.as_str())
                && grant.environments.contains(placement.environment.as_str())
        })
    }

    /// Whether it has a scope for a service in any environment.
    #[must_use]
    pub fn may_anywhere(&self, scope: Scope, service: &ServiceName) -> bool {
        self.grants
            .iter()
            .any(|grant| grant.scope >= scope && grant.services.contains(service.as_str()))
    }

    /// Whether it has a scope for all services of an environment.
    #[must_use]
    pub fn may_all_of(&self, scope: Scope, environment: &EnvironmentName) -> bool {
        self.grants.iter().any(|grant| {
            grant.scope >= scope
                && matches!(grant.services, Names::All)
                && grant.environments.contains(environment.as_str())
        })
    }

    /// Whether it has a scope for anything in an environment.
    #[must_use]
    pub fn may_any_of(&self, scope: Scope, environment: &EnvironmentName) -> bool {
        self.grants
            .iter()
            .any(|grant| grant.scope >= scope && grant.environments.contains(environment.as_str()))
    }

    /// Whether it has a scope for anything.
    #[must_use]
    pub fn may_anything(&self, scope: Scope) -> bool {
        self.grants.iter().any(|grant| grant.scope >= scope)
    }

    /// Whether it has a scope for everything.
    #[must_use]
    pub fn may_everything(&self, scope: Scope) -> bool {
        self.grants.iter().any(|grant| {
            grant.scope >= scope
                && matches!((&grant.services, &grant.environments), (Names::All, Names::All))
        })
    }

    /// The services that it has a grant for; `None` for all.
    #[must_use]
    pub fn services(&self) -> Option<Vec<ServiceName>> {
        let services: Option<Vec<_>> =
            self.grants.iter().map(|grant| grant.services.parsed()).collect();
        Some(services?.concat())
    }

    /// Where it has a grant, and thereby may read.
    #[must_use]
    pub fn readable(&self) -> Vec<Placements> {
        self.grants
            .iter()
            .map(|grant| Placements {
                services: grant.services.parsed(),
                environments: grant.environments.parsed(),
            })
            .collect()
    }
}

// === impl Grant ===

impl Grant {
    fn new(settings: &GrantSettings) -> Self {
        Self {
            scope: settings.scope,
            services: Names::new(&settings.services),
            environments: Names::new(&settings.environments),
        }
    }
}

// === impl Names ===

impl Names {
    fn new(names: &[String]) -> Self {
        if names.iter().any(|name| name == "*") { Self::All } else { Self::These(names.to_vec()) }
    }

    fn contains(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.iter().any(|known| known == name),
        }
    }

    /// Those that can be names at all; `None` for all.
    fn parsed<T: std::str::FromStr>(&self) -> Option<Vec<T>> {
        match self {
            Self::All => None,
            Self::These(names) => Some(names.iter().flat_map(|name| name.parse()).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::KeySettings;

    fn of_keys(callers: &[CallerSettings]) -> Callers {
        Callers::new(callers, &AccessSettings::default(), &[]).unwrap()
    }

    #[test]
    fn two_keys_of_a_caller_are_valid_while_one_replaces_the_other() {
        let [old, new] = [[7; 32], [8; 32]].map(|octets| client_key::Key::new(&octets));
        let mut settings = caller(&old, Some("2026-01-02T00:00:00Z"));
        settings.keys.extend(caller(&new, None).keys);
        let callers = of_keys(&[settings]);
        let key = |key: &client_key::Key, at: &str| {
            let principal = callers.authenticate(key.expose(), time(at).unwrap())?;
            assert_eq!(principal.name(), "ci");
            principal.key().cloned()
        };
        let (first, second) = ("2026-01-01T00:00:00Z", "2026-01-03T00:00:00Z");
        assert_eq!(key(&old, first), Some(KeyName::of(&old.hash())));
        assert_eq!(key(&new, first), Some(KeyName::of(&new.hash())));
        assert_eq!((key(&old, second), key(&new, second).is_some()), (None, true));
    }

    #[test]
    fn users_have_the_grants_of_their_name_and_groups() {
        let entry = |users: &[&str], groups: &[&str]| {
            UserGrants::new(&UserSettings {
                users: users.iter().map(|name| (*name).to_owned()).collect(),
                groups: groups.iter().map(|name| (*name).to_owned()).collect(),
                grants: Vec::new(),
            })
        };
        let user = |name: &str, groups: &[&str]| User {
            name: name.into(),
            prefix: 0,
            email: None,
            preferred_username: None,
            groups: groups.iter().map(|group| (*group).into()).collect(),
            issuer: "corp".into(),
            subject: "1".into(),
        };
        let ann = entry(&["Ann@example.com", "bob"], &["ops"]);
        assert!(ann.is_for(&user("ann@example.com", &[])));
        assert!(ann.is_for(&user("bob", &[])));
        assert!(ann.is_for(&user("eve", &["dev", "ops"])));
        for stranger in [user("eve", &["Ops"]), user("Bob", &[]), user("ops", &["ann@example.com"])]
        {
            assert!(!ann.is_for(&stranger), "{stranger:?}");
        }
    }

    fn caller(key: &client_key::Key, expires: Option<&str>) -> CallerSettings {
        let grant = |scope, service: &str, environment: &str| GrantSettings {
            scope,
            services: vec![service.to_owned()],
            environments: vec![environment.to_owned()],
        };
        CallerSettings {
            name: "ci".to_owned(),
            keys: vec![KeySettings {
                hash: client_key::write_hash(&key.hash()),
                expires: expires.map(str::to_owned),
            }],
            grants: vec![
                grant(Scope::Deploy, "web", "staging"),
                grant(Scope::Read, "web", "production"),
                grant(Scope::Admin, "*", "dev"),
            ],
        }
    }

    #[test]
    fn each_scope_is_held_to_its_services_and_environments() {
        let key = client_key::Key::new(&[7; 32]);
        let callers = of_keys(&[caller(&key, None)]);
        let principal = callers.authenticate(key.expose(), SystemTime::now()).unwrap();
        let cells = |scope| {
            let mut may = Vec::new();
            for service in ["web", "shop"] {
                for environment in ["dev", "staging", "production"] {
                    let placement = Placement {
                        service: service.parse().unwrap(),
                        environment: environment.parse().unwrap(),
                    };
                    if principal.may(scope, &placement) {
                        may.push(format!("{service}.{environment}"));
                    }
                }
            }
            may
        };
        assert_eq!(cells(Scope::Read), ["web.dev", "web.staging", "web.production", "shop.dev"]);
        assert_eq!(cells(Scope::Deploy), ["web.dev", "web.staging", "shop.dev"]);
        assert_eq!(cells(Scope::Admin), ["web.dev", "shop.dev"]);
        assert!(principal.may_all_of(Scope::Admin, &"dev".parse().unwrap()));
        assert!(!principal.may_all_of(Scope::Deploy, &"staging".parse().unwrap()));
        assert!(!principal.may_everything(Scope::Read));
    }

    #[test]
    fn unknown_and_expired_keys_admit_no_one() {
        let key = client_key::Key::new(&[7; 32]);
        let other = client_key::Key::new(&[8; 32]);
        let callers = of_keys(&[caller(&key, Some("2026-01-01T00:00:00Z"))]);
        let admitted = |key: &str, at: &str| callers.authenticate(key, time(at).unwrap()).is_some();
        assert!(admitted(key.expose(), "2025-12-31T23:59:59Z"));
        assert!(!admitted(key.expose(), "2026-01-01T00:00:00Z"));
        for bad in [other.expose(), "", "pck_"] {
            assert!(!admitted(bad, "2025-12-31T23:59:59Z"));
        }
    }
}
