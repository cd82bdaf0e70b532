//! The origins whose scripts may read a Service's responses, from its annotation. A Service chooses
//! among those of the configuration.

use super::annotations::{ItemProblems, Reader, excerpt};
use crate::model::vocabulary::CORS_ORIGINS;
use crate::model::{InvalidOrigin, OriginPattern, OriginSet};
use crate::snapshot::filter::{Cors, Filter};

/// The filter of a Service; `None` if no script of another origin may read its responses.
pub(super) fn filter(operator: &OriginSet, service: &mut Reader<'_>) -> Option<Filter> {
    let help = "write origins such as https://app.example.com, separated by commas; until then \
                their scripts cannot read its responses";
    let parse = |text: &str| {
        text.parse::<OriginPattern>().map_err(|error: InvalidOrigin| error.to_string())
    };
    let mut origins = service.read_list(CORS_ORIGINS, help, parse).good()?;
    let mut rejected = ItemProblems::new(CORS_ORIGINS, "OriginNotAllowed");
    let add_it = "add it to `cors.origins` in the gateway's configuration, or remove it here";
    origins.retain(|origin| {
        let is_covered = operator.covers(origin);
        if !is_covered {
            rejected.report(service, add_it, || {
                format!(
                    "`{}` in `{CORS_ORIGINS}` has no effect: the gateway's configuration does not \
                     list it",
                    excerpt(&origin.to_string())
                )
            });
        }
        is_covered
    });
    rejected.finish(service, add_it);
    let allow_origins: OriginSet = origins.into_iter().collect();
    (!allow_origins.is_empty()).then(|| Filter::Cors(Cors { allow_origins: allow_origins.into() }))
}
