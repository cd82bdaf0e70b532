use std::io::Write;
use std::sync::{Arc, Mutex};

use rcgen::{CertificateParams, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A server of its own authority for `localhost` that gives one answer and closes, and what it was
/// sent.
struct Server {
    port: u16,
    authority: NamedTempFile,
    heard: Arc<Mutex<String>>,
}

impl Server {
    async fn answering(answer: Vec<u8>) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
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
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(String::new()));
        let server = Self { port, authority, heard: Arc::clone(&heard) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = vec![0; 4096];
                let mut read = 0;
                while !complete(&request[..read]) {
                    match stream.read(&mut request[read..]).await {
                        Ok(0) | Err(_) => break,
                        Ok(more) => read += more,
                    }
                }
                *heard.lock().unwrap() = String::from_utf8_lossy(&request[..read]).into_owned();
                let _gone = stream.write_all(&answer).await;
                let _gone = stream.shutdown().await;
            }
        });
        server
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.port)
    }

    fn client(&self) -> Client {
        Client::new(Some(self.authority.path())).unwrap()
    }

    fn heard(&self) -> String {
        self.heard.lock().unwrap().clone()
    }
}

/// Whether head and body are there.
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
async fn a_server_of_the_named_authority_is_asked() {
    let server =
        Server::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_vec()).await;
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
async fn a_server_of_another_authority_is_told_nothing() {
    let server =
        Server::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}".to_vec()).await;
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
async fn a_form_is_posted_with_the_client_s_secret_as_the_standard_has_it() {
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
async fn an_answer_without_an_end_is_not_read_to_its_end() {
    let mut endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    endless.resize(endless.len() + MAX_BODY + 1, b'x');
    let server = Server::answering(endless).await;
    let error = server.client().get(&server.url("/"), "application/json").await.unwrap_err();
    assert!(matches!(error, FetchError::Large), "{error}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_none() {
    let server =
        Server::answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}".to_vec()).await;
    let error = server.client().get(&server.url("/"), "application/json").await.unwrap_err();
    assert!(matches!(error, FetchError::Http(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_waited_for_ten_seconds() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://127.0.0.1:{}/", listener.local_addr().unwrap().port());
    let client = Client { tls: None };
    let error = client.get(&url, "application/json").await.unwrap_err();
    assert!(matches!(error, FetchError::Late), "{error}");
}

#[tokio::test]
async fn what_is_neither_https_nor_on_this_machine_is_not_asked() {
    let client = Client { tls: None };
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
    assert!(matches!(
        client.get("https://localhost/", "application/json").await.unwrap_err(),
        FetchError::NoAuthorities
    ));
}

#[test]
fn a_file_without_authorities_is_told() {
    let empty = NamedTempFile::new().unwrap();
    assert!(Client::new(Some(empty.path())).is_err());
    assert!(Client::new(Some(Path::new("/does/not/exist"))).is_err());
}

#[test]
fn authorities_of_the_web_are_trusted_where_the_system_has_none_and_only_there() {
    let web = trusting(Vec::new()).len();
    assert!(web > 50, "{web}");
    let own = CertificateParams::default().self_signed(&KeyPair::generate().unwrap()).unwrap();
    assert_eq!(trusting(vec![own.der().clone()]).len(), 1);
}
