//! The OCI image layout that a build leaves (<https://specs.opencontainers.org/image-spec/image-layout/>).
//!
//! What is built is hostile, so that its layout is read as any other input of an attacker: as a
//! stream, never unpacked, with bounds, and each blob by the digest that was computed here. The
//! manifest is written anew, with nothing but what was checked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};
use tokio::fs::{self, File};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::registry::{Blob, OCI_CONFIG, OCI_IMAGE, Upload, sha256};

/// The most files of a layout: `index.json`, `oci-layout`, a manifest, a configuration, and layers.
const MAX_FILES: usize = 1000;
/// The largest index, manifest or configuration, in bytes.
const MAX_DOCUMENT: u64 = 1024 * 1024;
/// The size of a block of an archive.
const BLOCK: usize = 512;
/// What a layer may be: nothing whose content is elsewhere.
const LAYERS: [&str; 3] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
];

/// What stands for several images.
const INDEXES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// Why a layout is not that of one image.
#[derive(Debug, thiserror::Error)]
pub enum InvalidLayout {
    /// The build left nothing.
    #[error("the build left no image")]
    Nothing,
    /// It is larger than allowed.
    #[error("the image that the build left has more than {} MiB", .0 / (1024 * 1024))]
    TooLarge(u64),
    /// It is not valid.
    #[error("the image that the build left is not valid: {0}")]
    Invalid(String),
    /// It cannot be written.
    #[error("the image cannot be stored: {0}")]
    Store(#[from] std::io::Error),
}

/// The files of a layout, as they arrived.
#[derive(Debug, Default)]
pub struct Files {
    /// The index.
    index: Option<Vec<u8>>,
    /// The sizes of blobs in a folder, by digest.
    blobs: BTreeMap<String, u64>,
    folder: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

/// What of a configuration is checked.
#[derive(Deserialize)]
struct Configuration {
    architecture: String,
    os: String,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Vec<String>,
}

/// The manifest that is pushed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pushed<'l> {
    schema_version: u32,
    media_type: &'l str,
    config: &'l Descriptor,
    layers: &'l [Descriptor],
    annotations: BTreeMap<&'static str, &'l str>,
}

/// The header of a file in an archive.
struct Header {
    path: String,
    size: u64,
    /// The type flag of ustar.
    kind: u8,
}

// === impl Files ===

impl Files {
    /// Reads an archive, and writes the blobs in it to a folder. An index, a manifest or a
    /// configuration is checked later, by [`image`](Self::image).
    ///
    /// # Errors
    /// It has other files than a layout, or more than `max` bytes.
    pub async fn receive(
        mut archive: impl AsyncRead + Unpin,
        folder: &Path,
        max: u64,
    ) -> Result<Self, InvalidLayout> {
        let mut files = Self { folder: folder.to_owned(), ..Self::default() };
        let mut left = max;
        let mut count: usize = 0;
        while let Some(header) = read_header(&mut archive).await? {
            count = count.saturating_add(1);
            if count > MAX_FILES {
                return Err(invalid(format!("it has more than {MAX_FILES} files")));
            }
            left = left.checked_sub(header.size).ok_or(InvalidLayout::TooLarge(max))?;
            files.receive_file(&mut archive, &header).await?;
            let padding = header.size.next_multiple_of(BLOCK as u64).saturating_sub(header.size);
            let mut skipped = Vec::new();
            (&mut archive).take(padding).read_to_end(&mut skipped).await?;
        }
        // A program that writes an archive fails if its last blocks, which are empty, are not read.
        tokio::io::copy(&mut archive.take(MAX_DOCUMENT), &mut tokio::io::sink()).await?;
        if count == 0 { Err(InvalidLayout::Nothing) } else { Ok(files) }
    }

    async fn receive_file(
        &mut self,
        archive: &mut (impl AsyncRead + Unpin),
        header: &Header,
    ) -> Result<(), InvalidLayout> {
        let path = header.path.trim_start_matches("./");
        if header.kind == b'5' {
            return Ok(());
        }
        if let Some(digits) = path.strip_prefix("blobs/sha256/") {
            return self.receive_blob(archive, digits, header.size).await;
        }
        if !matches!(path, "index.json" | "oci-layout") || header.size > MAX_DOCUMENT {
            return Err(invalid(format!("a layout has no file {path:?} of this size")));
        }
        let mut text = Vec::new();
        archive.take(header.size).read_to_end(&mut text).await?;
        if path == "index.json" && self.index.replace(text).is_some() {
            return Err(invalid("it has two indexes".to_owned()));
        }
        Ok(())
    }

    async fn receive_blob(
        &mut self,
        archive: &mut (impl AsyncRead + Unpin),
        digits: &str,
        size: u64,
    ) -> Result<(), InvalidLayout> {
        let is_digest = digits.len() == 64
            && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_digest {
            return Err(invalid(format!("{digits:?} is not a digest")));
        }
        let mut file = match File::create_new(self.folder.join(digits)).await {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(invalid(format!("it has the blob {digits} twice")));
            }
            file => file?,
        };
        let (mut hash, mut left) = (Context::new(&SHA256), size);
        let mut buffer = vec![0; 64 * 1024];
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let part = buffer.get_mut(..wanted).unwrap_or_default();
            archive.read_exact(part).await.map_err(|_| cut_off())?;
            hash.update(part);
            file.write_all(part).await?;
            left = left.saturating_sub(wanted as u64);
        }
        file.flush().await?;
        if hex::encode(hash.finish()) != digits {
            return Err(invalid(format!("the content of {digits} has another digest")));
        }
        self.blobs.insert(format!("sha256:{digits}"), size);
        Ok(())
    }

    /// The image, which names the commit of a repository as its source.
    ///
    /// # Errors
    /// It is not exactly one image, all of whose blobs are there.
    pub async fn image(&self, source: &str, revision: &str) -> Result<Upload, InvalidLayout> {
        let index = self.index.as_deref().ok_or_else(|| invalid("it has no index".to_owned()))?;
        let index: Index = parse("index", index)?;
        let descriptor = match index.manifests.as_slice() {
            [descriptor] if INDEXES.contains(&descriptor.media_type.as_str()) => {
                return Err(invalid(
                    "it is an index of images: leave the one to deploy".to_owned(),
                ));
            }
            [descriptor] => descriptor,
            [] => return Err(invalid("it has no image".to_owned())),
            several => {
                let count = several.len();
                return Err(invalid(format!("it has {count} images: leave the one to deploy")));
            }
        };
        if index.schema_version != 2 || descriptor.media_type != OCI_IMAGE {
            return Err(invalid("it is not an image of the OCI".to_owned()));
        }
        let manifest: Manifest = parse("manifest", &self.document(descriptor).await?)?;
        let Manifest { schema_version, config, layers } = manifest;
        if schema_version != 2 || config.media_type != OCI_CONFIG {
            return Err(invalid("its configuration is not that of an image".to_owned()));
        }
        let configuration = self.document(&config).await?;
        let Configuration { architecture, os, rootfs } = parse("configuration", &configuration)?;
        if architecture.is_empty() || os != "linux" || rootfs.kind != "layers" {
            return Err(invalid("its configuration is not that of an image for Linux".to_owned()));
        }
        if rootfs.diff_ids.len() != layers.len() {
            return Err(invalid("its configuration has other layers".to_owned()));
        }
        for layer in &layers {
            if !LAYERS.contains(&layer.media_type.as_str()) {
                return Err(invalid(format!("{:?} is not a layer", layer.media_type)));
            }
            self.blob(layer)?;
        }
        let mut blobs = Vec::new();
        for descriptor in layers.iter().chain([&config]) {
            blobs.push(self.blob(descriptor)?);
        }
        let annotations = BTreeMap::from([
            ("org.opencontainers.image.revision", revision),
            ("org.opencontainers.image.source", source),
        ]);
        let pushed = Pushed {
            schema_version: 2,
            media_type: OCI_IMAGE,
            config: &config,
            layers: &layers,
            annotations,
        };
        let manifest = serde_json::to_vec(&pushed).map_err(|error| invalid(error.to_string()))?;
        let digest = sha256(&manifest);
        Ok(Upload { blobs, manifest: manifest.into(), digest })
    }

    /// The content of a small blob.
    async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, InvalidLayout> {
        let blob = self.blob(descriptor)?;
        if blob.size > MAX_DOCUMENT {
            return Err(invalid(format!("{} has more than {MAX_DOCUMENT} bytes", blob.digest)));
        }
        Ok(fs::read(blob.path).await?)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Blob, InvalidLayout> {
        let Descriptor { digest, size, .. } = descriptor;
        // Only what was received is there, so that no other path can be made of a digest.
        if self.blobs.get(digest) != Some(size) {
            return Err(invalid(format!("it has no blob {digest:?} of {size} bytes")));
        }
        let digits = digest.trim_start_matches("sha256:");
        Ok(Blob { digest: digest.clone(), size: *size, path: self.folder.join(digits) })
    }
}

fn parse<T: for<'de> Deserialize<'de>>(what: &str, text: &[u8]) -> Result<T, InvalidLayout> {
    // A field that is there twice is an error: no document has two readings.
    serde_json::from_slice(text).map_err(|error| invalid(format!("its {what}: {error}")))
}

fn cut_off() -> InvalidLayout {
    invalid("its archive is cut off".to_owned())
}

fn invalid(reason: String) -> InvalidLayout {
    InvalidLayout::Invalid(reason)
}

/// The next header of an archive; `None` at its end.
async fn read_header(
    archive: &mut (impl AsyncRead + Unpin),
) -> Result<Option<Header>, InvalidLayout> {
    let mut block = [0; BLOCK];
    let mut filled = 0;
    while filled < BLOCK {
        let rest = block.get_mut(filled..).unwrap_or_default();
        match archive.read(rest).await? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(cut_off()),
            count => filled = filled.saturating_add(count),
        }
    }
    if block.iter().all(|octet| *octet == 0) {
        return Ok(None);
    }
    let header =
        Header::parse(&block).ok_or_else(|| invalid("its archive is not valid".to_owned()))?;
    let other = match header.kind {
        b'0' | 0 | b'5' => return Ok(Some(header)),
        b'1' => "hard link",
        b'2' => "symbolic link",
        b'3' | b'4' => "device",
        b'6' => "named pipe",
        b'L' | b'K' => "name or link that is too long",
        _ => "file of an unknown kind",
    };
    Err(invalid(format!("{:?} is a {other}", header.path)))
}

// === impl Header ===

impl Header {
    /// Reads a header of the format ustar (POSIX.1-2017, `pax`, "ustar Interchange Format").
    fn parse(block: &[u8; BLOCK]) -> Option<Self> {
        let field = |from: usize, length: usize| {
            let field = block.get(from..from.checked_add(length)?)?;
            let end = field.iter().position(|octet| *octet == 0).unwrap_or(length);
            std::str::from_utf8(field.get(..end)?).ok()
        };
        let octal = |from, length| u64::from_str_radix(field(from, length)?.trim(), 8).ok();
        let sum: u64 = block.iter().map(|octet| u64::from(*octet)).sum();
        let own: u64 = block.get(148..156)?.iter().map(|octet| u64::from(*octet)).sum();
        // The field of the sum counts as eight spaces.
        if sum.checked_sub(own)?.checked_add(8 * u64::from(b' '))? != octal(148, 8)? {
            return None;
        }
        let kind = *block.get(156)?;
        let size = octal(124, 12)?;
        if kind == b'5' && size != 0 {
            return None;
        }
        Some(Self { path: field(0, 100)?.to_owned(), size, kind })
    }
}

#[cfg(test)]
mod tests;
