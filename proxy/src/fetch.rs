//! What the control plane asks of others over HTTP: documents and keys of issuers, tokens, who a
//! person is.
//!
//! Never used by a worker. One connection a request, because there are few; an answer is bounded in
//! size and time, and a redirect is an answer like any other: nobody but the configuration says who
//! is asked.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::upstream::{Authorities, AuthoritiesError};

/// The largest body of an answer.
const MAX_BODY: usize = 1024 * 1024;
/// How long a request may take from its connection to the last octet of its answer.
const WITHIN: Duration = Duration::from_secs(10);
/// GitHub refuses who does not say a name.
const USER_AGENT: &str = concat!("portcullis/", env!("CARGO_PKG_VERSION"));

/// Asks servers whose certificates are good.
#[derive(Clone)]
pub struct Client {
    /// `None` where there are no authorities at all.
    tls: Option<TlsConnector>,
}

/// What was answered, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The fields.
    pub headers: HeaderMap,
    /// The body: at most 1 MiB.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// What is asked for is no URL that may be asked.
    #[error("{0:?} is no https URL (http is for hosts of this machine only)")]
    Url(Box<str>),
    /// A header cannot be written.
    #[error("a credential has characters that no header can have")]
    Header,
    /// Nobody is trusted.
    #[error(
        "this system has no certificate authorities; name a PEM file with `certificateAuthorities`"
    )]
    NoAuthorities,
    /// No connection, or no TLS on it.
    #[error("cannot be connected to: {0}")]
    Connect(#[source] io::Error),
    /// Broken off, or no HTTP.
    #[error("did not answer properly: {0}")]
    Http(#[source] hyper::Error),
    /// More than 1 MiB.
    #[error("answered with more than {MAX_BODY} bytes")]
    Large,
    /// More than 10 s.
    #[error("did not answer within {} s", WITHIN.as_secs())]
    Late,
}

// === impl FetchError ===

impl FetchError {
    /// Whether the server's certificate is refused for its dates alone: it has ended or not begun,
    /// by this machine's clock.
    pub(crate) fn is_about_dates(&self) -> bool {
        let Self::Connect(error) = self else { return false };
        let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
        matches!(
            error,
            Some(rustls::Error::InvalidCertificate(
                Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }
            ))
        )
    }
}

/// Where a URL leads.
struct Place<'a> {
    host: &'a str,
    port: u16,
    tls: bool,
}

// === impl Client ===

impl Client {
    /// A client that trusts the authorities of a PEM file, or else those of the system.
    ///
    /// # Errors
    /// The file cannot be read or holds no authority, or TLS cannot be set up.
    pub fn new(authorities: Option<&Path>) -> Result<Self, AuthoritiesError> {
        let roots = match authorities {
            Some(file) => Authorities::roots(file)?,
            None => system(),
        };
        if roots.is_empty() {
            return Ok(Self { tls: None });
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: Some(TlsConnector::from(Arc::new(config))) })
    }

    /// Gets what is at an `https` URL (or `http` on this machine).
    ///
    /// # Errors
    /// There is no whole answer of at most 1 MiB within 10 s.
    pub async fn get(&self, url: &str, accept: &'static str) -> Result<Answer, FetchError> {
        self.send(
            Method::GET,
            url,
            vec![(header::ACCEPT, HeaderValue::from_static(accept))],
            Bytes::new(),
        )
        .await
    }

    /// As [`get`](Self::get), with a bearer token (RFC 6750 §2.1).
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn get_as(
        &self,
        url: &str,
        accept: &'static str,
        bearer: &str,
    ) -> Result<Answer, FetchError> {
        let headers = vec![
            (header::ACCEPT, HeaderValue::from_static(accept)),
            (header::AUTHORIZATION, secret(&format!("Bearer {bearer}"))?),
        ];
        self.send(Method::GET, url, headers, Bytes::new()).await
    }

    /// Posts a form, and asks for JSON; `basic` is the client's identifier and secret (RFC 6749
    /// §2.3.1).
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn post_form(
        &self,
        url: &str,
        form: &[(&str, &str)],
        basic: Option<(&str, &str)>,
    ) -> Result<Answer, FetchError> {
        let mut headers = vec![
            (header::ACCEPT, HeaderValue::from_static("application/json")),
            (header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded")),
        ];
        if let Some((id, password)) = basic {
            let encoded =
                |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
            let pair = STANDARD.encode(format!("{}:{}", encoded(id), encoded(password)));
            headers.push((header::AUTHORIZATION, secret(&format!("Basic {pair}"))?));
        }
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        self.send(Method::POST, url, headers, body.into()).await
    }

    /// Any request.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub(crate) async fn send(
        &self,
        method: Method,
        url: &str,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Bytes,
    ) -> Result<Answer, FetchError> {
        let refused = || FetchError::Url(url.into());
        let uri: Uri = url.parse().map_err(|_| refused())?;
        let place = Place::of(&uri).ok_or_else(refused)?;
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = target.parse().map_err(|_| refused())?;
        let fields = request.headers_mut();
        fields.extend(headers);
        fields.insert(header::HOST, HeaderValue::from_str(authority).map_err(|_| refused())?);
        fields.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
        tokio::time::timeout(WITHIN, self.exchange(&place, request))
            .await
            .map_err(|_| FetchError::Late)?
    }

    async fn exchange(
        &self,
        place: &Place<'_>,
        request: Request<Full<Bytes>>,
    ) -> Result<Answer, FetchError> {
        let connector = match (&self.tls, place.tls) {
            (Some(connector), true) => Some(connector),
            (None, true) => return Err(FetchError::NoAuthorities),
            (_, false) => None,
        };
        let stream =
            TcpStream::connect((place.host, place.port)).await.map_err(FetchError::Connect)?;
        let Some(connector) = connector else { return converse(stream, request).await };
        let name = ServerName::try_from(place.host.to_owned())
            .map_err(|error| FetchError::Connect(io::Error::other(error)))?;
        converse(connector.connect(name, stream).await.map_err(FetchError::Connect)?, request).await
    }
}

/// One request and its answer over a connection that ends with it.
async fn converse<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, FetchError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(FetchError::Http)?;
    let answer = async {
        let (head, body) =
            sender.send_request(request).await.map_err(FetchError::Http)?.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await.map_err(|error| match error
            .downcast::<hyper::Error>(
        ) {
            Ok(error) => FetchError::Http(*error),
            // The other error that there is: `LengthLimitError`.
            Err(_) => FetchError::Large,
        })?;
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
    };
    // What became of the connection is told to who waits for the answer, and only there.
    let driving = async {
        let _told = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = answer => answer,
        () = driving => Err(FetchError::Late),
    }
}

/// The authorities that this system trusts.
fn system() -> RootCertStore {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "certificate authorities of this system cannot be read");
    }
    trusting(found.certs)
}

/// These as far as they can be read. Where there are none, as in an image with nothing but the
/// gateway, those that Mozilla trusted when it was built.
fn trusting(found: Vec<CertificateDer<'static>>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

fn secret(text: &str) -> Result<HeaderValue, FetchError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| FetchError::Header)?;
    value.set_sensitive(true);
    Ok(value)
}

// === impl Place ===

impl<'a> Place<'a> {
    /// Where a URL leads that may be asked: by `https`, or by `http` on this machine, without user
    /// information.
    fn of(uri: &'a Uri) -> Option<Self> {
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        let local = host == "localhost"
            || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        let tls = match uri.scheme_str()? {
            "https" => true,
            "http" if local => false,
            _ => return None,
        };
        Some(Self { host, port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }), tls })
    }
}

#[cfg(test)]
mod tests;
