//! Releases: what was built, where it is deployed, and the way back.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`model`] | names and identifiers of services, environments, releases and deployments |
//! | [`state`] | the state machines of a deployment and of a service in an environment: pure |
//! | [`manifest`] | templates of manifests: parsed, checked, rendered: pure |
//! | [`store`] | what was accepted, durably |
//! | [`registry`] | tags to verified digests |
//! | [`releases`] | records releases, of API calls and of builds |
//! | [`cluster`] | manifests applied, observed and pruned in Kubernetes |
//! | [`runner`] | performs the actions of open deployments |
//! | [`tags`] | moves tags to what runs |
//! | [`sealing`] | keys that seal the data of Secrets in the store |
//! | [`gateway`] | the weights of variants, and what the replicas of the gateway have counted |
//! | [`feed`] | the traffic feed of all replicas of a gateway, added up to looks: pure |
//! | [`rollout`] | the state machine of a rollout: pure |
//! | [`analysis`] | the judgement of a canary by what is counted: pure |
//! | [`metrics`] | the metrics of rollouts |
//! | [`query`] | the services' own queries of Prometheus |
//! | [`builds`] | from commits of repositories to images and releases |
//! | [`access`] | callers of the API and their scopes |
//! | [`api`] | the HTTP API |
//! | [`settings`] | the configuration of `portcullis builder` |
//! | [`builder`] | everything combined |
//!
//! Each step of a deployment is recorded before it is performed, and performing it twice is the
//! same as performing it once. So a builder that is killed at any instant resumes.

pub mod access;
pub mod analysis;
pub mod api;
pub mod builder;
pub mod builds;
mod causes;
pub mod cluster;
mod fair_share;
pub mod feed;
pub mod gateway;
pub mod manifest;
pub mod metrics;
pub mod model;
pub mod query;
pub mod registry;
pub mod releases;
pub mod rollout;
pub mod runner;
pub mod sealing;
pub mod settings;
pub mod state;
pub mod store;
pub mod tags;
