//! One pod's address as a worker knows it: its load, its connections, and whether it could be
//! reached.

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

/// How long an endpoint that could not be connected to is avoided.
const SUSPECT: Duration = Duration::from_secs(5);
/// HTTP/2 connections to one endpoint; requests beyond their streams wait in the last of them.
const HTTP2_CONNECTIONS: usize = 8;

/// One address.
pub(crate) struct Endpoint {
    address: SocketAddr,
    protocol: UpstreamProtocol,
    connector: Rc<Connector>,
    in_flight: Cell<u32>,
    suspect_until: Cell<Option<Instant>>,
    /// The one used last is used next, so that those not needed grow old.
    idle: RefCell<Vec<Idle>>,
    http2: RefCell<Vec<Http2Client>>,
    /// Set while a connection is being made that many requests may share.
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
            suspect_until: Cell::new(None),
            idle: RefCell::default(),
            http2: RefCell::default(),
            connecting: RefCell::default(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Exchanges under way from this worker.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// Whether it lately could not be reached.
    pub(super) fn is_suspect(&self, now: Instant) -> bool {
        self.suspect_until.get().is_some_and(|until| now < until)
    }

    /// Says that it could not be reached, or fell silent: others are preferred for a while.
    pub(crate) fn suspect(&self, now: Instant) {
        if !self.is_suspect(now) {
            self.connector.meter.upstream_ejected();
        }
        self.suspect_until.set(Some(now + SUSPECT));
    }

    pub(super) fn begin(&self) {
        self.in_flight.set(self.in_flight.get().saturating_add(1));
    }

    pub(super) fn end(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    /// Keeps a connection for the next request.
    pub(super) fn keep(&self, connection: Idle) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < self.connector.settings.limits.idle_connections_per_endpoint.get() {
            idle.push(connection);
        }
    }

    /// Closes what has been idle for too long or was closed by the pod.
    pub(super) fn sweep(&self, now: Instant) {
        let timeout = self.connector.settings.timeouts.upstream_idle;
        self.idle
            .borrow_mut()
            .retain(|idle| now.duration_since(idle.since) < timeout && idle.is_alive());
        self.http2.borrow_mut().retain(Http2Client::is_open);
    }

    /// Sends a request's head, over a connection that is there or a new one. Making one is boxed:
    /// it is rare, and would make the future of every request several times as large.
    ///
    /// # Errors
    /// Nothing was sent: another endpoint may be tried.
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
            .map_err(|error| self.unconnected(&error))?;
        Ok(Kind::Http1(Http1Exchange::on_new(transport, message, self.head_limits())))
    }

    /// A connection that waits and is alive.
    fn checkout(&self, now: Instant) -> Option<Idle> {
        let timeout = self.connector.settings.timeouts.upstream_idle;
        let mut idle = self.idle.borrow_mut();
        while let Some(connection) = idle.pop() {
            if now.duration_since(connection.since) < timeout && connection.is_alive() {
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
                .map_err(|error| self.unconnected(&error))?;
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
                .map_err(|error| self.unconnected(&error))?;
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

    /// The first HTTP/2 connection with a stream to spare; the last one where there are as many as
    /// are allowed.
    fn usable(&self) -> Option<Http2Client> {
        let mut clients = self.http2.borrow_mut();
        if let Some(client) = clients.iter().find(|client| client.is_usable()) {
            return Some(client.clone());
        }
        clients.retain(Http2Client::is_open);
        if clients.len() < HTTP2_CONNECTIONS { None } else { clients.last().cloned() }
    }

    /// Waits while another request makes a connection that this one may share; `false` where none
    /// does.
    async fn wait_for_connection(&self) -> bool {
        let made = self.connecting.borrow().clone();
        match made {
            Some(made) => {
                made.notified().await;
                true
            }
            None => false,
        }
    }

    fn connecting(&self) -> Connecting<'_> {
        let made = Rc::new(Notify::new());
        *self.connecting.borrow_mut() = Some(Rc::clone(&made));
        Connecting { endpoint: self, made }
    }

    fn add(&self, transport: Transport) {
        let settings = ClientSettings::new(&self.connector.settings);
        self.http2.borrow_mut().push(Http2Client::connect(transport, &settings));
    }

    fn check_room(&self) -> Result<(), Failed> {
        let limit = self.connector.settings.limits.connections_per_endpoint.get();
        if self.in_flight.get() as usize >= limit { Err(Failed::Full) } else { Ok(()) }
    }

    fn unconnected(&self, error: &std::io::Error) -> Failed {
        tracing::debug!(address = %self.address, %error, "no connection to an endpoint");
        self.connector.meter.upstream_failed(if error.kind() == std::io::ErrorKind::TimedOut {
            "timeout"
        } else {
            "connect"
        });
        self.suspect(Instant::now());
        Failed::Unconnected
    }

    fn head_limits(&self) -> HeadLimits {
        HeadLimits {
            bytes: self.connector.settings.limits.response_head_bytes.get(),
            headers: crate::http1::head::MAX_HEADERS,
        }
    }
}

/// A connection being made. When it is there, has failed, or nobody wants it any more, those who
/// wait for it look again.
struct Connecting<'a> {
    endpoint: &'a Endpoint,
    made: Rc<Notify>,
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.endpoint.connecting.borrow_mut().take();
        self.made.notify_waiters();
    }
}
