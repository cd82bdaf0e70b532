//! How large a template may be. It is checked before anything of a template is copied.

use serde_json::Value;

use super::{MAX_BYTES, MAX_OBJECTS, MAX_VALUES, TemplateProblem};

/// Checks a template as it is received: the length of a text, or the number of documents and values.
///
/// # Errors
/// It is too large.
pub(super) fn check(template: &Value) -> Result<(), Vec<TemplateProblem>> {
    match template {
        Value::String(text) if text.len() > MAX_BYTES => Err(vec![too_long()]),
        Value::String(_) => Ok(()),
        Value::Array(documents) => check_documents(documents),
        document => check_documents(std::slice::from_ref(document)),
    }
}

/// Checks the number of documents, and of values in all of them.
///
/// # Errors
/// There are too many.
pub(super) fn check_documents(documents: &[Value]) -> Result<(), Vec<TemplateProblem>> {
    if documents.len() > MAX_OBJECTS {
        return Err(vec![too_many_objects()]);
    }
    if documents.iter().map(values).sum::<usize>() > MAX_VALUES {
        return Err(vec![TemplateProblem::whole(
            format!("the template has more than {MAX_VALUES} values"),
            "write long lists as a text in a ConfigMap, or move them into the image",
        )]);
    }
    Ok(())
}

/// The values in a value, with itself. The depth of values is bounded by the parsers.
fn values(value: &Value) -> usize {
    let within: usize = match value {
        Value::Array(list) => list.iter().map(values).sum(),
        Value::Object(map) => map.values().map(values).sum(),
        _ => 0,
    };
    within + 1
}

/// The template is too long.
pub(super) fn too_long() -> TemplateProblem {
    TemplateProblem::whole(
        format!("the template has more than {MAX_BYTES} bytes"),
        "move large files out of ConfigMaps into the image",
    )
}

/// The template has too many objects.
pub(super) fn too_many_objects() -> TemplateProblem {
    TemplateProblem::whole(
        format!("the template has more than {MAX_OBJECTS} manifests"),
        "split it into several services",
    )
}
