//! What `portcullis check` does not read: the resources of a cluster.

use std::fmt;
use std::path::PathBuf;

use portcullis_config::problem::Problem;
use portcullis_config::settings::{CertificateSettings, Settings, SourceSettings};

/// The resources that a configuration's gateway reads, and this command does not.
pub(super) struct Unread {
    configuration: PathBuf,
    /// The Secrets of certificates, as `namespace/name`.
    secrets: Vec<String>,
    /// The Namespace of credentials.
    credentials: Option<String>,
}

// === impl Unread ===

impl Unread {
    /// For a configuration whose source is a cluster.
    pub(super) fn new(configuration: PathBuf, settings: &Settings) -> Self {
        let secrets = settings.certificates.iter().filter_map(|certificate| match certificate {
            CertificateSettings::Secret { namespace, name } => Some(format!("{namespace}/{name}")),
            CertificateSettings::Files { .. } => None,
        });
        Self {
            configuration,
            secrets: secrets.collect(),
            credentials: settings.access.credentials_namespace.clone(),
        }
    }
}

/// Whether a problem is that a Secret was not found, which in a cluster has not been looked for.
pub(super) fn causes(settings: &Settings, problem: &Problem) -> bool {
    matches!(settings.source, SourceSettings::Kubernetes(_)) && problem.reason == "NoCertificate"
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.configuration.display();
        writeln!(f, "{file}: not read, because `source` is a cluster:")?;
        writeln!(f, "  its Namespaces, Services and EndpointSlices")?;
        for secret in &self.secrets {
            writeln!(f, "  the certificate in the Secret {secret}")?;
        }
        if let Some(namespace) = &self.credentials {
            writeln!(f, "  the credentials in the Namespace {namespace}")?;
        }
        writeln!(f, "  `portcullis check --admin` reports the problems of a running gateway")
    }
}
