//! Builds: from commits of repositories to images and releases.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`path`] | paths inside a repository |
//! | [`tree`] | the files of a commit |
//! | [`git`] | reads a repository by the `git` command |
//! | [`targets`] | which images a commit has, and which of their inputs changed: pure |
//! | [`schedule`] | which commit is built next: pure |
//! | [`survey`] | everything that a commit would build, and every problem |
//! | [`mirror`] | a branch, fetched over HTTPS or SSH |
//! | [`sandbox`] | a build as a process in namespaces of its own |
//! | `proxy` | how a build reaches mirrors of packages, and nothing else |
//! | [`jobs`] | a build as a Job of a cluster |
//! | `base` | the images that builds start from |
//! | [`oci`] | the image that a build leaves |
//! | [`buildah`] | an image of a Dockerfile, of a command or of Bazel |
//! | [`bazel`] | the targets of a workspace of Bazel |
//! | [`log`] | what a build prints |
//! | [`webhook`] | signatures of push webhooks: pure |
//! | [`queue`] | builds commits, one at a time for each repository |
//! | [`followers`] | follows repositories by polling and webhooks |
//! | [`status`] | what is known of repositories, for the API and the command line |
//!
//! What is in a repository was written by others. The builder reads it as git objects, never as
//! files: no symbolic link is followed, no filter or hook runs, and no path leads anywhere.

mod autopush;
mod base;
pub mod bazel;
pub mod buildah;
mod changes;
pub mod followers;
pub mod git;
pub mod jobs;
pub mod log;
pub mod mirror;
pub mod oci;
pub mod path;
mod process;
mod proxy;
pub mod queue;
pub mod sandbox;
pub mod schedule;
pub mod status;
pub mod survey;
pub mod targets;
pub mod tree;
pub mod webhook;
mod worker;
