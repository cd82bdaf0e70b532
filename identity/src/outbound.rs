//! The control plane's HTTP client: documents and keys of issuers, tokens, ACME, webhooks.
//!
//! Workers never use it. Each request has its own connection, because there are few, through the
//! proxy that the environment configures. Responses are bounded in size and time. Redirects are not
//! followed: only the configuration decides which servers are contacted.

use std::error::Error;
use std::io;
use std::iter::successors;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::TokioExecutor;
use portcullis_config::proxies::{InvalidProxy, Proxies, is_loopback};
use rustls::ClientConfig;

use crate::tls_roots::{self, AuthoritiesError};

/// Maximum size of a response body.
const MAX_BODY: usize = 1024 * 1024;
/// Timeout from connecting to the last octet of the response.
const TIMEOUT: Duration = Duration::from_secs(10);
/// GitHub rejects requests without a user agent.
const USER_AGENT: &str = concat!("portcullis/", env!("CARGO_PKG_VERSION"));

/// An HTTP client that verifies certificates and uses the proxies of the environment.
#[derive(Clone)]
pub struct Client {
    tls: Arc<ClientConfig>,
    /// Connects to servers and to proxies.
    direct: HttpsConnector<HttpConnector>,
    proxies: Arc<Proxies>,
    /// Whether `http` is allowed for every host.
    is_plain_allowed: bool,
}

/// A response of any status.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The header fields.
    pub headers: HeaderMap,
    /// The body: at most 1 MiB.
    pub body: Bytes,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL is not allowed.
    #[error("{0:?} is not an https URL (http is allowed for loopback hosts only)")]
    Url(Box<str>),
    /// A credential cannot be written as a header.
    #[error("a credential has characters that a header cannot carry")]
    Header,
    /// Name resolution, connection, TLS handshake or proxy tunnel failed.
    #[error("cannot be reached: {}", causes(.0))]
    Connect(#[source] legacy::Error),
    /// The response is incomplete or not HTTP.
    #[error("sent an invalid response: {}", causes(.0.as_ref()))]
    Http(#[source] Box<dyn Error + Send + Sync>),
    /// More than 1 MiB.
    #[error("sent more than {MAX_BODY} bytes")]
    Large,
    /// More than 10 s, from name resolution to the last octet.
    #[error("did not respond within {} s", TIMEOUT.as_secs())]
    Late,
    /// The environment has an invalid proxy URL.
    #[error("cannot be reached: {0}")]
    InvalidProxy(#[from] InvalidProxy),
    /// Any of these, through the proxy at this URL (without its credentials).
    #[error("{1} (through the proxy {0})")]
    Proxy(Uri, #[source] Box<FetchError>),
}

// === impl FetchError ===

impl FetchError {
    /// Whether the server's certificate is rejected for its dates alone: expired or not yet valid
    /// by the clock of this machine.
    pub fn is_about_dates(&self) -> bool {
        use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
        successors(Some(self as &(dyn Error + 'static)), below).any(|error| {
            matches!(
                error.downcast_ref(),
                Some(rustls::Error::InvalidCertificate(
                    Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. }
                ))
            )
        })
    }

    fn body(error: Box<dyn Error + Send + Sync>) -> Self {
        if error.is::<LengthLimitError>() { Self::Large } else { Self::Http(error) }
    }
}

impl From<legacy::Error> for FetchError {
    fn from(error: legacy::Error) -> Self {
        if error.is_connect() { Self::Connect(error) } else { Self::Http(error.into()) }
    }
}

/// Returns the wrapped error. `source()` of an I/O error would skip the error in it.
fn below<'e>(error: &&'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    match error.downcast_ref::<io::Error>() {
        Some(error) => error.get_ref().map(|error| error as _),
        None => (*error).source(),
    }
}

/// Formats an error and its causes, without the client's own error, which has only a kind.
fn causes(error: &(dyn Error + 'static)) -> String {
    successors(Some(error), |error| (*error).source())
        .filter(|error| !error.is::<legacy::Error>())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

// === impl Client ===

impl Client {
    /// Creates a client that trusts the authorities of a PEM file, or else of the system.
    ///
    /// # Errors
    /// The file cannot be read or has no authority, or TLS cannot be set up.
    pub fn new(authorities: Option<&Path>) -> Result<Self, AuthoritiesError> {
        static ENVIRONMENT: LazyLock<Arc<Proxies>> =
            LazyLock::new(|| Arc::new(Proxies::from_environment()));
        Self::with_proxies(authorities, Arc::clone(&ENVIRONMENT))
    }

    fn with_proxies(
        authorities: Option<&Path>,
        proxies: Arc<Proxies>,
    ) -> Result<Self, AuthoritiesError> {
        let roots = authorities.map_or_else(|| Ok(tls_roots::system()), tls_roots::read)?;
        let tls = Arc::new(tls_roots::client_config(roots, &[b"http/1.1"])?);
        let mut tcp = HttpConnector::new();
        // The connector must also accept `https` URLs.
        tcp.enforce_http(false);
        let direct = HttpsConnector::from((tcp, Arc::clone(&tls)));
        Ok(Self { direct, tls, proxies, is_plain_allowed: false })
    }

    /// Also allows `http` URLs of every host: for servers of the own cluster that the operator names,
    /// and that are read over its network like metrics.
    #[must_use]
    pub fn with_plain_http(self) -> Self {
        Self { is_plain_allowed: true, ..self }
    }

    /// Sends `GET` to an `https` URL (or `http` on a loopback host).
    ///
    /// # Errors
    /// There is no complete response of at most 1 MiB within 10 s.
    pub async fn get(&self, url: &str, accept: &'static str) -> Result<Answer, FetchError> {
        self.send(
            Method::GET,
            url,
            vec![(header::ACCEPT, HeaderValue::from_static(accept))],
            Bytes::new(),
        )
        .await
    }

    /// Like [`get`](Self::get), with a bearer token (RFC 6750 §2.1).
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

    /// Posts a form and accepts JSON; `basic` is the client's identifier and secret (RFC 6749
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

    /// Sends any request.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Bytes,
    ) -> Result<Answer, FetchError> {
        let uri = allowed(url, self.is_plain_allowed).ok_or_else(|| FetchError::Url(url.into()))?;
        let proxy = self.proxies.proxy(&uri)?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        let fields = request.headers_mut();
        fields.extend(headers);
        fields.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
        let Some(proxy) = proxy else { return exchange(self.direct.clone(), request).await };
        let mut tunnel = Tunnel::new(proxy.uri().clone(), self.direct.clone());
        if let Some(credentials) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(credentials.clone());
        }
        exchange(HttpsConnector::from((tunnel, Arc::clone(&self.tls))), request)
            .await
            .map_err(|error| FetchError::Proxy(proxy.uri().clone(), Box::new(error)))
    }
}

/// Parses a URL that is allowed: `https`, or `http` on a loopback host or where it is allowed for
/// every host, without user info.
fn allowed(url: &str, is_plain_allowed: bool) -> Option<Uri> {
    let uri: Uri = url.parse().ok()?;
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
    let allowed = match uri.scheme_str()? {
        "https" => true,
        "http" => is_plain_allowed || is_loopback(authority.host()),
        _ => false,
    };
    allowed.then_some(uri)
}

/// Sends one request over a connection of its own.
async fn exchange<C>(connector: C, request: Request<Full<Bytes>>) -> Result<Answer, FetchError>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let client =
        legacy::Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
    let answer = async {
        let (head, body) = client.request(request).await.map_err(FetchError::from)?.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await.map_err(FetchError::body)?;
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
    };
    tokio::time::timeout(TIMEOUT, answer).await.map_err(|_| FetchError::Late)?
}

fn secret(text: &str) -> Result<HeaderValue, FetchError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| FetchError::Header)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests;
