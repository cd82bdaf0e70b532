//! A proxy that connects each tunnel to one server, and terminates its TLS, so that the server
//! needs none.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::harness::Authority;

/// The proxy. Unreachable once dropped.
pub(super) struct OutboundProxy {
    address: SocketAddr,
    requests: Arc<watch::Sender<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

// === impl OutboundProxy ===

impl OutboundProxy {
    /// One that is `host` to clients of the authority, and forwards to `server`.
    pub(super) async fn start(authority: &Authority, host: &str, server: SocketAddr) -> Self {
        let issued =
            authority.issue(&[host], Duration::from_secs(2 * 3600)).expect("a certificate");
        let certificate =
            CertificateDer::from_pem_slice(issued.certificate.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .expect("a server's configuration");
        let tls = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let requests = Arc::new(watch::Sender::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(lead(stream, tls.clone(), server, Arc::clone(&seen)));
            }
        });
        Self { address, requests, task }
    }

    /// The address that it listens on.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The heads of the CONNECT requests so far.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.borrow().clone()
    }
}

impl Drop for OutboundProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn lead(
    mut stream: TcpStream,
    tls: TlsAcceptor,
    server: SocketAddr,
    seen: Arc<watch::Sender<Vec<String>>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(octet) = stream.read_u8().await else { return };
        head.push(octet);
    }
    seen.send_modify(|seen| seen.push(String::from_utf8_lossy(&head).into_owned()));
    let _ = stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await;
    let Ok(mut client) = tls.accept(stream).await else { return };
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let _ = copy_bidirectional(&mut client, &mut server).await;
}
