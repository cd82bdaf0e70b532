//! Where weights are written: a cluster, or a folder of manifests.

use std::path::PathBuf;

use clap::Args;
use portcullis_config::model::NamespacedName;
use portcullis_config::settings::KubernetesSettings;
use portcullis_config::traffic::cluster::Cluster;
use portcullis_config::traffic::folder::Folder;
use portcullis_config::traffic::{Change, InvalidChange, Outcome, Selector, TrafficError};
use portcullis_config::translate::SplitView;

use crate::cli::problems::Failure;

/// Selects a Service, and where it is.
#[derive(Debug, Args)]
pub(super) struct PlaceArgs {
    /// Namespace of the Service, instead of that of the kubeconfig
    #[arg(short, long)]
    namespace: Option<String>,
    /// Environment of the Service, instead of its Namespace
    #[arg(short, long)]
    environment: Option<String>,
    /// Folder of manifests, instead of a cluster
    #[arg(long, value_name = "PATH")]
    folder: Option<PathBuf>,
    /// Context of the kubeconfig, instead of the current one
    #[arg(long, conflicts_with = "folder")]
    context: Option<String>,
}

/// A cluster or a folder, and a Service of it.
pub(super) struct Place {
    selector: Selector,
    source: Source,
}

enum Source {
    Cluster(Cluster),
    Folder(Folder),
}

// === impl PlaceArgs ===

impl PlaceArgs {
    /// The context of the kubeconfig, if one is named.
    pub(super) fn context(&self) -> Option<&str> {
        self.context.as_deref()
    }

    /// The place of the Service of that name.
    pub(super) async fn open(self, service: String) -> Result<Place, Failure> {
        let Self { namespace, environment, folder, context } = self;
        let source = match folder {
            Some(folder) => Source::Folder(Folder::new(folder)),
            None => {
                let settings = KubernetesSettings { context, ..KubernetesSettings::default() };
                Source::Cluster(Cluster::new(&settings).await.map_err(|error| failure(&error))?)
            }
        };
        Ok(Place { selector: Selector { service, namespace, environment }, source })
    }
}

// === impl Place ===

impl Place {
    /// Changes weights.
    pub(super) async fn set(
        &self,
        change: &Change,
        expected: Option<u64>,
        force: bool,
    ) -> Result<Outcome, Failure> {
        let outcome = match &self.source {
            Source::Cluster(cluster) => cluster.set(&self.selector, change, expected, force).await,
            Source::Folder(folder) => folder.set(&self.selector, change, expected, force),
        };
        outcome.map_err(|error| failure(&error))
    }

    /// The Service and its variants.
    pub(super) async fn view(&self) -> Result<(NamespacedName, SplitView), Failure> {
        let view = match &self.source {
            Source::Cluster(cluster) => cluster.view(&self.selector).await,
            Source::Folder(folder) => folder.view(&self.selector),
        };
        view.map_err(|error| failure(&error))
    }
}

fn failure(error: &TrafficError) -> Failure {
    let help = match error {
        TrafficError::Owned { .. } => "set the weights there, or take over with --force",
        TrafficError::Invalid(InvalidChange::Missing { .. }) => {
            "set the weights when these Services are back, or let --force drop theirs"
        }
        TrafficError::Invalid(InvalidChange::DoubtfulPrevious { .. }) => {
            "set the weights, or restore with --force what is left of that split"
        }
        TrafficError::NotFound(_) => "name the Namespace with -n, or the environment with -e",
        TrafficError::Source(_) => "set KUBECONFIG, or name a folder of manifests with --folder",
        _ => return Failure::new(error),
    };
    Failure::with_help(error, help)
}
