//! The image registry: tags to digests that were verified.
//!
//! Only configured registries are contacted, so that a caller cannot make the builder send requests
//! to other hosts. Nor can a registry: see [`session`].

mod challenge;
mod credentials;
mod image_manifest;
mod reference;
mod session;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::time::Duration;

use portcullis_identity::outbound::Client;
use portcullis_identity::tls_roots::AuthoritiesError;

use self::credentials::Credentials;
use self::reference::Reference;
use self::session::Session;
use crate::settings::RegistrySettings;

/// The longest that resolving a tag may take. Clients of the API wait for it.
const TIMEOUT: Duration = Duration::from_secs(8);

/// All configured registries, by host.
pub struct Registries(HashMap<String, RegistrySettings>);

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
#[error("the registry {0}: {1}")]
pub struct RegistryError(String, #[source] AuthoritiesError);

// === impl Registries ===

impl Registries {
    /// Checks that a client for each registry can be set up.
    ///
    /// # Errors
    /// A file of authorities cannot be read or used.
    pub fn new(settings: &[RegistrySettings]) -> Result<Self, RegistryError> {
        let mut registries = HashMap::new();
        for settings in settings {
            client(settings).map_err(|error| RegistryError(settings.host.clone(), error))?;
            registries.insert(settings.host.clone(), settings.clone());
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
            image.parse().map_err(|()| ImageError::Invalid(image.to_owned()))?;
        let host = reference.host.as_str();
        let settings =
            self.0.get(host).ok_or_else(|| ImageError::UnknownRegistry(host.to_owned()))?;
        let late = |_| unavailable(host, format!("no response in {} s", TIMEOUT.as_secs()));
        let digest = tokio::time::timeout(TIMEOUT, digest(settings, &reference));
        let digest = digest.await.map_err(late)?.map_err(|error| match error {
            ImageError::NotFound(_) => ImageError::NotFound(image.to_owned()),
            error => error,
        })?;
        Ok(format!("{host}/{}@{digest}", reference.repository))
    }
}

/// The digest of an image, of the manifest that its registry has now.
async fn digest(settings: &RegistrySettings, reference: &Reference) -> Result<String, ImageError> {
    let host = reference.host.as_str();
    let failed = |reason: String| unavailable(host, reason);
    // For one image: the kubelet replaces files of Secrets.
    let client = client(settings).map_err(|error| failed(error.to_string()))?;
    let credentials = match &settings.credentials {
        Some(path) => Some(Credentials::read(path, host).map_err(failed)?),
        None => None,
    };
    let mut session = Session::new(
        client,
        host,
        settings.token_server.as_deref(),
        &reference.repository,
        credentials,
    );
    let path = format!("manifests/{}", reference.version());
    let answer = session.get(&path, &image_manifest::MEDIA_TYPES).await?;
    let digest = image_manifest::verify(&answer.headers, &answer.body)
        .map_err(|reason| failed(reason.to_owned()))?;
    match &reference.digest {
        Some(named) if *named != digest => {
            Err(failed("the manifest that it sent has another digest than the image".to_owned()))
        }
        _ => Ok(digest),
    }
}

fn client(settings: &RegistrySettings) -> Result<Client, AuthoritiesError> {
    Client::new(settings.certificate_authorities.as_deref())
}

fn unavailable(host: &str, reason: String) -> ImageError {
    ImageError::Unavailable(host.to_owned(), reason)
}
