//! Hostnames, and the environments that own them.

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use super::*;

fn template(hostname: &str, default_environment: Option<&str>) -> HostnameTemplate {
    let settings = json!({
        "zone": "apps.example.com", "source": {"kubernetes": {}}, "hostname": hostname, "defaultEnvironment": default_environment,
    });
    HostnameTemplate::new(&serde_json::from_value(settings).unwrap()).unwrap()
}

const TEMPLATES: [&str; 5] = [
    "{service}--{environment}.{zone}",
    "{service}.{environment}.{zone}",
    "{environment}-x-{service}.{zone}",
    "www-{environment}.{service}.internal.{zone}",
    "{service}{environment}.{zone}",
];

const LABEL: &str = "a([ab-]{0,3}[ab])?";

proptest! {
    #[test]
    fn a_name_belongs_to_the_environment_that_it_was_generated_for(
        text in select(&TEMPLATES[..]), service in LABEL, environment in LABEL, default in proptest::option::of(LABEL),
    ) {
        let template = template(text, default.as_deref());
        let name = template.hostname(&service, &environment).unwrap();
        let is_default = default.as_ref() == Some(&environment);
        prop_assert!(is_default || !template.is_foreign(&name, &environment));
        prop_assert!(is_default || template.is_foreign(&name, "other"), "{name}");
    }

    #[test]
    fn names_outside_the_zone_belong_to_no_environment(name in "[a-c]{1,3}(\\.[a-c]{1,3}){0,3}", text in select(&TEMPLATES[..])) {
        prop_assert!(!template(text, Some("production")).is_foreign(&name.parse().unwrap(), "staging"));
    }
}

#[test]
fn a_name_of_the_default_environment_is_a_label_below_the_zone() {
    let template = template(TEMPLATES[0], Some("production"));
    let is_foreign =
        |name: &str, environment| template.is_foreign(&name.parse().unwrap(), environment);
    assert!(is_foreign("shop.apps.example.com", "staging"));
    assert!(!is_foreign("shop.apps.example.com", "production"));
    assert!(!is_foreign("a.b.apps.example.com", "staging"));
    assert!(!is_foreign("apps.example.com", "staging"));
    assert!(is_foreign("shop--staging.apps.example.com", "production"));
    assert!(!is_foreign("shop--staging.apps.example.com", "staging"));
}

#[test]
fn no_wildcard_may_match_names_of_the_zone() {
    let template = template(TEMPLATES[0], None);
    let is_shadowed = |pattern: &str| template.is_shadowed_by(&pattern.parse().unwrap());
    assert!(
        ["*.apps.example.com", "*.example.com", "*.com", "*.a.apps.example.com"]
            .into_iter()
            .all(is_shadowed)
    );
    assert!(
        ![
            "*.example.org",
            "*.pps.example.com",
            "*.other.example.com",
            "apps.example.com",
            "a.apps.example.com"
        ]
        .into_iter()
        .any(is_shadowed)
    );
}
