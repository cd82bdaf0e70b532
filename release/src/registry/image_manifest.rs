//! Manifests of images: their digest, and whether they are manifests of images at all.

use aws_lc_rs::digest::{SHA256, digest};
use http::{HeaderMap, header};
use serde::Deserialize;
use serde::de::IgnoredAny;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The manifest of an image for one platform.
pub(crate) const OCI_IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Its configuration.
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The manifests that name an image: of several platforms, and of one.
pub(super) const MEDIA_TYPES: [&str; 4] = [OCI_INDEX, OCI_IMAGE, DOCKER_LIST, DOCKER_IMAGE];

/// What the configuration of an image is. That of a chart or a signature is something else.
const CONFIGURATIONS: [&str; 2] = [OCI_CONFIG, "application/vnd.docker.container.image.v1+json"];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<IgnoredAny>>,
    manifests: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
}

/// Checks a manifest that a registry sent, and returns its digest: `sha256:` and 64 digits.
///
/// # Errors
/// Why it is not the manifest of one image for every reader.
pub(super) fn verify(headers: &HeaderMap, body: &[u8]) -> Result<String, &'static str> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if !MEDIA_TYPES.contains(&media_type) {
        return Err("what it sent is not the manifest of an image, by its Content-Type");
    }
    let document: Document =
        serde_json::from_slice(body).map_err(|_| "what it sent is not the manifest of an image")?;
    if document.schema_version != 2 {
        return Err("the manifest that it sent is not of schema version 2");
    }
    // A document that is an index to one reader and an image to another has one digest and two
    // meanings (CVE-2021-41190).
    if document.media_type.as_deref().is_some_and(|own| own != media_type) {
        return Err("the manifest that it sent is of another type than its Content-Type");
    }
    let is_index = matches!(media_type, OCI_INDEX | DOCKER_LIST);
    let is_whole = match (&document.config, &document.layers, &document.manifests) {
        (None, None, Some(manifests)) => is_index && !manifests.is_empty(),
        (Some(config), Some(_), None) => {
            !is_index && CONFIGURATIONS.contains(&config.media_type.as_str())
        }
        _ => false,
    };
    if !is_whole {
        return Err("the manifest that it sent is not that of an image");
    }
    let computed = sha256(body);
    let named = headers.get("docker-content-digest").map(|value| value.as_bytes());
    match named {
        Some(named) if named.starts_with(b"sha256:") && named != computed.as_bytes() => {
            Err("the manifest that it sent has another digest than it says")
        }
        _ => Ok(computed),
    }
}

/// The digest of octets, as registries write it.
pub(crate) fn sha256(octets: &[u8]) -> String {
    format!("sha256:{}", hex::encode(digest(&SHA256, octets)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(content_type: &str, body: &str) -> Result<String, &'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        verify(&headers, body.as_bytes())
    }

    #[test]
    fn only_what_every_reader_takes_for_an_image_has_a_digest() {
        let config = format!(r#""config":{{"mediaType":"{}"}},"layers":[]"#, CONFIGURATIONS[0]);
        let image = format!(r#"{{"schemaVersion":2,{config}}}"#);
        let index = r#"{"schemaVersion":2,"manifests":[{}]}"#;
        for (media_type, body) in [
            (OCI_IMAGE, image.as_str()),
            (DOCKER_IMAGE, &image),
            (OCI_INDEX, index),
            (DOCKER_LIST, index),
        ] {
            let digest = checked(media_type, body).unwrap();
            assert!(super::super::reference::is_sha256(&digest), "{digest}");
        }
        let both = format!(r#"{{"schemaVersion":2,"manifests":[{{}}],{config}}}"#);
        let typed = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}",{config}}}"#);
        let first = format!(r#"{{"schemaVersion":1,{config}}}"#);
        let chart = image.replace("image.config", "helm.config");
        for (media_type, body) in [
            ("text/html", image.as_str()),
            ("application/vnd.docker.distribution.manifest.v1+prettyjws", &image),
            (OCI_IMAGE, "<html>"),
            (OCI_IMAGE, "{}"),
            (OCI_IMAGE, index),
            (OCI_INDEX, &image),
            (OCI_INDEX, r#"{"schemaVersion":2,"manifests":[]}"#),
            (OCI_IMAGE, &both),
            (OCI_INDEX, &both),
            (OCI_IMAGE, &typed),
            (OCI_IMAGE, &first),
            (OCI_IMAGE, &chart),
        ] {
            assert!(checked(media_type, body).is_err(), "{media_type} {body}");
        }
    }
}
