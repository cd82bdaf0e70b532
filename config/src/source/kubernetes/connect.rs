//! The way to the API server.

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
    let mut config = config(settings).await?;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // A quiet watch is not a dead one: each request has a limit of its own.
    config.read_timeout = None;
    Client::try_from(config).map_err(|error| SourceError::Kubernetes(error.to_string()))
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
