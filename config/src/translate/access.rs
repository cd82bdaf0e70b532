//! Access policies from annotations: the required credentials, and the callers that are allowed. A
//! Service can restrict the policy of its Namespace, but not extend it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::annotations::{Reader, Reading};
use super::policy::path;
use crate::model::vocabulary::{
    ALLOW_APPS, ALLOW_GROUPS, ALLOW_USERS, Key, PASS_CREDENTIALS, PUBLIC_PATHS, REQUIRE,
};
use crate::model::{InvalidNamePattern, NamePattern};
use crate::snapshot::access::{Access, Require, Subjects};
use crate::snapshot::rule::PathPrefix;

/// The maximum number of pairs of names that are compared to find whether the grants of a Service
/// and its Namespace overlap.
const MAX_COMPARED: usize = 10_000;

/// The access policy of a Namespace for its Services.
pub(super) struct NamespaceAccess {
    /// The credentials that are required at least, if set.
    require: Option<Require>,
    grants: Grants,
    /// Whether its Services may receive presented credentials.
    pass_credentials: bool,
    /// The credentials that are required but granted to no caller, which was reported.
    reported: Require,
}

/// The callers that a Namespace or a Service allows; `None` if not set.
struct Grants {
    applications: Option<Arc<[NamePattern]>>,
    users: Option<Arc<Subjects>>,
}

// === impl NamespaceAccess ===

impl NamespaceAccess {
    /// The policy of a Namespace without annotations.
    pub(super) fn unset() -> Self {
        let grants = Grants { applications: None, users: None };
        Self { require: None, grants, pass_credentials: false, reported: Require::Nothing }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        let (require, grants) = (require(reader), Grants::read(reader));
        let reported = grants.lacking(require.unwrap_or(Require::Nothing));
        if reported != Require::Nothing {
            let message = format!(
                "all requests are denied: it requires {}, and allows none",
                required(reported)
            );
            reader.warn(
                "NobodyGranted",
                message,
                &format!("add {}, for instance `*`, or require less", keys(reported)),
            );
        }
        Self { require, grants, pass_credentials: pass_credentials(reader), reported }
    }

    /// The access policy of a Service of the Namespace.
    pub(super) fn of_service(&self, service: &mut Reader<'_>) -> Access {
        let (require, own) = (self.required_credentials(service), Grants::read(service));
        self.report(require, &own, service);
        // Without a grant of the Namespace, the Service's own would extend it.
        let both = |own| self.grants.applications.iter().cloned().chain(own).collect();
        let subjects = |own| self.grants.users.iter().cloned().chain(own).collect();
        Access {
            require,
            applications: both(own.applications.filter(|_| self.grants.applications.is_some())),
            users: subjects(own.users.filter(|_| self.grants.users.is_some())),
            pass_credentials: self.passes_credentials(service),
        }
    }

    /// Whether a Service receives presented credentials: it asks for them, and its Namespace, which
    /// the operator controls, consents. A writer of Services alone could collect callers' tokens.
    fn passes_credentials(&self, service: &mut Reader<'_>) -> bool {
        let is_requested = pass_credentials(service);
        if is_requested && !self.pass_credentials {
            service.warn(
                "NoEffect",
                format!("`{PASS_CREDENTIALS}` has no effect: the Namespace does not allow it"),
                &format!(
                    "set `{PASS_CREDENTIALS}` on the Namespace too if its Services may receive \
                     callers' tokens; client keys are never passed on"
                ),
            );
        }
        is_requested && self.pass_credentials
    }

    /// The required credentials: a Service may require more than its Namespace, never less.
    fn required_credentials(&self, service: &mut Reader<'_>) -> Require {
        let own = require(service);
        let (Some(namespace), Some(own)) = (self.require, own) else {
            return self.require.or(own).unwrap_or_default();
        };
        let both = namespace.and(own);
        if both != own {
            let message =
                format!("`{REQUIRE}` requires less than the Namespace does, which is not possible");
            service.warn(
                "CannotWiden",
                message,
                "change what the Namespace requires, or what the Service requires",
            );
        }
        both
    }

    /// Reports why all requests are denied, or grants have no effect: one problem per Service, and
    /// none that was reported for the Namespace.
    fn report(&self, require: Require, own: &Grants, service: &mut Reader<'_>) {
        let granted = own.granted_credentials();
        let (lacking, unused) = (self.grants.lacking(require), granted.without(require));
        let disjoint = require.without(self.grants.overlapping(own));
        let (extending, silent) =
            (granted.without(granted.without(lacking)), lacking.without(self.reported));
        let help = format!("give the Namespace {}, for instance `*`", keys(lacking));
        if extending != Require::Nothing {
            let message = format!(
                "what it allows by {} has no effect: the Namespace allows none, and a Service \
                 cannot extend it",
                keys(extending)
            );
            service.warn("CannotWiden", message, &help);
        } else if silent != Require::Nothing {
            let message = format!(
                "all requests are denied: it requires {}, and the Namespace allows none",
                required(silent)
            );
            service.warn("NobodyGranted", message, &(help + ", or require less"));
        } else if disjoint != Require::Nothing {
            let message = format!(
                "all requests are denied: what it allows by {} does not overlap with what the \
                 Namespace allows",
                keys(disjoint)
            );
            service.warn(
                "NobodyGranted",
                message,
                "a Service can only restrict: name some of those that the Namespace allows",
            );
        } else if unused != Require::Nothing {
            let message = format!(
                "what it allows by {} has no effect: no such credentials are required",
                keys(unused)
            );
            service.warn(
                "NoEffect",
                message,
                &format!("require them by `{REQUIRE}`, or remove the annotation"),
            );
        }
    }

    /// The path prefixes of a Service that need no credentials, within `paths`; none if the
    /// Namespace requires any.
    pub(super) fn public_paths(
        &self,
        paths: &BTreeSet<PathPrefix>,
        service: &mut Reader<'_>,
    ) -> BTreeSet<PathPrefix> {
        let help = "write paths such as /health, separated by commas, within the paths of the \
                    Service; until then they need credentials";
        let read = service.read_list(PUBLIC_PATHS, help, |text| {
            let public = path(text)?;
            if public.is_within(paths) {
                Ok(public)
            } else {
                Err("is not within the paths of the Service".to_owned())
            }
        });
        let public = read.good().unwrap_or_default();
        if !public.is_empty() && self.require.is_some_and(|require| require != Require::Nothing) {
            let message = format!(
                "`{PUBLIC_PATHS}` requires less than the Namespace does, which is not possible"
            );
            let help = format!(
                "remove `{REQUIRE}` from the Namespace, and set it on each of its Services"
            );
            service.warn("CannotWiden", message, &help);
            return BTreeSet::new();
        }
        BTreeSet::from_iter(public)
    }
}

// === impl Grants ===

impl Grants {
    /// Reads the grants. An invalid one allows no caller.
    fn read(reader: &mut Reader<'_>) -> Self {
        let applications =
            names(ALLOW_APPS, "names of applications, such as billing or team-*", reader);
        let users =
            names(ALLOW_USERS, "names of users, such as ann@example.com or *@example.com", reader);
        let groups = names(ALLOW_GROUPS, "names of groups, such as staff", reader);
        let subjects = (users.is_some() || groups.is_some()).then(|| {
            Arc::new(Subjects {
                users: users.unwrap_or_default(),
                groups: groups.unwrap_or_default(),
            })
        });
        Self { applications: applications.map(Into::into), users: subjects }
    }

    /// The credentials for which there is a grant, even an empty one.
    fn granted_credentials(&self) -> Require {
        Require::of(self.applications.is_some(), self.users.is_some())
    }

    /// The credentials for which both grants may allow a caller, or one of them is not set.
    fn overlapping(&self, own: &Self) -> Require {
        let applications = self
            .applications
            .as_ref()
            .zip(own.applications.as_ref())
            .is_none_or(|(one, other)| may_overlap(one, other));
        let users = self.users.as_ref().zip(own.users.as_ref()).is_none_or(|(one, other)| {
            // Group memberships are not known here.
            let by_group = |subjects: &Subjects| !subjects.groups.is_empty();
            by_group(one) || by_group(other) || may_overlap(&one.users, &other.users)
        });
        Require::of(applications, users)
    }

    /// The required credentials for which there is no grant.
    fn lacking(&self, require: Require) -> Require {
        require.without(self.granted_credentials())
    }
}

/// Whether some name may match both lists. Empty lists were reported before, and long ones are not
/// compared, so both count as overlapping.
fn may_overlap(one: &[NamePattern], other: &[NamePattern]) -> bool {
    let is_skipped = one.is_empty() || other.is_empty() || one.len() * other.len() > MAX_COMPARED;
    is_skipped || one.iter().any(|one| other.iter().any(|other| one.overlaps(other)))
}

fn names(key: Key, such: &str, reader: &mut Reader<'_>) -> Option<Vec<NamePattern>> {
    let help = format!("write {such}, separated by commas; until then it allows none");
    let parse = |text: &str| {
        text.parse::<NamePattern>().map_err(|error: InvalidNamePattern| error.to_string())
    };
    match reader.read_list(key, &help, parse) {
        Reading::Absent => None,
        Reading::Good(names) => Some(BTreeSet::from_iter(names).into_iter().collect()),
        Reading::Bad => Some(Vec::new()),
    }
}

/// The value of `portcullis.dev/require`; the most restrictive one if it is invalid.
fn require(reader: &mut Reader<'_>) -> Option<Require> {
    let help = "write none, app, user or app+user; until then it requires app+user";
    let read = reader.read(REQUIRE, help, |text| match text {
        "none" => Ok(Require::Nothing),
        "app" => Ok(Require::Application),
        "user" => Ok(Require::User),
        "app+user" => Ok(Require::ApplicationAndUser),
        _ => Err("is invalid".to_owned()),
    });
    match read {
        Reading::Absent => None,
        Reading::Good(require) => Some(require),
        Reading::Bad => Some(Require::default()),
    }
}

fn pass_credentials(reader: &mut Reader<'_>) -> bool {
    let help = "write \"true\" or \"false\"; until then they are not passed on";
    reader.read_flag(PASS_CREDENTIALS, help) == Reading::Good(true)
}

fn required(require: Require) -> &'static str {
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
