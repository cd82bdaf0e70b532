//! Callers of the API: their keys, and what they may do.
//!
//! Keys are client keys of the same format as those of the gateway, looked up by hash. A grant is a
//! scope for services in environments. What a caller may not read does not exist for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use portcullis_config::client_key;
use portcullis_config::model::Origin;
use portcullis_config::snapshot::access::ClientKey;
use portcullis_identity::client_keys::ClientKeys;

use crate::model::{EnvironmentName, Placement, Scope, ServiceName};
use crate::settings::{CallerSettings, GrantSettings, time};

/// All callers.
pub struct Callers {
    keys: ClientKeys,
    grants: HashMap<Arc<str>, Arc<[Grant]>>,
}

/// A caller that was authenticated.
#[derive(Debug, Clone)]
pub struct Principal {
    name: Arc<str>,
    grants: Arc<[Grant]>,
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
    #[must_use]
    pub fn new(callers: &[CallerSettings]) -> Self {
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
        Self { keys: ClientKeys::new(&keys), grants }
    }

    /// Authenticates the bearer of a key.
    #[must_use]
    pub fn authenticate(&self, key: &str, now: SystemTime) -> Option<Principal> {
        let application = self.keys.find(key, now).ok()?.application?;
        let (name, grants) = self.grants.get_key_value(&*application)?;
        Some(Principal { name: Arc::clone(name), grants: Arc::clone(grants) })
    }
}

// === impl Principal ===

impl Principal {
    /// The caller's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
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
        let mut services = Vec::new();
        for grant in self.grants.iter() {
            match &grant.services {
                Names::All => return None,
                Names::These(names) => services.extend(names.iter().flat_map(|name| name.parse())),
            }
        }
        Some(services)
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::KeySettings;

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
        let callers = Callers::new(&[caller(&key, None)]);
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
        let callers = Callers::new(&[caller(&key, Some("2026-01-01T00:00:00Z"))]);
        let admitted = |key: &str, at: &str| callers.authenticate(key, time(at).unwrap()).is_some();
        assert!(admitted(key.expose(), "2025-12-31T23:59:59Z"));
        assert!(!admitted(key.expose(), "2026-01-01T00:00:00Z"));
        for bad in [other.expose(), "", "pck_"] {
            assert!(!admitted(bad, "2025-12-31T23:59:59Z"));
        }
    }
}
