//! TLS with clients.

use std::io;
use std::sync::Arc;

use portcullis_config::settings::acme::ChallengeKind;
use portcullis_config::settings::{Settings, TlsPolicy};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite as suite, kx_group};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use rustls::{Error, ProtocolVersion, ServerConfig, SupportedProtocolVersion, version};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::socket::Protocol;
use super::tickets::Tickets;
use crate::certificates::Certificates;
use crate::certificates::acme::challenges::ACME_TLS;

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";
/// Offered by clients that are restricted to HTTP/1.0, such as `curl --http1.0`.
const HTTP1_0: &[u8] = b"http/1.0";

/// Builds the TLS acceptor for the configured policy and the active certificates.
///
/// `clients` verifies client certificates, on every host. All workers share one acceptor, so that
/// each can resume a session that another one started.
///
/// # Errors
/// The cryptographic provider does not support the configuration.
pub(crate) fn acceptor(
    settings: &Settings,
    certificates: Arc<Certificates>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    tickets: Arc<Tickets>,
) -> Result<TlsAcceptor, rustls::Error> {
    let builder = ServerConfig::builder_with_provider(provider().into())
        .with_protocol_versions(versions(settings.listeners.https.policy))?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(certificates);
    config.alpn_protocols = protocols(settings).map(<[u8]>::to_vec).collect();
    // Sessions are kept in tickets only: a store would be a lock that all workers share.
    config.ticketer = tickets;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // Early data can be replayed by an attacker (RFC 8446 §8).
    config.max_early_data_size = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The ALPN protocols, in order of preference.
fn protocols(settings: &Settings) -> impl Iterator<Item = &'static [u8]> {
    let serves_challenges =
        settings.acme.as_ref().is_some_and(|acme| acme.challenge == ChallengeKind::TlsAlpn01);
    [HTTP2, HTTP1, HTTP1_0].into_iter().chain(serves_challenges.then_some(ACME_TLS))
}

fn versions(policy: TlsPolicy) -> &'static [&'static SupportedProtocolVersion] {
    static BOTH: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    static NEWEST: [&SupportedProtocolVersion; 1] = [&version::TLS13];
    match policy {
        TlsPolicy::Intermediate => &BOTH,
        TlsPolicy::Modern => &NEWEST,
    }
}

/// The cipher suites and groups of Mozilla's profiles, and a post-quantum group. The client's order
/// decides: it knows whether its AES is fast.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            suite::TLS13_AES_128_GCM_SHA256,
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
            kx_group::SECP384R1,
        ],
        ..aws_lc_rs::default_provider()
    }
}

/// Returns the protocol negotiated by ALPN; a client without ALPN uses HTTP/1.1 (RFC 9113 §3.3).
pub(super) fn protocol<I>(stream: &TlsStream<I>) -> Protocol {
    match stream.get_ref().1.alpn_protocol() {
        Some(HTTP2) => Protocol::Http2,
        _ => Protocol::Http1,
    }
}

/// Whether the handshake was a challenge validation by a certificate authority (RFC 8737 §3).
pub(super) fn is_challenge<I>(stream: &TlsStream<I>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(ACME_TLS)
}

/// Returns the negotiated TLS version, as a metric label.
pub(super) fn version<I>(stream: &TlsStream<I>) -> &'static str {
    match stream.get_ref().1.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "1.3",
        _ => "1.2",
    }
}

/// Returns why a handshake failed, as a metric label.
pub(super) fn failure(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        None => "closed",
        Some(Error::AlertReceived(_)) => "alert",
        Some(Error::PeerIncompatible(_)) => "incompatible",
        Some(Error::NoApplicationProtocol) => "no_application_protocol",
        Some(
            Error::InvalidMessage(_)
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. },
        ) => "malformed",
        Some(_) => "other",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn settings(change: &Value) -> Settings {
        let mut settings = json!({ "zone": "apps.test", "source": { "directory": "." } });
        settings.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        serde_json::from_value(settings).unwrap()
    }

    #[test]
    fn the_challenge_protocol_is_offered_only_if_configured() {
        let offered =
            |change: Value| protocols(&settings(&change)).map(<[u8]>::to_vec).collect::<Vec<_>>();
        let http = [HTTP2, HTTP1, HTTP1_0];
        assert_eq!(offered(json!({})), http);
        assert_eq!(offered(json!({ "acme": { "challenge": "http-01" } })), http);
        assert_eq!(
            offered(json!({ "acme": { "challenge": "tls-alpn-01" } })),
            [HTTP2, HTTP1, HTTP1_0, ACME_TLS]
        );
    }

    #[test]
    fn the_modern_policy_excludes_tls_1_2() {
        let versions =
            |policy| versions(policy).iter().map(|version| version.version).collect::<Vec<_>>();
        assert_eq!(
            versions(TlsPolicy::Intermediate),
            [ProtocolVersion::TLSv1_3, ProtocolVersion::TLSv1_2]
        );
        assert_eq!(versions(TlsPolicy::Modern), [ProtocolVersion::TLSv1_3]);
    }
}
