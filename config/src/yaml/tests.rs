use super::*;

fn first(text: &str) -> Node {
    read(text.as_bytes()).remove(0).unwrap()
}

fn at(line: u32, column: u32) -> Position {
    Position { line, column }
}

#[test]
fn every_value_and_key_has_its_position() {
    let node = first("a:\n  b: [1, two]\n8080: x\n");
    assert_eq!(node.get("a").unwrap().get("b").unwrap().list().unwrap()[1].at, at(2, 10));
    let Value::Map(entries) = &node.value else { panic!("no map") };
    assert_eq!((entries[1].key.as_str(), entries[1].key_at), ("8080", at(3, 1)));
    assert_eq!(node.resolve(&["a", "b", "1"]).1, at(2, 10));
    assert_eq!(node.resolve(&["a", "nothing"]), (vec![Step(0)], at(2, 3)));
}

#[test]
fn json_with_tabs_is_read() {
    let node = first("{\n\t\"a\": [\n\t\t1,\n\t\ttrue\n\t],\n\t\"b\": \"\\u00e4\\n\"\n}\n");
    assert_eq!(node.get("b").unwrap().text(), Some("ä\n"));
    assert_eq!(node.get("a").unwrap().list().unwrap().len(), 2);
}

#[test]
fn documents_before_and_after_an_invalid_one_are_read() {
    let documents = read(b"a: 1\n---\nb: 1\nb: 2\n---\n---\nc: 1\n");
    assert_eq!(documents.len(), 3);
    let error = documents[1].as_ref().unwrap_err();
    assert_eq!((error.at, error.message.as_str()), (at(4, 1), "duplicate key `b`"));
    assert!(documents[2].as_ref().unwrap().get("c").is_some());
}

#[test]
fn a_syntax_error_has_its_position() {
    let documents = read(b"a: 1\n---\nb: [1, 2\nc: 3\n---\nd: 4\n");
    assert!(documents[2].as_ref().unwrap().get("d").is_some());
    let error = documents[1].as_ref().unwrap_err();
    assert!(error.at.line >= 3, "{error:?}");
    assert!(error.message.starts_with("the file is not well-formed YAML: "), "{error:?}");
    assert!(!error.message.contains("line "), "{error:?}");
}

#[test]
fn invalid_utf8_is_reported_with_its_position() {
    let error = read(b"a: 1\nb: \xff\n").remove(0).unwrap_err();
    assert_eq!(error.at, at(2, 4));
}

#[test]
fn exponential_aliases_are_rejected() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let alias = vec![format!("*a{}", level - 1); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{alias}]\n"));
    }
    let error = read(text.as_bytes()).remove(0).unwrap_err();
    assert!(error.message.starts_with("the file is too large"), "{error:?}");
}

#[test]
fn deep_nesting_is_rejected() {
    for text in
        ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000), "? ".repeat(100_000)]
    {
        assert!(read(text.as_bytes()).iter().all(Result::is_err));
    }
}

#[test]
fn a_decode_error_has_the_position_of_the_innermost_value() {
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only its type matters")]
        inner: Vec<u8>,
    }
    let node = first("inner:\n- 1\n- 300\n");
    let error = decode::<Outer>(&node).unwrap_err();
    assert_eq!((error.at, error.path), (Some(at(3, 3)), vec![Step(0), Step(1)]));
    let node = first("inner: []\ninnner: 2\n");
    let error = decode::<Outer>(&node).unwrap_err();
    assert_eq!((error.at, error.help.as_str()), (Some(at(2, 1)), "did you mean `inner`?"));
}

#[test]
fn a_scalar_that_is_not_a_string_gets_a_hint_to_quote_it() {
    let node = first("a: true");
    let error = decode::<std::collections::BTreeMap<String, String>>(&node).unwrap_err();
    assert_eq!(error.message, "expected a string, found boolean `true`");
    assert_eq!(error.help, "put the value in quotes");
}

#[test]
fn unquoted_scalars_are_resolved_as_by_kubectl() {
    let value = |text: &str| first(&format!("a: {text}")).get("a").unwrap().value.clone();
    assert_eq!(value("~"), Value::Null);
    assert_eq!(value("yes"), Value::Bool(true));
    assert_eq!(value("\"yes\""), Value::Text("yes".to_owned()));
    assert_eq!(value("!!str 12"), Value::Text("12".to_owned()));
    assert_eq!(value("0x1F"), Value::Integer(31));
    assert_eq!(value("-7"), Value::Integer(-7));
    assert_eq!(value("18446744073709551615"), Value::Unsigned(u64::MAX));
    assert_eq!(value("1e3"), Value::Float(1000.0));
    for text in [
        "1.2.3.4",
        "10.0.0.0/8",
        "1h",
        "infinity",
        "+infinity",
        "nan",
        ".",
        "1_000",
        "0x",
        "0x-1",
        "2026-01-01",
        "8080:80",
    ] {
        assert_eq!(value(text), Value::Text(text.to_owned()), "{text}");
    }
}

#[test]
fn aliases_and_merge_keys_have_the_position_of_their_use() {
    let node = first("base: &base {a: 1, b: 2}\nuse:\n  <<: *base\n  b: 3\nagain: *base\n");
    let merged = node.get("use").unwrap();
    assert_eq!(merged.get("a").unwrap().value, Value::Integer(1));
    assert_eq!(merged.get("b").unwrap().value, Value::Integer(3));
    assert_eq!(node.get("again").unwrap().at, at(5, 8));
}

#[test]
fn a_recursive_alias_is_rejected() {
    assert_eq!(read(b"a: &a [*a]").remove(0).unwrap_err().at, at(1, 8));
}

#[test]
fn many_distinct_keys_are_read_in_linear_time() {
    let text: String = (0..100_000).map(|index| format!("key{index}: x\n")).collect();
    assert!(read(text.as_bytes()).remove(0).is_ok());
}

#[test]
fn aliases_do_not_bypass_the_depth_limit() {
    let mut text = "a0: &a0 x\n".to_owned();
    for level in 1..60 {
        text.push_str(&format!("a{level}: &a{level} [[[*a{}]]]\n", level - 1));
    }
    assert!(
        read(text.as_bytes()).remove(0).unwrap_err().message.starts_with("the file is too large")
    );
}

#[test]
fn aliases_of_a_long_text_are_bounded_by_its_length() {
    let repeated = |length: usize, times: usize| {
        let text = format!("- &a {}\n{}", "x".repeat(length), "- *a\n".repeat(times));
        read(text.as_bytes()).into_iter().all(|document| document.is_ok())
    };
    assert!(repeated(10, 10_000));
    assert!(repeated(100_000, 50));
    assert!(!repeated(100_000, 1_000));
}
