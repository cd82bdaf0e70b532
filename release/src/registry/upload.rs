//! Images that are uploaded, by the OCI distribution specification ("Pushing").

use std::path::PathBuf;

use bytes::Bytes;
use http::HeaderValue;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::ImageError;
use super::image_manifest::OCI_IMAGE;
use super::session::Session;

/// The size of a part of an upload: each has 10 s.
const PART: u64 = 4 * 1024 * 1024;

/// An image to upload.
#[derive(Debug)]
pub struct Upload {
    /// Its configuration and its layers.
    pub blobs: Vec<Blob>,
    /// Its manifest, of the type [`OCI_IMAGE`].
    pub manifest: Bytes,
    /// The digest of its manifest.
    pub digest: String,
}

/// A file whose digest was verified.
#[derive(Debug)]
pub struct Blob {
    /// Its digest.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// The file.
    pub path: PathBuf,
}

// === impl Upload ===

impl Upload {
    /// Sends the blobs that the registry has not, then the manifest with a tag.
    pub(super) async fn send(
        &self,
        session: &mut Session<'_>,
        tag: &str,
    ) -> Result<(), ImageError> {
        for blob in &self.blobs {
            if !session.has_blob(&blob.digest).await? {
                blob.send(session).await?;
            }
        }
        let path = format!("manifests/{tag}");
        session.put(&path, HeaderValue::from_static(OCI_IMAGE), self.manifest.clone()).await
    }
}

// === impl Blob ===

impl Blob {
    async fn send(&self, session: &mut Session<'_>) -> Result<(), ImageError> {
        let mut url = session.start_upload().await?;
        let mut offset = 0;
        while offset < self.size {
            let part = self.part(offset).await;
            let part = part.map_err(|error| session.unavailable(&error.to_string()))?;
            let length = part.len() as u64;
            url = session.upload_part(&url, offset, part).await?;
            offset = offset.saturating_add(length);
        }
        session.end_upload(&url, &self.digest).await
    }

    async fn part(&self, offset: u64) -> std::io::Result<Bytes> {
        let mut file = File::open(&self.path).await?;
        file.seek(std::io::SeekFrom::Start(offset)).await?;
        let mut part = Vec::new();
        file.take(PART).read_to_end(&mut part).await?;
        if part.is_empty() {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
        }
        Ok(part.into())
    }
}
