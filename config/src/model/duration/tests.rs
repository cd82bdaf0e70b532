use proptest::prelude::*;

use super::*;

proptest! {
    #[test]
    fn a_formatted_duration_is_parsed_back(milliseconds in 0..99_999 * 3_600_000_u64) {
        let duration = Duration::from_millis(milliseconds);
        prop_assert_eq!(parse(&format(duration)), Some(duration));
    }

    #[test]
    fn a_duration_matches_the_pattern_of_gateway_api(text in "[0-9hms]{0,12}|([0-9]{1,6}(h|m|s|ms)){0,5}|\\PC{0,8}") {
        let pattern = regex::Regex::new("^([0-9]{1,5}(h|m|s|ms)){1,4}$").unwrap();
        prop_assert_eq!(parse(&text).is_some(), pattern.is_match(&text), "{}", text);
    }
}

#[test]
fn a_duration_is_the_sum_of_its_parts() {
    let cases = [
        ("0s", 0),
        ("500ms", 500),
        ("5s", 5_000),
        ("1h30m", 5_400_000),
        ("1h1m1s1ms", 3_661_001),
        ("99999h", 359_996_400_000),
        ("007s", 7_000),
    ];
    for (text, milliseconds) in cases {
        assert_eq!(parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
    }
}

#[test]
fn a_malformed_duration_is_rejected() {
    for text in [
        "",
        "5",
        "s",
        "5 s",
        "-5s",
        "+5s",
        "1.5s",
        "5S",
        "5d",
        "1s1s1s1s1s",
        "100000s",
        "5µs",
        "５s",
        "1h ",
        "0x5s",
    ] {
        assert_eq!(parse(text), None, "{text}");
    }
}
