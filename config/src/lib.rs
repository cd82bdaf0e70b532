//! Where Portcullis' resources come from, and what they mean.
//!
//! This crate is the second of the four ways through the house, "a change in the cluster":
//!
//! 1. a [`source`] (a Kubernetes API server or a folder of manifests) keeps the typed store
//!    [`resources::Resources`] up to date;
//! 2. [`translate`] turns resources and [`settings::Settings`] into a [`snapshot::Snapshot`], with
//!    what is wrong collected beside it as [`problem::Problem`]s; it is a pure function;
//! 3. [`live`] swaps the snapshot in for the request path to read, and swaps a service's endpoint
//!    set alone where nothing else changed;
//! 4. [`status`] tells the owners of resources what was wrong with them.
//!
//! Beside it, [`store`] keeps what the gateway has ordered by itself, and [`session`] tells all
//! replicas what they must know of login sessions; [`bearer_review`] asks a cluster who may read
//! telemetry.
//!
//! A gateway reads [`settings::Settings::read`], makes a [`live::Live`] for its workers, and on the
//! runtime of its control plane awaits [`run`]`(Arc<Settings>, Arc<Live>, shutdown)`, which keeps
//! that up to date.
//!
//! It knows neither hyper nor rustls: certificates pass through it as bytes.

pub mod atomic_file;
pub mod bearer_review;
pub mod client_key;
mod control;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod hex;
pub mod installation;
pub mod live;
pub mod model;
mod preview;
pub mod problem;
pub mod proxies;
pub mod resources;
pub mod session;
pub mod settings;
pub mod snapshot;
pub mod source;
pub mod status;
pub mod store;
pub mod translate;
pub mod unix_time;
mod yaml;

pub use self::control::{MAX_PROBLEMS, run};
pub use self::preview::preview;
