//! Chooses the variant that answers a request: the one that it asks for, else that of its caller's
//! bucket, else one by weight. Finds what the caller keeps its endpoint by.
//!
//! Pure functions: the identity of the caller and random numbers are arguments. Nothing here
//! allocates. A service without variants or affinity costs one comparison for each.

mod dealer;

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue, header};
use portcullis_config::snapshot::backend::Backend;
use portcullis_config::snapshot::policy::Policy;
use portcullis_config::snapshot::rule::Rule;
use portcullis_config::snapshot::split::{
    Affinity, Bucket, Forced, ForcedBy, Generation, Identity, Split, VariantIndex,
};
use portcullis_identity::client_network::ClientNetwork;
use portcullis_identity::session::cookie;

pub(crate) use self::dealer::Dealer;

/// What a variant is chosen by.
#[derive(Clone, Copy)]
pub(crate) struct Traits<'a> {
    /// The headers of the request, as received.
    pub(crate) headers: &'a HeaderMap,
    /// The name of the user.
    pub(crate) user: Option<&'a str>,
    /// The identifier of the browser, by its cookie.
    pub(crate) browser: Option<u128>,
    pub(crate) client: IpAddr,
}

/// The backend of a request.
#[derive(Clone, Copy)]
pub(crate) struct Choice<'a> {
    pub(crate) backend: &'a Backend,
    /// The stable variant, if another one was chosen: it answers if nothing of that one does.
    pub(crate) fallback: Option<&'a Backend>,
    /// How it was chosen; `None` where the service has no variants.
    pub(crate) assignment: Option<Assignment>,
    /// The hash of what the caller keeps its endpoint by; `None` where it keeps none.
    pub(crate) caller: Option<u64>,
}

/// The variant that a request is to be answered by, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Assignment {
    pub(crate) variant: VariantIndex,
    pub(crate) reason: Reason,
    /// The bucket that decided; `None` where the request asks for its variant.
    pub(crate) bucket: Option<Bucket>,
    /// The version of the split.
    pub(crate) generation: Generation,
}

/// Why a variant is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// A header asks for it.
    ForcedHeader,
    /// A cookie asks for it.
    ForcedCookie,
    /// The user has its bucket.
    User,
    /// The browser has its bucket.
    Browser,
    /// The client's address has its bucket.
    SourceIp,
    /// The value of the header that `affinity` names has its bucket.
    Header,
    /// The request was dealt to it by weight.
    Weight,
}

/// Chooses the backend of a request; `None` where no backend has a weight.
///
/// `random` is uniform over `u64`.
pub(crate) fn choose<'a>(
    rule: &'a Rule,
    traits: Traits<'_>,
    dealer: &Dealer,
    random: impl FnOnce() -> u64,
) -> Option<Choice<'a>> {
    let caller = caller(&rule.policy, traits);
    let Some(split) = &rule.split else {
        let backend = rule.backends.choose(random())?;
        return Some(Choice { backend, fallback: None, assignment: None, caller });
    };
    let point = || dealer.next(split.hash());
    let assignment = assign(split, &rule.policy.affinity, traits, point);
    let all = rule.backends.all();
    let stable = all.first()?;
    let backend = all.get(assignment.variant.position()).unwrap_or(stable);
    let fallback = (assignment.variant != VariantIndex::STABLE).then_some(stable);
    Some(Choice { backend, fallback, assignment: Some(assignment), caller })
}

/// Assigns a request to a variant. `point` is where the request is dealt on the line.
pub(crate) fn assign(
    split: &Split,
    affinity: &Affinity,
    traits: Traits<'_>,
    point: impl FnOnce() -> u64,
) -> Assignment {
    let generation = split.generation();
    if let Some(Forced { by, variant, .. }) =
        split.forced().iter().find(|forced| is_asked(forced, traits.headers))
    {
        let reason = match by {
            ForcedBy::Header(_) => Reason::ForcedHeader,
            ForcedBy::Cookie(_) => Reason::ForcedCookie,
        };
        return Assignment { variant: *variant, reason, bucket: None, generation };
    }
    let (bucket, reason) = match identity(affinity, traits) {
        Some((identity, reason)) => (split.bucket(identity), reason),
        None => (Bucket::at(point()), Reason::Weight),
    };
    Assignment { variant: split.variant(bucket), reason, bucket: Some(bucket), generation }
}

/// The hash of what the caller keeps its endpoint by; `None` where it keeps none.
fn caller(policy: &Policy, traits: Traits<'_>) -> Option<u64> {
    if !policy.keeps_endpoint {
        return None;
    }
    identity(&policy.affinity, traits).map(|(identity, _)| identity.endpoint_hash())
}

/// What the caller keeps its variant and endpoint by; `None` where each of its requests is dealt by itself.
fn identity<'a>(affinity: &Affinity, traits: Traits<'a>) -> Option<(Identity<'a>, Reason)> {
    let browser = || Some((Identity::Browser(traits.browser?), Reason::Browser));
    match affinity {
        Affinity::User => match traits.user {
            Some(user) => Some((Identity::User(user), Reason::User)),
            None => browser(),
        },
        Affinity::Cookie => browser(),
        Affinity::SourceIp => {
            let address = ClientNetwork::from(traits.client).address();
            Some((Identity::Network(address), Reason::SourceIp))
        }
        Affinity::Header(name) => {
            let value = only(traits.headers.get_all(name))?;
            Some((Identity::Header(value.as_bytes()), Reason::Header))
        }
        Affinity::None => None,
    }
}

fn is_asked(forced: &Forced, headers: &HeaderMap) -> bool {
    let value = match &forced.by {
        ForcedBy::Header(name) => only(headers.get_all(name)).map(HeaderValue::as_bytes),
        ForcedBy::Cookie(name) => {
            cookie::value(name, headers.get_all(header::COOKIE)).ok().flatten()
        }
    };
    value == Some(forced.value.as_bytes())
}

/// The value of a field that occurs once: of several, proxies and backends could read different
/// ones.
fn only<'h>(values: impl IntoIterator<Item = &'h HeaderValue>) -> Option<&'h HeaderValue> {
    let mut values = values.into_iter();
    values.next().filter(|_| values.next().is_none())
}

// === impl Choice ===

impl<'a> Choice<'a> {
    /// The backend of the last attempt. A request has crossed over if nothing of the chosen one
    /// answered, or had a place for it.
    pub(crate) fn answered(&self, crossed: bool) -> &'a Backend {
        self.fallback.filter(|_| crossed).unwrap_or(self.backend)
    }

    /// The backend that was chosen, if nothing of it answered.
    pub(crate) fn missed(&self, is_missed: bool) -> Option<&'a Backend> {
        is_missed.then_some(self.backend)
    }
}

// === impl Reason ===

impl Reason {
    /// The reason in the access log.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::ForcedHeader => "forced_header",
            Self::ForcedCookie => "forced_cookie",
            Self::User => "user",
            Self::Browser => "browser",
            Self::SourceIp => "source_ip",
            Self::Header => "header",
            Self::Weight => "weight",
        }
    }
}

#[cfg(test)]
mod tests;
