//! What is seen of a rollout from outside, at one instant.

use serde::{Deserialize, Serialize};

use crate::analysis::Verdict;
use crate::model::Time;

/// What is seen at one instant. What could not be read is unknown, which is never a reason to go
/// forward.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// The split of the stable Service; `None` if it could not be read.
    pub split: Option<Split>,
    /// Who has written it, if that is known.
    pub split_by: Option<String>,
    /// The canary's pods; `None` if they could not be read.
    pub canary: Option<Pods>,
    /// The stable Deployment.
    pub stable: Stable,
    /// What the replicas of the gateway report.
    pub gateway: Gateway,
    /// The newest judgement, if there is one.
    pub judged: Option<Judged>,
    /// Why the stable variant fails as well, if it does: an outage is not the canary's fault.
    pub outage: Option<String>,
    /// The service's own query.
    pub query: Query,
    /// The user's check before the first request.
    pub gate: Gate,
    /// A newer release that waits for this rollout, by its number.
    pub newer: Option<u32>,
    /// Whether the environment is frozen.
    pub is_frozen: bool,
    /// Whether the release is pinned out.
    pub is_pinned: bool,
}

/// The weight of the canary in a split, and the generation of that split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The weight, in hundredths of a percent.
    pub weight: u16,
    /// Counts the changes of the split.
    pub generation: u64,
}

/// The pods of the canary.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pods {
    /// Whether any of its objects exist.
    pub exists: bool,
    /// The weight that there are enough replicas for, as they were applied.
    pub scaled_for: u16,
    /// Since when all of them are ready; `None` if one is not.
    pub ready_since: Option<Time>,
}

/// The stable Deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stable {
    /// It could not be read.
    Unknown,
    /// It does not exist.
    Missing,
    /// It exists.
    Present {
        /// Whether it has the manifests of the new release.
        is_new: bool,
        /// Since when all of its pods are ready; `None` if one is not.
        ready_since: Option<Time>,
    },
}

/// What the replicas of the gateway report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gateway {
    /// All replicas have applied this generation.
    Agrees(u64),
    /// They have applied different generations: which.
    Differs(String),
    /// A replica cannot be read: which, and why.
    Blind(String),
}

/// The result of the last look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    /// When the look ended.
    pub at: Time,
    /// The verdict.
    pub verdict: Verdict,
    /// The verdict in one sentence.
    pub sentence: String,
}

/// What the service's own query says of the canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// The service has none.
    None,
    /// It was not evaluated since the weight was set.
    Awaited,
    /// It has no number: why.
    Blind(String),
    /// The number is within its limit.
    Within,
    /// It is not, and may be again: a sentence.
    Above(String),
    /// It has not been for several times in a row: a sentence.
    Alarm(String),
}

/// The user's check of the canary, before it gets traffic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gate {
    /// The service has none.
    None,
    /// It has not been started.
    Absent,
    /// It runs.
    Running,
    /// The canary passed it.
    Passed,
    /// The canary failed it: why.
    Failed(String),
}

// === impl Observation ===

impl Observation {
    /// An observation that could read nothing.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            split: None,
            split_by: None,
            canary: None,
            stable: Stable::Unknown,
            gateway: Gateway::Blind("the gateway was not read".to_owned()),
            judged: None,
            outage: None,
            query: Query::None,
            gate: Gate::None,
            newer: None,
            is_frozen: false,
            is_pinned: false,
        }
    }

    /// Whether the canary is known to have no weight.
    pub(super) fn is_without_traffic(&self) -> bool {
        self.split.is_some_and(|split| split.weight == 0)
    }
}
