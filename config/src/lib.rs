//! Configuration: reads resources and settings, and translates them into a routing table.
//!
//! A change in the cluster passes through these modules:
//!
//! 1. a [`source`] (a Kubernetes API server or a folder of manifests) keeps the typed store
//!    [`resources::Resources`] up to date;
//! 2. [`translate`] turns resources and [`settings::Settings`] into a [`snapshot::Snapshot`] and a
//!    list of [`problem::Problem`]s; it is a pure function;
//! 3. [`live`] swaps the snapshot that the request path reads, or only a service's endpoint set
//!    where nothing else changed;
//! 4. [`status`] reports problems to the owners of resources.
//!
//! [`traffic`] sets the weights of variants, for the command line and for rollouts.
//!
//! Besides, [`store`] persists what the gateway orders or generates, [`session`] shares state of
//! login sessions between replicas, and [`bearer_review`] asks a cluster who may read telemetry.
//!
//! A gateway calls [`settings::Settings::read`], creates a [`live::Live`] for its workers, and on
//! a thread of its own awaits [`run`]`(Arc<Settings>, Arc<Live>, shutdown)`, which keeps it up to
//! date.
//!
//! The crate depends on neither hyper nor rustls: certificates pass through it as bytes.

pub mod atomic_file;
pub mod bearer_review;
pub mod client_key;
mod control;
#[cfg(any(test, feature = "fuzzing"))]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what is fuzzed fails by a panic"
)]
pub mod fuzzing;
pub mod installation;
pub mod live;
pub mod model;
mod preview;
pub mod problem;
pub mod proxies;
mod rbac;
pub mod resources;
pub mod session;
pub mod settings;
pub mod snapshot;
pub mod source;
pub mod status;
pub mod store;
pub mod traffic;
pub mod translate;
pub mod unix_time;
pub mod yaml;

pub use self::control::{MAX_PROBLEMS, run};
pub use self::preview::preview;
