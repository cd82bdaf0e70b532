use super::*;
use crate::certificates::testing::{
    certificate, client_certificate, now, rsa_certificate, with_key_of,
};

fn patterns(checked: &Checked) -> Vec<String> {
    checked.names.iter().map(ToString::to_string).collect()
}

#[test]
fn a_valid_certificate_has_its_names() {
    let checked =
        check(&certificate("one", &["A.example.com", "*.example.com"]), now()).expect("good");
    assert_eq!(patterns(&checked), ["a.example.com", "*.example.com"]);
    assert!(checked.is_ecdsa());
    let days = checked.remaining(now()).as_secs() / 86_400;
    assert!((29..=30).contains(&days), "{days}");
}

#[test]
fn an_rsa_certificate_is_valid() {
    assert!(!check(&rsa_certificate("one", &["a.example.com"]), now()).expect("good").is_ecdsa());
}

#[test]
fn the_key_of_another_certificate_is_rejected() {
    let mixed = with_key_of(
        &certificate("one", &["a.example.com"]),
        &certificate("two", &["a.example.com"]),
    );
    assert_eq!(check(&mixed, now()).err(), Some(Unusable::KeyMismatch));
}

#[test]
fn an_expired_or_future_certificate_is_rejected() {
    let good = certificate("one", &["a.example.com"]);
    let day = Duration::from_secs(24 * 3600);
    assert_eq!(check(&good, now() + 31 * day).err(), Some(Unusable::Expired));
    assert_eq!(check(&good, now() - 2 * day).err(), Some(Unusable::NotYetValid));
}

#[test]
fn a_certificate_without_a_name_or_for_clients_is_rejected() {
    assert_eq!(check(&certificate("one", &[]), now()).err(), Some(Unusable::NoName));
    assert_eq!(check(&certificate("one", &["192.0.2.1"]), now()).err(), Some(Unusable::NoName));
    assert_eq!(
        check(&client_certificate("one", &["a.example.com"]), now()).err(),
        Some(Unusable::NotForServers)
    );
}

#[test]
fn malformed_input_is_rejected() {
    let good = certificate("one", &["a.example.com"]);
    let chain =
        |chain: &[u8]| check(&Certificate { chain: chain.into(), ..good.clone() }, now()).err();
    assert!(matches!(chain(b""), Some(Unusable::Chain(_))));
    assert!(matches!(
        chain(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
        Some(Unusable::Chain(_))
    ));
    assert!(matches!(chain(b"-----BEGIN CERTIFICATE-----\n*\n"), Some(Unusable::Chain(_))));
    assert_eq!(chain(&vec![b'\n'; MAX_PEM + 1]), Some(Unusable::TooLarge));
    assert_eq!(chain(&good.chain.repeat(MAX_CHAIN + 1)), Some(Unusable::LongChain));
    let key = Certificate { key: b"-----BEGIN PRIVATE KEY-----\n".to_vec().into(), ..good.clone() };
    assert_eq!(check(&key, now()).err(), Some(Unusable::Key));
}

#[test]
fn problems_do_not_contain_the_key() {
    let good = certificate("one", &["a.example.com"]);
    let secret = String::from_utf8(good.key.expose().to_vec())
        .expect("PEM")
        .replace("BEGIN PRIVATE", "BEGIN PRIVAT");
    let line = secret.lines().nth(1).expect("a line").to_owned();
    let broken = Certificate { key: secret.into_bytes().into(), ..good.clone() };
    let unusable = check(&broken, now()).expect_err("broken");
    let text = format!("{unusable:?} {}", unusable.problem(good.origin, "it is not served"));
    assert!(!text.contains(&line));
}
