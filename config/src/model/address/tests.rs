use super::AddressClass::*;
use super::*;

fn class_of(text: &str) -> Option<AddressClass> {
    class(text.parse().unwrap())
}

#[test]
fn addresses_that_no_pod_has_are_classified() {
    for (text, expected) in [
        ("0.0.0.0", Unspecified),
        ("0.1.2.3", Unspecified),
        ("::", Unspecified),
        ("224.0.0.1", Multicast),
        ("239.255.255.250", Multicast),
        ("ff02::1", Multicast),
        ("ff0e::1", Multicast),
        ("255.255.255.255", Broadcast),
        ("127.0.0.1", Loopback),
        ("127.255.0.1", Loopback),
        ("::1", Loopback),
        ("169.254.0.1", LinkLocal),
        ("169.254.20.10", LinkLocal),
        ("fe80::1", LinkLocal),
        ("febf::1", LinkLocal),
        ("169.254.169.254", Metadata),
        ("169.254.170.2", Metadata),
        ("169.254.170.23", Metadata),
        ("100.100.100.200", Metadata),
        ("168.63.129.16", Metadata),
        ("192.0.0.192", Metadata),
        ("fd00:ec2::254", Metadata),
        ("fd00:ec2::23", Metadata),
        ("fd00:ec2:0:1::1", Metadata),
        ("fd20:ce::254", Metadata),
        ("fd00:c1::a9fe:a9fe", Metadata),
        ("fd00:42::42", Metadata),
        ("fe80::a9fe:a9fe", Metadata),
    ] {
        assert_eq!(class_of(text), Some(expected), "{text}");
    }
}

#[test]
fn addresses_of_pods_have_no_class() {
    for text in [
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "192.0.0.193",
        "100.64.0.1",
        "100.100.100.201",
        "168.63.129.17",
        "203.0.113.7",
        "240.0.0.1",
        "fd00::1",
        "fd00:ec3::254",
        "fd00:42::43",
        "fd20:ce::255",
        "2001:db8::1",
        "2001:db8::7f00:1",
        "2a00::7f00:1",
        "2002:a00:1::1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::10.0.0.1",
        "::ffff:10.0.0.1",
    ] {
        assert_eq!(class_of(text), None, "{text}");
    }
}

#[test]
fn every_form_of_an_ipv4_address_is_classified() {
    for text in [
        "::ffff:169.254.169.254",
        "::169.254.169.254",
        "::ffff:0:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a9fe:a9fe",
        "64:ff9b:1:a9fe:a9:fe00::",
        "64:ff9b:1:a9:fe:a9fe::",
        "64:ff9b:1:0:a9:fea9:fe00:0",
        "2002:a9fe:a9fe::",
        "2002:a9fe:a9fe::1",
        "2001:0:a9fe:a9fe::1",
        "2001:0:102:304::5601:5601",
        "2001:db8::5efe:a9fe:a9fe",
        "fd00::200:5efe:169.254.169.254",
    ] {
        assert_eq!(class_of(text), Some(Metadata), "{text}");
    }
    for text in ["::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::127.0.0.1", "2002:7f00:1::"] {
        assert_eq!(class_of(text), Some(Loopback), "{text}");
    }
    assert_eq!(class_of("64:ff9b::100.100.100.200"), Some(Metadata));
    assert_eq!(class_of("64:ff9b::255.255.255.255"), Some(Broadcast));
}

#[test]
fn an_address_without_an_embedded_one_has_one_reading() {
    let once = |text: &str| {
        let address: IpAddr = text.parse().unwrap();
        assert_eq!(readings(address).collect::<Vec<_>>(), [address], "{text}");
    };
    ["10.0.0.1", "fd00::1", "2001:db8::1", "::1", "::"].into_iter().for_each(once);
    let mapped: Vec<IpAddr> = readings("::ffff:10.0.0.1".parse().unwrap()).collect();
    assert_eq!(mapped, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
}
