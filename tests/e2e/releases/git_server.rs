//! A git server: `git http-backend` over TLS, with basic authentication.

use std::convert::Infallible;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_rustls::TlsAcceptor;

use crate::harness::Authority;

/// The user and the password.
pub(super) const CREDENTIALS: &str = "builder:git-secret";

/// A running server, whose repositories are in a folder.
pub(super) struct GitServer {
    folder: TempDir,
    host: String,
    fetches: Arc<AtomicUsize>,
}

// === impl GitServer ===

impl GitServer {
    pub(super) async fn start() -> Self {
        Self::at(Ipv4Addr::LOCALHOST).await
    }

    /// One at a free port of an address, by which it is known.
    pub(super) async fn at(address: Ipv4Addr) -> Self {
        let (mut server, address) =
            Self::listen(&format!("{address}:0"), &address.to_string()).await;
        server.host = address.to_string();
        server
    }

    /// One that is known by a name, at the port of HTTPS of an address.
    pub(super) async fn named(name: &str, address: &str) -> Self {
        Self::listen(&format!("{address}:443"), name).await.0
    }

    async fn listen(address: &str, name: &str) -> (Self, SocketAddr) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::new("Git tests").expect("an authority");
        let hours = Duration::from_secs(2 * 3600);
        let issued = authority.issue(&[name], hours).expect("a certificate");
        fs::write(folder.path().join("ca.pem"), authority.certificate()).expect("the authority");
        fs::create_dir(folder.path().join("served")).expect("the folder of repositories");
        let chain = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("PEM");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .expect("a configuration");
        let tls = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let fetches = Arc::new(AtomicUsize::new(0));
        let (root, counter) = (folder.path().join("served"), Arc::clone(&fetches));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, root, counter) = (tls.clone(), root.clone(), Arc::clone(&counter));
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let serve = service_fn(|request| serve(request, &root, &counter));
                    let _ =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await;
                });
            }
        });
        (Self { folder, host: name.to_owned(), fetches }, address)
    }

    /// A file beside its repositories: `ca.pem` is the authority of its certificate.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder of a repository.
    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("served/{name}.git"))
    }

    /// The URL of a repository.
    pub(super) fn url(&self, name: &str) -> String {
        format!("https://{}/{name}.git", self.host)
    }

    /// How many times the references of a repository were listed with the right credentials.
    pub(super) fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    /// Creates a repository, and returns the work tree of a user who pushes to it.
    pub(super) fn create(&self, name: &str) -> WorkTree {
        let bare = self.folder(name);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let bare_text = bare.to_string_lossy();
        git(folder.path(), &["init", "--quiet", "--bare", "--initial-branch=master", &bare_text]);
        git(folder.path(), &["init", "--quiet", "--initial-branch=master"]);
        git(folder.path(), &["remote", "add", "origin", &bare_text]);
        WorkTree(folder)
    }
}

/// The work tree of a user.
pub(super) struct WorkTree(TempDir);

// === impl WorkTree ===

impl WorkTree {
    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("it is created");
        fs::write(path, text).expect("it is written");
    }

    /// Copies a file of the machine.
    pub(super) fn copy(&self, from: &Path, path: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("it is created");
        fs::copy(from, path).expect("it is copied");
    }

    /// Copies the program that the shells of builds are.
    pub(super) fn copy_busybox(&self) {
        let places = ["/usr/bin/busybox", "/bin/busybox"];
        let program = places.into_iter().find(|path| Path::new(path).exists());
        let program = program.expect("busybox-static: see tests/install");
        fs::copy(program, self.0.path().join("busybox")).expect("it is copied");
    }

    pub(super) fn git(&self, arguments: &[&str]) -> String {
        git(self.0.path(), arguments)
    }

    /// Commits everything, pushes it to a branch, and returns the commit.
    pub(super) fn push(&self, branch: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "--message", "change"]);
        self.git(&["push", "--quiet", "--force", "origin", &format!("HEAD:refs/heads/{branch}")]);
        self.git(&["rev-parse", "HEAD"])
    }
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = std::process::Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(["-c", "user.name=Tests", "-c", "user.email=tests@example.com"])
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        // It overrides the authority of a server.
        .env_remove("GIT_SSL_CAINFO")
        .output()
        .expect("git runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("a text").trim().to_owned()
}

async fn serve(
    request: Request<Incoming>,
    root: &Path,
    fetches: &AtomicUsize,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let expected = format!("Basic {}", STANDARD.encode(CREDENTIALS));
    if request.headers().get(header::AUTHORIZATION).is_none_or(|value| *value != expected) {
        let mut refused = Response::new(Full::default());
        *refused.status_mut() = StatusCode::UNAUTHORIZED;
        let basic = header::HeaderValue::from_static("Basic realm=\"tests\"");
        refused.headers_mut().insert(header::WWW_AUTHENTICATE, basic);
        return Ok(refused);
    }
    if request.uri().path().ends_with("/info/refs") {
        fetches.fetch_add(1, Ordering::SeqCst);
    }
    let (parts, body) = request.into_parts();
    let body = body.collect().await.expect("the body").to_bytes();
    Ok(backend(&parts, &body, root).await)
}

/// Calls `git http-backend` by CGI (RFC 3875).
async fn backend(parts: &http::request::Parts, body: &[u8], root: &Path) -> Response<Full<Bytes>> {
    let text = |headers: &HeaderMap, name: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let mut child = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("PATH_INFO", parts.uri.path())
        .env("QUERY_STRING", parts.uri.query().unwrap_or_default())
        // Whoever has authenticated may push.
        .env("REMOTE_USER", "builder")
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("CONTENT_TYPE", text(&parts.headers, "content-type"))
        .env("HTTP_CONTENT_ENCODING", text(&parts.headers, "content-encoding"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("GIT_PROTOCOL", text(&parts.headers, "git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("git runs");
    let mut stdin = child.stdin.take().expect("its input");
    let input = async move {
        let _ = stdin.write_all(body).await;
    };
    let ((), output) = tokio::join!(input, child.wait_with_output());
    let output = output.expect("its output").stdout;
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let mut response = Response::new(Full::from(output[end + 4..].to_vec()));
    for line in head.lines() {
        let (name, value) = line.split_once(": ").expect("a field");
        if name.eq_ignore_ascii_case("status") {
            *response.status_mut() = value[..3].parse().expect("a status");
        } else {
            let name: header::HeaderName = name.parse().expect("a name");
            response.headers_mut().insert(name, value.parse().expect("a value"));
        }
    }
    response
}
