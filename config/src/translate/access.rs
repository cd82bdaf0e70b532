//! Who may call, by annotations: what is demanded of requests, and whom the grants let in. A
//! Service narrows its Namespace, and never widens it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::annotations::{Reader, Reading};
use super::policy::path;
use crate::model::vocabulary::{
    ALLOW_APPS, ALLOW_GROUPS, ALLOW_USERS, Key, PASS_CREDENTIALS, PUBLIC_PATHS, REQUIRE,
};
use crate::model::{InvalidNamePattern, NamePattern};
use crate::snapshot::access::{Access, Circle, Require};
use crate::snapshot::rule::PathPrefix;

/// The most pairs of names that are compared to find whether a Service grants anything that its
/// Namespace does.
const MAX_COMPARED: usize = 10_000;

/// What a Namespace says about who may call its Services.
pub(super) struct NamespaceAccess {
    /// What is demanded at least, where it says so.
    require: Option<Require>,
    grants: Grants,
    /// What was told already: that it demands this and lets nobody in.
    told: Require,
}

/// Whom a Namespace, or a Service, lets in; `None` where it does not say.
struct Grants {
    applications: Option<Arc<[NamePattern]>>,
    users: Option<Arc<Circle>>,
}

// === impl NamespaceAccess ===

impl NamespaceAccess {
    /// That of a Namespace that says nothing.
    pub(super) fn silent() -> Self {
        let grants = Grants { applications: None, users: None };
        Self { require: None, grants, told: Require::Nothing }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let (require, grants) = (require(reader), Grants::read(reader));
        let told = grants.lacking(require.unwrap_or(Require::Nothing));
        if told != Require::Nothing {
            let message =
                format!("nobody is let in: it demands {}, and grants none", demanded(told));
            reader.warn(
                "NobodyGranted",
                message,
                &format!("add {}, for instance `*`, or demand less", keys(told)),
            );
        }
        Self { require, grants, told }
    }

    /// Who may call a Service of the Namespace.
    pub(super) fn of_service(&self, service: &mut Reader<'_>) -> Access {
        let (require, own) = (self.narrowed(service), Grants::read(service));
        self.tell(require, &own, service);
        // Without the Namespace's, the Service's own would widen.
        let both = |own| self.grants.applications.iter().cloned().chain(own).collect();
        let circles = |own| self.grants.users.iter().cloned().chain(own).collect();
        Access {
            require,
            applications: both(own.applications.filter(|_| self.grants.applications.is_some())),
            users: circles(own.users.filter(|_| self.grants.users.is_some())),
            pass_credentials: pass_credentials(service),
        }
    }

    /// A Service may demand more than its Namespace does, never less.
    fn narrowed(&self, service: &mut Reader<'_>) -> Require {
        let own = require(service);
        let (Some(namespace), Some(own)) = (self.require, own) else {
            return self.require.or(own).unwrap_or_default();
        };
        let both = namespace.and(own);
        if both != own {
            let message =
                format!("`{REQUIRE}` demands less than the Namespace does, which is not possible");
            service.warn(
                "CannotWiden",
                message,
                "change what the Namespace demands, or what the Service does",
            );
        }
        both
    }

    /// Tells why nobody is let in, or grants are idle: each Service once at most, and not what the
    /// Namespace was told.
    fn tell(&self, require: Require, own: &Grants, service: &mut Reader<'_>) {
        let granted = own.said();
        let (lacking, idle) = (self.grants.lacking(require), granted.without(require));
        let apart = require.without(self.grants.met_by(own));
        let (widening, silent) =
            (granted.without(granted.without(lacking)), lacking.without(self.told));
        let help = format!("give the Namespace {}, for instance `*`", keys(lacking));
        if widening != Require::Nothing {
            let message = format!(
                "what it grants by {} has no effect: the Namespace grants none, and a Service \
                 cannot widen it",
                keys(widening)
            );
            service.warn("CannotWiden", message, &help);
        } else if silent != Require::Nothing {
            let message = format!(
                "nobody is let in: it demands {}, and the Namespace grants none",
                demanded(silent)
            );
            service.warn("NobodyGranted", message, &(help + ", or demand less"));
        } else if apart != Require::Nothing {
            let message = format!(
                "nobody is let in: what it grants by {} has nothing in common with what the \
                 Namespace grants",
                keys(apart)
            );
            service.warn(
                "NobodyGranted",
                message,
                "a Service can only narrow: name some of those that the Namespace lets in",
            );
        } else if idle != Require::Nothing {
            let message = format!(
                "what it grants by {} has no effect: no such credentials are demanded",
                keys(idle)
            );
            service.warn(
                "NoEffect",
                message,
                &format!("demand them by `{REQUIRE}`, or take the grant away"),
            );
        }
    }

    /// The path prefixes of a Service that need no credentials, inside of those that exist; none
    /// where the Namespace demands any.
    pub(super) fn public_paths(
        &self,
        paths: &[PathPrefix],
        service: &mut Reader<'_>,
    ) -> Vec<PathPrefix> {
        let help = "write paths such as /health, separated by commas, inside of those that exist; \
                    until then they need credentials";
        let read = service.read_list(PUBLIC_PATHS, help, |text| {
            let public = path(text)?;
            let exists = paths.iter().any(|path| path.matches(public.as_str()));
            if exists {
                Ok(public)
            } else {
                Err("is not inside of the paths that exist".to_owned())
            }
        });
        let public = read.good().unwrap_or_default();
        if !public.is_empty() && self.require.is_some_and(|require| require != Require::Nothing) {
            let message = format!(
                "`{PUBLIC_PATHS}` demands less than the Namespace does, which is not possible"
            );
            let help = format!(
                "take `{REQUIRE}` from the Namespace, and write it on each of its Services"
            );
            service.warn("CannotWiden", message, &help);
            return Vec::new();
        }
        BTreeSet::from_iter(public).into_iter().collect()
    }
}

// === impl Grants ===

impl Grants {
    /// What cannot be understood lets nobody in.
    fn read(reader: &mut Reader<'_>) -> Self {
        let applications =
            names(ALLOW_APPS, "names of applications, such as billing or team-*", reader);
        let users =
            names(ALLOW_USERS, "names of users, such as ann@example.com or *@example.com", reader);
        let groups = names(ALLOW_GROUPS, "names of groups, such as staff", reader);
        let circle = (users.is_some() || groups.is_some()).then(|| {
            Arc::new(Circle {
                users: users.unwrap_or_default(),
                groups: groups.unwrap_or_default(),
            })
        });
        Self { applications: applications.map(Into::into), users: circle }
    }

    /// For which of the credentials there is a grant, be it one that lets nobody in.
    fn said(&self) -> Require {
        Require::of(self.applications.is_some(), self.users.is_some())
    }

    /// For which of the credentials somebody may be let in by both, or one of them does not say.
    fn met_by(&self, own: &Self) -> Require {
        let applications = self
            .applications
            .as_ref()
            .zip(own.applications.as_ref())
            .is_none_or(|(one, other)| meet(one, other));
        let users = self.users.as_ref().zip(own.users.as_ref()).is_none_or(|(one, other)| {
            // Who is in a group, or in two, is not known here.
            let by_group = |circle: &Circle| !circle.groups.is_empty();
            by_group(one) || by_group(other) || meet(&one.users, &other.users)
        });
        Require::of(applications, users)
    }

    /// For which of the demanded credentials there is none.
    fn lacking(&self, require: Require) -> Require {
        require.without(self.said())
    }
}

/// Whether some name may be in both lists. One that has nobody was told already, and long ones are
/// not compared.
fn meet(one: &[NamePattern], other: &[NamePattern]) -> bool {
    let untold = one.is_empty() || other.is_empty() || one.len() * other.len() > MAX_COMPARED;
    untold || one.iter().any(|one| other.iter().any(|other| one.meets(other)))
}

fn names(key: Key, such: &str, reader: &mut Reader<'_>) -> Option<Vec<NamePattern>> {
    let help = format!("write {such}, separated by commas; until then it lets nobody in");
    let parse = |text: &str| {
        text.parse::<NamePattern>().map_err(|error: InvalidNamePattern| error.to_string())
    };
    match reader.read_list(key, &help, parse) {
        Reading::Absent => None,
        Reading::Good(names) => Some(BTreeSet::from_iter(names).into_iter().collect()),
        Reading::Bad => Some(Vec::new()),
    }
}

/// What `portcullis.dev/require` says; the most, where that cannot be understood.
fn require(reader: &mut Reader<'_>) -> Option<Require> {
    let help = "write none, app, user or app+user; until then it stays closed";
    let read = reader.read(REQUIRE, help, |text| match text {
        "none" => Ok(Require::Nothing),
        "app" => Ok(Require::Application),
        "user" => Ok(Require::User),
        "app+user" => Ok(Require::ApplicationAndUser),
        _ => Err("is not understood".to_owned()),
    });
    match read {
        Reading::Absent => None,
        Reading::Good(require) => Some(require),
        Reading::Bad => Some(Require::default()),
    }
}

fn pass_credentials(reader: &mut Reader<'_>) -> bool {
    let read = reader.read(
        PASS_CREDENTIALS,
        "write \"true\" or \"false\"; until then they are not passed on",
        |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("is not understood".to_owned()),
        },
    );
    read == Reading::Good(true)
}

fn demanded(require: Require) -> &'static str {
    match require {
        Require::Nothing => "nothing",
        Require::Application => "an application",
        Require::User => "a user",
        Require::ApplicationAndUser => "an application and a user",
    }
}

fn keys(require: Require) -> String {
    let users = format!("`{ALLOW_USERS}` or `{ALLOW_GROUPS}`");
    match require {
        Require::Nothing => String::new(),
        Require::Application => format!("`{ALLOW_APPS}`"),
        Require::User => users,
        Require::ApplicationAndUser => format!("`{ALLOW_APPS}`, and {users}"),
    }
}
