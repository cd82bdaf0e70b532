use http::header;
use proptest::prelude::*;

use super::*;

fn octets(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|digit| !digit.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, Undecodable> {
    let mut fields = Vec::new();
    decoder.decode(block, |field| {
        let name = match field.name {
            Name::Status => ":status".to_owned(),
            Name::Pseudo => ":".to_owned(),
            Name::Field(name) => name.to_string(),
            Name::Malformed => "malformed".to_owned(),
        };
        fields.push((name, field.value.to_str().unwrap_or("not text").to_owned()));
    })?;
    Ok(fields)
}

fn fields(expected: &[(&str, &str)]) -> Result<Vec<(String, String)>, Undecodable> {
    Ok(expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
}

/// RFC 7541 Appendix C.5: responses without Huffman coding, with a table of 256 octets.
#[test]
fn rfc_responses_without_huffman_coding_are_decoded() {
    let mut decoder = Decoder::default();
    assert_eq!(decode(&mut decoder, &octets("3fe101")), fields(&[]), "a table of 256 octets");
    let first = "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133
        2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 \
                 6f6d";
    let location = ("location", "https://www.example.com");
    let at_21 = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
    assert_eq!(
        decode(&mut decoder, &octets(first)),
        fields(&[(":status", "302"), ("cache-control", "private"), at_21, location])
    );
    assert_eq!(
        decode(&mut decoder, &octets("4803 3330 37c1 c0bf")),
        fields(&[(":status", "307"), ("cache-control", "private"), at_21, location])
    );
    let third = "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d \
                 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a
        4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 \
                 303b 2076 6572 7369 6f6e 3d31";
    assert_eq!(
        decode(&mut decoder, &octets(third)),
        fields(&[
            (":status", "200"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
            location,
            ("content-encoding", "gzip"),
            ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
        ])
    );
}

/// RFC 7541 Appendix C.6: the same with Huffman coding.
#[test]
fn rfc_responses_with_huffman_coding_are_decoded() {
    let mut decoder = Decoder::default();
    assert_eq!(decode(&mut decoder, &octets("3fe101")), fields(&[]));
    let first = "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 \
                 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3";
    let location = ("location", "https://www.example.com");
    let at_21 = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
    assert_eq!(
        decode(&mut decoder, &octets(first)),
        fields(&[(":status", "302"), ("cache-control", "private"), at_21, location])
    );
    assert_eq!(
        decode(&mut decoder, &octets("4883 640e ffc1 c0bf")),
        fields(&[(":status", "307"), ("cache-control", "private"), at_21, location])
    );
    let third = "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab \
                 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960
        d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07";
    let read = decode(&mut decoder, &octets(third)).unwrap();
    assert_eq!(read.last().unwrap().1, "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1");
}

#[test]
fn undecodable_blocks_are_rejected() {
    for (block, why) in [
        ("80", "index 0"),
        ("be", "an entry that does not exist"),
        ("ff80808080 01", "an index that is too large"),
        ("ff", "a truncated integer"),
        ("4003 6162", "a truncated name"),
        ("0003 6162 6301", "a truncated value"),
        ("88 3fe101", "a size update after the first field"),
        ("3fe21f", "a table larger than allowed"),
        ("4883 64 0e fe", "padding with zeros"),
        ("4882 64ff ff", "a truncated string"),
        ("5881 ff", "padding of eight ones"),
        ("5884 ffff fffc", "an end of string within the string"),
    ] {
        assert_eq!(decode(&mut Decoder::default(), &octets(block)), Err(Undecodable), "{why}");
    }
}

#[test]
fn malformed_fields_are_kept_in_the_dynamic_table() {
    let mut decoder = Decoder::default();
    // `A: b`, then `c: d` with a control character in its value, then `e: f`.
    let read = decode(&mut decoder, &octets("4001 4101 62 4001 6301 01 4001 6501 66")).unwrap();
    assert_eq!(read, fields(&[("malformed", "b"), ("malformed", ""), ("e", "f")]).unwrap());
    assert_eq!(
        decode(&mut decoder, &octets("be bf c0")),
        fields(&[("e", "f"), ("malformed", ""), ("malformed", "b")])
    );
}

#[test]
fn secrets_are_never_indexed() {
    let write = |name: HeaderName, value: HeaderValue| {
        let mut out = Vec::new();
        field(&name, &value, &mut out);
        out
    };
    assert_eq!(write(header::ACCEPT, HeaderValue::from_static("a")), [0x0f, 4, 1, b'a']);
    assert_eq!(write(header::COOKIE, HeaderValue::from_static("a")), [0x1f, 17, 1, b'a']);
    let mut secret = HeaderValue::from_static("a");
    secret.set_sensitive(true);
    assert_eq!(write(HeaderName::from_static("x"), secret), [0x10, 1, b'x', 1, b'a']);
}

fn any_field() -> impl Strategy<Value = (HeaderName, HeaderValue)> {
    let name = prop_oneof![
        Just(header::CONTENT_TYPE),
        Just(header::COOKIE),
        "[a-z0-9-]{1,40}".prop_map(|name| name.parse().unwrap())
    ];
    (
        name,
        prop::collection::vec(0x20_u8..0x7f, 0..300)
            .prop_map(|value| HeaderValue::from_bytes(&value).unwrap()),
    )
}

proptest! {
    #[test]
    fn encoded_fields_round_trip(written in prop::collection::vec(any_field(), 0..20)) {
        let mut block = Vec::new();
        for (name, value) in &written {
            field(name, value, &mut block);
        }
        let mut read = Vec::new();
        Decoder::default().decode(&block, |field| read.push((field.name, field.value))).unwrap();
        let expected: Vec<_> = written.into_iter().map(|(name, value)| (Name::Field(name), value)).collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn the_table_stays_within_its_limit(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..10)) {
        let mut decoder = Decoder::default();
        for block in blocks {
            let _ = decoder.decode(&block, |field| assert!(field.octets >= 32));
            decoder.assert_is_sound();
        }
    }
}
