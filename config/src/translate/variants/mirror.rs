//! Shadows: Services that get copies of a Service's requests.

use super::Variant;
use crate::model::vocabulary::{MIRROR_PERCENT, MIRROR_UNSAFE_METHODS};
use crate::problem::Problem;
use crate::resources::values;
use crate::snapshot::backend::Backend;
use crate::snapshot::filter::{Filter, Mirror};
use crate::snapshot::split::{BUCKETS, Weight};
use crate::translate::annotations::{Reader, Reading};

/// The most shadows of a Service: each costs it a copy of its requests.
const MAX_MIRRORS: usize = 4;
/// A hundredth of a percent, per million.
const PER_MILLION: u32 = 1_000_000 / BUCKETS as u32;

/// What a variant says of the copies that it gets.
pub(in crate::translate) struct MirrorSettings {
    /// The share of requests, in hundredths of a percent, above zero.
    share: u16,
    unsafe_methods: bool,
}

// === impl MirrorSettings ===

impl MirrorSettings {
    /// Reads them; `None` where it gets no copies.
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let fix = "write a percentage from 0 to 100 with two decimals at most, such as 5 or 0.25";
        let share =
            reader.read_lasting(MIRROR_PERCENT, fix, "no request is copied", values::percentage);
        let help = "write \"true\" or \"false\"; until then only GET, HEAD and OPTIONS are copied";
        let unsafe_methods = reader.read_flag(MIRROR_UNSAFE_METHODS, help);
        if matches!((&share, &unsafe_methods), (Reading::Absent, Reading::Good(_))) {
            let message =
                format!("`{MIRROR_UNSAFE_METHODS}` has no effect without `{MIRROR_PERCENT}`");
            reader.warn("NoEffect", message, "set the percentage, or remove the annotation");
        }
        let share = share.good().map(Weight::buckets).filter(|share| *share > 0)?;
        Some(Self { share, unsafe_methods: unsafe_methods == Reading::Good(true) })
    }

    /// The filter that copies requests to `backend`.
    pub(in crate::translate) fn filter(&self, backend: Backend) -> Filter {
        Filter::Mirror(Mirror {
            backend,
            per_million: u32::from(self.share) * PER_MILLION,
            unsafe_methods: self.unsafe_methods,
        })
    }
}

/// The variants that get copies of requests, the oldest first: at most [`MAX_MIRRORS`].
pub(in crate::translate) fn mirroring<'v, 's>(
    variants: &'v [Variant<'s>],
    problems: &mut Vec<Problem>,
) -> Vec<(&'v Variant<'s>, &'v MirrorSettings)> {
    let with_settings = |variant: &'v Variant<'s>| Some((variant, variant.mirror.as_ref()?));
    let mut mirroring: Vec<_> = variants.iter().filter_map(with_settings).collect();
    for (extra, _) in mirroring.drain(MAX_MIRRORS.min(mirroring.len())..) {
        let message = format!("{MAX_MIRRORS} older Services get copies of these requests already");
        let help = format!("remove `{MIRROR_PERCENT}` from some of them");
        Reader::of(extra.service, problems).error("TooManyMirrors", message, &help);
    }
    mirroring
}
