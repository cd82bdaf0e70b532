//! The differences between the manifests of two releases: a pure function.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::ObjectRef;

/// An object that differs between two releases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ObjectDiff {
    /// The object.
    #[serde(flatten)]
    pub object: ObjectRef,
    /// How it differs.
    pub change: Change,
    /// The fields that differ, if it is in both.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldDiff>,
}

/// How an object differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// It is in the later release alone.
    Added,
    /// It is in the earlier release alone.
    Removed,
    /// It is in both.
    Changed,
}

/// A field that differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FieldDiff {
    /// Where it is, such as `spec.template.spec.containers[web].image`. Items of lists are named by
    /// their `name`, else by their index.
    pub path: String,
    /// Its earlier value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub before: Option<Value>,
    /// Its later value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub after: Option<Value>,
}

/// The differences, in the order of the later manifests; what was removed comes last.
#[must_use]
pub fn diff(before: &[Value], after: &[Value]) -> Vec<ObjectDiff> {
    let mut differences = Vec::new();
    for manifest in after {
        let Some(object) = ObjectRef::of(manifest) else { continue };
        let Some(earlier) = find(before, &object) else {
            differences.push(ObjectDiff { object, change: Change::Added, fields: Vec::new() });
            continue;
        };
        let mut fields = Vec::new();
        compare("", Some(earlier), Some(manifest), &mut fields);
        if !fields.is_empty() {
            differences.push(ObjectDiff { object, change: Change::Changed, fields });
        }
    }
    let removed = before.iter().filter_map(ObjectRef::of);
    differences.extend(
        removed.filter(|object| find(after, object).is_none()).map(|object| ObjectDiff {
            object,
            change: Change::Removed,
            fields: Vec::new(),
        }),
    );
    differences
}

fn find<'m>(manifests: &'m [Value], object: &ObjectRef) -> Option<&'m Value> {
    manifests
        .iter()
        .find(|manifest| ObjectRef::of(manifest).is_some_and(|other| other.is_same(object)))
}

/// Adds the fields that differ. The depth of values is bounded by the parsers.
fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, fields: &mut Vec<FieldDiff>) {
    if before == after {
        return;
    }
    let known = fields.len();
    match (before, after) {
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for key in keys {
                compare(&member(path, key), before.get(key), after.get(key), fields);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) => {
            let (before, after) = match (named(before), named(after)) {
                (Some(before), Some(after)) => (before, after),
                _ => (indexed(before), indexed(after)),
            };
            let keys: BTreeSet<&(usize, String)> = before.keys().chain(after.keys()).collect();
            for key in keys {
                let path = format!("{path}[{}]", key.1);
                compare(&path, before.get(key).copied(), after.get(key).copied(), fields);
            }
        }
        _ => {}
    }
    // Both are single values, or differ in the order of named items alone.
    if fields.len() == known {
        fields.push(FieldDiff {
            path: path.to_owned(),
            before: before.cloned(),
            after: after.cloned(),
        });
    }
}

/// The items of a list by their names, if each has one of its own.
fn named(list: &[Value]) -> Option<BTreeMap<(usize, String), &Value>> {
    let mut items = BTreeMap::new();
    for item in list {
        let name = item.get("name")?.as_str()?.to_owned();
        if items.insert((0, name), item).is_some() {
            return None;
        }
    }
    Some(items)
}

fn indexed(list: &[Value]) -> BTreeMap<(usize, String), &Value> {
    list.iter().enumerate().map(|(index, item)| ((index, index.to_string()), item)).collect()
}

fn member(path: &str, key: &str) -> String {
    let is_word =
        key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    match (path, is_word) {
        ("", true) => key.to_owned(),
        (path, true) => format!("{path}.{key}"),
        (path, false) => format!("{path}[{key:?}]"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(kind: &str, spec: Value) -> Value {
        let mut object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "web"}});
        object["spec"] = spec;
        object
    }

    fn paths(before: Value, after: Value) -> Vec<String> {
        let found = diff(&[object("A", before)], &[object("A", after)]);
        found.into_iter().flat_map(|diff| diff.fields).map(|field| field.path).collect()
    }

    #[test]
    fn objects_are_added_removed_and_changed() {
        let a = |value: u8| object("A", json!({"x": value}));
        let found = diff(&[a(1), object("B", json!(1))], &[object("C", json!(1)), a(2)]);
        let summary: Vec<_> =
            found.iter().map(|diff| (diff.object.kind.as_str(), diff.change)).collect();
        assert_eq!(summary, [("C", Change::Added), ("A", Change::Changed), ("B", Change::Removed)]);
        assert_eq!(
            found[1].fields,
            [FieldDiff {
                path: "spec.x".to_owned(),
                before: Some(json!(1)),
                after: Some(json!(2))
            }]
        );
        assert!(diff(&[a(1)], &[a(1)]).is_empty());
        let mut newer = a(1);
        newer["apiVersion"] = "v2".into();
        let found = diff(&[a(1)], &[newer]);
        assert_eq!(found[0].fields[0].path, "apiVersion", "it is the same object");
    }

    #[test]
    fn items_are_compared_by_name_and_keys_have_one_reading() {
        let list = |items: &[(&str, u8)]| -> Value {
            items.iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
        };
        let before = list(&[("a", 1), ("b", 2)]);
        assert_eq!(
            paths(before.clone(), list(&[("new", 0), ("a", 1), ("b", 3)])),
            ["spec[b].value", "spec[new]"]
        );
        assert_eq!(paths(before, list(&[("b", 2), ("a", 1)])), ["spec"], "the order alone");
        assert_eq!(paths(json!([1, 2]), json!([1, 3, 4])), ["spec[1]", "spec[2]"]);
        assert_eq!(paths(json!({"a.b/c": 1}), json!({"a.b/c": null})), ["spec[\"a.b/c\"]"]);
        assert_eq!(paths(json!({"a": 1}), json!([1])), ["spec"]);
    }

    proptest::proptest! {
        #[test]
        fn two_templates_differ_if_and_only_if_there_is_a_difference(
            before in proptest::collection::btree_map("[a-c]", 0_u8..3, 0..4),
            after in proptest::collection::btree_map("[a-c]", 0_u8..3, 0..4),
        ) {
            let is_same = before == after;
            proptest::prop_assert_eq!(paths(json!(before), json!(after)).is_empty(), is_same);
        }
    }
}
