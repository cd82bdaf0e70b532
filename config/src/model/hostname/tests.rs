use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn a_hostname_matches_rfc_1123(text in "[aA0.-]{0,6}") {
        let label = |label: &str| {
            !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.chars().all(|char| matches!(char, 'a'..='z' | '0'..='9' | '-'))
        };
        prop_assert_eq!(text.parse::<Hostname>().is_ok(), text.split('.').all(label));
    }
}

#[test]
fn an_invalid_hostname_is_rejected_with_the_reason() {
    let cases = [
        ("", InvalidHostname::EmptyLabel),
        (".", InvalidHostname::EmptyLabel),
        ("a.", InvalidHostname::EmptyLabel),
        ("a..b", InvalidHostname::EmptyLabel),
        ("A", InvalidHostname::Character),
        ("a_b", InvalidHostname::Character),
        ("ä", InvalidHostname::Character),
        ("a b", InvalidHostname::Character),
        ("a:80", InvalidHostname::Character),
        ("*.a", InvalidHostname::Character),
        ("-a", InvalidHostname::Hyphen),
        ("a-.b", InvalidHostname::Hyphen),
    ];
    for (text, error) in cases {
        assert_eq!(text.parse::<Hostname>(), Err(error), "{text}");
    }
}

#[test]
fn a_label_has_63_octets_at_most_and_a_name_253() {
    let label = "a".repeat(63);
    assert!(label.parse::<Hostname>().is_ok());
    assert_eq!(format!("{label}a").parse::<Hostname>(), Err(InvalidHostname::LongLabel));
    let name = [&*label, &*label, &*label, &"a".repeat(61)].join(".");
    assert_eq!(name.len(), MAX_HOSTNAME);
    assert!(name.parse::<Hostname>().is_ok());
    assert_eq!(format!("{name}a").parse::<Hostname>(), Err(InvalidHostname::Long));
}

#[test]
fn a_wildcard_is_only_the_whole_first_label() {
    for text in ["*", "*.", "a.*.b", "**.a", "*a.b"] {
        assert!(text.parse::<HostPattern>().is_err(), "{text}");
    }
}
