//! One endpoint of a worker: its load, its connections, and its ejection.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use portcullis_config::snapshot::backend::UpstreamProtocol;
use tokio::sync::Notify;

use super::connect::{Connector, Transport};
use super::exchange::{Exchange, Failed, Kind, Message};
use super::http1::{Http1Exchange, Idle};
use super::http2::{ClientSettings, Http2Client};
use crate::http1::head::HeadLimits;

/// How long an unreachable endpoint is ejected.
const EJECTION: Duration = Duration::from_secs(5);
/// Maximum HTTP/2 connections to one endpoint; further requests wait in the last of them.
const HTTP2_CONNECTIONS: usize = 8;

/// One address of a backend.
pub(crate) struct Endpoint {
    address: SocketAddr,
    protocol: UpstreamProtocol,
    connector: Rc<Connector>,
    in_flight: Cell<u32>,
    ejected_until: Cell<Option<Instant>>,
    /// The most recently used connection is reused first, so that surplus ones reach their timeout.
    idle: RefCell<Vec<Idle>>,
    http2: RefCell<Vec<Http2Client>>,
    /// Set while a connection is being established that many requests may share.
    connecting: RefCell<Option<Rc<Notify>>>,
}

// === impl Endpoint ===

impl Endpoint {
    pub(super) fn new(
        address: SocketAddr,
        protocol: UpstreamProtocol,
        connector: Rc<Connector>,
    ) -> Self {
        Self {
            address,
            protocol,
            connector,
            in_flight: Cell::new(0),
            ejected_until: Cell::new(None),
            idle: RefCell::default(),
            http2: RefCell::default(),
            connecting: RefCell::default(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Exchanges in flight from this worker.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// Whether the endpoint is ejected.
    pub(super) fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until.get().is_some_and(|until| now < until)
    }

    /// Ejects the endpoint for a while because it was unreachable or did not respond.
    pub(crate) fn eject(&self, now: Instant) {
        if !self.is_ejected(now) {
            self.connector.meter.upstream_ejected();
        }
        self.ejected_until.set(Some(now + EJECTION));
    }

    pub(super) fn begin(&self) {
        self.in_flight.set(self.in_flight.get().saturating_add(1));
    }

    pub(super) fn end(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    /// Returns an idle connection to the pool, if there is room.
    pub(super) fn keep(&self, connection: Idle) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < self.connector.settings.limits.idle_connections_per_endpoint.get() {
            idle.push(connection);
        }
    }

    /// Removes connections that reached the idle timeout or were closed by the pod.
    pub(super) fn sweep(&self, now: Instant) {
        let timeout = self.connector.settings.timeouts.upstream_idle;
        self.idle.borrow_mut().retain(|idle| idle.is_fresh(now, timeout) && idle.is_alive());
        self.http2.borrow_mut().retain(Http2Client::is_open);
    }

    /// Sends a request's head over a pooled or a new connection. Connecting is boxed: it is rare,
    /// and would make the future of every request several times as large.
    ///
    /// # Errors
    /// Nothing was sent: the request may be sent to another endpoint.
    pub(crate) async fn start(
        self: &Rc<Self>,
        message: &Message<'_>,
        now: Instant,
    ) -> Result<Exchange, Failed> {
        let kind = match &self.protocol {
            UpstreamProtocol::Http1 => self.http1(message, now).await?,
            UpstreamProtocol::H2c => self.http2(message).await?,
            UpstreamProtocol::Tls { server_name } => self.tls(server_name, message, now).await?,
        };
        Ok(Exchange::new(kind, Rc::clone(self)))
    }

    async fn http1(&self, message: &Message<'_>, now: Instant) -> Result<Kind, Failed> {
        if let Some(idle) = self.checkout(now) {
            self.connector.meter.upstream_reused();
            return Ok(Kind::Http1(Http1Exchange::on_idle(idle, message, self.head_limits())));
        }
        self.check_room()?;
        let transport = Box::pin(self.connector.plain(self.address))
            .await
            .map_err(|error| self.connect_failed(&error))?;
        Ok(Kind::Http1(Http1Exchange::on_new(transport, message, self.head_limits())))
    }

    /// Takes a live idle connection from the pool.
    fn checkout(&self, now: Instant) -> Option<Idle> {
        let timeout = self.connector.settings.timeouts.upstream_idle;
        let mut idle = self.idle.borrow_mut();
        while let Some(connection) = idle.pop() {
            if connection.is_fresh(now, timeout) && connection.is_alive() {
                return Some(connection);
            }
        }
        None
    }

    async fn http2(&self, message: &Message<'_>) -> Result<Kind, Failed> {
        loop {
            if let Some(client) = self.usable() {
                return client.send(message, false).map(Kind::Http2);
            }
            if self.wait_for_connection().await {
                continue;
            }
            let _connecting = self.connecting();
            let transport = Box::pin(self.connector.plain(self.address))
                .await
                .map_err(|error| self.connect_failed(&error))?;
            self.add(transport);
        }
    }

    async fn tls(
        &self,
        server_name: &str,
        message: &Message<'_>,
        now: Instant,
    ) -> Result<Kind, Failed> {
        loop {
            if let Some(client) = self.usable() {
                return client.send(message, true).map(Kind::Http2);
            }
            if let Some(idle) = self.checkout(now) {
                return Ok(Kind::Http1(Http1Exchange::on_idle(idle, message, self.head_limits())));
            }
            self.check_room()?;
            let transport = Box::pin(self.connector.tls(self.address, server_name))
                .await
                .map_err(|error| self.connect_failed(&error))?;
            if !transport.is_http2() {
                return Ok(Kind::Http1(Http1Exchange::on_new(
                    transport,
                    message,
                    self.head_limits(),
                )));
            }
            self.add(transport);
        }
    }

    /// Returns the first HTTP/2 connection with a free stream, or the last one if no more
    /// connections are allowed.
    fn usable(&self) -> Option<Http2Client> {
        let mut clients = self.http2.borrow_mut();
        if let Some(client) = clients.iter().find(|client| client.is_usable()) {
            return Some(client.clone());
        }
        clients.retain(Http2Client::is_open);
        if clients.len() < HTTP2_CONNECTIONS { None } else { clients.last().cloned() }
    }

    /// Waits while another request establishes a connection to share; returns `false` if none does.
    async fn wait_for_connection(&self) -> bool {
        let connecting = self.connecting.borrow().clone();
        match connecting {
            Some(done) => {
                done.notified().await;
                true
            }
            None => false,
        }
    }

    fn connecting(&self) -> Connecting<'_> {
        let done = Rc::new(Notify::new());
        *self.connecting.borrow_mut() = Some(Rc::clone(&done));
        Connecting { endpoint: self, done }
    }

    fn add(&self, transport: Transport) {
        let settings = ClientSettings::new(&self.connector.settings);
        self.http2.borrow_mut().push(Http2Client::connect(transport, &settings));
    }

    fn check_room(&self) -> Result<(), Failed> {
        let limit = self.connector.settings.limits.connections_per_endpoint.get();
        if self.in_flight.get() as usize >= limit { Err(Failed::Full) } else { Ok(()) }
    }

    fn connect_failed(&self, error: &std::io::Error) -> Failed {
        tracing::debug!(address = %self.address, %error, "failed to connect to the endpoint");
        self.connector.meter.upstream_failed(if error.kind() == std::io::ErrorKind::TimedOut {
            "timeout"
        } else {
            "connect"
        });
        self.eject(Instant::now());
        Failed::Connect
    }

    fn head_limits(&self) -> HeadLimits {
        HeadLimits {
            bytes: self.connector.settings.limits.response_head_bytes.get(),
            headers: crate::http1::head::MAX_HEADERS,
        }
    }
}

/// A connection being established. On drop (success, failure or cancellation), waiters retry.
struct Connecting<'a> {
    endpoint: &'a Endpoint,
    done: Rc<Notify>,
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.endpoint.connecting.borrow_mut().take();
        self.done.notify_waiters();
    }
}
