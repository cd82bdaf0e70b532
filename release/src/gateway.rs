//! The gateway, as rollouts use it: the weights of variants, and the feed of all replicas.
//!
//! [`Gateway`] is what the runner knows; [`Replicas`] is the real one.

mod replicas;

use futures::future::BoxFuture;

use crate::cluster::ClusterError;
use crate::feed::{Reading, Service};
use crate::rollout::Split;

pub use self::replicas::{GatewayError, Replicas};

/// The result of a call.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, ClusterError>>;

/// The split of a stable Service, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenSplit {
    /// The canary's weight, and how often the split was changed.
    pub split: Split,
    /// The generation that replicas report once they have applied it; `None` where the Service has no
    /// variants, so that there is nothing to apply.
    pub reported: Option<u64>,
    /// Who has written it, if that is known: a field manager.
    pub by: Option<String>,
}

/// The gateway of a cluster.
pub trait Gateway: Send + Sync {
    /// The split of a Service.
    fn split<'a>(&'a self, service: &'a Service) -> Answer<'a, WrittenSplit>;

    /// Sets the canary's weight, in hundredths of a percent, if the split still has this generation.
    /// If it has another one, nothing happens.
    fn set_weight<'a>(
        &'a self,
        service: &'a Service,
        weight: u16,
        if_generation: u64,
    ) -> Answer<'a, ()>;

    /// Sets from which latency on, in milliseconds, the feed reports who met a slow response.
    fn set_latency_threshold<'a>(
        &'a self,
        service: &'a Service,
        milliseconds: u64,
    ) -> Answer<'a, ()>;

    /// Reads what each replica has counted of a Service; fails if the replicas cannot be found.
    /// Windows that start before `from`, in seconds since 1970, may be left out.
    fn read<'a>(&'a self, service: &'a Service, from: u64) -> Answer<'a, Vec<Reading>>;
}
