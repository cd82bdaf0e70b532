use aws_lc_rs::digest::digest;
use serde_json::{Value, json};

use super::*;

/// The blob `x`.
const X: &str = "blobs/sha256/2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";

/// An entry of an archive: its type, its path and its content.
fn entry(kind: u8, path: &str, content: &[u8]) -> Vec<u8> {
    let mut block = vec![0_u8; BLOCK];
    block[..path.len()].copy_from_slice(path.as_bytes());
    block[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    block[156] = kind;
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|octet| u64::from(*octet)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block.extend_from_slice(content);
    block.resize(block.len().next_multiple_of(BLOCK), 0);
    block
}

fn blob(content: &[u8]) -> (Value, Vec<u8>) {
    let digits = hex::encode(digest(&SHA256, content));
    let named = json!({ "digest": format!("sha256:{digits}"), "size": content.len() });
    (named, entry(b'0', &format!("./blobs/sha256/{digits}"), content))
}

fn typed(mut descriptor: Value, media_type: &str) -> Value {
    descriptor["mediaType"] = media_type.into();
    descriptor
}

/// A layout of one image with a layer, as an archive; `change` changes its manifest and its index.
fn layout(change: impl Fn(&mut Value, &mut Value)) -> Vec<u8> {
    let (layer, first) = blob(b"a layer");
    let configuration = json!({
        "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": ["x"] },
    });
    let (config, second) = blob(configuration.to_string().as_bytes());
    let mut manifest = json!({
        "schemaVersion": 2, "config": typed(config, OCI_CONFIG), "layers": [typed(layer, LAYERS[1])],
    });
    let mut index = json!({ "schemaVersion": 2 });
    change(&mut manifest, &mut index);
    let (named, third) = blob(manifest.to_string().as_bytes());
    let mut manifests = vec![typed(named, OCI_IMAGE)];
    if index["twice"] == true {
        manifests.push(manifests[0].clone());
    }
    if index["none"] == true {
        manifests.clear();
    }
    if index["nested"] == true {
        manifests[0]["mediaType"] = INDEXES[0].into();
    }
    index["manifests"] = manifests.into();
    let fourth = entry(b'0', "./index.json", index.to_string().as_bytes());
    [entry(b'5', "./", b""), first, second, third, fourth, vec![0; 2 * BLOCK]].concat()
}

async fn image(archive: &[u8], max: u64) -> Result<Upload, String> {
    let folder = tempfile::tempdir().unwrap();
    let files = Files::receive(archive, folder.path(), max).await;
    let files = files.map_err(|error| error.to_string())?;
    let image = files.image("https://git.test/shop", "c0ffee").await;
    image.map_err(|error| error.to_string())
}

#[tokio::test]
async fn an_image_is_pushed_with_the_manifest_that_was_written_here() {
    let archive = layout(|manifest, _| {
        manifest["annotations"] = json!({ "org.opencontainers.image.source": "a lie" });
        manifest["subject"] = json!({ "digest": "sha256:1" });
    });
    let image = image(&archive, 1 << 20).await.unwrap();
    assert_eq!(image.blobs.len(), 2);
    let manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    let expected = json!({
        "org.opencontainers.image.revision": "c0ffee",
        "org.opencontainers.image.source": "https://git.test/shop",
    });
    assert_eq!(manifest["annotations"], expected);
    assert!(manifest.get("subject").is_none());
    assert_eq!(image.digest, format!("sha256:{}", hex::encode(digest(&SHA256, &image.manifest))));
}

#[tokio::test]
async fn what_is_not_one_whole_image_is_rejected() {
    let other = format!("sha256:{}", "0".repeat(64));
    let secret = json!("sha256:../../../etc/passwd");
    for (archive, expected) in [
        (Vec::new(), "left no image"),
        (vec![0; 1024], "left no image"),
        (vec![1; 1024], "its archive is not valid"),
        (layout(|_, _| {})[..700].to_vec(), "is cut off"),
        (layout(|_, _| {})[..1030].to_vec(), "is cut off"),
        (entry(b'2', "./index.json", b""), "\"./index.json\" is a symbolic link"),
        (entry(b'1', "./blobs/sha256/x", b""), "\"./blobs/sha256/x\" is a hard link"),
        (entry(b'4', "./blobs/sha256/x", b""), "is a device"),
        (entry(b'6', "./blobs/sha256/x", b""), "is a named pipe"),
        (entry(b'S', "./blobs/sha256/x", b""), "is a file of an unknown kind"),
        (entry(b'L', "././@LongLink", b"x"), "is a name or link that is too long"),
        (entry(b'0', "./../../etc/passwd", b"x"), "a layout has no file"),
        (entry(b'0', "/etc/passwd", b"x"), "a layout has no file"),
        (entry(b'0', "./blobs/sha256/../x", b"x"), "is not a digest"),
        (entry(b'0', &format!("./blobs/sha256/{}", "0".repeat(64)), b"x"), "has another digest"),
        (entry(b'0', X, b"x").repeat(2), "twice"),
        (entry(b'0', "./index.json", b"{}").repeat(2), "it has two indexes"),
        (entry(b'0', "./oci-layout", b"{}"), "it has no index"),
        (entry(b'5', "./", b"").repeat(2000), "it has more than 1000 files"),
        (layout(|_, index| index["twice"] = true.into()), "it has 2 images: leave the one"),
        (layout(|_, index| index["none"] = true.into()), "it has no image"),
        (layout(|_, index| index["nested"] = true.into()), "it is an index of images"),
        (layout(|_, index| index["schemaVersion"] = 1.into()), "it is not an image of the OCI"),
        (layout(|manifest, _| manifest["config"]["size"] = 1.into()), "it has no blob"),
        (layout(|manifest, _| manifest["layers"][0]["digest"] = other.clone().into()), "no blob"),
        (layout(|manifest, _| manifest["layers"][0]["digest"] = secret.clone()), "no blob"),
        (layout(|manifest, _| manifest["layers"] = json!([])), "has other layers"),
        (
            layout(|manifest, _| {
                manifest["layers"][0]["mediaType"] =
                    "application/vnd.oci.image.layer.nondistributable.v1.tar".into();
            }),
            "is not a layer",
        ),
        (layout(|manifest, _| manifest["config"]["mediaType"] = "x".into()), "its configuration"),
    ] {
        let error = image(&archive, 1 << 20).await.unwrap_err();
        assert!(error.contains(expected), "{expected}: {error}");
    }
    let error = image(&layout(|_, _| {}), 100).await.unwrap_err();
    assert!(error.contains("has more than 0 MiB"), "{error}");
}
