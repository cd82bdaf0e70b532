//! Manifests: files of Kubernetes objects, as used with `kubectl apply -f`.

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde::de::DeserializeOwned;

use crate::model::credential::CREDENTIAL;
use crate::model::{NamespacedName, Origin, SourceLocation};
use crate::problem::{Problem, Severity};
use crate::resources::credential::Credential;
use crate::resources::{EndpointSlice, Namespace, Object, Pod, PodObject, Service};
use crate::settings::CertificateSettings;
use crate::snapshot::certificate::Certificate;
use crate::source::{Secrets, file_kind};
use crate::yaml::{self, Amended, DecodeError, Node, Position, Value, decode_amending};

/// The maximum nesting depth of `kind: List`.
const MAX_LISTS: usize = 4;
/// The maximum number of problems that are reported for one file.
const MAX_PROBLEMS: usize = 100;

/// The content of a manifest file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Manifests {
    /// The objects of supported kinds, in the order of the file.
    pub objects: Vec<Object>,
    /// The valid parts of partly invalid objects. They have no effect, but help to find further
    /// problems.
    pub partial: Vec<Object>,
    /// Problems of objects of these kinds, and of the file.
    pub problems: Vec<Problem>,
}

/// Reads a manifest file, YAML or JSON. Only Secrets selected by `secrets` are read; objects of
/// other kinds, and gateway configurations, are ignored.
///
/// Accesses no files; `file` is the name that appears in origins.
#[must_use]
pub fn read_manifests(file: &Arc<PathBuf>, bytes: &[u8], secrets: &Secrets) -> Manifests {
    let mut reader = Reader { file, secrets, read: Manifests::default() };
    for document in yaml::read(bytes) {
        match document {
            Ok(node) => reader.document(&node, 0),
            Err(error) => reader.problem(Origin::default(), error.at, error.message, error.help),
        }
    }
    reader.read.problems.truncate(MAX_PROBLEMS);
    reader.read
}

struct Reader<'a> {
    file: &'a Arc<PathBuf>,
    secrets: &'a Secrets,
    read: Manifests,
}

// === impl Reader ===

impl Reader<'_> {
    fn document(&mut self, node: &Node, lists: usize) {
        if !matches!(node.value, Value::Map(_)) {
            return self.problem(
                Origin::default(),
                node.at,
                "a manifest must be a map",
                "write `apiVersion`, `kind` and `metadata`",
            );
        }
        if file_kind::is_configuration(node) {
            return;
        }
        let text = |key| node.get(key).and_then(Node::text);
        let (Some(version), Some(kind)) = (text("apiVersion"), text("kind")) else {
            let missing = if text("kind").is_none() { "kind" } else { "apiVersion" };
            let message = format!("the manifest has no `{missing}`");
            return self.problem(Origin::default(), node.at, message, format!("add `{missing}`"));
        };
        match (version, kind) {
            ("v1", "Namespace") => {
                self.object("Namespace", node, |object: &core::Namespace, location| {
                    Namespace::from_object(object, location).map(Object::Namespace)
                })
            }
            ("v1", "Service") => {
                self.object("Service", node, |object: &core::Service, location| {
                    Service::from_object(object, location).map(Object::Service)
                });
            }
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                self.object("EndpointSlice", node, |object: &discovery::EndpointSlice, location| {
                    EndpointSlice::from_object(object, location).map(Object::EndpointSlice)
                })
            }
            // One without identity is to be created, so it has no address either.
            ("v1", "Pod") if has_uid(node) => {
                self.object("Pod", node, |object: &PodObject, location| {
                    Pod::from_object(object, location).map(Object::Pod)
                })
            }
            ("v1", "Secret") => self.secret(node),
            ("v1", list) if list.ends_with("List") => self.list(node, lists),
            ("discovery.k8s.io/v1", "EndpointSliceList") => self.list(node, lists),
            _ => {}
        }
    }

    fn list(&mut self, node: &Node, lists: usize) {
        let Some(items) = node.get("items").and_then(Node::list) else {
            return self.problem(
                Origin::default(),
                node.at,
                "the list has no `items`",
                "add `items`, which may be `[]`",
            );
        };
        if lists >= MAX_LISTS {
            let message = format!("lists are nested more than {MAX_LISTS} deep");
            return self.problem(
                Origin::default(),
                node.at,
                message,
                "write the objects as separate documents",
            );
        }
        for item in items {
            self.document(item, lists + 1);
        }
    }

    fn secret(&mut self, node: &Node) {
        let origin = self.origin("Secret", node);
        let name = NamespacedName::new(origin.namespace, origin.name);
        let labels = node.get("metadata").and_then(|metadata| metadata.get("labels"));
        if self.secrets.credentials.as_ref() == Some(&name.namespace)
            && labels.is_some_and(|labels| labels.get(CREDENTIAL).is_some())
        {
            self.object("Secret", node, |object: &core::Secret, location| {
                Credential::from_secret(object, location).map(Object::Credential)
            });
        }
        if self.secrets.certificates.contains(&name) {
            let settings = CertificateSettings::Secret {
                namespace: name.namespace.to_string(),
                name: name.name.to_string(),
            };
            self.object("Secret", node, |object: &core::Secret, location| {
                Certificate::from_secret(object, location)
                    .map(|certificate| Object::Certificate(settings.clone(), certificate))
            });
        }
    }

    fn object<T: DeserializeOwned>(
        &mut self,
        kind: &'static str,
        node: &Node,
        trim: impl Fn(&T, Option<SourceLocation>) -> Result<Object, Problem>,
    ) {
        let location = self.location(node.at);
        match yaml::decode::<T>(node) {
            Ok(object) => match trim(&object, Some(location)) {
                Ok(object) => self.read.objects.push(object),
                Err(problem) => self.read.problems.push(problem),
            },
            Err(_) => {
                let Amended { value, rest, errors } =
                    decode_amending(node, MAX_PROBLEMS, |_, _| None);
                for error in errors {
                    self.wrong(kind, node, error);
                }
                // A partly invalid Secret is not used at all.
                if kind != "Secret" {
                    let trimmed = |value: &T| trim(value, Some(location.clone())).ok();
                    let partial = value.as_ref().and_then(trimmed).or_else(|| {
                        yaml::decode::<T>(&rest.only("metadata")).ok().as_ref().and_then(trimmed)
                    });
                    self.read.partial.extend(partial);
                }
            }
        }
    }

    fn wrong(&mut self, kind: &'static str, node: &Node, error: DecodeError) {
        let key = node.key_path(&error.path);
        let message =
            if key.is_empty() { error.message } else { format!("`{key}`: {}", error.message) };
        // Values of a Secret must not appear in messages.
        let message = if kind == "Secret" { format!("`{key}` is invalid") } else { message };
        self.problem(self.origin(kind, node), error.at.unwrap_or(node.at), message, error.help);
    }

    fn origin(&self, kind: &'static str, node: &Node) -> Origin {
        let text =
            |key| node.get("metadata").and_then(|metadata| metadata.get(key)).and_then(Node::text);
        let namespace =
            if kind == "Namespace" { "" } else { text("namespace").unwrap_or("default") };
        Origin {
            kind,
            namespace: namespace.into(),
            name: text("name").unwrap_or_default().into(),
            place: None,
        }
    }

    fn location(&self, at: Position) -> SourceLocation {
        SourceLocation { file: self.file.clone(), line: at.line, column: at.column }
    }

    fn problem(
        &mut self,
        origin: Origin,
        at: Position,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let origin = Origin { place: Some(self.location(at)), ..origin };
        let problem = Problem {
            severity: Severity::Error,
            reason: "Unreadable",
            origin,
            message: message.into(),
            help: help.into(),
        };
        self.read.problems.push(problem);
    }
}

fn has_uid(node: &Node) -> bool {
    node.get("metadata").is_some_and(|metadata| metadata.get("uid").is_some())
}

#[cfg(test)]
mod tests;
