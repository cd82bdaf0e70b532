use proptest::prelude::*;

use super::*;

fn done(addresses: Option<(&str, &str)>, length: usize) -> Result<Progress, Malformed> {
    let addresses = addresses.map(|(source, destination)| Addresses {
        source: source.parse().expect("an address"),
        destination: destination.parse().expect("an address"),
    });
    Ok(Progress::Done(Header { addresses, length }))
}

fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a payload that fits").to_be_bytes();
    [&V2_SIGNATURE, &[command, family][..], &length, payload].concat()
}

const IPV4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 0x04, 0x01, 0xbb];

#[test]
fn version_1_with_ipv4_and_ipv6_addresses() {
    let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n";
    assert_eq!(read(line), done(Some(("192.0.2.1:56324", "198.51.100.2:443")), line.len()));
    let line = b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n";
    assert_eq!(read(line), done(Some(("[2001:db8::1]:1", "[2001:db8::2]:65535")), line.len()));
}

#[test]
fn version_1_unknown_has_no_address_whatever_follows() {
    for line in
        ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN ffff:f:f:f:f:f:f:f ffff:f:f:f:f:f:f:f 65535 65535\r\n"]
    {
        assert_eq!(read(line.as_bytes()), done(None, line.len()));
    }
}

#[test]
fn octets_after_the_header_are_not_part_of_it() {
    let line = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n";
    let octets = [line, &b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\nGET / HTTP/1.1\r\n"[..]].concat();
    assert_eq!(read(&octets), read(line));
    let header = v2(0x21, 0x11, &IPV4);
    assert_eq!(read(&[&header[..], b"GET /"].concat()), read(&header));
}

#[test]
fn ambiguous_version_1_lines_are_rejected() {
    for line in [
        "PROXY  TCP4 192.0.2.1 198.51.100.2 56324 443\r\n",
        "PROXY TCP4  192.0.2.1 198.51.100.2 56324 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 \r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443 7\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.2 56324 443\r\n",
        "PROXY TCP4 2001:db8::1 198.51.100.2 56324 443\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.2 56324 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 056324 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 +56324 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\n",
        "PROXY TCP4 192.0.2.1\t198.51.100.2 56324 443\r\n",
        "PROXY tcp4 192.0.2.1 198.51.100.2 56324 443\r\n",
        "PROXY UDP4 192.0.2.1 198.51.100.2 56324 443\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY \r\n",
        "PROXY \u{e9}\r\n",
    ] {
        assert_eq!(read(line.as_bytes()), Err(Malformed::Line), "{line:?}");
    }
}

#[test]
fn version_1_has_at_most_107_octets() {
    let line = |octets: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(octets - 16));
    assert_eq!(read(line(107).as_bytes()), done(None, 107));
    assert_eq!(read(line(108).as_bytes()), Err(Malformed::Line));
}

#[test]
fn version_2_with_ipv4_and_ipv6_addresses() {
    let header = v2(0x21, 0x11, &IPV4);
    assert_eq!(read(&header), done(Some(("192.0.2.1:56324", "198.51.100.2:443")), 28));
    let mut payload = [0_u8; 36];
    payload[15] = 1;
    payload[31] = 2;
    payload[33] = 80;
    payload[35] = 81;
    assert_eq!(read(&v2(0x21, 0x21, &payload)), done(Some(("[::1]:80", "[::2]:81")), 52));
}

#[test]
fn version_2_local_unspecified_and_unix_have_no_address() {
    assert_eq!(read(&v2(0x20, 0x00, &[])), done(None, 16));
    assert_eq!(read(&v2(0x20, 0x11, &IPV4)), done(None, 28));
    assert_eq!(read(&v2(0x21, 0x00, &[])), done(None, 16));
    assert_eq!(read(&v2(0x21, 0x31, &[0; 216])), done(None, 232));
    assert_eq!(read(&v2(0x21, 0x31, &[0; 215])), Err(Malformed::Length));
}

#[test]
fn version_2_tlvs_are_skipped_and_must_fill_the_header() {
    let with = |tlvs: &[u8]| read(&v2(0x21, 0x11, &[&IPV4, tlvs].concat()));
    let addresses = Some(("192.0.2.1:56324", "198.51.100.2:443"));
    assert_eq!(with(&[4, 0, 2, 9, 9, 1, 0, 0]), done(addresses, 36));
    assert_eq!(with(&[4, 0, 3, 9, 9]), Err(Malformed::Length));
    assert_eq!(with(&[4, 0]), Err(Malformed::Length));
}

#[test]
fn version_2_with_an_unknown_version_command_family_or_transport_is_rejected() {
    for (command, family) in
        [(0x31, 0x11), (0x22, 0x11), (0x21, 0x12), (0x21, 0x22), (0x21, 0x41), (0x21, 0x10)]
    {
        assert_eq!(
            read(&v2(command, family, &IPV4)),
            Err(Malformed::Unknown),
            "{command:#x} {family:#x}"
        );
    }
    assert_eq!(read(&[&V2_SIGNATURE[..], &[0x11]].concat()), Err(Malformed::Unknown));
}

#[test]
fn version_2_over_the_limit_is_rejected_before_its_payload_arrives() {
    let fits = v2(0x20, 0, &[0; MAX_HEADER - V2_FIXED]);
    assert_eq!(read(&fits), done(None, MAX_HEADER));
    let beyond = v2(0x20, 0, &[0; MAX_HEADER - V2_FIXED + 1]);
    assert_eq!(read(&beyond[..V2_FIXED]), Err(Malformed::Length));
}

#[test]
fn other_protocols_are_rejected_by_their_first_octets() {
    for octets in
        [&b"GET / HTTP/1.1"[..], b"\x16\x03\x01", b"PRI * HTTP/2.0", b"PROXz", b"\r\n\r\n\r\n"]
    {
        assert_eq!(read(octets), Err(Malformed::Signature));
    }
}

fn any_header() -> impl Strategy<Value = Vec<u8>> {
    let v4 = any::<([u8; 4], [u8; 4], u16, u16)>().prop_map(|(a, b, c, d)| {
        format!("PROXY TCP4 {} {} {c} {d}\r\n", Ipv4Addr::from(a), Ipv4Addr::from(b)).into_bytes()
    });
    let v6 = any::<([u8; 16], [u8; 16], u16, u16)>().prop_map(|(a, b, c, d)| {
        format!("PROXY TCP6 {} {} {c} {d}\r\n", Ipv6Addr::from(a), Ipv6Addr::from(b)).into_bytes()
    });
    let binary = any::<[u8; 12]>().prop_map(|addresses| v2(0x21, 0x11, &addresses));
    prop_oneof![v4, v6, binary]
}

proptest! {
    #[test]
    fn the_length_is_within_the_input(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(Progress::Done(header)) = read(&octets) {
            prop_assert!(header.length <= octets.len());
        }
    }

    #[test]
    fn a_header_is_complete_at_its_last_octet_and_never_before(header in any_header(), tail in any::<[u8; 8]>()) {
        for length in 0..header.len() {
            prop_assert_eq!(read(&header[..length]), Ok(Progress::NeedMore));
        }
        let whole = read(&header);
        let Ok(Progress::Done(Header { length, addresses })) = whole else { panic!("{whole:?}") };
        prop_assert_eq!((length, addresses.is_some()), (header.len(), true));
        prop_assert_eq!(read(&[&header[..], &tail].concat()), whole);
    }
}
