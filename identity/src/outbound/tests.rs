use std::io::Write;
use std::sync::{Arc, Mutex};

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::NamedTempFile;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;

/// A server with its own authority for `localhost`, `issuer.test` and 0.0.0.0 that sends one
/// response and closes; and the request that it received.
struct Server {
    port: u16,
    authority: NamedTempFile,
    heard: Arc<Mutex<String>>,
}

/// A proxy that connects every tunnel to one port of this machine, or rejects it; and the request
/// heads that it received.
struct Proxy {
    port: u16,
    heard: Arc<Mutex<String>>,
}

/// TLS with a certificate for all names of the tests, valid `within` or for a year from now; and
/// its authority.
fn certified(within: Option<(i32, i32)>) -> (TlsAcceptor, NamedTempFile) {
    let key = KeyPair::generate().unwrap();
    let names = ["localhost", "issuer.test", "0.0.0.0"].map(str::to_owned);
    let mut params = CertificateParams::new(names).unwrap();
    if let Some((from, to)) = within {
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
    }
    let certificate = params.self_signed(&key).unwrap();
    let mut authority = NamedTempFile::new().unwrap();
    authority.write_all(certificate.pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), authority)
}

/// An environment with these values of `HTTPS_PROXY` and `NO_PROXY`.
fn proxies(proxy: &str, exceptions: &str) -> Arc<Proxies> {
    Arc::new(Proxies::read(|name| match name {
        "HTTPS_PROXY" => Some(proxy.to_owned()),
        "NO_PROXY" => Some(exceptions.to_owned()),
        _ => None,
    }))
}

/// Reads a request.
async fn request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut request = vec![0; 4096];
    let mut read = 0;
    while !complete(&request[..read]) {
        match stream.read(&mut request[read..]).await {
            Ok(0) | Err(_) => break,
            Ok(more) => read += more,
        }
    }
    String::from_utf8_lossy(&request[..read]).into_owned()
}

impl Server {
    async fn answering(answer: Vec<u8>) -> Self {
        Self::certified(certified(None), answer).await
    }

    async fn certified(
        (acceptor, authority): (TlsAcceptor, NamedTempFile),
        answer: Vec<u8>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(String::new()));
        let server = Self { port, authority, heard: Arc::clone(&heard) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                *heard.lock().unwrap() = request(&mut stream).await;
                let _gone = stream.write_all(&answer).await;
                let _gone = stream.shutdown().await;
            }
        });
        server
    }

    async fn good() -> Self {
        Self::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_vec()).await
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    /// Its URL by a name that only the proxy resolves.
    fn outside(&self) -> String {
        format!("https://issuer.test:{}/keys", self.port)
    }

    fn client(&self) -> Client {
        self.client_through("", "")
    }

    fn client_through(&self, proxy: &str, exceptions: &str) -> Client {
        Client::with_proxies(Some(self.authority.path()), proxies(proxy, exceptions)).unwrap()
    }

    fn heard(&self) -> String {
        self.heard.lock().unwrap().clone()
    }
}

impl Proxy {
    /// Connects tunnels to `port`.
    async fn to(port: u16) -> Self {
        Self::start("HTTP/1.1 200 Connection established\r\nVia: 1.1 proxy\r\n\r\n", port, None)
            .await
    }

    /// Rejects tunnels with this response.
    async fn refusing(answer: &'static str) -> Self {
        Self::start(answer, 0, None).await
    }

    async fn start(answer: &'static str, port: u16, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let heard = Arc::new(Mutex::new(String::new()));
        let proxy = Self { port: listener.local_addr().unwrap().port(), heard: Arc::clone(&heard) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, heard) = (tls.clone(), Arc::clone(&heard));
                tokio::spawn(async move {
                    match tls {
                        None => lead(stream, answer, port, &heard).await,
                        Some(tls) => {
                            lead(tls.accept(stream).await.unwrap(), answer, port, &heard).await;
                        }
                    }
                });
            }
        });
        proxy
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn heard(&self) -> String {
        self.heard.lock().unwrap().clone()
    }
}

async fn lead(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &str,
    port: u16,
    heard: &Mutex<String>,
) {
    let head = request(&mut stream).await;
    heard.lock().unwrap().push_str(&head);
    stream.write_all(answer.as_bytes()).await.unwrap();
    if port != 0 {
        let mut server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let _gone = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
    }
}

/// Whether head and body are complete.
fn complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    body.len() >= length
}

#[tokio::test]
async fn a_server_of_the_configured_authority_is_accepted() {
    let server = Server::good().await;
    let answer = server.client().get(&server.url("/keys?a=b"), "application/json").await.unwrap();
    assert_eq!((answer.status, &*answer.body), (StatusCode::OK, &b"{}"[..]));
    assert!(
        server.heard().starts_with("GET /keys?a=b HTTP/1.1\r\naccept: application/json\r\n"),
        "{}",
        server.heard()
    );
    assert!(server.heard().contains(&format!("host: localhost:{}\r\n", server.port)));
}

#[tokio::test]
async fn a_server_of_another_authority_receives_nothing() {
    let server = Server::good().await;
    let other = Server::answering(Vec::new()).await;
    let error = other
        .client()
        .post_form(&server.url("/token"), &[("code", "secret")], Some(("id", "secret")))
        .await
        .unwrap_err();
    assert!(matches!(error, FetchError::Connect(_)), "{error}");
    assert_eq!(server.heard(), "");
}

#[tokio::test]
async fn forms_are_posted_with_basic_authentication() {
    let server =
        Server::answering(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n".to_vec()).await;
    let answer = server
        .client()
        .post_form(&server.url("/token"), &[("code", "a&b ü")], Some(("my:id", "p w")))
        .await
        .unwrap();
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    let heard = server.heard();
    // RFC 6749 §2.3.1: form-encoded first, so that the colon is the only one.
    assert!(
        heard.contains(&format!("authorization: Basic {}\r\n", STANDARD.encode("my%3Aid:p+w"))),
        "{heard}"
    );
    assert!(heard.ends_with("\r\n\r\ncode=a%26b+%C3%BC"), "{heard}");
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let server = Server::answering(
        b"HTTP/1.1 302 Found\r\nLocation: https://localhost:1/\r\nContent-Length: 0\r\n\r\n"
            .to_vec(),
    )
    .await;
    let answer = server.client().get(&server.url("/"), "application/json").await.unwrap();
    assert_eq!(answer.status, StatusCode::FOUND);
}

#[tokio::test]
async fn an_endless_response_is_rejected() {
    let mut endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    endless.resize(endless.len() + MAX_BODY + 1, b'x');
    let server = Server::answering(endless).await;
    let error = server.client().get(&server.url("/"), "application/json").await.unwrap_err();
    assert!(matches!(error, FetchError::Large), "{error}");
}

#[tokio::test]
async fn a_truncated_response_is_an_error() {
    let server =
        Server::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}".to_vec()).await;
    let error = server.client().get(&server.url("/"), "application/json").await.unwrap_err();
    assert!(matches!(error, FetchError::Http(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_times_out_after_ten_seconds() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://127.0.0.1:{}/", listener.local_addr().unwrap().port());
    let client = Client::new(None).unwrap();
    let error = client.get(&url, "application/json").await.unwrap_err();
    assert!(matches!(error, FetchError::Late), "{error}");
}

#[tokio::test]
async fn urls_that_are_neither_https_nor_loopback_are_rejected() {
    let client = Client::new(None).unwrap();
    for url in [
        "http://example.com/",
        "http://10.0.0.1/",
        "ftp://localhost/",
        "/keys",
        "https://user:secret@localhost/",
        "http://localhost.example.com/",
    ] {
        let error = client.get(url, "application/json").await.unwrap_err();
        assert!(matches!(error, FetchError::Url(_)), "{url}: {error}");
    }
}

#[tokio::test]
async fn proxy_credentials_are_sent_to_the_proxy_only() {
    let server = Server::good().await;
    let proxy = Proxy::to(server.port).await;
    let url = format!("http://ann:s%40crt@127.0.0.1:{}", proxy.port);
    let client = server.client_through(&url, "elsewhere.test");
    let answer = client.get_as(&server.outside(), "application/json", "token").await.unwrap();
    assert_eq!((answer.status, &*answer.body), (StatusCode::OK, &b"{}"[..]));
    let asked = proxy.heard().to_ascii_lowercase();
    let first = format!("connect issuer.test:{} http/1.1\r\n", server.port);
    assert!(asked.starts_with(&first), "{asked}");
    let credentials = STANDARD.encode("ann:s@crt").to_ascii_lowercase();
    assert!(
        asked.contains(&format!("\r\nproxy-authorization: basic {credentials}\r\n")),
        "{asked}"
    );
    assert!(!asked.contains("token") && !asked.contains("/keys"), "{asked}");
    assert!(server.heard().starts_with("GET /keys HTTP/1.1\r\n"), "{}", server.heard());
    assert!(!server.heard().contains("proxy-"), "{}", server.heard());
}

#[tokio::test]
async fn an_https_proxy_is_connected_by_tls() {
    let (acceptor, authority) = certified(None);
    let server = Server::certified((acceptor.clone(), authority), Vec::new()).await;
    let proxy = Proxy::start("HTTP/1.1 503 No\r\n\r\n", 0, Some(acceptor)).await;
    let client = server.client_through(&format!("https://localhost:{}", proxy.port), "");
    client.get(&server.outside(), "application/json").await.unwrap_err();
    assert!(proxy.heard().starts_with("CONNECT issuer.test:"), "{}", proxy.heard());
}

#[tokio::test]
async fn no_proxy_and_loopback_hosts_bypass_the_proxy() {
    let server = Server::good().await;
    let proxy = Proxy::to(server.port).await;
    // An address of this machine that is not a loopback address.
    let own = format!("https://0.0.0.0:{}/", server.port);
    let client = server.client_through(&proxy.url(), "id.test, 0.0.0.0/32");
    for url in [own.clone(), server.url("/")] {
        assert!(client.get(&url, "application/json").await.is_ok(), "{url}");
        assert_eq!(proxy.heard(), "", "{url}");
    }
    assert!(server.client_through(&proxy.url(), "").get(&own, "application/json").await.is_ok());
    assert!(proxy.heard().starts_with("CONNECT 0.0.0.0:"), "{}", proxy.heard());
}

#[tokio::test]
async fn proxy_errors_name_the_proxy_without_its_credentials() {
    let server = Server::good().await;
    for (answer, why) in [
        ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "proxy authorization required"),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "unsuccessful"),
        ("HTTP/1.1 302 Found\r\nLocation: https://localhost/\r\n\r\n", "unsuccessful"),
        ("nonsense\r\n\r\n", "unsuccessful"),
        ("", "unexpected end of file"),
    ] {
        let proxy = Proxy::refusing(answer).await;
        let url = format!("http://ann:secret@127.0.0.1:{}", proxy.port);
        let client = server.client_through(&url, "");
        let error = client.get(&server.outside(), "application/json").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("cannot be reached: tunnel error: {why} (through the proxy {}/)", proxy.url())
        );
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        assert_eq!(server.heard(), "");
    }
}

#[tokio::test]
async fn an_unusable_proxy_is_an_error_and_not_bypassed() {
    let server = Server::good().await;
    let own = format!("https://0.0.0.0:{}/", server.port);
    for (proxy, why) in [
        ("http://127.0.0.1:1", "Connection refused (os error 111) (through the proxy"),
        ("socks5://127.0.0.1:1", "HTTPS_PROXY is not the URL of a proxy"),
    ] {
        let client = server.client_through(proxy, "");
        let error = client.get(&own, "application/json").await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    assert_eq!(server.heard(), "");
}

#[tokio::test]
async fn the_server_certificate_is_verified_through_a_proxy() {
    let server = Server::good().await;
    let other = Server::good().await;
    let proxy = Proxy::to(server.port).await;
    let client = other.client_through(&proxy.url(), "");
    let error = client.get(&server.outside(), "application/json").await.unwrap_err();
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
    assert!(!error.is_about_dates());
    assert_eq!(server.heard(), "");
}

#[tokio::test]
async fn certificates_rejected_for_their_dates_are_reported_as_such() {
    for dates in [(2020, 2021), (2120, 2121)] {
        let server = Server::certified(certified(Some(dates)), Vec::new()).await;
        let proxy = Proxy::to(server.port).await;
        let direct = server.client().get(&server.url("/"), "application/json").await;
        assert!(direct.unwrap_err().is_about_dates());
        let client = server.client_through(&proxy.url(), "");
        let tunnelled = client.get(&server.outside(), "application/json").await;
        assert!(tunnelled.unwrap_err().is_about_dates());
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_proxy_times_out_after_ten_seconds() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = format!("http://127.0.0.1:{}/", listener.local_addr().unwrap().port());
    let client = Client::with_proxies(None, proxies(&proxy, "")).unwrap();
    let error = client.get("https://issuer.test/", "application/json").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("did not respond within 10 s (through the proxy {proxy})")
    );
}
