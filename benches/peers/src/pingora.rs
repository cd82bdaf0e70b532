//! A plain proxy made of Pingora, for the benchmarks: one thread, which does the work that the
//! other gateways are set up for.
//!
//! It routes by host, keeps connections to the backend, sets `X-Forwarded-For`, `-Proto`, `-Host`,
//! `-Port`, `X-Real-IP` and `X-Request-Id`, and gathers its access log in memory. It has no
//! metrics. Its only argument is a file with [`Settings`] as JSON.

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{ErrorType, Result};
use pingora_http::RequestHeader;
use pingora_proxy::{ProxyHttp, Session};
use serde::Deserialize;

const LOG_BYTES: usize = 64 << 10;
const FLUSH_SECONDS: u64 = 1;

/// What the proxy is started with.
#[derive(Deserialize)]
struct Settings {
    listen: SocketAddr,
    host: String,
    backend: SocketAddr,
    /// Speak HTTP/2 to the backend, without TLS.
    h2c: bool,
    /// The files of the certificate and its key. Without them, TLS is off.
    tls: Option<(String, String)>,
    /// Accept HTTP/2 from clients, over TLS.
    http2: bool,
    access_log: String,
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let file = std::env::args().nth(1).ok_or("usage: pingora SETTINGS")?;
    let settings: Settings = serde_json::from_reader(File::open(file)?)?;
    let mut server = Server::new_with_opt_and_conf(
        None,
        ServerConf {
            grace_period_seconds: Some(0),
            graceful_shutdown_timeout_seconds: Some(0),
            threads: 1,
            upstream_keepalive_pool_size: 256,
            ..ServerConf::default()
        },
    );
    server.bootstrap();
    let mut service =
        pingora_proxy::http_proxy_service(&server.configuration, Proxy::new(&settings)?);
    let listen = settings.listen.to_string();
    match &settings.tls {
        None => service.add_tcp(&listen),
        Some((certificate, key)) => {
            let mut tls = TlsSettings::intermediate(certificate, key)?;
            if settings.http2 {
                tls.enable_h2();
            }
            service.add_tls_with_settings(&listen, None, tls);
        }
    }
    server.add_service(service);
    server.run_forever()
}

struct Proxy {
    backends: HashMap<String, HttpPeer>,
    scheme: &'static str,
    port: String,
    log: Arc<Mutex<Log>>,
}

impl Proxy {
    fn new(settings: &Settings) -> std::result::Result<Self, Box<dyn Error>> {
        let mut peer = HttpPeer::new(settings.backend, false, settings.host.clone());
        if settings.h2c {
            peer.options.set_http_version(2, 2);
            peer.options.max_h2_streams = 256;
        }
        let log = Arc::new(Mutex::new(Log {
            file: File::create(&settings.access_log)?,
            lines: Vec::with_capacity(LOG_BYTES),
        }));
        flush_often(Arc::clone(&log));
        Ok(Self {
            backends: HashMap::from([(settings.host.clone(), peer)]),
            scheme: if settings.tls.is_some() { "https" } else { "http" },
            port: settings.listen.port().to_string(),
            log,
        })
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, session: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        let name = host(session.req_header()).split(':').next().unwrap_or_default();
        match self.backends.get(name) {
            Some(peer) => Ok(Box::new(peer.clone())),
            None => pingora_core::Error::e_explain(ErrorType::HTTPStatus(404), "no such host"),
        }
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _: &mut (),
    ) -> Result<()> {
        let client = client(session);
        let host = host(session.req_header());
        request.insert_header("X-Forwarded-For", &client)?;
        request.insert_header("X-Forwarded-Proto", self.scheme)?;
        request.insert_header("X-Forwarded-Host", host)?;
        request.insert_header("X-Forwarded-Port", &self.port)?;
        request.insert_header("X-Real-IP", client)?;
        request.insert_header("X-Request-Id", format!("{:032x}", rand::random::<u128>()))?;
        Ok(())
    }

    async fn logging(
        &self,
        session: &mut Session,
        error: Option<&pingora_core::Error>,
        _: &mut (),
    ) {
        let status = session.response_written().map_or(0, |response| response.status.as_u16());
        let request = session.req_header();
        let second = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let failure = error.map_or_else(|| "-".to_owned(), ToString::to_string);
        let agent = text(request, "user-agent");
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.write(format_args!(
            "{} [{second}] \"{} {} {:?}\" {status} {} \"{agent}\" {failure}\n",
            client(session),
            request.method,
            request.uri,
            request.version,
            session.body_bytes_sent(),
        ));
    }
}

/// The host of a request, from `Host` or `:authority`.
fn host(request: &RequestHeader) -> &str {
    request.uri.authority().map_or_else(|| text(request, "host"), |authority| authority.as_str())
}

fn text<'a>(request: &'a RequestHeader, name: &str) -> &'a str {
    request.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-")
}

fn client(session: &Session) -> String {
    let address = session.client_addr().and_then(|address| address.as_inet());
    address.map_or_else(|| "-".to_owned(), |address| address.ip().to_string())
}

/// The access log: lines are written when enough of them are there, or a second old.
struct Log {
    file: File,
    lines: Vec<u8>,
}

impl Log {
    fn write(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a vector cannot fail.
        let _ = self.lines.write_fmt(line);
        if self.lines.len() >= LOG_BYTES {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if let Err(error) = self.file.write_all(&self.lines) {
            eprintln!("the access log was not written: {error}");
        }
        self.lines.clear();
    }
}

#[expect(clippy::disallowed_methods, reason = "a thread of its own, with nothing else to wait for")]
fn flush_often(log: Arc<Mutex<Log>>) {
    thread::spawn(move || {
        loop {
            thread::sleep(Duration::from_secs(FLUSH_SECONDS));
            log.lock().unwrap_or_else(PoisonError::into_inner).flush();
        }
    });
}
