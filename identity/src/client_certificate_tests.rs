use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, SanType,
};

use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn client(
    authority: &Authority,
    change: impl FnOnce(&mut CertificateParams),
) -> Rc<ClientCertificate> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Importer");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    let certificate = params.signed_by(&KeyPair::generate().unwrap(), authority).unwrap();
    ClientCertificate::new(Some(&[certificate.der().clone()])).unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

fn trusting(pem: &str) -> (tempfile::NamedTempFile, ClientAuthorities) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pem).unwrap();
    let authorities = ClientAuthorities::new(file.path());
    (file, authorities)
}

fn application(
    authorities: &ClientAuthorities,
    certificate: &ClientCertificate,
) -> Result<String, Rejected> {
    authorities
        .verify(certificate, SystemTime::now())
        .map(|caller| caller.application.unwrap().to_string())
}

#[test]
fn the_name_is_the_spiffe_id_else_a_dns_name_else_the_common_name() {
    let ours = authority("ours");
    let (_file, authorities) = trusting(&ours.pem());
    for (names, wanted) in [
        (
            vec![dns("a.example"), uri("spiffe://example.org/ns/prod/sa/importer")],
            Ok("spiffe://example.org/ns/prod/sa/importer"),
        ),
        (vec![uri("https://example.org"), dns("Importer.example")], Ok("dns:importer.example")),
        (vec![], Ok("cn:Importer")),
        (vec![uri("spiffe://example.org/a"), uri("spiffe://example.org/b")], Err(Rejected::Claims)),
    ] {
        let certificate = client(&ours, |params| params.subject_alt_names = names);
        assert_eq!(application(&authorities, &certificate), wanted.map(str::to_owned));
    }
}

#[test]
fn certificates_of_other_authorities_or_purposes_are_rejected() {
    let (ours, other) = (authority("ours"), authority("ours"));
    let (_file, authorities) = trusting(&ours.pem());
    let day = Duration::from_secs(24 * 3600);
    let (past, future) = (SystemTime::now() - day, SystemTime::now() + day);
    assert_eq!(
        application(&authorities, &client(&other, |_| {})),
        Err(Rejected::Signature),
        "another authority of that name"
    );
    let server = client(&ours, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]
    });
    assert_eq!(
        application(&authorities, &server),
        Err(Rejected::Signature),
        "a server's certificate"
    );
    assert_eq!(
        application(&authorities, &client(&ours, |params| params.not_after = past.into())),
        Err(Rejected::Expired)
    );
    assert_eq!(
        application(&authorities, &client(&ours, |params| params.not_before = future.into())),
        Err(Rejected::NotYetValid)
    );
    assert_eq!(
        application(&authorities, &ClientCertificate::new(Some(&[vec![0; 100].into()])).unwrap()),
        Err(Rejected::Malformed)
    );
    assert!(ClientCertificate::new(Some(&vec![vec![0; 100].into(); 9])).is_none());
}

#[test]
fn a_chain_is_verified_again_when_one_of_its_certificates_expires() {
    let ours = authority("ours");
    let (_file, authorities) = trusting(&ours.pem());
    let now = SystemTime::now();
    let later = |hours: u32| now + Duration::from_secs(3600) * hours;
    let intermediate = |end: SystemTime| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "intermediate");
        params.not_after = end.into();
        let key = KeyPair::generate().unwrap();
        CertifiedIssuer::signed_by(params, key, &ours).unwrap()
    };
    let (needed, other) = (intermediate(later(2)), intermediate(later(1)));
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.distinguished_name.push(DnType::CommonName, "Importer");
    params.not_after = later(3).into();
    let leaf = params.signed_by(&KeyPair::generate().unwrap(), &needed).unwrap();
    let chain = [leaf.der(), needed.der(), other.der()].map(Clone::clone);
    let certificate = ClientCertificate::new(Some(&chain)).unwrap();
    let verify = |time| authorities.verify(&certificate, time);
    assert!(verify(now).unwrap().until.unwrap() <= later(1) + Duration::from_secs(1));
    let second = Duration::from_secs(1);
    assert!(verify(later(1) + second).is_ok(), "another certificate expired");
    assert_eq!(verify(later(2) + second), Err(Rejected::Expired));
    let alone = ClientCertificate::new(Some(&[client(&ours, |_| {}).chain[0].clone()])).unwrap();
    assert!(authorities.verify(&alone, now).is_ok());
}

#[test]
fn authorities_are_reloaded_and_without_them_all_certificates_are_rejected() {
    let (ours, next) = (authority("ours"), authority("next"));
    let (file, authorities) = trusting(&ours.pem());
    let (old, new) = (client(&ours, |_| {}), client(&next, |_| {}));
    let both = |one: bool, other: bool| {
        assert_eq!(
            (application(&authorities, &old).is_ok(), application(&authorities, &new).is_ok()),
            (one, other)
        );
    };
    both(true, false);
    std::fs::write(file.path(), ours.pem() + &next.pem()).unwrap();
    authorities.tick();
    both(true, true);
    std::fs::write(file.path(), next.pem()).unwrap();
    authorities.tick();
    both(false, true);
    std::fs::write(file.path(), "nothing").unwrap();
    authorities.tick();
    both(false, false);
    std::fs::write(file.path(), next.pem()).unwrap();
    authorities.tick();
    both(false, true);
    std::fs::remove_file(file.path()).unwrap();
    authorities.tick();
    both(false, false);
}
