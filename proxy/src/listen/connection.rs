//! A client connection from its socket to HTTP: limits, PROXY protocol, TLS, and HTTP version.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use portcullis_identity::client_certificate::ClientCertificate;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::admission::{Admission, Permit};
use super::drain::Drain;
use super::http2::{RequestBody, Responder};
use super::placement::{Passed, Place, Placement};
use super::socket::{HeaderError, Protocol, Socket};
use super::stream_tasks::StreamTasks;
use super::tls;
use crate::exchange::{BodyLength, Peer, Refusal, RequestHead};
use crate::memory::{Account, Charge};
use crate::normalize::refusals;
use crate::request::{DiscardLimit, Discarded, MAX_DISCARD};
use crate::worker_context::WorkerContext;
use crate::{proxy_headers, request, telemetry};

/// How long an idle connection may start a request after the gateway has begun to drain.
pub(super) const LATE: Duration = Duration::from_secs(1);

/// What the connections of one listener of one worker share.
pub(crate) struct ListenerContext {
    pub(crate) worker: Rc<WorkerContext>,
    /// The name of the snapshot's listener.
    pub(crate) listener: &'static str,
    /// `Some` for HTTPS.
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) placement: Rc<Placement>,
    pub(crate) streams: Rc<StreamTasks<Stream>>,
}

/// A stream of HTTP/2 with a request.
pub(crate) struct Stream {
    worker: Rc<WorkerContext>,
    peer: Rc<Peer>,
    head: Result<RequestHead, Refusal>,
    charge: Charge,
    body: RequestBody,
    respond: Responder,
}

/// A connection that is ready for HTTP.
enum Accepted {
    Plain(Socket, Peer),
    Tls(Box<TlsStream<Socket>>, Peer),
}

/// Why a connection was closed before HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RefusedConnection {
    /// `limits.connections` is reached.
    Connections,
    /// `limits.connectionsPerClient` is reached for this client.
    Client,
    /// No PROXY protocol header, or a malformed one.
    ProxyProtocol,
    /// The TLS handshake failed.
    Tls,
    /// TLS and the PROXY protocol header took longer than `timeouts.handshake`.
    Timeout,
}

// === impl ListenerContext ===

impl ListenerContext {
    /// Serves an accepted connection, here or by the worker with the fewest, or closes it if there
    /// are too many.
    pub(super) fn place(self: &Rc<Self>, stream: TcpStream, address: SocketAddr, drain: &Drain) {
        let Some(permit) = self.admit() else { return };
        match self.placement.place(stream, address, self.listener, permit) {
            Ok(Some((stream, permit, place))) => self.spawn(stream, address, permit, place, drain),
            Ok(None) => {}
            Err(error) => self.lost(&error),
        }
    }

    /// Serves an accepted connection here, or closes it if there are too many.
    pub(super) fn keep(self: &Rc<Self>, stream: TcpStream, address: SocketAddr, drain: &Drain) {
        if let Some(permit) = self.admit() {
            self.spawn(stream, address, permit, self.placement.own_place(), drain);
        }
    }

    /// Serves a connection that another worker has accepted.
    pub(super) fn take(self: &Rc<Self>, passed: Passed, drain: &Drain) {
        let Passed { stream, address, permit, place, .. } = passed;
        match TcpStream::from_std(stream) {
            Ok(stream) => self.spawn(stream, address, permit, place, drain),
            Err(error) => self.lost(&error),
        }
    }

    fn admit(&self) -> Option<Permit> {
        self.worker.meter.accepted(self.listener);
        let permit = self.admission.admit();
        if permit.is_err() {
            self.refused(RefusedConnection::Connections);
        }
        permit.ok()
    }

    /// Serves the connection in its own task.
    fn spawn(
        self: &Rc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        permit: Permit,
        place: Place,
        drain: &Drain,
    ) {
        tokio::task::spawn_local(Rc::clone(self).serve(
            Socket::new(stream),
            address,
            permit,
            place,
            drain.clone(),
        ));
    }

    /// A connection was closed since the kernel did not hand it over to another worker.
    fn lost(&self, error: &io::Error) {
        tracing::warn!(listener = self.listener, %error, "failed to hand over a connection");
        self.accept_failed("other");
    }

    /// Counts a failure to accept a connection.
    pub(super) fn accept_failed(&self, reason: &'static str) {
        self.worker.meter.accept_failed(self.listener, reason);
    }

    fn refused(&self, reason: RefusedConnection) {
        self.worker.meter.turned_away(self.listener, reason.name());
    }

    async fn serve(
        self: Rc<Self>,
        socket: Socket,
        address: SocketAddr,
        mut permit: Permit,
        place: Place,
        drain: Drain,
    ) {
        let limit = self.worker.settings.timeouts.handshake;
        let accepted = match timeout(limit, self.handshake(socket, address, &mut permit)).await {
            Ok(accepted) => accepted,
            Err(_) => Err(RefusedConnection::Timeout),
        };
        match accepted {
            Ok(Accepted::Plain(socket, peer)) => {
                let account = self.account(&permit);
                self.plain(socket, peer, account, drain).await;
            }
            Ok(Accepted::Tls(mut stream, _)) if tls::is_challenge(&stream) => {
                // The handshake was the validation; errors on close do not matter.
                let _ = timeout(limit, stream.shutdown()).await;
            }
            Ok(Accepted::Tls(stream, peer)) => {
                let protocol = tls::protocol(&stream);
                let account = self.account(&permit);
                self.http(protocol, *stream, peer, account, drain).await;
            }
            Err(reason) => {
                self.refused(reason);
                tracing::debug!(
                    client = %address,
                    listener = self.listener,
                    reason = reason.name(),
                    "refused a connection"
                );
            }
        }
        drop((permit, place));
    }

    pub(crate) fn account(&self, permit: &Permit) -> Rc<Account> {
        let worker = &self.worker;
        let limits = &worker.settings.limits;
        Account::new(limits, permit.client(), permit.clients(), Rc::clone(&worker.meter))
    }

    async fn handshake(
        &self,
        mut socket: Socket,
        address: SocketAddr,
        permit: &mut Permit,
    ) -> Result<Accepted, RefusedConnection> {
        let mut peer = self.peer(&mut socket, address).await?;
        // A peer in a trusted network is a proxy: its connections belong to many clients.
        if !peer.trusted {
            permit.claim(peer.client.ip()).map_err(|_| RefusedConnection::Client)?;
        }
        let Some(acceptor) = &self.tls else {
            return Ok(Accepted::Plain(socket, peer));
        };
        match acceptor.accept(socket).await {
            Ok(stream) => {
                self.worker.meter.handshake(tls::version(&stream));
                peer.certificate = ClientCertificate::new(stream.get_ref().1.peer_certificates());
                Ok(Accepted::Tls(Box::new(stream), peer))
            }
            Err(error) => {
                tracing::debug!(client = %peer.client, %error, "TLS handshake failed");
                self.worker.meter.handshake_failed(tls::failure(&error));
                Err(RefusedConnection::Tls)
            }
        }
    }

    /// Determines the peer from the socket, or from the load balancer's PROXY protocol header.
    async fn peer(
        &self,
        socket: &mut Socket,
        address: SocketAddr,
    ) -> Result<Peer, RefusedConnection> {
        let settings = &self.worker.settings;
        let mut client = address;
        if settings.listeners.proxy_protocol {
            let header = socket.read_proxy_header().await.map_err(|error: HeaderError| {
                tracing::debug!(
                    balancer = %address,
                    %error,
                    "failed to read the PROXY protocol header"
                );
                RefusedConnection::ProxyProtocol
            })?;
            if let Some(addresses) = header.addresses {
                client = addresses.source;
            }
        }
        let client = canonical(client);
        let trusted = self.worker.proxy_headers.trusts(client.ip());
        Ok(Peer {
            client,
            tls: self.tls.is_some(),
            trusted,
            listener: self.listener,
            certificate: None,
        })
    }

    /// Detects the HTTP version of a plain connection by its first octets, and serves it.
    async fn plain(&self, mut socket: Socket, peer: Peer, account: Rc<Account>, drain: Drain) {
        let timeouts = &self.worker.settings.timeouts;
        let is_readable = tokio::select! {
            read = timeout(timeouts.client_idle, socket.readable()) => matches!(read, Ok(Ok(()))),
            () = late(&drain) => false,
        };
        if !is_readable {
            return;
        }
        if let Ok(Ok(protocol)) = timeout(timeouts.request_head, socket.detect()).await {
            self.http(protocol, socket, peer, account, drain).await;
        }
    }

    /// Serves a connection whose protocol is known, until it is closed.
    pub(crate) async fn http<I>(
        &self,
        protocol: Protocol,
        io: I,
        peer: Peer,
        account: Rc<Account>,
        drain: Drain,
    ) where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let worker = Rc::clone(&self.worker);
        let peer = Rc::new(peer);
        let _open = worker.meter.connection(peer.listener, protocol.into());
        match protocol {
            Protocol::Http1 => super::http1::serve(io, worker, peer, &account, drain).await,
            Protocol::Http2 => {
                let settings = Arc::clone(&worker.settings);
                let counter = Rc::clone(&worker);
                let streams = Rc::clone(&self.streams);
                let handle = move |head: Result<RequestHead, Refusal>, body, respond: Responder| {
                    let mut charge = Charge::new(&account);
                    let client = |head: &RequestHead| {
                        proxy_headers::client(&head.headers, &peer, &worker.proxy_headers).address
                    };
                    if let Ok(head) = &head
                        && !charge.cover(head, || client(head))
                    {
                        worker.meter.refused(refusals::REQUEST_MEMORY.reason);
                        return respond.refuse();
                    }
                    let (worker, peer) = (Rc::clone(&worker), Rc::clone(&peer));
                    streams.start(Stream { worker, peer, head, charge, body, respond }, stream);
                };
                if let Some(reason) = super::http2::serve(io, &settings, &drain, handle).await {
                    counter.meter.refused(reason);
                }
            }
        }
    }
}

async fn late(drain: &Drain) {
    drain.draining().await;
    tokio::time::sleep(LATE).await;
}

/// Serves one request over HTTP/2.
async fn stream(stream: Stream) {
    let Stream { worker, peer, head, mut charge, mut body, mut respond } = stream;
    let has_body = !head.as_ref().is_ok_and(|head| head.body == BodyLength::None);
    let is_small =
        head.as_ref().is_ok_and(|head| matches!(head.body, BodyLength::Exact(1..=MAX_DISCARD)));
    let reply = match head {
        Ok(head) => {
            request::serve(&worker, &peer, head, &mut charge, &mut body, &mut respond).await
        }
        Err(refusal) => request::refuse(&worker, &peer, &refusal, &mut respond),
    };
    drop(charge);
    let is_flushed = reply.is_flushed(&mut respond).await;
    // Nothing of a larger body is kept while the response is pending.
    let rest = (has_body && (is_flushed || is_small) && !body.is_done()).then_some(body);
    if is_flushed && rest.is_none() {
        return;
    }
    // The request's task is several times as large as one for the rest of the work.
    tokio::task::spawn_local(async move {
        reply.deliver(&worker, &mut respond).await;
        drop(respond);
        discard_body(&worker, rest).await;
    });
}

/// Reads on after an early response. Some clients treat a reset of a stream that they are sending on
/// as a failure, even after a complete response.
async fn discard_body(worker: &WorkerContext, body: Option<RequestBody>) {
    let Some(mut body) = body else { return };
    let limit = DiscardLimit::of_stream(&worker.settings);
    if request::discard_body(&mut body, limit).await == Discarded::Exceeded {
        worker.meter.refused("unread_body");
    }
}

// === impl RefusedConnection ===

impl RefusedConnection {
    fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Client => "connections_per_client",
            Self::ProxyProtocol => "proxy_protocol",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
        }
    }
}

impl From<Protocol> for telemetry::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http1 => Self::Http1,
            Protocol::Http2 => Self::Http2,
        }
    }
}

/// Converts IPv4-mapped addresses (`::ffff:192.0.2.1`) of dual-stack sockets to IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
