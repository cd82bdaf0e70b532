//! Secrets in templates: their data is sealed before it is stored, and opened when it is applied.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::{ObjectRef, TemplateProblem, placeholder, pointer_part};
use crate::model::ServiceName;
use crate::sealing::{NotOpened, NotSealed, SealingKeys, shown};

/// What `kubectl apply` writes: it has the data readably.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Whether a manifest is a Secret.
pub(super) fn is_secret(manifest: &Value) -> bool {
    ObjectRef::of(manifest)
        .is_some_and(|object| (object.group(), object.kind.as_str()) == ("", "Secret"))
}

/// The problems of a Secret. None of them has a value in it.
pub(super) fn problems(pointer: &str, secret: &Value) -> Vec<TemplateProblem> {
    let mut problems = Vec::new();
    let mut report = |path: String, message: &str, help: &str| {
        problems.push(TemplateProblem::at(format!("{pointer}{path}"), message, help));
    };
    for (field, help) in [("data", "write values in base64"), ("stringData", "write texts")] {
        let Some(values) = secret.get(field).filter(|values| !values.is_null()) else { continue };
        let Some(values) = values.as_object() else {
            report(format!("/{field}"), "it is not a mapping", help);
            continue;
        };
        for (key, value) in values {
            let place = format!("/{field}/{}", pointer_part(key));
            match value.as_str() {
                Some(text) if has_placeholder(text) => {
                    let help =
                        "refer to a Secret of the Namespace by a setting of the type `secret`";
                    report(place, "the data of a Secret cannot have placeholders", help);
                }
                Some(text) if field == "stringData" || STANDARD.decode(text).is_ok() => {}
                _ => report(place, "the value is not valid", help),
            }
        }
    }
    let annotations = secret.pointer("/metadata/annotations");
    if annotations.is_some_and(|entries| entries.get(LAST_APPLIED).is_some()) {
        let place = format!("/metadata/annotations/{}", pointer_part(LAST_APPLIED));
        report(place, "it has the data of the Secret readably", "leave it out");
    }
    problems
}

fn has_placeholder(text: &str) -> bool {
    let is_one = |part| matches!(part, placeholder::Part::Placeholder(_));
    placeholder::parts(text).into_iter().any(is_one)
}

/// Seals the data of a Secret of a service.
pub(super) fn seal(
    secret: &mut Value,
    keys: &SealingKeys,
    service: &ServiceName,
) -> Result<(), NotSealed> {
    let Some(object) = ObjectRef::of(secret) else { return Ok(()) };
    let mut sealed = Map::new();
    for field in ["data", "stringData"] {
        let Some(Value::Object(values)) = secret.get_mut(field).map(Value::take) else { continue };
        for (key, value) in values {
            let text = value.as_str().unwrap_or_default();
            let octets = match field {
                "data" => STANDARD.decode(text).map_err(|_| NotSealed)?,
                _ => text.as_bytes().to_vec(),
            };
            let value = keys.seal(&place(service, &object.name, &key), &octets)?;
            sealed.insert(key, value.into());
        }
    }
    if let Some(secret) = secret.as_object_mut() {
        secret.remove("stringData");
        secret.insert("data".to_owned(), sealed.into());
    }
    Ok(())
}

/// Opens the data of a Secret of a service, whose template has it by this name.
pub(super) fn open(
    secret: &mut Value,
    name: &str,
    keys: &SealingKeys,
    service: &ServiceName,
) -> Result<(), NotOpened> {
    let values = secret.get_mut("data").and_then(Value::as_object_mut);
    for (key, value) in values.into_iter().flatten() {
        let sealed = value.as_str().ok_or(NotOpened)?;
        *value = STANDARD.encode(keys.open(&place(service, name, key), sealed)?).into();
    }
    Ok(())
}

fn place(service: &ServiceName, secret: &str, key: &str) -> String {
    format!("{service}/{secret}/{key}")
}

/// Leaves hashes alone of the data of a Secret.
pub(super) fn redact(manifest: &mut Value) {
    if is_secret(manifest) {
        manifest.get_mut("data").into_iter().for_each(redact_values);
    }
}

/// Leaves hashes alone of sealed values.
pub(super) fn redact_values(value: &mut Value) {
    super::each_string(value, &mut |text| {
        // What is not sealed has not been accepted by this builder, and is not shown.
        *text = shown(text).unwrap_or_else(|| "sealed".to_owned());
    });
}
