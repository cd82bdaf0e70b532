//! Plans of changes, from the objects that users write.

use k8s_openapi::api::core::v1;

use super::*;
use crate::resources::{self, Object, Resources, Service};
use crate::translate::split_view;

/// A Service of the Namespace `shop` with these annotations, without their prefix.
fn service(name: &str, annotations: &[(&str, &str)]) -> Object {
    let annotations: serde_json::Map<String, serde_json::Value> = annotations
        .iter()
        .map(|(key, value)| (format!("portcullis.dev/{key}"), (*value).into()))
        .collect();
    let object: v1::Service = serde_json::from_value(serde_json::json!({
        "metadata": { "name": name, "namespace": "shop", "annotations": annotations },
        "spec": { "ports": [{ "port": 80 }] },
    }))
    .unwrap();
    Object::Service(Service::from_object(&object, None).unwrap())
}

fn planned(objects: Vec<Object>, change: &Change) -> Result<Plan, InvalidChange> {
    planned_by(objects, change, false)
}

fn forced(objects: Vec<Object>, change: &Change) -> Result<Plan, InvalidChange> {
    planned_by(objects, change, true)
}

fn planned_by(objects: Vec<Object>, change: &Change, force: bool) -> Result<Plan, InvalidChange> {
    let mut resources = Resources::default();
    for object in objects {
        resources.apply(resources::Change::Upsert(object));
    }
    let name = NamespacedName::new("shop", "web");
    let view = split_view(resources.service(&name).unwrap(), &resources);
    plan(&name, &view, change, force)
}

fn set(weights: &[(&str, &str)]) -> Change {
    let weights =
        weights.iter().map(|(name, weight)| ((*name).to_owned(), weight.parse().unwrap()));
    Change::Weights(weights.collect())
}

fn canary(name: &str) -> Object {
    service(name, &[("canary-of", "web")])
}

/// A Service that was created at a time, in seconds since 1970.
fn created(at: i64, name: &str, annotations: &[(&str, &str)]) -> Object {
    let mut object = service(name, annotations);
    if let Object::Service(service) = &mut object {
        service.created = at;
    }
    object
}

/// The values of the annotations: split, generation, previous split.
fn written(plan: Result<Plan, InvalidChange>) -> [String; 3] {
    plan.unwrap().edit.unwrap().annotations.map(|(_, value)| value)
}

fn state(state: &State) -> String {
    let weights = state.weights.iter().map(|(name, weight)| format!("{name} {weight}"));
    weights.collect::<Vec<_>>().join(", ")
}

#[test]
fn the_first_change_takes_over_the_weights_of_the_canaries() {
    let weighted = service("web-canary", &[("canary-of", "web"), ("canary-weight", "5")]);
    let objects = vec![service("web", &[]), weighted, canary("web-b")];
    let plan = planned(objects, &set(&[("b", "0.25")]));
    let found = plan.clone().unwrap();
    assert_eq!(state(&found.before), "stable 95, web-b 0, web-canary 5");
    assert_eq!(state(&found.after), "stable 94.75, web-b 0.25, web-canary 5");
    // The canary keeps each of its buckets.
    let expected = ["web-b=0-24,web-canary=9500-9999", "1", "0: web-canary=9500-9999"];
    assert_eq!(written(plan), expected);
}

#[test]
fn the_previous_split_is_restored_and_restored_again() {
    let split = [
        ("split", "web-a=0-499,web-b=500-999,web-c=5000-5999"),
        ("split-generation", "12"),
        ("split-previous", "11: web-a=0-9999"),
    ];
    let variants = || vec![canary("web-a"), canary("web-b"), canary("web-c")];
    let objects = [vec![service("web", &split)], variants()].concat();
    let [now, generation, before] = written(planned(objects, &Change::Previous));
    assert_eq!(now, "web-a=0-9999");
    assert_eq!((&*generation, &*before), ("13", &*format!("12: {}", split[0].1)));
    let again =
        [("split", &*now), ("split-generation", &*generation), ("split-previous", &*before)];
    let objects = [vec![service("web", &again)], variants()].concat();
    assert_eq!(
        written(planned(objects, &Change::Previous)),
        [split[0].1, "14", "13: web-a=0-9999"]
    );
}

#[test]
fn nothing_is_written_if_nothing_changes() {
    let weighted = service("web-canary", &[("canary-of", "web"), ("canary-weight", "5")]);
    let plan =
        planned(vec![service("web", &[]), weighted], &set(&[("web-canary", "5.00")])).unwrap();
    assert_eq!((plan.edit, plan.after), (None, plan.before));
}

#[test]
fn an_invalid_split_is_replaced() {
    for split in ["web-canary=0-99,web-canary=50-200", "web-canary"] {
        let web = service("web", &[("split", split), ("split-generation", "3")]);
        let [now, generation, before] =
            written(planned(vec![web, canary("web-canary")], &set(&[("canary", "1")])));
        assert_eq!((&*now, &*generation, &*before), ("web-canary=0-99", "4", "3: stable=0-9999"));
    }
}

#[test]
fn invalid_changes_are_reported_with_what_is_there() {
    let objects = || vec![service("web", &[]), canary("web-canary"), canary("web-b")];
    for (weights, expected) in [
        (
            vec![("x", "5")],
            "there is no variant `x`: the variants of Service shop/web are web-b, web-canary",
        ),
        (vec![("canary", "5"), ("web-canary", "6")], "variant `web-canary` is named twice"),
        (vec![("stable", "5")], "the stable variant gets what the others leave: set their weights"),
        (vec![("web", "5")], "the stable variant gets what the others leave: set their weights"),
        (
            vec![("canary", "60"), ("b", "40.01")],
            "the weights add up to 100.01 %: web-b 40.01 %, web-canary 60 %",
        ),
    ] {
        assert_eq!(planned(objects(), &set(&weights)).unwrap_err().to_string(), expected);
    }
    let alone = planned(vec![service("web", &[])], &set(&[("canary", "5")])).unwrap_err();
    let expected =
        "Service shop/web has no variants: annotate one with `portcullis.dev/canary-of: web`";
    assert_eq!(alone.to_string(), expected);
    let none = planned(objects(), &Change::Previous).unwrap_err().to_string();
    assert_eq!(none, "there is no previous split of Service shop/web");
    let lost = service("web", &[("split-previous", "web-gone=0-5")]);
    let lost = planned(vec![lost, canary("web-b")], &Change::Previous).unwrap_err().to_string();
    assert!(lost.ends_with("is not restored: `web-gone` is no variant any more"), "{lost}");
}

#[test]
fn a_variant_that_cannot_get_traffic_gets_no_weight() {
    let portless = service("web-canary", &[("canary-of", "web"), ("port", "8080")]);
    let objects = vec![service("web", &[]), portless, canary("web-b")];
    let error = planned(objects, &set(&[("canary", "5")])).unwrap_err().to_string();
    assert_eq!(
        error,
        "variant `web-canary` cannot get traffic: `portcullis.dev/port: 8080` is not a TCP port of this Service"
    );
}

#[test]
fn a_service_that_only_gets_copies_has_no_part_in_the_split() {
    let next = created(1, "web-next", &[("canary-of", "web"), ("mirror-percent", "10")]);
    let weighted = created(2, "web-canary", &[("canary-of", "web"), ("canary-weight", "5")]);
    let objects = || vec![service("web", &[]), next.clone(), weighted.clone()];
    // The canary has the buckets from 0 up, as at the gateway, where the older one has none.
    let plan = planned(objects(), &set(&[("canary", "20")]));
    assert_eq!(state(&plan.clone().unwrap().before), "stable 95, web-canary 5");
    assert_eq!(written(plan), ["web-canary=0-1999", "1", "0: web-canary=0-499"]);
    let copies = "variant `web-next` cannot get traffic: it only gets copies; annotate it with \
                  `portcullis.dev/canary-weight: \"0\"`, too";
    for objects in [objects(), vec![service("web", &[]), next.clone()]] {
        assert_eq!(planned(objects, &set(&[("next", "20")])).unwrap_err().to_string(), copies);
    }
}

#[test]
fn the_weight_of_a_missing_variant_is_lost_only_by_force() {
    let split = "web-a=0-499,web-b=9000-9499,web-b=9900-9999";
    let last = format!("3: {split}");
    let web = || service("web", &[("split", split), ("split-generation", "3")]);
    let portless = service("web-b", &[("canary-of", "web"), ("port", "8080")]);
    for objects in [vec![web(), canary("web-a")], vec![web(), canary("web-a"), portless]] {
        let change = set(&[("a", "10")]);
        let expected = "the split of Service shop/web has weights that would be lost, of variants \
                        that are missing: web-b 6 %";
        assert_eq!(planned(objects.clone(), &change).unwrap_err().to_string(), expected);
        // The previous split still has it: it can come back.
        assert_eq!(written(forced(objects.clone(), &change)), ["web-a=0-999", "4", &last]);
        let same = set(&[("a", "5")]);
        assert_eq!(planned(objects.clone(), &same).unwrap().edit, None);
        assert_eq!(written(forced(objects, &same)), ["web-a=0-499", "4", &last]);
    }
}

#[test]
fn going_back_needs_no_missing_variant() {
    let split = [("split", "web-a=0-499,web-b=9000-9999"), ("split-previous", "web-a=0-99")];
    let objects = vec![service("web", &split), canary("web-a")];
    assert_eq!(
        written(planned(objects, &Change::Previous)),
        ["web-a=0-99", "1", "0: web-a=0-499,web-b=9000-9999"]
    );
}

#[test]
fn a_name_is_that_of_a_service_before_it_is_a_short_one() {
    let stable = || canary("web-stable");
    let objects = || vec![service("web", &[]), canary("canary"), canary("web-canary"), stable()];
    for (name, expected) in [
        ("canary", "canary=0-499"),
        ("web-canary", "web-canary=0-499"),
        ("web-stable", "web-stable=0-499"),
    ] {
        assert_eq!(written(planned(objects(), &set(&[(name, "5")])))[0], expected);
    }
    let error = planned(objects(), &set(&[("stable", "5")])).unwrap_err();
    assert_eq!(error, InvalidChange::Stable);
    let portless = service("canary", &[("canary-of", "web"), ("port", "8080")]);
    let objects = vec![service("web", &[]), portless, canary("web-canary")];
    let error = planned(objects, &set(&[("canary", "5")])).unwrap_err();
    assert!(matches!(error, InvalidChange::Unusable { name, .. } if name == "canary"));
}

#[test]
fn a_split_that_is_not_the_last_one_is_restored_only_by_force() {
    let at = |annotations: &[(&str, &str)]| vec![service("web", annotations), canary("web-a")];
    let previous = ("split-previous", "11: web-a=0-99");
    let split = ("split", "web-a=0-499");
    let last = at(&[split, ("split-generation", "12"), previous]);
    assert_eq!(written(planned(last, &Change::Previous))[0], "web-a=0-99");
    for objects in [
        at(&[split, ("split-generation", "13"), previous]),
        at(&[split, previous]),
        at(&[("split-generation", "12"), previous]),
    ] {
        let error = planned(objects.clone(), &Change::Previous).unwrap_err().to_string();
        let expected = "the previous split of Service shop/web is not restored: the split was \
                        changed by someone else after generation 12";
        assert_eq!(error, expected);
        assert_eq!(written(forced(objects, &Change::Previous))[0], "web-a=0-99");
    }
    let gone = at(&[split, ("split-previous", "0: web-gone=0-99,web-a=200-299")]);
    assert_eq!(written(forced(gone, &Change::Previous))[0], "web-a=200-299");
}

#[test]
fn generations_are_counted_on_after_a_split_was_removed() {
    let weighted = service("web-a", &[("canary-of", "web"), ("canary-weight", "5")]);
    let objects = vec![service("web", &[("split-generation", "12")]), weighted];
    let plan = planned(objects, &set(&[("a", "10")]));
    let before = plan.clone().unwrap().before;
    assert_eq!(state(&before), "stable 95, web-a 5");
    assert!(before.generation.number() > 12, "a hash of the ranges");
    assert_eq!(written(plan), ["web-a=0-999", "13", "12: web-a=0-499"]);
}
