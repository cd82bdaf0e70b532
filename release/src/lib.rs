//! Releases: what was built, where it is deployed, and the way back.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`model`] | names and identifiers of services, environments, releases and deployments |
//! | [`state`] | the state machines of a deployment and of a service in an environment: pure |
//! | [`manifest`] | templates of manifests: parsed, checked, rendered: pure |
//! | [`store`] | what was accepted, durably |
//! | [`registry`] | tags to verified digests |
//! | [`cluster`] | manifests applied, observed and pruned in Kubernetes |
//! | [`runner`] | performs the actions of open deployments |
//! | [`access`] | callers of the API and their scopes |
//! | [`api`] | the HTTP API |
//! | [`settings`] | the configuration of `portcullis builder` |
//! | [`builder`] | everything combined |
//!
//! Each step of a deployment is recorded before it is performed, and performing it twice is the
//! same as performing it once. So a builder that is killed at any instant resumes.

pub mod access;
pub mod api;
pub mod builder;
mod causes;
pub mod cluster;
pub mod manifest;
pub mod model;
pub mod registry;
pub mod runner;
pub mod settings;
pub mod state;
pub mod store;
