//! How TLS is spoken with clients.

use std::io;
use std::sync::Arc;

use rustls::server::NoServerSessionStorage;
use rustls::server::danger::ClientCertVerifier;
use rustls::{Error, ProtocolVersion, ServerConfig};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::socket::Protocol;
use crate::certificates::Certificates;
use crate::certificates::acme::challenges::ACME_TLS;

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";
/// What clients offer that are told to speak nothing newer, such as `curl --http1.0`.
const HTTP1_0: &[u8] = b"http/1.0";

/// TLS 1.2 and 1.3 with the certificates that are in use; `clients` asks for certificates of clients, on every host alike. One for all workers, so that a session that one of them
/// began is resumed by any other.
///
/// # Errors
/// The system has no randomness for the tickets' keys.
pub(crate) fn acceptor(
    certificates: Arc<Certificates>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(certificates);
    config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec(), HTTP1_0.to_vec(), ACME_TLS.to_vec()];
    // Sessions live in tickets alone: a store would be a lock that all workers share.
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// What was agreed on by ALPN; a client that does not know it speaks HTTP/1.1 (RFC 9113 §3.3).
pub(super) fn protocol<I>(stream: &TlsStream<I>) -> Protocol {
    match stream.get_ref().1.alpn_protocol() {
        Some(HTTP2) => Protocol::Http2,
        _ => Protocol::Http1,
    }
}

/// Whether the handshake was all that the client wanted: an authority's look at a challenge (RFC 8737 §3).
pub(super) fn is_challenge<I>(stream: &TlsStream<I>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(ACME_TLS)
}

/// The version of TLS that was agreed on, for metrics.
pub(super) fn version<I>(stream: &TlsStream<I>) -> &'static str {
    match stream.get_ref().1.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "1.3",
        _ => "1.2",
    }
}

/// Why a handshake failed, as one word for metrics.
pub(super) fn failure(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        None => "closed",
        Some(Error::AlertReceived(_)) => "alert",
        Some(Error::PeerIncompatible(_)) => "incompatible",
        Some(Error::NoApplicationProtocol) => "no_application_protocol",
        Some(Error::InvalidMessage(_) | Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. }) => "malformed",
        Some(_) => "other",
    }
}
