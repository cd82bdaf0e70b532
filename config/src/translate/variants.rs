//! Variants of Services: which Service is a variant of which, and how they share the traffic.
//!
//! An invalid variant gets no traffic, and has no hostname: the stable one gets its share.

mod counted_errors;
mod mirror;
mod split;
mod view;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::mirror::MirrorSettings;
pub(super) use self::mirror::mirroring;
pub use self::split::Previous;
pub(super) use self::split::{SplitSettings, assemble};
pub use self::view::{SplitView, UnusableVariant, split_view};
use super::annotations::{Reader, Reading};
use crate::model::vocabulary::{
    AFFINITY, CANARY_COOKIE, CANARY_HEADER, CANARY_HEADER_VALUE, CANARY_OF, CANARY_SALT,
    CANARY_WEIGHT, Key, KeyPlace, MIRROR_PERCENT, MIRROR_UNSAFE_METHODS, PORT, VOCABULARY,
};
use crate::model::{NamespacedName, check_label};
use crate::problem::Problem;
pub use crate::resources::values::NamedRange;
use crate::resources::values::{self, MAX_SALT};
use crate::resources::{Resources, Service, ServicePort};
use crate::snapshot::backend::UpstreamProtocol;
use crate::snapshot::split::{Affinity, ForcedBy, Weight};

/// The name of the variant that is no canary.
pub const STABLE: &str = "stable";
/// The keys that a variant has of its own. All others are those of its service.
const OWN: [Key; 9] = [
    PORT,
    CANARY_OF,
    CANARY_WEIGHT,
    CANARY_HEADER,
    CANARY_HEADER_VALUE,
    CANARY_COOKIE,
    CANARY_SALT,
    MIRROR_PERCENT,
    MIRROR_UNSAFE_METHODS,
];
/// The keys by which a variant answers requests.
const ANSWERING: [Key; 4] = [CANARY_WEIGHT, CANARY_HEADER, CANARY_HEADER_VALUE, CANARY_COOKIE];
/// The keys by which a variant gets copies of requests.
const MIRRORING: [Key; 2] = [MIRROR_PERCENT, MIRROR_UNSAFE_METHODS];

/// A Service that is a variant of another one.
pub(super) struct Variant<'a> {
    pub(super) service: &'a Service,
    /// The port for requests, and its protocol; without them it gets no traffic.
    pub(super) backend: Option<(&'a ServicePort, UpstreamProtocol)>,
    /// Its share in buckets.
    weight: u16,
    /// The requests that ask for it, and those that ask for the stable one instead.
    forced: Vec<Asked>,
    salt: Option<Arc<str>>,
    mirror: Option<MirrorSettings>,
}

// === impl Variant ===

impl Variant<'_> {
    fn name(&self) -> Arc<str> {
        self.service.origin.name.clone()
    }

    /// Whether it only gets copies of requests, and answers none.
    fn is_shadow(&self) -> bool {
        let has = |key: &Key| self.service.annotations.get(key.name).is_some();
        MIRRORING.iter().any(has) && !ANSWERING.iter().any(has)
    }
}

/// The variants that can answer requests, in the same order: those among which a split is.
pub(super) fn answering<'v, 's>(variants: &'v [Variant<'s>]) -> Vec<&'v Variant<'s>> {
    variants.iter().filter(|variant| variant.backend.is_some() && !variant.is_shadow()).collect()
}

/// A way to ask for a variant.
struct Asked {
    by: ForcedBy,
    value: Arc<str>,
    /// Whether it is the variant that is asked for, not the stable one.
    is_own: bool,
}

/// The variants of each Service, the oldest first.
pub(super) type Variants<'a> = BTreeMap<NamespacedName, Vec<Variant<'a>>>;

/// Whether a Service is a variant of another one, even of one that does not exist: then it has no
/// hostname.
pub(super) fn is_variant(service: &Service) -> bool {
    service.annotations.get(CANARY_OF.name).is_some()
}

/// Reads what a Service says of itself as a variant, and which Service it is a variant of; `None`
/// where it is of none, which was reported.
pub(super) fn read<'a>(
    service: &'a Service,
    backend: Option<(&'a ServicePort, UpstreamProtocol)>,
    resources: &Resources,
    reader: &mut Reader<'_>,
) -> Option<(NamespacedName, Variant<'a>)> {
    for key in VOCABULARY.into_iter().filter(is_of_the_service) {
        if service.annotations.get(key.name).is_some() {
            let help = "set it on the Service that this one is a variant of, or remove it";
            reader.warn("NoEffect", format!("`{key}` has no effect on a variant"), help);
        }
    }
    let (weight, forced, salt) = (weight(reader), forced(reader), salt(reader));
    let mirror = MirrorSettings::read(reader);
    let target = target(service, resources, reader)?;
    Some((target, Variant { service, backend, weight, forced, salt, mirror }))
}

fn is_of_the_service(key: &Key) -> bool {
    matches!(key.place, KeyPlace::Service | KeyPlace::Both) && !OWN.contains(key)
}

/// Reports the keys of variants on a Service that is none.
pub(super) fn check_stable(service: &Service, reader: &mut Reader<'_>) {
    for key in ANSWERING.into_iter().chain(MIRRORING) {
        if service.annotations.get(key.name).is_some() {
            let message = format!("`{key}` has no effect without `{CANARY_OF}`");
            reader.warn("NoEffect", message, "set it on the Service that is the variant");
        }
    }
}

/// Reports the variants of a Service that is not exposed.
pub(super) fn report_unused(
    service: &Service,
    variants: &[Variant<'_>],
    problems: &mut Vec<Problem>,
) {
    for variant in variants {
        let message = format!("it gets no traffic: Service {} is not exposed", service.origin.name);
        let help = format!("expose that Service, or remove `{CANARY_OF}`");
        Reader::of(variant.service, problems).warn("NoEffect", message, &help);
    }
}

/// Reads what callers keep their variant by, and whether they keep their endpoint by it: only where
/// the Service says so, since that balances load less well.
pub(super) fn affinity(reader: &mut Reader<'_>) -> (Affinity, bool) {
    let help = "write user, cookie, source-ip, header:NAME or none; until then callers keep their \
                variant by user, and no endpoint";
    let parse = |text: &str| match text {
        "user" => Ok(Affinity::User),
        "cookie" => Ok(Affinity::Cookie),
        "source-ip" => Ok(Affinity::SourceIp),
        "none" => Ok(Affinity::None),
        _ => match text.strip_prefix("header:") {
            Some(name) => values::header(name).map(Affinity::Header),
            None => Err("is invalid".to_owned()),
        },
    };
    match reader.read(AFFINITY, help, parse).good() {
        Some(Affinity::None) => (Affinity::None, false),
        Some(affinity) => (affinity, true),
        None => (Affinity::default(), false),
    }
}

fn target(
    service: &Service,
    resources: &Resources,
    reader: &mut Reader<'_>,
) -> Option<NamespacedName> {
    let help = "write the name of a Service of the same Namespace; until then this one gets no \
                traffic, and has no hostname";
    let parse = |text: &str| {
        if text.contains('/') {
            return Err("names a Namespace: a variant is in that of its service".to_owned());
        }
        check_label(text).map_err(|error| error.to_string())?;
        let target = NamespacedName::new(service.origin.namespace.clone(), text);
        match resources.service(&target) {
            _ if *text == *service.origin.name => Err("names this Service itself".to_owned()),
            None => Err("names a Service that does not exist".to_owned()),
            Some(found) if is_variant(found) => Err("names a variant of another one".to_owned()),
            Some(_) => Ok(target),
        }
    };
    let target = reader.read(CANARY_OF, help, parse).good()?;
    if *service.origin.name == *STABLE {
        let message = format!("a variant cannot have the name `{STABLE}`, which metrics use");
        reader.error("InvalidVariant", message, "give the Service another name");
        return None;
    }
    Some(target)
}

/// The weight in buckets; 0 without one, and if there is no valid one.
fn weight(reader: &mut Reader<'_>) -> u16 {
    let fix = "write a percentage from 0 to 100 with two decimals at most, such as 5 or 0.25";
    let read = reader.read_lasting(CANARY_WEIGHT, fix, "it is 0", values::percentage);
    read.good().map_or(0, Weight::buckets)
}

/// The ways to ask for a variant. A header without a value, and a cookie, ask for it by `always`,
/// and for the stable one by `never`.
fn forced(reader: &mut Reader<'_>) -> Vec<Asked> {
    let no_header = "no header asks for this variant";
    let fix = "write the name of a header that carries no credential, such as X-Canary";
    let name = reader.read_lasting(CANARY_HEADER, fix, no_header, values::header);
    let fix = "write a text of printable ASCII characters";
    let value = reader.read_lasting(CANARY_HEADER_VALUE, fix, no_header, values::header_value);
    let fix = "write the name of a cookie, such as canary";
    let no_cookie = "no cookie asks for this variant";
    let cookie = reader.read_lasting(CANARY_COOKIE, fix, no_cookie, values::cookie).good();
    let mut forced = Vec::new();
    match (name, value) {
        (Reading::Good(name), Reading::Good(value)) => {
            forced.push(Asked { by: ForcedBy::Header(name), value, is_own: true });
        }
        (Reading::Good(name), Reading::Absent) => {
            forced.extend(always_and_never(&ForcedBy::Header(name)));
        }
        (Reading::Absent, Reading::Good(_) | Reading::Bad) => {
            let message =
                format!("`{CANARY_HEADER_VALUE}` has no effect without `{CANARY_HEADER}`");
            reader.warn("NoEffect", message, "name the header, or remove the annotation");
        }
        (Reading::Absent, Reading::Absent)
        | (Reading::Bad, _)
        | (Reading::Good(_), Reading::Bad) => {}
    }
    forced.extend(cookie.iter().flat_map(|name| always_and_never(&ForcedBy::Cookie(name.clone()))));
    forced
}

fn always_and_never(by: &ForcedBy) -> [Asked; 2] {
    [("always", true), ("never", false)].map(|(value, is_own)| Asked {
        by: by.clone(),
        value: value.into(),
        is_own,
    })
}

/// Reads the salt of a rollout.
fn salt(reader: &mut Reader<'_>) -> Option<Arc<str>> {
    let fix = format!("write a text of {MAX_SALT} bytes at most, another one for each rollout");
    reader.read_lasting(CANARY_SALT, &fix, "the service's name is used", values::salt).good()
}
