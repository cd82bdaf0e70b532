//! `portcullis install`: the manifests of an installation, for the cluster that is there.

mod cluster;
mod manifests;
mod plan;

pub(super) use self::manifests::of_account;

use std::process::ExitCode;

use clap::Args;
use portcullis_config::model::Hostname;
use tokio::runtime::Builder;

use self::cluster::Cluster;
pub(super) use self::plan::Exposure;
use self::plan::{Certificate, Choices, plan};
use super::kubectl::{Kubectl, namespace};
use super::output;
use super::problems::Failure;

/// Print the manifests of an installation for this cluster
///
/// `portcullis install --zone apps.example.com | kubectl apply -f -` installs or changes it. What
/// the cluster has decides what is not given: whether there are load balancers, and whether
/// external-dns writes the zone's record. What was found is printed to standard error. Nothing is
/// changed.
#[derive(Debug, Args)]
pub(super) struct Install {
    /// DNS domain that the gateway serves, such as apps.example.com
    #[arg(long, value_parser = zone)]
    zone: Hostname,
    /// Namespace of the gateway
    #[arg(short, long, default_value = "portcullis", value_parser = namespace)]
    namespace: String,
    /// Image of the gateway, as the nodes pull it [default: portcullis, with this version as tag]
    #[arg(long)]
    image: Option<String>,
    /// How clients reach the gateway, instead of what the cluster suggests
    #[arg(long, value_enum)]
    exposure: Option<Exposure>,
    /// Secret of type kubernetes.io/tls with a certificate for the zone, in the gateway's Namespace
    #[arg(long, value_name = "SECRET", conflicts_with = "acme")]
    certificate: Option<String>,
    /// Order certificates at Let's Encrypt, whose terms of service you accept by that
    #[arg(long)]
    acme: bool,
    /// Context of the kubeconfig, instead of the current one
    #[arg(long)]
    context: Option<String>,
}

// === impl Install ===

impl Install {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
        runtime.block_on(async {
            let kubectl = Kubectl::new(self.context.as_deref());
            let choices = self.choices();
            let cluster = Cluster::read(&kubectl, &choices.namespace).await?;
            let plan = plan(&cluster, &choices)?;
            let manifests = manifests::render(&kubectl, &plan).await?;
            for note in &plan.notes {
                output::report(&format!("{}\n", output::printable(note)))?;
            }
            output::write(&manifests)
        })?;
        Ok(ExitCode::SUCCESS)
    }

    fn choices(self) -> Choices {
        let image = self.image.unwrap_or_else(|| "portcullis".to_owned());
        let certificate = match self.certificate {
            Some(secret) => Certificate::Secret(secret),
            None if self.acme => Certificate::Acme,
            None => Certificate::None,
        };
        Choices {
            zone: self.zone,
            namespace: self.namespace,
            image,
            exposure: self.exposure,
            certificate,
        }
    }
}

fn zone(text: &str) -> Result<Hostname, String> {
    text.parse().map_err(|error| format!("not a valid domain: it {error}"))
}
