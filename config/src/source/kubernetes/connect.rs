//! Connects to the API server.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config, Error};

use crate::proxies::Proxies;
use crate::settings::KubernetesSettings;
use crate::source::SourceError;

/// The timeout for a connection, including TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Creates a client from the configured kubeconfig, else the pod's ServiceAccount, else
/// `KUBECONFIG` or `~/.kube/config`.
pub(crate) async fn client(settings: &KubernetesSettings) -> Result<Client, SourceError> {
    connect(settings).await.map(|(client, _)| client)
}

/// Creates a client, and returns the API server's address if its URL has one.
pub(super) async fn connect(
    settings: &KubernetesSettings,
) -> Result<(Client, Option<SocketAddr>), SourceError> {
    let mut config = config(settings).await?;
    let address = address(&config);
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // A watch without events is not dead: each request has its own timeout.
    config.read_timeout = None;
    let client = Client::try_from(config).map_err(|error| {
        SourceError::Kubernetes(match error {
            // These errors print the URL, which may contain credentials.
            Error::ProxyProtocolUnsupported { .. } | Error::ProxyProtocolDisabled { .. } => {
                "the proxy for the API server is not an http:// or https:// URL".to_owned()
            }
            error => error.to_string(),
        })
    })?;
    Ok((client, address))
}

/// The address in the API server's URL; `None` if it has a hostname.
fn address(config: &Config) -> Option<SocketAddr> {
    let url = &config.cluster_url;
    let host: IpAddr = url.host()?.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
    let default = if url.scheme_str() == Some("http") { 80 } else { 443 };
    Some(SocketAddr::new(host, url.port_u16().unwrap_or(default)))
}

async fn config(settings: &KubernetesSettings) -> Result<Config, SourceError> {
    let options =
        KubeConfigOptions { context: settings.context.clone(), ..KubeConfigOptions::default() };
    let path = settings.kubeconfig.as_deref();
    if path.is_none()
        && settings.context.is_none()
        && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
    {
        return Config::incluster().map_err(|error| {
            SourceError::Kubernetes(format!("the pod's ServiceAccount cannot be used: {error}"))
        });
    }
    by_kubeconfig(path, &options).await.map_err(|error| {
        SourceError::Kubernetes(match path {
            Some(path) => format!("{}: {error}", path.display()),
            None => error.to_string(),
        })
    })
}

/// Reads the kubeconfig, including its proxy. Without one the environment's proxy applies as
/// elsewhere: `kube` uses that too, but ignores `NO_PROXY`.
async fn by_kubeconfig(
    path: Option<&Path>,
    options: &KubeConfigOptions,
) -> Result<Config, Box<dyn std::error::Error + Send + Sync>> {
    let kubeconfig = path.map_or_else(Kubeconfig::read, Kubeconfig::read_from)?;
    let mut clusters = kubeconfig.clusters.iter().filter_map(|named| named.cluster.as_ref());
    let names_proxy =
        clusters.any(|cluster| cluster.proxy_url.as_ref().is_some_and(|url| !url.is_empty()));
    let mut config = Config::from_custom_kubeconfig(kubeconfig, options).await?;
    if !names_proxy && Proxies::from_environment().proxy(&config.cluster_url)?.is_none() {
        config.proxy_url = None;
    }
    Ok(config)
}
