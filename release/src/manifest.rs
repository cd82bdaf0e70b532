//! Templates of manifests: whole Kubernetes manifests with an image placeholder.
//!
//! [`Template::parse`] checks everything that does not depend on a cluster and reports all problems
//! with their place. [`Template::render`] is pure: the same release, environment and namespace
//! result in the same manifests.

mod check;
mod configuration;
mod diff;
mod problem;

use portcullis_config::model::vocabulary::PREFIX;
use portcullis_config::yaml;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::model::{ReleaseId, ServiceName};

pub use self::diff::{Change, FieldDiff, ObjectDiff, diff};
pub use self::problem::TemplateProblem;

/// What is replaced by the image and its digest, in any string of a template.
pub const PLACEHOLDER: &str = "{{image}}";
/// Its other spelling.
const SPACED: &str = "{{ image }}";
/// The largest template, in bytes of JSON.
pub const MAX_BYTES: usize = 512 * 1024;
/// The most objects of a template.
pub const MAX_OBJECTS: usize = 100;
/// What precedes [`PREFIX`] in the builder's own marks, so that the gateway, which reads those with
/// the prefix alone, does not take them for misspelled settings.
pub(crate) const OWN: &str = "releases.";
/// The most problems that are reported at once.
const MAX_PROBLEMS: usize = 50;

/// A checked template: manifests without namespaces, in which [`PLACEHOLDER`] stands for the image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Template(Vec<Value>);

/// An object in Kubernetes, within its namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Its group and version, such as `apps/v1`.
    pub api_version: String,
    /// Its kind, such as `Deployment`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// The label of every object that a release brings: its service. It is how a deployment recognizes
/// objects that it may change.
#[must_use]
pub fn service_label() -> String {
    format!("{OWN}{PREFIX}service")
}

/// The annotation of every object that a release brings: the release.
#[must_use]
pub fn release_annotation() -> String {
    format!("{OWN}{PREFIX}release")
}

// === impl Template ===

impl Template {
    /// Parses a template: a YAML or JSON text of one or more documents, an object, or a list of
    /// objects. Kubernetes' `List`s are flattened.
    ///
    /// # Errors
    /// All problems, up to 50, each with a line or a JSON pointer.
    pub fn parse(template: &Value) -> Result<Self, Vec<TemplateProblem>> {
        let mut documents = match template {
            Value::String(text) => from_text(text)?,
            Value::Array(objects) => objects.clone(),
            object => vec![object.clone()],
        };
        documents.iter_mut().for_each(|document| replace(document, SPACED, PLACEHOLDER));
        let mut objects = Vec::new();
        for (index, document) in documents.into_iter().enumerate() {
            let pointer = format!("/{index}");
            match check::is_list(&document).then(|| items(&document)) {
                Some(items) => objects.extend(
                    items
                        .into_iter()
                        .enumerate()
                        .map(|(item, object)| (format!("{pointer}/items/{item}"), object)),
                ),
                None => objects.push((pointer, document)),
            }
        }
        let mut problems = check::objects(&objects);
        problems
            .extend(check::placeholders(objects.iter().flat_map(|(_, object)| strings(object))));
        let template = Self(objects.into_iter().map(|(_, object)| object).collect());
        if serde_json::to_vec(&template).is_ok_and(|bytes| bytes.len() > MAX_BYTES) {
            problems.push(TemplateProblem::whole(
                format!("the template has more than {MAX_BYTES} bytes"),
                "move large files out of ConfigMaps into the image",
            ));
        }
        problems.truncate(MAX_PROBLEMS);
        if problems.is_empty() { Ok(template) } else { Err(problems) }
    }

    /// The objects, by the names that the template gives them.
    pub fn objects(&self) -> impl Iterator<Item = ObjectRef> {
        self.0.iter().filter_map(ObjectRef::of)
    }

    /// The name of the only Service, which names the service of a release that does not.
    #[must_use]
    pub fn only_service(&self) -> Option<ServiceName> {
        let mut services = self.objects().filter(|object| {
            (object.api_version.as_str(), object.kind.as_str()) == ("v1", "Service")
        });
        let first = services.next()?;
        services.next().is_none().then(|| first.name.parse().ok())?
    }

    /// The manifests as they are written, with this image.
    #[must_use]
    pub fn with_image(&self, image: &str) -> Vec<Value> {
        let mut manifests = self.0.clone();
        manifests.iter_mut().for_each(|manifest| replace(manifest, PLACEHOLDER, image));
        manifests
    }

    /// The manifests of a release with this image, for a namespace. ConfigMaps that their pods refer
    /// to are named after their content.
    #[must_use]
    pub fn render(&self, release: &ReleaseId, image: &str, namespace: &str) -> Vec<Value> {
        let mut manifests = self.with_image(image);
        for manifest in &mut manifests {
            if let Some(metadata) = manifest.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.insert("namespace".to_owned(), namespace.into());
                entry(metadata, "labels", service_label(), release.service.as_str());
                entry(metadata, "annotations", release_annotation(), &release.to_string());
            }
        }
        configuration::rename(&mut manifests);
        manifests
    }
}

// === impl ObjectRef ===

impl ObjectRef {
    /// The reference to a manifest's object, if it has a kind and a name.
    #[must_use]
    pub fn of(manifest: &Value) -> Option<Self> {
        let text = |value: &Value, key: &str| value.get(key)?.as_str().map(str::to_owned);
        Some(Self {
            api_version: text(manifest, "apiVersion")?,
            kind: text(manifest, "kind")?,
            name: text(manifest.get("metadata")?, "name")?,
        })
    }

    /// The group: empty for the core group.
    #[must_use]
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// Whether both are the same object. A change of its version alone leaves it the same.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.group(), &self.kind, &self.name) == (other.group(), &other.kind, &other.name)
    }
}

impl std::fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// Parses a text. A placeholder that is not quoted would be a YAML mapping, so it is replaced by a
/// word while the text is parsed.
fn from_text(text: &str) -> Result<Vec<Value>, Vec<TemplateProblem>> {
    const WORD: &str = "portcullis-image-placeholder";
    let text = text.replace(SPACED, WORD).replace(PLACEHOLDER, WORD);
    let mut documents = yaml::documents(text.as_bytes())
        .map_err(|errors| errors.into_iter().map(TemplateProblem::from).collect::<Vec<_>>())?;
    documents.iter_mut().for_each(|document| replace(document, WORD, PLACEHOLDER));
    if documents.iter().any(|document| document.to_string().contains(WORD)) {
        return Err(vec![TemplateProblem::whole(
            "the placeholder `{{image}}` is in a key",
            "write it in values alone",
        )]);
    }
    Ok(documents)
}

fn items(list: &Value) -> Vec<Value> {
    list.get("items").and_then(Value::as_array).cloned().unwrap_or_default()
}

fn replace(object: &mut Value, from: &str, to: &str) {
    each_string(object, &mut |text| {
        if text.contains(from) {
            *text = text.replace(from, to);
        }
    });
}

/// Calls `change` with each string that is a value. The depth of values is bounded by the parsers.
fn each_string(value: &mut Value, change: &mut impl FnMut(&mut String)) {
    match value {
        Value::String(text) => change(text),
        Value::Array(values) => values.iter_mut().for_each(|value| each_string(value, change)),
        Value::Object(map) => map.values_mut().for_each(|value| each_string(value, change)),
        _ => {}
    }
}

/// All strings that are values.
fn strings(value: &Value) -> impl Iterator<Item = &str> {
    let mut open = vec![value];
    std::iter::from_fn(move || {
        while let Some(value) = open.pop() {
            match value {
                Value::String(text) => return Some(text.as_str()),
                Value::Array(values) => open.extend(values),
                Value::Object(map) => open.extend(map.values()),
                _ => {}
            }
        }
        None
    })
}

/// Sets a key of a map in `metadata`, such as a label.
fn entry(metadata: &mut Map<String, Value>, map: &str, key: String, value: &str) {
    let entries = metadata.entry(map).or_insert_with(|| Value::Object(Map::new()));
    if let Some(entries) = entries.as_object_mut() {
        entries.insert(key, value.into());
    }
}

#[cfg(test)]
mod tests;
