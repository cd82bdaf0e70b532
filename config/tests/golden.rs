//! What resources mean, by example: each `testdata/NAME.in.yaml` is translated, and compared with `NAME.out.yaml`.
//!
//! A document without `kind` holds settings; those that it leaves out are the ones of [`settings`]. With `source: {directory: …}` the other
//! documents count as read from that folder, else as watched in a cluster. `UPDATE_GOLDEN=1 cargo test -p portcullis-config --test golden`
//! writes the outputs anew: then read the difference.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use portcullis_config::problem::{Place, Problem};
use portcullis_config::resources::{Change, EndpointSlice, Namespace, Object, Resources, Service};
use portcullis_config::settings::{CertificateSettings, Settings, SourceSettings};
use portcullis_config::snapshot::certificate::Certificate;
use portcullis_config::translate::{Translation, translate};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Stands in an input for a text that is as long as it says.
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
fn each_input_has_its_output() {
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
fn the_order_in_which_resources_come_makes_no_difference() {
    for name in names() {
        let input = Input::read(&name);
        let expected = input.output(input.objects.iter());
        assert_eq!(input.output(input.objects.iter().rev()), expected, "{name}, backwards");
        for middle in 0..input.objects.len() {
            let (first, second) = input.objects.split_at(middle);
            assert_eq!(input.output(second.iter().chain(first)), expected, "{name}, from {middle} on");
        }
    }
}

#[test]
fn each_input_says_in_its_first_line_what_it_shows() {
    for name in names() {
        let text = fs::read_to_string(folder().join(format!("{name}.in.yaml"))).unwrap();
        assert!(text.starts_with("# "), "{name}");
    }
}

#[test]
fn each_output_has_its_input() {
    let outputs = fs::read_dir(folder())
        .unwrap()
        .filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.strip_suffix(".out.yaml")?.to_owned()));
    let names = names();
    for output in outputs {
        assert!(names.contains(&output), "{output}.out.yaml has no input");
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")
}

fn names() -> Vec<String> {
    let entries = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.filter_map(|name| Some(name.strip_suffix(".in.yaml")?.to_owned())).collect();
    names.sort();
    names
}

/// What an input starts from.
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
        let text = fs::read_to_string(folder().join(format!("{name}.in.yaml"))).unwrap();
        let mut documents = Vec::new();
        let mut line = 1;
        for document in text.split_inclusive("\n---\n") {
            let comments = document.lines().take_while(|line| line.starts_with('#')).count() as u32;
            let value: Value =
                serde_saphyr::from_str(document.trim_end_matches("---\n")).unwrap_or_else(|error| panic!("{name}:{line}: {error}"));
            documents.push((line + comments, value));
            line += document.lines().count() as u32;
        }
        let given = documents.iter().position(|(_, value)| value.get("kind").is_none()).map(|index| documents.remove(index).1);
        let settings = settings(given);
        let mut input = Self { settings, objects: Vec::new(), problems: Vec::new() };
        for (line, value) in documents {
            let place = match &input.settings.source {
                SourceSettings::Directory(directory) => {
                    Some(Place { file: Arc::new(directory.join(format!("{name}.in.yaml"))), line, column: 1 })
                }
                SourceSettings::Kubernetes(_) => None,
            };
            match object(value, place, &input.settings) {
                Ok(object) => input.objects.push(object),
                Err(problem) => input.problems.push(problem),
            }
        }
        input
    }

    fn output<'a>(&'a self, objects: impl Iterator<Item = &'a Object>) -> String {
        let mut resources = Resources::default();
        for object in objects {
            resources.apply(Change::Upsert(object.clone()));
        }
        let Translation { snapshot, problems } = translate(&self.settings, &resources);
        for listener in &snapshot.listeners {
            assert!(Arc::ptr_eq(&listener.hosts, &snapshot.listeners[0].hosts), "all listeners share one table");
        }
        let problems = self.problems.iter().chain(&problems).collect();
        let mut value = serde_json::to_value(Output { snapshot: &snapshot, problems }).unwrap();
        share_hosts(&mut value);
        let text =
            serde_saphyr::to_string_with_options(&value, serde_saphyr::ser_options! { folded_wrap_chars: 10_000, min_fold_chars: 10_000 });
        text.unwrap()
    }
}

/// The hosts of all listeners are the same, so they are shown once.
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

fn object(mut value: Value, place: Option<Place>, settings: &Settings) -> Result<Object, Problem> {
    stretch(&mut value);
    match value["kind"].as_str().unwrap() {
        "Namespace" => Namespace::from_object(&parse::<core::Namespace>(value), place).map(Object::Namespace),
        "Service" => Service::from_object(&parse::<core::Service>(value), place).map(Object::Service),
        "EndpointSlice" => EndpointSlice::from_object(&parse::<discovery::EndpointSlice>(value), place).map(Object::EndpointSlice),
        "Secret" => {
            let certificate = Certificate::from_secret(&parse::<core::Secret>(value), place)?;
            let names: BTreeMap<_, _> = settings.certificates.iter().map(|wanted| (format!("{wanted:?}"), wanted)).collect();
            let (namespace, name) = (certificate.origin.namespace.to_string(), certificate.origin.name.to_string());
            let wanted = CertificateSettings::Secret { namespace, name };
            assert!(names.contains_key(&format!("{wanted:?}")), "only Secrets that are referred to are read");
            Ok(Object::Certificate(wanted, certificate))
        }
        other => panic!("{other} is not read"),
    }
}

fn parse<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn stretch(value: &mut Value) {
    match value {
        Value::String(text) => *text = text.replace(MEGABYTE, &"/a,".repeat(1 << 20)),
        Value::Array(items) => items.iter_mut().for_each(stretch),
        Value::Object(entries) => entries.values_mut().for_each(stretch),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
