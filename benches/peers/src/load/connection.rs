//! Connections to the gateway, with and without TLS.

use std::pin::Pin;

use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode, SslVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_openssl::SslStream;

use crate::Failure;
use crate::exchange::Target;

const CIPHER: &str = "TLS_AES_128_GCM_SHA256";

/// Octets in both directions.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// What opens connections to one target.
pub(crate) struct Connector<'a> {
    target: &'a Target,
    tls: Option<SslConnector>,
}

impl<'a> Connector<'a> {
    /// TLS is of version 1.3, and the certificate is not verified.
    pub(crate) fn new(target: &'a Target) -> Result<Self, Failure> {
        let tls = if target.tls { Some(tls(protocol(target))?) } else { None };
        Ok(Self { target, tls })
    }

    /// Opens a connection.
    pub(crate) async fn open(&self) -> Result<Box<dyn Stream>, Failure> {
        let plain = TcpStream::connect(("127.0.0.1", self.target.port)).await?;
        plain.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Box::new(plain)) };
        let mut stream = SslStream::new(tls.configure()?.into_ssl(&self.target.host)?, plain)?;
        Pin::new(&mut stream).connect().await?;
        let selected = stream.ssl().selected_alpn_protocol();
        if selected.is_some_and(|selected| selected != protocol(self.target)) {
            return Err("the gateway speaks another protocol".into());
        }
        Ok(Box::new(stream))
    }
}

fn protocol(target: &Target) -> &'static [u8] {
    if target.kind.is_http2() { b"h2" } else { b"http/1.1" }
}

fn tls(protocol: &[u8]) -> Result<SslConnector, Failure> {
    let mut builder = SslConnector::builder(SslMethod::tls_client())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    builder.set_ciphersuites(CIPHER)?;
    builder.set_verify(SslVerifyMode::NONE);
    builder.set_alpn_protos(&[&[u8::try_from(protocol.len())?], protocol].concat())?;
    Ok(builder.build())
}
