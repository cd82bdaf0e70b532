//! TLS: selection and replacement of certificates, negotiation, resumption,
//! and HSTS.

mod hsts;
mod policy;
mod tickets;

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use serde_json::json;

use crate::harness::{Authority, Gateway, WEB, World, client, echo, eventually};

const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// The certificate that is served for `host`.
async fn served(gateway: &Gateway, host: &str) -> Option<CertificateDer<'static>> {
    let stream = client::tls(gateway, host, &["h2", "http/1.1"]).await.ok()?;
    let chain = stream.get_ref().1.peer_certificates()?;
    chain.first().map(|certificate| certificate.clone().into_owned())
}

/// Waits until a certificate was rejected for `reason`: then the served one no longer changes.
async fn refused(gateway: &Gateway, reason: &str) {
    eventually(reason, || async {
        let table = gateway.admin_page("/routes").await.json();
        table["problems"]
            .as_array()
            .is_some_and(|problems| problems.iter().any(|problem| problem["reason"] == reason))
    })
    .await;
}

#[tokio::test]
async fn the_wildcard_covers_every_service_and_nothing_else() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let wildcard = served(&gateway, WEB).await;
    assert!(wildcard.is_some());
    assert_eq!(
        served(&gateway, "nothing--nowhere.apps.test").await,
        wildcard,
        "known or not, it is the same certificate"
    );
    assert!(served(&gateway, "a.b.apps.test").await.is_none(), "a wildcard is for one label");
}

#[tokio::test]
async fn all_versions_of_tls_and_http_are_negotiated() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    for (option, value) in [("--tls-max", "1.2"), ("--tls-max", "1.3")] {
        let answer = gateway.curl(WEB, "/whoami").args([option, value]).run().await;
        assert_eq!(
            (answer.version.as_str(), answer.text().as_str()),
            ("2", "pod-1\n"),
            "{value}: {answer:?}"
        );
    }
    let answer = gateway.curl(WEB, "/whoami").arg("--no-alpn").run().await;
    assert_eq!((answer.version.as_str(), answer.text().as_str()), ("1.1", "pod-1\n"), "{answer:?}");
    let answer = gateway.curl(WEB, "/whoami").args(["--tls-max", "1.1"]).run().await;
    assert_ne!(answer.exit, 0, "TLS 1.1 is no more");
}

#[tokio::test]
async fn the_certificate_of_the_name_is_preferred_to_the_wildcard() {
    let pod = echo("pod-1").await;
    let extra = tempfile::tempdir().unwrap();
    let authority = Authority::new("Another authority").unwrap();
    let issued = authority.issue(&[WEB], MONTH).unwrap();
    std::fs::write(extra.path().join("tls.crt"), &issued.certificate).unwrap();
    std::fs::write(extra.path().join("tls.key"), &issued.key).unwrap();
    let exact = json!({ "files": { "certificate": extra.path().join("tls.crt"), "key": extra.path().join("tls.key") } });
    let wildcard = json!({ "files": { "certificate": "tls.crt", "key": "tls.key" } });
    let gateway = Gateway::of(World::web(&pod))
        .settings(json!({ "certificates": [wildcard, exact] }))
        .start()
        .await;
    assert!(
        served(&gateway, WEB).await.is_none(),
        "the exact one is of an authority that this client does not trust"
    );
    assert!(
        served(&gateway, "other--staging.apps.test").await.is_some(),
        "all other names have the wildcard"
    );
}

#[tokio::test]
async fn a_renewed_certificate_is_served_without_restart() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let first = served(&gateway, WEB).await.unwrap();
    let mut connection = client::http2(&gateway, WEB).await;
    gateway.renew(&["*.apps.test"], MONTH);
    eventually("the new one is served", || async {
        served(&gateway, WEB).await.is_some_and(|now| now != first)
    })
    .await;
    let request = http::Request::get(format!("https://{WEB}/whoami")).body(()).unwrap();
    let (response, _) = connection.send_request(request, true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200, "connections that are there live on");
}

#[tokio::test]
async fn an_invalid_certificate_does_not_replace_the_last_valid_one() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let good = served(&gateway, WEB).await.unwrap();

    std::fs::write(gateway.folder().join("tls.crt"), "no certificate").unwrap();
    refused(&gateway, "CertificateInvalid").await;
    assert_eq!(served(&gateway, WEB).await.as_ref(), Some(&good), "no PEM");

    let other = Authority::new("Portcullis tests").unwrap().issue(&["*.apps.test"], MONTH).unwrap();
    std::fs::write(gateway.folder().join("tls.crt"), other.certificate).unwrap();
    refused(&gateway, "CertificateKeyMismatch").await;
    assert_eq!(served(&gateway, WEB).await.as_ref(), Some(&good), "not of this key");

    gateway.renew(&["*.apps.test"], Duration::from_secs(1800));
    refused(&gateway, "CertificateExpired").await;
    assert_eq!(served(&gateway, WEB).await.as_ref(), Some(&good), "expired half an hour ago");

    gateway.renew(&["*.apps.test"], MONTH);
    eventually("a good one is served again", || async {
        served(&gateway, WEB).await.is_some_and(|now| now != good)
    })
    .await;
}

#[tokio::test]
async fn a_connection_serves_other_hosts_that_its_certificate_covers() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let mut connection = client::http2(&gateway, "other--staging.apps.test").await;
    let request = http::Request::get(format!("https://{WEB}/whoami")).body(()).unwrap();
    let (response, _) = connection.send_request(request, true).unwrap();
    assert_eq!(
        response.await.unwrap().status(),
        200,
        "browsers use one connection for all names of a certificate (RFC 9113 §9.1.1)"
    );
}
