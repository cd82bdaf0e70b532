//! The image registry: tags to digests that were verified.
//!
//! Only configured registries are contacted, so that a caller cannot make the builder send requests
//! to other hosts. Nor can a registry: see [`session`](mod@session).

mod challenge;
mod credentials;
mod image_manifest;
mod reference;
mod session;
#[cfg(test)]
pub(crate) mod tests;
mod upload;

use std::collections::HashMap;
use std::time::Duration;

use http::header;
use portcullis_identity::outbound::{Answer, Client};
use portcullis_identity::tls_roots::AuthoritiesError;

use self::credentials::Credentials;
use self::reference::Reference;
use self::session::{Access, Session};
use crate::settings::RegistrySettings;

pub(crate) use self::image_manifest::{OCI_CONFIG, OCI_IMAGE, sha256};
pub(crate) use self::reference::is_sha256;
pub use self::upload::{Blob, Upload};

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
    /// The registry rejects what was sent, and would reject it once more.
    #[error("the registry {0} rejects the image: it returned status {1}")]
    Rejected(String, u16),
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

    /// What must not be shown of the credentials of all registries.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        let read = |settings: &RegistrySettings| {
            let path = settings.credentials.as_deref()?;
            Some(Credentials::read(path, &settings.host).ok()?.secrets())
        };
        self.0.values().filter_map(read).flatten().collect()
    }

    /// Resolves an image to its digest: asks its registry, and verifies that the manifest has the
    /// digest. Returns the image by digest, such as `registry.example.com/web@sha256:…`.
    ///
    /// # Errors
    /// It is not an image of a configured registry, or the registry does not have it.
    pub async fn resolve(&self, image: &str) -> Result<String, ImageError> {
        let (settings, reference) = self.find(image)?;
        let digest = within(&reference.host, digest(settings, &reference)).await;
        let digest = digest.map_err(|error| match error {
            ImageError::NotFound(_) => ImageError::NotFound(image.to_owned()),
            error => error,
        })?;
        Ok(format!("{}/{}@{digest}", reference.host, reference.repository))
    }

    /// Moves a tag of an image's repository to the image, which is named by its digest.
    ///
    /// # Errors
    /// It is not an image of a configured registry, or the registry does not have it, or does not
    /// let the builder move tags.
    pub async fn tag(&self, image: &str, tag: &str) -> Result<(), ImageError> {
        let (settings, reference) = self.find(image)?;
        within(&reference.host, move_tag(settings, &reference, tag)).await
    }

    /// Uploads an image, names it by a tag, and reads its digest back. Returns the image by digest.
    ///
    /// # Errors
    /// It is not an image of a configured registry, or the registry does not let the builder push,
    /// cannot be reached, or has another digest than what was sent.
    pub async fn push(&self, image: &str, upload: &Upload) -> Result<String, ImageError> {
        let (settings, reference) = self.find(image)?;
        let mut session = session(settings, &reference, Access::Push)?;
        upload.send(&mut session, reference.version()).await?;
        let (digest, _) = manifest(&mut session, &reference).await?;
        if digest != upload.digest {
            return Err(session.unavailable("it has another digest than what was sent to it"));
        }
        Ok(format!("{}/{}@{digest}", reference.host, reference.repository))
    }

    fn find(&self, image: &str) -> Result<(&RegistrySettings, Reference), ImageError> {
        let reference: Reference =
            image.parse().map_err(|()| ImageError::Invalid(image.to_owned()))?;
        let settings = self.0.get(&reference.host);
        let unknown = || ImageError::UnknownRegistry(reference.host.clone());
        Ok((settings.ok_or_else(unknown)?, reference))
    }
}

/// The result of a call to a registry, which may take [`TIMEOUT`].
async fn within<T>(
    host: &str,
    call: impl Future<Output = Result<T, ImageError>>,
) -> Result<T, ImageError> {
    let late = |_| unavailable(host, format!("no response in {} s", TIMEOUT.as_secs()));
    tokio::time::timeout(TIMEOUT, call).await.map_err(late)?
}

/// The digest of an image, of the manifest that its registry has now.
async fn digest(settings: &RegistrySettings, reference: &Reference) -> Result<String, ImageError> {
    let mut session = session(settings, reference, Access::Pull)?;
    Ok(manifest(&mut session, reference).await?.0)
}

async fn move_tag(
    settings: &RegistrySettings,
    reference: &Reference,
    tag: &str,
) -> Result<(), ImageError> {
    let mut session = session(settings, reference, Access::Push)?;
    let (_, answer) = manifest(&mut session, reference).await?;
    let content_type = answer.headers.get(header::CONTENT_TYPE).cloned();
    let content_type = content_type.ok_or_else(|| session.unavailable("it sent no type"))?;
    session.put(&format!("manifests/{tag}"), content_type, answer.body).await
}

/// The manifest of an image, and its digest, which was verified.
async fn manifest(
    session: &mut Session<'_>,
    reference: &Reference,
) -> Result<(String, Answer), ImageError> {
    let path = format!("manifests/{}", reference.version());
    let answer = session.get(&path, &image_manifest::MEDIA_TYPES).await?;
    let digest = image_manifest::verify(&answer.headers, &answer.body)
        .map_err(|reason| session.unavailable(reason))?;
    match &reference.digest {
        Some(named) if *named != digest => {
            Err(session.unavailable("the manifest that it sent has another digest than the image"))
        }
        _ => Ok((digest, answer)),
    }
}

fn session<'r>(
    settings: &'r RegistrySettings,
    reference: &'r Reference,
    access: Access,
) -> Result<Session<'r>, ImageError> {
    let host = reference.host.as_str();
    let failed = |reason: String| unavailable(host, reason);
    // For one image: the kubelet replaces files of Secrets.
    let client = client(settings).map_err(|error| failed(error.to_string()))?;
    let credentials = match &settings.credentials {
        Some(path) => Some(Credentials::read(path, host).map_err(failed)?),
        None => None,
    };
    let token_server = settings.token_server.as_deref();
    Ok(Session::new(client, host, token_server, &reference.repository, access, credentials))
}

fn client(settings: &RegistrySettings) -> Result<Client, AuthoritiesError> {
    Client::new(settings.certificate_authorities.as_deref())
}

fn unavailable(host: &str, reason: String) -> ImageError {
    ImageError::Unavailable(host.to_owned(), reason)
}
