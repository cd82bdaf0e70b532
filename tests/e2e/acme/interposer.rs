//! A proxy between the gateway and its authority that injects faults.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::authority::Pebble;
use crate::harness::{Authority, soon};

/// The injected fault.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// No fault.
    None,
    /// Every order gets this response, with this `Retry-After`.
    Refuse(u16, Option<&'static str>),
    /// No request gets a response.
    Silence,
    /// No request with this path prefix gets a response.
    Stall(&'static str),
    /// Requests with this path prefix are processed, but get no response, unless rejected, as for
    /// a bad nonce.
    Lose(&'static str),
    /// This chain is issued instead of the right one.
    Chain(String),
    /// Every response has this date.
    Date(&'static str),
}

/// A running interposer.
pub(super) struct Interposer {
    address: SocketAddr,
    folder: TempDir,
    fault: watch::Sender<Fault>,
    orders: Arc<AtomicUsize>,
    stalled: Arc<watch::Sender<bool>>,
}

/// The context of each connection.
struct Way {
    pebble: SocketAddr,
    connector: TlsConnector,
    fault: watch::Receiver<Fault>,
    orders: Arc<AtomicUsize>,
    stalled: Arc<watch::Sender<bool>>,
}

// === impl Interposer ===

impl Interposer {
    pub(super) async fn start(pebble: &Pebble, host: Ipv4Addr, fault: Fault) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let own = Authority::new("The interposer's own").expect("an authority");
        std::fs::write(folder.path().join("root.pem"), own.certificate()).expect("its root");
        let issued =
            own.issue(&[&host.to_string()], Duration::from_secs(24 * 3600)).expect("a certificate");
        let chain = vec![
            CertificateDer::from_pem_slice(issued.certificate.as_bytes()).expect("a certificate"),
        ];
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("TLS");
        let acceptor = TlsAcceptor::from(Arc::new(
            config.with_no_client_auth().with_single_cert(chain, key).expect("a certificate"),
        ));
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(pebble.root_file()).expect("Pebble's root"))
            .expect("a root");
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS");
        let connector = TlsConnector::from(Arc::new(
            config.with_root_certificates(roots).with_no_client_auth(),
        ));
        let listener = TcpListener::bind((host, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (sender, fault) = watch::channel(fault);
        let orders = Arc::new(AtomicUsize::new(0));
        let stalled = Arc::new(watch::Sender::new(false));
        let pebble = SocketAddr::from((host, 14000));
        let way = Arc::new(Way {
            pebble,
            connector,
            fault,
            orders: Arc::clone(&orders),
            stalled: Arc::clone(&stalled),
        });
        tokio::spawn(accept(listener, acceptor, way));
        Self { address, folder, fault: sender, orders, stalled }
    }

    pub(super) fn set(&self, fault: Fault) {
        self.stalled.send_replace(false);
        self.fault.send_replace(fault);
    }

    /// Waits until a request has hit this [`Fault::Stall`] or [`Fault::Lose`].
    pub(super) async fn has_stalled(&self) {
        soon("a request stalls", self.stalled.subscribe().wait_for(|stalled| *stalled))
            .await
            .expect("the interposer lives");
    }

    pub(super) fn directory(&self) -> String {
        format!("https://{}/dir", self.address)
    }

    pub(super) fn root_file(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    /// The number of requested orders.
    pub(super) fn orders(&self) -> usize {
        self.orders.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, way: Arc<Way>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, way) = (acceptor.clone(), Arc::clone(&way));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(move |request| {
                let way = Arc::clone(&way);
                async move { Ok::<_, Infallible>(pass(request, &way).await) }
            });
            let _ = server::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn pass(request: Request<Incoming>, way: &Way) -> Response<Full<Bytes>> {
    let fault = way.fault.borrow().clone();
    let is_order = *request.method() == Method::POST && request.uri().path() == "/order-plz";
    way.orders.fetch_add(usize::from(is_order), Ordering::SeqCst);
    match fault {
        Fault::Silence => std::future::pending().await,
        Fault::Stall(path) if request.uri().path().starts_with(path) => {
            way.stalled.send_replace(true);
            std::future::pending().await
        }
        Fault::Refuse(status, retry_after) if is_order => refusal(status, retry_after),
        fault => {
            let path = request.uri().path().to_owned();
            let mut response = forward(request, way).await;
            let is_chain = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| {
                kind.as_bytes().starts_with(b"application/pem-certificate-chain")
            });
            match fault {
                Fault::Chain(chain) if is_chain => {
                    response.headers_mut().remove(header::CONTENT_LENGTH);
                    *response.body_mut() = Full::new(Bytes::from(chain));
                }
                Fault::Lose(lost) if path.starts_with(lost) && response.status().is_success() => {
                    way.stalled.send_replace(true);
                    std::future::pending().await
                }
                Fault::Date(date) => drop(
                    response.headers_mut().insert(header::DATE, HeaderValue::from_static(date)),
                ),
                _ => {}
            }
            response
        }
    }
}

fn refusal(status: u16, retry_after: Option<&'static str>) -> Response<Full<Bytes>> {
    let kind = if status == 429 { "rateLimited" } else { "serverInternal" };
    let body = format!(
        r#"{{"type":"urn:ietf:params:acme:error:{kind}","detail":"not now","status":{status}}}"#
    );
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response.headers_mut().insert("replay-nonce", HeaderValue::from_static("bm9uY2U"));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(retry_after) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(retry_after));
    }
    response
}

async fn forward(request: Request<Incoming>, way: &Way) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.expect("a whole request").to_bytes();
    let answer = async {
        let stream = TcpStream::connect(way.pebble).await.ok()?;
        let stream = way.connector.connect(ServerName::from(way.pebble.ip()), stream).await.ok()?;
        let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let (head, body) = sender
            .send_request(Request::from_parts(head, Full::new(body)))
            .await
            .ok()?
            .into_parts();
        Some(Response::from_parts(head, Full::new(body.collect().await.ok()?.to_bytes())))
    };
    answer.await.unwrap_or_else(|| refusal(502, None))
}
