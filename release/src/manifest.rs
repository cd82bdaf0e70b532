//! Templates of manifests: whole Kubernetes manifests with an image placeholder.
//!
//! [`Template::parse`] checks everything that does not depend on a cluster and reports all problems
//! with their place. [`Template::render`] is pure: the same release, environment and namespace
//! result in the same manifests.

pub mod autoscaler;
mod bounds;
pub mod canary;
mod check;
mod configuration;
mod diff;
mod placeholder;
mod problem;
mod rollout;
mod secret;
mod setting;

use std::collections::BTreeMap;

use portcullis_config::model::vocabulary::PREFIX;
use portcullis_config::yaml;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::model::{ReleaseId, ServiceName};
use crate::sealing::{NotOpened, NotSealed, SealingKeys};

pub use self::diff::{Change, FieldDiff, ObjectDiff, diff};
use self::placeholder::{Part, written};
pub use self::problem::TemplateProblem;
pub use self::rollout::Declaration as RolloutDeclaration;
pub use self::setting::{
    Declaration, Layers, Setting, SettingType, Source, Values, resolve as resolve_settings,
};
pub(crate) use self::setting::{MAX_SETTINGS, MAX_SIZE as MAX_SETTINGS_SIZE, size as setting_size};

/// What is replaced by the image and its digest, in any string of a template.
pub const PLACEHOLDER: &str = "{{image}}";
/// The largest template, in bytes of JSON.
pub const MAX_BYTES: usize = 512 * 1024;
/// The most objects of a template.
pub const MAX_OBJECTS: usize = 100;
/// The most values of a template: scalars, lists and mappings. Each takes 72 bytes of memory, however
/// short it is.
pub const MAX_VALUES: usize = 20_000;
/// What precedes [`PREFIX`] in the builder's own marks, so that the gateway, which reads those with
/// the prefix alone, does not take them for misspelled settings.
pub(crate) const OWN: &str = "releases.";
/// The most problems that are reported at once.
pub(crate) const MAX_PROBLEMS: usize = 50;

/// A checked template: manifests without namespaces, in which [`PLACEHOLDER`] stands for the image,
/// and `{{settings.NAME}}` for a setting that one of its documents declares.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Template(Vec<Value>);

/// A checked template whose Secrets are not sealed yet. It is neither stored nor shown.
pub struct Unsealed(Template);

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

/// The label of the Namespace that releases are deployed to, where an environment has several.
#[must_use]
pub fn namespace_label() -> String {
    format!("{OWN}{PREFIX}namespace")
}

/// The annotation of every object that a release brings: the release.
#[must_use]
pub fn release_annotation() -> String {
    format!("{OWN}{PREFIX}release")
}

// === impl Template ===

impl Template {
    /// Parses a template without Secrets: a YAML or JSON text of one or more documents, an object, or
    /// a list of objects. Kubernetes' `List`s are flattened.
    ///
    /// # Errors
    /// All problems, up to 50, each with a line or a JSON pointer.
    pub fn parse(template: &Value) -> Result<Self, Vec<TemplateProblem>> {
        Self::parse_unsealed(template, false).map(|template| template.0)
    }

    /// Parses a template that may have Secrets, if `may_have_secrets`. They are not sealed yet.
    ///
    /// # Errors
    /// Those of [`parse`](Self::parse).
    pub fn parse_unsealed(
        template: &Value,
        may_have_secrets: bool,
    ) -> Result<Unsealed, Vec<TemplateProblem>> {
        bounds::check(template)?;
        let mut documents = match template {
            Value::String(text) => from_text(text)?,
            Value::Array(objects) => objects.clone(),
            object => vec![object.clone()],
        };
        for document in &mut documents {
            each_string(document, &mut |text| *text = placeholder::replaced(text, written));
        }
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
        let mut problems = check::objects(&objects, may_have_secrets);
        problems.extend(check::placeholders(&objects));
        let template = Self(objects.into_iter().map(|(_, object)| object).collect());
        if serde_json::to_vec(&template).is_ok_and(|bytes| bytes.len() > MAX_BYTES) {
            problems.push(bounds::too_long());
        }
        problems.truncate(MAX_PROBLEMS);
        if problems.is_empty() { Ok(Unsealed(template)) } else { Err(problems) }
    }

    /// The objects, by the names that the template gives them.
    pub fn objects(&self) -> impl Iterator<Item = ObjectRef> {
        self.manifests().filter_map(ObjectRef::of)
    }

    /// The settings that the template declares.
    #[must_use]
    pub fn settings(&self) -> BTreeMap<String, Declaration> {
        let mut documents = self.0.iter().filter(|document| setting::is_declaration(document));
        documents.next().map(setting::declarations).unwrap_or_default()
    }

    /// The rollouts that the template declares, if it does.
    #[must_use]
    pub fn rollout(&self) -> Option<RolloutDeclaration> {
        let mut documents = self.0.iter().enumerate();
        documents.find_map(|(index, document)| RolloutDeclaration::of(index, document))
    }

    fn manifests(&self) -> impl Iterator<Item = &Value> {
        let is_declaration = |document: &Value| {
            setting::is_declaration(document) || rollout::is_declaration(document)
        };
        self.0.iter().filter(move |document| !is_declaration(document))
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

    /// All documents as they are written, with this image and these settings, for people: the
    /// placeholders of other settings stay, and Secrets have hashes in the place of their data.
    #[must_use]
    pub fn with_values(&self, image: &str, settings: &[Setting]) -> Vec<Value> {
        let mut documents = self.filled(self.0.iter(), image, settings);
        documents.iter_mut().for_each(secret::redact);
        documents
    }

    /// All documents as they are written, for people: Secrets have hashes in the place of their data.
    #[must_use]
    pub fn redacted(&self) -> Vec<Value> {
        let mut documents = self.0.clone();
        documents.iter_mut().for_each(secret::redact);
        documents
    }

    fn filled<'t>(
        &self,
        manifests: impl Iterator<Item = &'t Value>,
        image: &str,
        settings: &[Setting],
    ) -> Vec<Value> {
        let declared = self.settings();
        let setting = |name: &str| {
            let name = placeholder::setting(name)?;
            let setting = settings.iter().find(|setting| setting.name == name)?;
            Some((setting, declared.get(name)?.kind))
        };
        let mut manifests: Vec<Value> = manifests.cloned().collect();
        let text = |name: &str| match (name == placeholder::IMAGE, setting(name)) {
            (true, _) => image.to_owned(),
            (false, Some((setting, _))) => setting.text(),
            (false, None) => written(name),
        };
        for manifest in &mut manifests {
            each_value(manifest, &mut |value| {
                let Value::String(old) = value else { return };
                let new = match placeholder::parts(old).as_slice() {
                    [Part::Placeholder(name)] if setting(name).is_some() => {
                        setting(name).map(|(setting, kind)| setting.rendered(kind))
                    }
                    _ => Some(placeholder::replaced(old, text).into()),
                };
                *value = new.unwrap_or_default();
            });
        }
        manifests
    }

    /// The manifests of a release with this image and these settings, for a namespace. ConfigMaps and
    /// Secrets that their pods refer to are named after their content. Secrets are sealed. What an
    /// autoscaler scales has no replicas.
    #[must_use]
    pub fn render(
        &self,
        release: &ReleaseId,
        image: &str,
        settings: &[Setting],
        namespace: &str,
    ) -> Vec<Value> {
        let mut manifests = self.filled(self.manifests(), image, settings);
        for manifest in &mut manifests {
            if let Some(metadata) = manifest.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.insert("namespace".to_owned(), namespace.into());
                entry(metadata, "labels", service_label(), release.service.as_str());
                entry(metadata, "annotations", release_annotation(), &release.to_string());
            }
        }
        configuration::rename(&mut manifests);
        autoscaler::remove_replicas(&mut manifests);
        manifests
    }

    /// Opens the Secrets among the rendered manifests of a service, for the cluster alone.
    ///
    /// # Errors
    /// One was sealed by another key.
    pub fn unseal(
        &self,
        manifests: &mut [Value],
        keys: &SealingKeys,
        service: &ServiceName,
    ) -> Result<(), NotOpened> {
        for (rendered, manifest) in manifests.iter_mut().zip(self.manifests()) {
            if let Some(object) = ObjectRef::of(manifest).filter(|_| secret::is_secret(manifest)) {
                secret::open(rendered, &object.name, keys, service)?;
            }
        }
        Ok(())
    }

    /// The ConfigMaps and Secrets among the rendered manifests that are named after their content.
    #[must_use]
    pub fn copies(&self, manifests: &[Value]) -> Vec<ObjectRef> {
        let both = manifests.iter().filter_map(ObjectRef::of).zip(self.objects());
        both.filter(|(rendered, own)| rendered.name != own.name).map(|(copy, _)| copy).collect()
    }
}

// === impl Unsealed ===

impl Unsealed {
    /// The name of the only Service, which names the service of a release that does not.
    #[must_use]
    pub fn only_service(&self) -> Option<ServiceName> {
        self.0.only_service()
    }

    /// Seals the data of Secrets as that of a service.
    ///
    /// # Errors
    /// There are Secrets, and no key, or no randomness.
    pub fn seal(
        mut self,
        keys: &SealingKeys,
        service: &ServiceName,
    ) -> Result<Template, NotSealed> {
        for manifest in self.0.0.iter_mut().filter(|manifest| secret::is_secret(manifest)) {
            secret::seal(manifest, keys, service)?;
        }
        Ok(self.0)
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
    let text = placeholder::protected(text);
    let mut documents = yaml::documents(text.as_bytes())
        .map_err(|errors| errors.into_iter().map(TemplateProblem::from).collect::<Vec<_>>())?;
    bounds::check_documents(&documents)?;
    for document in &mut documents {
        each_string(document, &mut |text| *text = placeholder::restored(text));
    }
    if documents.iter().any(|document| placeholder::is_protected(&document.to_string())) {
        return Err(vec![TemplateProblem::whole(
            "a placeholder is in a key",
            "write `{{image}}` and `{{settings.NAME}}` in values alone",
        )]);
    }
    Ok(documents)
}

fn items(list: &Value) -> Vec<Value> {
    list.get("items").and_then(Value::as_array).cloned().unwrap_or_default()
}

/// Calls `change` with each string that is a value.
fn each_string(value: &mut Value, change: &mut impl FnMut(&mut String)) {
    each_value(value, &mut |value| {
        if let Value::String(text) = value {
            change(text);
        }
    });
}

/// Calls `change` with each value that is neither a list nor a mapping. The depth of values is
/// bounded by the parsers.
fn each_value(value: &mut Value, change: &mut impl FnMut(&mut Value)) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| each_value(value, change)),
        Value::Object(map) => map.values_mut().for_each(|value| each_value(value, change)),
        value => change(value),
    }
}

/// Calls `see` with each string that is a value, and its JSON pointer.
fn each_text(pointer: &str, value: &Value, see: &mut impl FnMut(&str, &str)) {
    match value {
        Value::String(text) => see(pointer, text),
        Value::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                each_text(&format!("{pointer}/{index}"), value, see);
            }
        }
        Value::Object(map) => {
            for (key, value) in map {
                each_text(&format!("{pointer}/{}", pointer_part(key)), value, see);
            }
        }
        _ => {}
    }
}

/// A key as a part of a JSON pointer (RFC 6901 §3).
fn pointer_part(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
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
