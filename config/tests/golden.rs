//! Golden tests of translation: each `testdata/NAME.in.yaml` is translated and compared with
//! `NAME.out.yaml`.
//!
//! A first document without `kind` holds settings; missing ones are those of [`settings`]. With
//! `source: {directory: …}` the other documents are read as from that folder, else as from a
//! cluster. `UPDATE_GOLDEN=1 cargo test -p portcullis-config --test golden` regenerates the
//! outputs: then review the difference.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by a panic"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portcullis_config::installation::Installation;
use portcullis_config::problem::Problem;
use portcullis_config::resources::credential::Credential;
use portcullis_config::resources::{Change, Object, Resources};
use portcullis_config::settings::{Settings, SourceSettings};
use portcullis_config::source::Secrets;
use portcullis_config::source::manifest::{Manifests, read_manifests};
use portcullis_config::translate::{Translation, translate};
use serde::Serialize;
use serde_json::{Value, json};

/// A placeholder in an input for a text of that length.
const MEGABYTE: &str = "MEGABYTE";

struct Input {
    settings: Settings,
    objects: Vec<Object>,
    problems: Vec<Problem>,
}

#[derive(Serialize)]
struct Output<'a> {
    #[serde(flatten)]
    snapshot: &'a portcullis_config::snapshot::Snapshot,
    problems: Vec<&'a Problem>,
}

#[test]
fn each_input_yields_its_output() {
    let mut wrong = Vec::new();
    let names = names();
    assert!(names.len() >= 60, "only {} inputs", names.len());
    for name in names {
        let input = Input::read(&name);
        let output = input.output(input.objects.iter());
        let path = folder().join(format!("{name}.out.yaml"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &output).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        if output != expected {
            wrong.push(format!("--- {name}: expected\n{expected}--- got\n{output}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_order_of_resources_makes_no_difference() {
    for name in names() {
        let input = Input::read(&name);
        let expected = input.output(input.objects.iter());
        assert_eq!(input.output(input.objects.iter().rev()), expected, "{name}, backwards");
        for middle in 0..input.objects.len() {
            let (first, second) = input.objects.split_at(middle);
            assert_eq!(
                input.output(second.iter().chain(first)),
                expected,
                "{name}, from {middle} on"
            );
        }
    }
}

#[test]
fn each_input_starts_with_a_comment() {
    for name in names() {
        let text = fs::read_to_string(folder().join(format!("{name}.in.yaml"))).unwrap();
        assert!(text.starts_with("# "), "{name}");
    }
}

#[test]
fn each_output_has_its_input() {
    let outputs = fs::read_dir(folder()).unwrap().filter_map(|entry| {
        Some(entry.unwrap().file_name().to_str()?.strip_suffix(".out.yaml")?.to_owned())
    });
    let names = names();
    for output in outputs {
        assert!(names.contains(&output), "{output}.out.yaml has no input");
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

fn names() -> Vec<String> {
    let entries = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        entries.filter_map(|name| Some(name.strip_suffix(".in.yaml")?.to_owned())).collect();
    names.sort();
    names
}

/// The settings of an input, with defaults.
fn settings(given: Option<Value>) -> Settings {
    let mut settings = json!({"zone": "apps.example.com", "source": {"kubernetes": {}}});
    if let (Some(settings), Some(Value::Object(given))) = (settings.as_object_mut(), given) {
        settings.extend(given);
    }
    serde_json::from_value(settings).unwrap()
}

// === impl Input ===

impl Input {
    fn read(name: &str) -> Self {
        let text = fs::read_to_string(folder().join(format!("{name}.in.yaml")))
            .unwrap()
            .replace(MEGABYTE, &"/a,".repeat(1 << 20));
        let first = text.split_inclusive("\n---\n").next().unwrap();
        let is_settings = !first.lines().any(|line| line.starts_with("kind:"));
        let settings = settings(
            is_settings.then(|| serde_saphyr::from_str(first.trim_end_matches("---\n")).unwrap()),
        );
        // Empty lines keep the line numbers.
        let manifests = if is_settings {
            "\n".repeat(first.lines().count()) + &text[first.len()..]
        } else {
            text
        };
        let file = Arc::new(format!("{name}.in.yaml").into());
        let Manifests { mut objects, mut problems, .. } =
            read_manifests(&file, manifests.as_bytes(), &Secrets::of(&settings));
        if let SourceSettings::Kubernetes(_) = settings.source {
            objects.iter_mut().for_each(forget_place);
            problems.iter_mut().for_each(|problem| problem.origin.place = None);
        }
        Self { settings, objects, problems }
    }

    fn output<'a>(&'a self, objects: impl Iterator<Item = &'a Object>) -> String {
        let mut resources = Resources::new(Installation::default(), &self.settings);
        for object in objects {
            resources.apply(Change::Upsert(object.clone()));
        }
        let Translation { snapshot, problems } = translate(&self.settings, &resources);
        for listener in &snapshot.listeners {
            assert!(
                Arc::ptr_eq(&listener.hosts, &snapshot.listeners[0].hosts),
                "all listeners share one table"
            );
        }
        let problems = self.problems.iter().chain(&problems).collect();
        let mut value = serde_json::to_value(Output { snapshot: &snapshot, problems }).unwrap();
        share_hosts(&mut value);
        let text = serde_saphyr::to_string_with_options(
            &value,
            serde_saphyr::ser_options! { folded_wrap_chars: 10_000, min_fold_chars: 10_000 },
        );
        text.unwrap()
    }
}

/// Moves the hosts out of the listeners: they are the same for all, so they are printed once.
fn share_hosts(value: &mut Value) {
    let mut hosts = Value::Null;
    for listener in value["listeners"].as_array_mut().into_iter().flatten() {
        hosts = listener.as_object_mut().unwrap().shift_remove("hosts").unwrap();
    }
    let rest = value.as_object_mut().unwrap();
    let problems = rest.shift_remove("problems").unwrap();
    rest.insert("hosts".to_owned(), hosts);
    rest.insert("problems".to_owned(), problems);
}

/// Removes the location in a file, which an object of a cluster does not have.
fn forget_place(object: &mut Object) {
    let origin = match object {
        Object::Namespace(namespace) => &mut namespace.origin,
        Object::Service(service) => &mut service.origin,
        Object::EndpointSlice(slice) => &mut slice.origin,
        Object::Pod(pod) => &mut pod.origin,
        Object::Certificate(_, certificate) => &mut certificate.origin,
        Object::Credential(Credential::ClientKey(key)) => &mut key.origin,
        Object::Credential(Credential::SessionKey(key)) => &mut key.origin,
        Object::Credential(Credential::SessionKeys(ring, keys)) => {
            keys.iter_mut().for_each(|key| key.origin.place = None);
            &mut ring.origin
        }
        Object::Credential(Credential::RevokedSessions(list)) => &mut list.origin,
    };
    origin.place = None;
}
