//! The forward proxy of a build, which reaches the mirrors that the operator lists and nothing else.
//!
//! It listens in the network of the [sandbox](super::sandbox), which has no other way out, and connects
//! from that of the builder, or of the pod of a [Job](super::jobs). Each build has one of its own, which
//! ends with it.
//!
//! A request is read once, by hyper, and decided on by its target alone: `CONNECT HOST:PORT` (RFC 9110
//! 9.3.6), or the absolute form of `http` (RFC 9112 3.2.2). What is forwarded is written afresh, with
//! the host of the target.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`addresses`] | where no name may lead to: pure |
//! | [`metered`] | a connection of a build, and what all of them may transfer |
//! | [`namespace`] | a listener in the network of a sandbox |

mod addresses;
mod metered;
mod namespace;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::{self, OnUpgrade};
use hyper::{client, server};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use self::metered::{Budget, Metered};
use crate::causes::causes;
use crate::model::{Host, MirrorHost};

/// The variables that make programs in a sandbox use it: some read them in lower case, some in upper.
pub(super) const ENVIRONMENT: [(&str, &str); 6] = [
    ("http_proxy", "http://127.0.0.1:3128"),
    ("https_proxy", "http://127.0.0.1:3128"),
    ("HTTP_PROXY", "http://127.0.0.1:3128"),
    ("HTTPS_PROXY", "http://127.0.0.1:3128"),
    ("no_proxy", "localhost,127.0.0.1,::1"),
    ("NO_PROXY", "localhost,127.0.0.1,::1"),
];
/// How many different notes of it are in the log of a build.
pub(super) const MAX_NOTES: usize = 20;
/// How much of a target a note has, in characters.
const MAX_NOTED: usize = 300;
/// The largest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// The largest head of a response, in bytes.
const MAX_RESPONSE_HEAD: usize = 64 * 1024;
/// How many names are resolved at once. A resolver cannot be interrupted, and occupies a thread that the
/// builder shares.
const LOOKUPS: usize = 4;
/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(10);
/// The port of `http`.
const HTTP: u16 = 80;
/// How often what a build may use of its files, it may transfer.
const TRANSFERS: u64 = 4;
/// The fields of one connection (RFC 9110 7.6.1), besides those that `Connection` names.
const OF_CONNECTION: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::UPGRADE,
];

/// What all connections of a build may use.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    /// How many there are at once. Further ones wait.
    connections: usize,
    /// How long it may take to find a mirror and to connect to it.
    connect: Duration,
    /// How long one may transfer nothing.
    idle: Duration,
    /// How much they may transfer in both directions together, in bytes.
    bytes: u64,
}

/// The proxy of a build.
pub(super) struct Proxy {
    listener: TcpListener,
    shared: Arc<Shared>,
}

/// What its connections share.
struct Shared {
    mirrors: Vec<MirrorHost>,
    bounds: Bounds,
    budget: Budget,
    lookups: Arc<Semaphore>,
    notes: Notes,
}

/// What the log of the build gets: each text once, and a limited number of them.
struct Notes {
    sent: Mutex<BTreeSet<String>>,
    log: mpsc::Sender<String>,
}

/// Whether a build may reach a target.
#[derive(Debug, PartialEq, Eq)]
enum Decision<'m> {
    /// It is this mirror.
    Allowed(&'m MirrorHost),
    /// It is none.
    Refused,
}

/// Why a request gets no response of a mirror: a status and a text.
struct Failure(StatusCode, String);

/// A connection of a build.
struct Session {
    shared: Arc<Shared>,
    /// What it becomes when its last request was `CONNECT`.
    tunnel: Mutex<Option<(OnUpgrade, TcpStream)>>,
    /// The connection to the mirror of the current request; it ends with this.
    upstream: Mutex<JoinSet<()>>,
}

type Body = Either<Full<Bytes>, Incoming>;

// === impl Bounds ===

impl Bounds {
    /// Those of a build whose files have at most this size.
    pub(super) fn of_disk(disk: u64) -> Self {
        Self {
            connections: 32,
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            bytes: disk.saturating_mul(TRANSFERS),
        }
    }
}

// === impl Proxy ===

impl Proxy {
    /// Opens one for a sandbox: in the network namespace of a process, whose user namespace this user
    /// owns. The notes for the log of the build go to `log`.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub(super) async fn open(
        process: u32,
        owner: u32,
        mirrors: &[MirrorHost],
        bounds: Bounds,
        log: mpsc::Sender<String>,
    ) -> io::Result<Self> {
        Ok(Self::new(namespace::listen(process, owner).await?, mirrors, bounds, log))
    }

    fn new(
        listener: TcpListener,
        mirrors: &[MirrorHost],
        bounds: Bounds,
        log: mpsc::Sender<String>,
    ) -> Self {
        let budget = Budget::new(bounds.bytes);
        let (notes, mirrors) = (Notes { sent: Mutex::default(), log }, mirrors.to_vec());
        let lookups = Arc::new(Semaphore::new(LOOKUPS));
        Self { listener, shared: Arc::new(Shared { mirrors, bounds, budget, lookups, notes }) }
    }

    /// Serves until it is dropped, with all of its connections.
    pub(super) async fn serve(self) -> Infallible {
        let mut connections = JoinSet::new();
        loop {
            while connections.len() >= self.shared.bounds.connections {
                connections.join_next().await;
            }
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(serve_connection(stream, Arc::clone(&self.shared)));
                    }
                    // Such as too many files: the next one may do.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, shared: Arc<Shared>) {
    let stream = Metered::new(stream, shared.budget.clone());
    let (activity, idle) = (stream.activity(), shared.bounds.idle);
    let session = Session { shared, tunnel: Mutex::default(), upstream: Mutex::default() };
    let served = async {
        let service =
            service_fn(async |request| Ok::<_, Infallible>(session.respond(request).await));
        let connection = server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(MAX_HEAD)
            // A client may close its side once it has sent its request.
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let _ = connection.await;
        let tunnel = lock(&session.tunnel).take();
        if let Some((upgrade, mut upstream)) = tunnel
            && let Ok(client) = upgrade.await
        {
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut upstream).await;
        }
    };
    tokio::select! {
        () = served => {}
        () = activity.ends(idle) => {}
    }
    if session.shared.budget.is_spent() {
        let mebibytes = session.shared.bounds.bytes / (1024 * 1024);
        session.shared.notes.add(format!(
            "mirrors: the build may transfer {mebibytes} MiB, four times `maxDisk`, and has done so"
        ));
    }
}

// === impl Session ===

impl Session {
    async fn respond(&self, request: Request<Incoming>) -> Response<Body> {
        match self.forward(request).await {
            Ok(response) => response,
            Err(Failure(status, text)) => {
                let mut response = Response::new(Either::Left(format!("{text}\n").into()));
                *response.status_mut() = status;
                let plain = HeaderValue::from_static("text/plain; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, plain);
                response
            }
        }
    }

    async fn forward(&self, mut request: Request<Incoming>) -> Result<Response<Body>, Failure> {
        let target = target(request.method(), request.uri(), request.headers())?;
        let Decision::Allowed(mirror) = decide(&self.shared.mirrors, &target) else {
            let text = format!(
                "mirrors: {target} is not one of `builds.mirrors`: ask the operator of the builder \
                 to add it",
            );
            return Err(self.failure(StatusCode::FORBIDDEN, &text));
        };
        let stream = self.connect(mirror).await?;
        if request.method() == Method::CONNECT {
            let upgrade = upgrade::on(&mut request);
            *lock(&self.tunnel) = Some((upgrade, stream));
            return Ok(Response::new(Either::Left(Full::default())));
        }
        let request = origin_form(request, mirror)?;
        let broken = |error: hyper::Error| {
            let text = format!("mirrors: {mirror}: {}", causes(&error));
            self.failure(StatusCode::BAD_GATEWAY, &text)
        };
        let mut client = client::conn::http1::Builder::new();
        client.max_buf_size(MAX_RESPONSE_HEAD);
        let (mut sender, connection) =
            client.handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let mut upstream = JoinSet::new();
        upstream.spawn(async move {
            let _ = connection.await;
        });
        *lock(&self.upstream) = upstream;
        let mut response = sender.send_request(request).await.map_err(broken)?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let text = format!("mirrors: {mirror} switches protocols, which no request asks for");
            return Err(self.failure(StatusCode::BAD_GATEWAY, &text));
        }
        remove_fields_of_connection(response.headers_mut());
        Ok(response.map(Either::Right))
    }

    /// Connects to a mirror. A name leads to no address of the machine itself.
    async fn connect(&self, mirror: &MirrorHost) -> Result<TcpStream, Failure> {
        let failed = |status, reason: &str| {
            self.failure(status, &format!("mirrors: {mirror} cannot be reached: {reason}"))
        };
        let connected = connect(mirror, &self.shared.lookups);
        match timeout(self.shared.bounds.connect, connected).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(failed(StatusCode::BAD_GATEWAY, &error.to_string())),
            Err(_) => Err(failed(StatusCode::GATEWAY_TIMEOUT, "it takes too long")),
        }
    }

    /// A failure that is in the log of the build, too.
    fn failure(&self, status: StatusCode, text: &str) -> Failure {
        let text: String = text.chars().take(MAX_NOTED).collect();
        self.shared.notes.add(text.clone());
        Failure(status, text)
    }
}

// === impl Notes ===

impl Notes {
    /// Sends a text, unless it was sent before or there are too many.
    fn add(&self, text: String) {
        let mut sent = lock(&self.sent);
        if sent.len() < MAX_NOTES && sent.insert(text.clone()) {
            // There is room for all of them.
            let _ = self.log.try_send(text);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The target of a request, as it is compared with the mirrors: `HOST:PORT`. Nothing else of the
/// request has a meaning for the decision.
fn target(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<String, Failure> {
    let invalid = |text: &str| Failure(StatusCode::BAD_REQUEST, format!("mirrors: {text}"));
    let has_body = headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
    let default_port = match (method == Method::CONNECT, uri.scheme()) {
        // RFC 9110 9.3.6: what follows is the tunnel.
        (true, None) if has_body => return Err(invalid("CONNECT has no content")),
        (true, None) => None,
        (false, Some(scheme)) if *scheme == Scheme::HTTP => Some(HTTP),
        (false, Some(_)) => return Err(invalid("use CONNECT for all schemes but http")),
        _ => return Err(invalid("this is a proxy: write CONNECT HOST:PORT or http://HOST/PATH")),
    };
    let authority = uri.authority().map_or("", Authority::as_str);
    // The colons of an address in brackets are not that of a port.
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    match default_port {
        _ if has_port => Ok(authority.to_owned()),
        Some(port) => Ok(format!("{authority}:{port}")),
        None => Err(invalid("CONNECT needs a port")),
    }
}

/// Whether a target, `HOST:PORT`, is one of the mirrors. What is not read as the host of a mirror, such
/// as a name with a dot at its end or another spelling of an address, is none.
fn decide<'m>(mirrors: &'m [MirrorHost], target: &str) -> Decision<'m> {
    let target = target.parse::<MirrorHost>().ok();
    let found = mirrors.iter().find(|mirror| Some(*mirror) == target.as_ref());
    found.map_or(Decision::Refused, Decision::Allowed)
}

async fn connect(mirror: &MirrorHost, lookups: &Arc<Semaphore>) -> io::Result<TcpStream> {
    let name = match &mirror.host {
        // The operator lists this very address.
        Host::Address(address) => {
            return TcpStream::connect(SocketAddr::new(*address, mirror.port)).await;
        }
        Host::Name(name) => name,
    };
    let mut failure = io::Error::other("its name has no address");
    let permit = Arc::clone(lookups).acquire_owned().await.map_err(io::Error::other)?;
    let host = (name.clone(), mirror.port);
    let resolve = move || {
        let _permit = permit;
        (host.0.as_str(), host.1).to_socket_addrs()
    };
    for address in spawn_blocking(resolve).await?? {
        match connect_to(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Connects to an address that a name has.
async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    let forbidden = || {
        let ip = address.ip();
        io::Error::other(format!("its name has the address {ip}, which builds must not reach"))
    };
    if addresses::is_forbidden(address.ip()) {
        return Err(forbidden());
    }
    let stream = TcpStream::connect(address).await?;
    // An address of the machine itself is reached from the same one.
    if stream.local_addr()?.ip() == address.ip() {
        return Err(forbidden());
    }
    Ok(stream)
}

/// The request that a mirror gets: its path alone, its host, and no field of the connection.
fn origin_form(
    request: Request<Incoming>,
    mirror: &MirrorHost,
) -> Result<Request<Incoming>, Failure> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let host = match mirror.port {
        HTTP => mirror.host.to_string(),
        _ => mirror.to_string(),
    };
    let mut headers = parts.headers;
    remove_fields_of_connection(&mut headers);
    headers.remove(EXPECT);
    let invalid = || Failure(StatusCode::BAD_REQUEST, "mirrors: an invalid path".to_owned());
    let uri = path.parse::<Uri>().map_err(|_| invalid())?;
    headers.insert(HOST, HeaderValue::try_from(host).map_err(|_| invalid())?);
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let mut request = Request::new(body);
    (*request.method_mut(), *request.uri_mut()) = (parts.method, uri);
    *request.headers_mut() = headers;
    Ok(request)
}

fn remove_fields_of_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // The length of the content is not for `Connection` to remove.
        .filter(|name| *name != CONTENT_LENGTH)
        .collect();
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
    }
    // hyper writes the one of the connection that the message is sent on.
    for name in OF_CONNECTION.iter().chain([&TRANSFER_ENCODING]).chain(&named) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests;
