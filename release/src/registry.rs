//! The image registry: tags to digests that were verified.
//!
//! Only configured registries are contacted, so that a caller cannot make the builder send requests
//! to other hosts.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use serde::Deserialize;

use crate::causes::causes;
use crate::settings::RegistrySettings;

/// The longest that resolving a tag may take. Clients of the API wait for it.
const TIMEOUT: Duration = Duration::from_secs(8);

/// The manifests that name an image: of one platform, and of several.
const MEDIA_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// All configured registries, by host.
pub struct Registries(HashMap<String, Registry>);

struct Registry(RegistrySettings);

/// Why an image cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Not a reference to an image.
    #[error("{0:?} is not an image: write it as `registry.example.com/name:tag`")]
    Invalid(String),
    /// The registry is not configured.
    #[error("the registry {0} is not one of the builder's `registries`")]
    UnknownRegistry(String),
    /// The registry has no such image.
    #[error("the registry has no image {0}")]
    NotFound(String),
    /// The registry rejects the credentials.
    #[error("the registry {0} rejects the builder's credentials")]
    Unauthorized(String),
    /// The registry cannot be reached, or its response is invalid.
    #[error("the registry {0} cannot be used: {1}")]
    Unavailable(String, String),
}

/// Why a registry's configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A file cannot be read.
    #[error("{0}: {1}")]
    File(String, #[source] std::io::Error),
    /// The client cannot be set up.
    #[error("the client of the registry {0} cannot be set up: {1}")]
    Client(String, String),
}

// === impl Registries ===

impl Registries {
    /// Checks that a client for each registry can be set up.
    ///
    /// # Errors
    /// A file of authorities cannot be read or used.
    pub fn new(settings: &[RegistrySettings]) -> Result<Self, RegistryError> {
        let mut registries = HashMap::new();
        for settings in settings {
            let registry = Registry(settings.clone());
            registry.client()?;
            registries.insert(settings.host.clone(), registry);
        }
        Ok(Self(registries))
    }

    /// Resolves an image to its digest: asks its registry, and verifies that the manifest has the
    /// digest. Returns the image by digest, such as `registry.example.com/web@sha256:…`.
    ///
    /// # Errors
    /// It is not an image of a configured registry, or the registry does not have it.
    pub async fn resolve(&self, image: &str) -> Result<String, ImageError> {
        let reference: Reference =
            image.parse().map_err(|_| ImageError::Invalid(image.to_owned()))?;
        let host = reference.registry();
        // A name without a registry means Docker Hub to the parser.
        if !image.starts_with(&format!("{host}/")) {
            return Err(ImageError::Invalid(image.to_owned()));
        }
        let registry =
            self.0.get(host).ok_or_else(|| ImageError::UnknownRegistry(host.to_owned()))?;
        let client = registry.client().map_err(|error| unavailable(host, error.to_string()))?;
        let authentication = registry.authentication()?;
        let pulled = client.pull_manifest_raw(&reference, &authentication, &MEDIA_TYPES);
        let late = |_| unavailable(host, format!("no response in {} s", TIMEOUT.as_secs()));
        let pulled = tokio::time::timeout(TIMEOUT, pulled).await.map_err(late)?;
        // The client has compared the digest with the manifest, and with that of the reference.
        let (_, digest) = pulled.map_err(|error| failed(&reference, &error))?;
        if !is_sha256(&digest) {
            return Err(unavailable(host, format!("its digest {digest:?} is not of SHA-256")));
        }
        Ok(format!("{host}/{}@{digest}", reference.repository()))
    }
}

// === impl Registry ===

impl Registry {
    /// A client for one image: it keeps the credentials that it was first given, and the kubelet
    /// replaces files of Secrets.
    fn client(&self) -> Result<Client, RegistryError> {
        let certificate = |path: &PathBuf| match fs::read(path) {
            Ok(data) => Ok(Certificate { encoding: CertificateEncoding::Pem, data }),
            Err(error) => Err(RegistryError::File(path.display().to_string(), error)),
        };
        let authorities = self.0.certificate_authorities.as_ref().map(certificate).transpose()?;
        let config = ClientConfig {
            tls_certs_only: authorities.into_iter().collect(),
            connect_timeout: Some(TIMEOUT),
            read_timeout: Some(TIMEOUT),
            user_agent: concat!("portcullis/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        Client::try_from(config)
            .map_err(|error| RegistryError::Client(self.0.host.clone(), error.to_string()))
    }

    fn authentication(&self) -> Result<RegistryAuth, ImageError> {
        let host = &self.0.host;
        match &self.0.credentials {
            None => Ok(RegistryAuth::Anonymous),
            Some(path) => credentials(path, host).map_err(|reason| unavailable(host, reason)),
        }
    }
}

/// Reads the credentials of a host from a file of the format of `kubernetes.io/dockerconfigjson`.
fn credentials(path: &Path, host: &str) -> Result<RegistryAuth, String> {
    #[derive(Deserialize)]
    struct DockerConfig {
        auths: HashMap<String, Login>,
    }
    #[derive(Deserialize)]
    struct Login {
        auth: Option<String>,
        username: Option<String>,
        password: Option<String>,
    }
    let file = path.display();
    let text = fs::read(path).map_err(|error| format!("{file}: {error}"))?;
    // The error of the parser would show a part of the text.
    let config: DockerConfig = serde_json::from_slice(&text)
        .map_err(|_| format!("{file} is not of the format of `kubernetes.io/dockerconfigjson`"))?;
    let login = config
        .auths
        .get(host)
        .or_else(|| config.auths.get(&format!("https://{host}")))
        .ok_or_else(|| format!("{file} has no credentials for {host}"))?;
    let pair = match (&login.username, &login.password, &login.auth) {
        (Some(username), Some(password), _) => Some((username.clone(), password.clone())),
        (_, _, Some(auth)) => {
            STANDARD.decode(auth).ok().and_then(|octets| String::from_utf8(octets).ok()).and_then(
                |text| {
                    let (username, password) = text.split_once(':')?;
                    Some((username.to_owned(), password.to_owned()))
                },
            )
        }
        _ => None,
    };
    let (username, password) =
        pair.ok_or_else(|| format!("{file} has no valid credentials for {host}"))?;
    Ok(RegistryAuth::Basic(username, password))
}

fn failed(reference: &Reference, error: &OciDistributionError) -> ImageError {
    let host = reference.registry();
    let is_missing = |code: &OciErrorCode| {
        matches!(code, OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown)
    };
    match error {
        OciDistributionError::RegistryError { envelope, .. }
            if envelope.errors.iter().any(|error| is_missing(&error.code)) =>
        {
            ImageError::NotFound(reference.to_string())
        }
        OciDistributionError::ImageManifestNotFoundError(_)
        | OciDistributionError::ServerError { code: 404, .. } => {
            ImageError::NotFound(reference.to_string())
        }
        OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::AuthenticationFailure(_) => {
            ImageError::Unauthorized(host.to_owned())
        }
        error => unavailable(host, causes(error)),
    }
}

fn unavailable(host: &str, reason: String) -> ImageError {
    ImageError::Unavailable(host.to_owned(), reason)
}

fn is_sha256(digest: &str) -> bool {
    let digits = digest.strip_prefix("sha256:").unwrap_or_default();
    digits.len() == 64 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_in_both_spellings_and_errors_show_none_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.json");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            credentials(&path, "registry.test:5000")
        };
        let expected = Ok(RegistryAuth::Basic("ci".to_owned(), "pa:ss".to_owned()));
        let auth = STANDARD.encode("ci:pa:ss");
        assert_eq!(
            read(&format!(r#"{{"auths":{{"registry.test:5000":{{"auth":"{auth}"}}}}}}"#)),
            expected
        );
        assert_eq!(
            read(
                r#"{"auths":{"https://registry.test:5000":{"username":"ci","password":"pa:ss"}}}"#
            ),
            expected
        );
        for bad in ["", "{}", r#"{"auths":{"registry.test:5000":{"auth":"c2VjcmV0"}}}"#] {
            let error = read(bad).unwrap_err();
            assert!(!error.contains("secret") && !error.contains("c2Vj"), "{error}");
        }
    }

    #[tokio::test]
    async fn only_configured_registries_are_contacted() {
        let registries = Registries(HashMap::new());
        for (image, expected) in [
            ("registry.test/web:1", "the registry registry.test is not one of"),
            ("web:1", "is not an image"),
            ("docker.io/web", "the registry docker.io is not one of"),
            ("http://169.254.169.254/latest", "is not an image"),
            ("", "is not an image"),
        ] {
            let error = registries.resolve(image).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{image}: {error}");
        }
    }
}
