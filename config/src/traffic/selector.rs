//! Finds the Service that a person names.

use std::sync::Arc;

use crate::model::NamespacedName;
use crate::model::vocabulary::{CANARY_OF, ENVIRONMENT};
use crate::resources::{Namespace, Resources, Value};

/// A Service by its name, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    /// Its name.
    pub service: String,
    /// Its Namespace.
    pub namespace: Option<String>,
    /// Its environment, in which no other Namespace may have a Service of that name.
    pub environment: Option<String>,
}

/// Why no Service was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// There is none.
    #[error("there is no Service `{service}` in {place}")]
    Missing {
        /// The name.
        service: String,
        /// Where it was looked for.
        place: String,
    },
    /// There are several.
    #[error("there are Services `{service}` in the Namespaces {}: name one", namespaces.join(", "))]
    Several {
        /// The name.
        service: String,
        /// Their Namespaces.
        namespaces: Vec<String>,
    },
    /// It is a variant itself.
    #[error(
        "Service `{service}` is a variant of `{stable}`: name that one, and the variant's weight"
    )]
    Variant {
        /// The name.
        service: String,
        /// The Service that it is a variant of.
        stable: String,
    },
}

// === impl Selector ===

impl Selector {
    /// Finds the Service among all of those that may be meant.
    ///
    /// # Errors
    /// There is none, or more than one, or it is a variant of another one.
    pub fn find(&self, resources: &Resources) -> Result<NamespacedName, NotFound> {
        let is_place = |namespace: &Arc<str>| {
            self.namespace.as_ref().is_none_or(|wanted| **wanted == **namespace)
                && self.environment.as_ref().is_none_or(|wanted| {
                    resources
                        .namespace(namespace)
                        .is_some_and(|found| is_environment(found, wanted))
                })
        };
        let found: Vec<_> = resources
            .services()
            .filter(|found| {
                *found.origin.name == *self.service && is_place(&found.origin.namespace)
            })
            .collect();
        let service = self.service.clone();
        match found.as_slice() {
            [] => Err(NotFound::Missing { service, place: self.place() }),
            [only] => match only.annotations.get(CANARY_OF.name) {
                Some(Value::Text(stable)) => {
                    Err(NotFound::Variant { service, stable: stable.to_string() })
                }
                _ => Ok(only.key()),
            },
            several => {
                let namespaces = several.iter().map(|found| found.origin.namespace.to_string());
                Err(NotFound::Several { service, namespaces: namespaces.collect() })
            }
        }
    }

    fn place(&self) -> String {
        match (&self.namespace, &self.environment) {
            (Some(namespace), None) => format!("the Namespace `{namespace}`"),
            (None, Some(environment)) => format!("the environment `{environment}`"),
            (Some(namespace), Some(environment)) => {
                format!("the Namespace `{namespace}` of the environment `{environment}`")
            }
            (None, None) => "any Namespace".to_owned(),
        }
    }
}

fn is_environment(namespace: &Namespace, name: &str) -> bool {
    matches!(namespace.labels.get(ENVIRONMENT.name), Some(Value::Text(text)) if **text == *name)
}
