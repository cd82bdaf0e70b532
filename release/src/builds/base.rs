//! The base images of builds: an OCI layout that the operator provides.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use tokio::process::{Child, Command};

use crate::registry::is_sha256;

/// The annotation that names an image in a layout.
pub(super) const NAME: &str = "org.opencontainers.image.ref.name";
/// The largest manifest of a layout, in bytes.
const MAX_MANIFEST: u64 = 4 * 1024 * 1024;
/// How deep indexes are in each other, at most.
const MAX_DEPTH: usize = 4;

/// A layout of base images.
#[derive(Debug)]
pub(super) struct Layout {
    folder: PathBuf,
    images: Vec<Image>,
}

/// An image of it.
#[derive(Debug)]
struct Image {
    name: String,
    digest: String,
}

/// An archive of some images of a layout, on the output of a process.
#[derive(Debug)]
pub(super) struct Archive(pub(super) Child);

/// An index, or a manifest.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

// === impl Layout ===

impl Layout {
    /// Reads the index of a layout. Only images whose names are one argument are taken.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn read(folder: &Path) -> Result<Self, String> {
        let index = document(&folder.join("index.json"))?;
        let image = |mut descriptor: Descriptor| {
            let name = descriptor.annotations.remove(NAME)?;
            is_name(&name).then_some(Image { name, digest: descriptor.digest })
        };
        let images = index.manifests.into_iter().filter_map(image).collect();
        Ok(Self { folder: folder.to_owned(), images })
    }

    /// The names of its images.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.images.iter().map(|image| image.name.as_str())
    }

    /// Keeps the images that a Dockerfile may start from or copy from: those that it names. One that
    /// makes a name of variables may mean each of them.
    pub(super) fn keep_named_in(&mut self, dockerfile: &[u8]) {
        let text = String::from_utf8_lossy(dockerfile).replace("\\\r\n", "").replace("\\\n", "");
        let is_open = |line: &str| {
            let line = line.trim_start().to_ascii_lowercase();
            (line.starts_with("from ") || line.contains("from=")) && line.contains('$')
        };
        // Lines may be continued by another character.
        let is_usual = !text.to_ascii_lowercase().contains("escape");
        if is_usual && !text.lines().any(is_open) {
            self.images.retain(|image| text.contains(&image.name));
        }
    }

    /// Starts an archive of its images; `None` if there are none.
    ///
    /// # Errors
    /// The layout is not complete, or its images have more than `max` bytes.
    pub(super) fn archive(&self, max: u64) -> Result<Option<Archive>, String> {
        let mut files = BTreeSet::new();
        for image in &self.images {
            self.collect(&image.digest, MAX_DEPTH, &mut files)?;
        }
        if files.is_empty() {
            return Ok(None);
        }
        files.extend(["index.json", "oci-layout"].map(str::to_owned));
        let mut size = 0_u64;
        for file in &files {
            let path = self.folder.join(file);
            let metadata = std::fs::metadata(&path);
            let metadata = metadata.map_err(|error| format!("{}: {error}", path.display()))?;
            size = size.saturating_add(metadata.len());
        }
        if size > max {
            let max = max / (1024 * 1024);
            return Err(format!("the base images of the build have more than {max} MiB"));
        }
        let mut command = Command::new("tar");
        // The users of a sandbox have to read them.
        command.args(["--create", "--format=gnu", "--mode=a+rX", "--file=-", "--directory"]);
        command.arg(&self.folder).arg("--").args(&files);
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("tar cannot be started: {error}"))?;
        Ok(Some(Archive(child)))
    }

    /// Adds the blobs of an image, or of the images of an index.
    fn collect(
        &self,
        digest: &str,
        depth: usize,
        files: &mut BTreeSet<String>,
    ) -> Result<(), String> {
        let file = blob(digest)?;
        let Document { manifests, config, layers } = document(&self.folder.join(&file))?;
        files.insert(file);
        for one in layers.iter().chain(&config) {
            files.insert(blob(&one.digest)?);
        }
        let depth = depth.checked_sub(1).ok_or("its indexes are too deep")?;
        // An index has images of other architectures, which need not be there.
        let is_there =
            |one: &&Descriptor| blob(&one.digest).is_ok_and(|file| self.folder.join(file).exists());
        for one in manifests.iter().filter(is_there) {
            self.collect(&one.digest, depth, files)?;
        }
        Ok(())
    }
}

fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:".contains(&byte);
    !name.is_empty() && name.bytes().all(is_plain)
}

/// The file of a blob in a layout.
fn blob(digest: &str) -> Result<String, String> {
    let digits = digest.strip_prefix("sha256:").filter(|_| is_sha256(digest));
    digits
        .map(|digits| format!("blobs/sha256/{digits}"))
        .ok_or_else(|| format!("{digest:?} is not a digest"))
}

fn document(path: &Path) -> Result<Document, String> {
    let failed = |reason: String| format!("{}: {reason}", path.display());
    let metadata = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if metadata.len() > MAX_MANIFEST {
        return Err(failed(format!("it has more than {MAX_MANIFEST} bytes")));
    }
    let text = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;
    use tempfile::TempDir;
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::registry::sha256;

    /// A layout of images, each with a layer of 1,000 bytes.
    fn layout(names: &[&str]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let blobs = folder.path().join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let write = |text: &[u8]| {
            let digest = sha256(text);
            fs::write(blobs.join(digest.trim_start_matches("sha256:")), text).unwrap();
            json!({ "digest": digest })
        };
        let image = |name: &&str| {
            let layer = write(&name.bytes().cycle().take(1000).collect::<Vec<_>>());
            let manifest = json!({ "config": write(name.as_bytes()), "layers": [layer] });
            let mut descriptor = write(manifest.to_string().as_bytes());
            descriptor["annotations"] = json!({ NAME: name });
            descriptor
        };
        let manifests: Vec<_> = names.iter().map(image).collect();
        fs::write(folder.path().join("index.json"), json!({ "manifests": manifests }).to_string())
            .unwrap();
        fs::write(folder.path().join("oci-layout"), "{}").unwrap();
        folder
    }

    fn kept(dockerfile: &str) -> Vec<String> {
        let folder = layout(&["r.test/a:1", "r.test/b:2", "--from=x y"]);
        let mut layout = Layout::read(folder.path()).unwrap();
        layout.keep_named_in(dockerfile.as_bytes());
        layout.names().map(str::to_owned).collect()
    }

    #[test]
    fn a_build_gets_the_images_that_its_dockerfile_names() {
        assert_eq!(kept("FROM r.test/a:1\nRUN echo $HOME"), ["r.test/a:1"]);
        assert_eq!(kept("FROM scratch\nCOPY --from=r.test/b:2 /x /"), ["r.test/b:2"]);
        assert_eq!(kept("FROM r.te\\\nst/a:1"), ["r.test/a:1"]);
        assert_eq!(kept("FROM scratch"), [""; 0]);
        // What it may name it gets all of.
        for open in [
            "ARG V=1\nFROM r.test/a:$V",
            "from\t$X\nFROM ${X}",
            "RUN --mount=type=bind,from=$X true",
            "# escape=`\nFROM r.test/`\na:1",
        ] {
            assert_eq!(kept(open), ["r.test/a:1", "r.test/b:2"], "{open}");
        }
    }

    #[tokio::test]
    async fn an_archive_has_the_blobs_of_its_images_alone_and_is_bounded() {
        let folder = layout(&["r.test/a:1", "r.test/b:2"]);
        let mut layout = Layout::read(folder.path()).unwrap();
        layout.keep_named_in(b"FROM r.test/a:1");
        let error = layout.archive(1000).unwrap_err();
        assert!(error.contains("more than 0 MiB"), "{error}");
        let Archive(mut child) = layout.archive(1 << 20).unwrap().unwrap();
        let mut archive = Vec::new();
        child.stdout.take().unwrap().read_to_end(&mut archive).await.unwrap();
        assert!(child.wait().await.unwrap().success());
        let text = String::from_utf8_lossy(&archive);
        // Index, layout, manifest, configuration, layer.
        assert_eq!(text.matches("ustar").count(), 5);
        assert!(text.contains("r.test/a:1r.test/a:1") && !text.contains("r.test/b:2r.test/b:2"));
        layout.keep_named_in(b"FROM scratch");
        assert!(layout.archive(1 << 20).unwrap().is_none());
    }
}
