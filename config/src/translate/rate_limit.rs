//! Rate limits from annotations: those of a Service, and those of its Namespace besides.

use std::sync::Arc;

use super::annotations::Reader;
use crate::model::Origin;
use crate::model::vocabulary::RATE_LIMIT;
use crate::resources::values::{self, MAX_LIMITS};
use crate::snapshot::rate_limit::{RateLimit, RateScope};

/// All limits of a Service: its own, then those of its Namespace, which it cannot widen.
pub(super) fn of_service(namespace: &[RateLimit], service: &mut Reader<'_>) -> Arc<[RateLimit]> {
    let own = read(service);
    let service = owner(service.origin);
    let inherited = namespace.iter().map(|limit| match limit.per {
        // Each Service of the Namespace by itself.
        RateScope::Service => RateLimit { owner: service.clone(), ..limit.clone() },
        _ => limit.clone(),
    });
    let mut limits: Vec<RateLimit> = Vec::new();
    for limit in own.into_iter().chain(inherited) {
        // Twice the same limit would count each request twice.
        if !limits.contains(&limit) {
            limits.push(limit);
        }
    }
    limits.into()
}

/// Reports that a limit is not divided, because the number of replicas is `unknown`.
pub(super) fn check_divided(limits: &[RateLimit], unknown: bool, service: &mut Reader<'_>) {
    if unknown && limits.iter().any(|limit| limit.divided) {
        let message = "`divided` has no effect in a gateway that reads a folder: it does not know \
                       the number of replicas, so that each allows the whole limit";
        let help = "let the gateway read the cluster, or write a lower limit";
        service.warn("NotDivided", message.to_owned(), help);
    }
}

/// The limits of a Namespace or a Service.
pub(super) fn read(reader: &mut Reader<'_>) -> Vec<RateLimit> {
    let fix = "write limits such as `100/s` or `1000/m burst 50 per application divided`, separated \
               by commas";
    let help = reader.lasting_help(RATE_LIMIT, fix, "this limit does not apply");
    let owner = owner(reader.origin);
    let mut count = 0;
    let read = reader.read_list(RATE_LIMIT, &help, |text| {
        let limit = values::rate_limit(&owner, text)?;
        count += 1;
        if count > MAX_LIMITS {
            return Err(format!("is one limit too many: there can be {MAX_LIMITS}"));
        }
        Ok(limit)
    });
    let last = reader.annotations.last_valid(RATE_LIMIT);
    let last = last.and_then(|text| values::rate_limits(&owner, text));
    last.or_else(|| read.good()).unwrap_or_default()
}

/// The resource that has the limits, wherever it was read from.
fn owner(origin: &Origin) -> Origin {
    Origin { place: None, ..origin.clone() }
}
