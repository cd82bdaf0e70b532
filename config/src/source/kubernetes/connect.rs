//! The way to the API server.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::settings::KubernetesSettings;
use crate::source::SourceError;

/// For a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A client by the configuration's kubeconfig; without one by the pod's ServiceAccount, else by
/// `KUBECONFIG` or `~/.kube/config`.
pub(crate) async fn client(settings: &KubernetesSettings) -> Result<Client, SourceError> {
    connect(settings).await.map(|(client, _)| client)
}

/// The same, with the address of the API server where the client goes by one.
pub(super) async fn connect(
    settings: &KubernetesSettings,
) -> Result<(Client, Option<SocketAddr>), SourceError> {
    let mut config = config(settings).await?;
    let address = address(&config);
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // A quiet watch is not a dead one: each request has a limit of its own.
    config.read_timeout = None;
    let client =
        Client::try_from(config).map_err(|error| SourceError::Kubernetes(error.to_string()))?;
    Ok((client, address))
}

/// The address in the API server's URL; `None` where that has a name.
fn address(config: &Config) -> Option<SocketAddr> {
    let url = &config.cluster_url;
    let host: IpAddr = url.host()?.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
    let default = if url.scheme_str() == Some("http") { 80 } else { 443 };
    Some(SocketAddr::new(host, url.port_u16().unwrap_or(default)))
}

async fn config(settings: &KubernetesSettings) -> Result<Config, SourceError> {
    let options =
        KubeConfigOptions { context: settings.context.clone(), ..KubeConfigOptions::default() };
    match &settings.kubeconfig {
        Some(path) => from_file(path, &options).await,
        None if settings.context.is_none()
            && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() =>
        {
            Config::incluster().map_err(|error| {
                SourceError::Kubernetes(format!("the pod's ServiceAccount cannot be used: {error}"))
            })
        }
        None => Config::from_kubeconfig(&options)
            .await
            .map_err(|error| SourceError::Kubernetes(error.to_string())),
    }
}

async fn from_file(path: &Path, options: &KubeConfigOptions) -> Result<Config, SourceError> {
    let wrong = |error: kube::config::KubeconfigError| {
        SourceError::Kubernetes(format!("{}: {error}", path.display()))
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
    Config::from_custom_kubeconfig(kubeconfig, options).await.map_err(wrong)
}
