//! Clients based on libraries: TLS, HTTP/2, gRPC.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::SendRequest;
use hyper_util::rt::TokioIo;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{Gateway, soon};

/// The configuration of a TLS client.
pub(crate) fn tls_config(gateway: &Gateway, alpn: &[&str]) -> Arc<ClientConfig> {
    tls_config_with(gateway, alpn, rustls::crypto::aws_lc_rs::default_provider())
}

/// The same with a given crypto provider.
pub(crate) fn tls_config_with(
    gateway: &Gateway,
    alpn: &[&str],
    provider: CryptoProvider,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(gateway.ca()).expect("the authority's certificate");
    roots.add(ca).expect("an authority");
    let builder = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A TLS connection to the gateway.
///
/// # Errors
/// The handshake failed.
pub(crate) async fn tls(
    gateway: &Gateway,
    host: &str,
    alpn: &[&str],
) -> io::Result<TlsStream<TcpStream>> {
    tls_with(gateway, host, tls_config(gateway, alpn)).await
}

/// A TLS connection with this `config`.
///
/// # Errors
/// The handshake failed.
pub(crate) async fn tls_with(
    gateway: &Gateway,
    host: &str,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(gateway.https()).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let connector = TlsConnector::from(config);
    soon("the TLS handshake ends", connector.connect(name, stream)).await
}

/// An HTTP/2 connection over TLS, driven by its own task.
pub(crate) async fn http2(gateway: &Gateway, host: &str) -> SendRequest<Bytes> {
    let stream = tls(gateway, host, &["h2"]).await.expect("a TLS connection");
    let (sender, connection) = soon("the HTTP/2 handshake ends", h2::client::handshake(stream))
        .await
        .expect("an HTTP/2 connection");
    tokio::spawn(connection);
    sender.ready().await.expect("a stream may be opened")
}

/// A gRPC channel over TLS.
pub(crate) async fn grpc(gateway: &Gateway, host: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("https://{host}")).expect("a URI");
    let connector = Connector {
        address: gateway.https(),
        host: host.to_owned(),
        config: tls_config(gateway, &["h2"]),
    };
    endpoint.connect_with_connector(connector).await.expect("a gRPC channel")
}

/// Connects to the gateway, regardless of DNS.
struct Connector {
    address: std::net::SocketAddr,
    host: String,
    config: Arc<ClientConfig>,
}

impl tonic::codegen::Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (address, host, config) = (self.address, self.host.clone(), Arc::clone(&self.config));
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from(host).map_err(io::Error::other)?;
            Ok(TokioIo::new(TlsConnector::from(config).connect(name, stream).await?))
        })
    }
}
