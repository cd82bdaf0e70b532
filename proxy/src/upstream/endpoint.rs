//! One endpoint of a worker: its load, its connections, and its ejection.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_config::snapshot;
use portcullis_config::snapshot::backend::UpstreamProtocol;
use tokio::sync::Notify;

use super::connect::{Connector, Transport};
use super::exchange::{Exchange, Failed, Kind, Load, Message};
use super::group::Group;
use super::http1::{Http1Exchange, Idle};
use super::http2::{ClientSettings, Http2Client, STREAMS_BEFORE_SETTINGS};
use super::places::{Place, Places};
use super::probe;
use crate::balance::health::{Era, Failure, Health};
use crate::balance::latency::Latency;
use crate::balance::warm_up::WarmUp;
use crate::http1::head::HeadLimits;
use crate::limit::Requester;

/// Maximum HTTP/2 connections to one endpoint; further requests wait in the last of them.
const HTTP2_CONNECTIONS: usize = 8;

/// Whether a request may use a pooled connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pool {
    Use,
    /// Connections of the pool seem to be closed. Of HTTP/2, open ones are shared all the same: one
    /// that was closed is known.
    Bypass,
}

/// One address of a backend.
pub(crate) struct Endpoint {
    address: SocketAddr,
    /// The identity of its pod, where known.
    pod: Option<Arc<str>>,
    /// See [`snapshot::endpoints::Endpoint::stable_hash`].
    stable_hash: u64,
    protocol: UpstreamProtocol,
    connector: Rc<Connector>,
    places: Places,
    health: Cell<Health>,
    latency: Cell<Latency>,
    group: RefCell<Rc<Group>>,
    connect_failures: Cell<u32>,
    /// The most recently used connection is reused first, so that surplus ones reach their timeout.
    idle: RefCell<Vec<Idle>>,
    http2: RefCell<Vec<Http2Client>>,
    /// Maximum streams of its HTTP/2 connections, as its settings had it last.
    streams: Cell<usize>,
    /// Set while a connection is being established that many requests may share.
    connecting: RefCell<Option<Rc<Notify>>>,
    warm_up: WarmUp,
    /// Whether its set prefers it, because it is near the gateway.
    is_near: Cell<bool>,
}

// === impl Endpoint ===

impl Endpoint {
    pub(super) fn new(
        endpoint: &snapshot::endpoints::Endpoint,
        protocol: UpstreamProtocol,
        connector: Rc<Connector>,
        group: &Rc<Group>,
        warm_up: WarmUp,
    ) -> Self {
        let places = Places::new(connector.settings.limits.connections_per_endpoint.get());
        Self {
            address: endpoint.address,
            pod: endpoint.pod.clone(),
            stable_hash: endpoint.stable_hash(),
            protocol,
            connector,
            places,
            health: Cell::default(),
            latency: Cell::default(),
            group: RefCell::new(Rc::clone(group)),
            connect_failures: Cell::new(0),
            idle: RefCell::default(),
            http2: RefCell::default(),
            streams: Cell::new(STREAMS_BEFORE_SETTINGS),
            connecting: RefCell::default(),
            warm_up,
            is_near: Cell::new(false),
        }
    }

    /// Whether it is that endpoint of a set: the same pod at the same address.
    pub(super) fn is(&self, endpoint: &snapshot::endpoints::Endpoint) -> bool {
        self.address == endpoint.address && self.pod == endpoint.pod
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// By this, callers keep it.
    pub(super) fn stable_hash(&self) -> u64 {
        self.stable_hash
    }

    /// Attempts in flight from this worker, including those that wait for a connection.
    pub(crate) fn in_flight(&self) -> u32 {
        u32::try_from(self.places.taken()).unwrap_or(u32::MAX)
    }

    /// Whether it responds, as far as this worker knows.
    pub(crate) fn is_good(&self) -> bool {
        self.health().is_good()
    }

    pub(crate) fn is_ejected(&self) -> bool {
        self.health().is_ejected()
    }

    pub(super) fn health(&self) -> Health {
        self.health.get()
    }

    pub(super) fn warm_up(&self) -> WarmUp {
        self.warm_up
    }

    pub(super) fn latency(&self) -> Latency {
        self.latency.get()
    }

    /// Records that a response took so long after the request was sent.
    pub(super) fn responded_in(&self, taken: Duration, now: Instant) {
        let group = self.group.borrow();
        self.latency.set(self.latency().responded(taken, now, group.typical()));
        group.responded(self.latency(), now);
    }

    /// Records that so long after a request was sent there is no response, or an error.
    pub(super) fn unanswered(&self, taken: Duration, now: Instant) {
        let typical = self.group.borrow().typical();
        self.latency.set(self.latency().unanswered(taken, now, typical));
    }

    pub(super) fn is_near(&self) -> bool {
        self.is_near.get()
    }

    /// Counts the endpoint in the set that it now belongs to, which prefers it if it `is_near`.
    pub(super) fn join(&self, group: &Rc<Group>, is_near: bool) {
        self.is_near.set(is_near);
        if self.health().is_ejected() {
            group.eject();
        }
        group.begin(self.places.taken());
        *self.group.borrow_mut() = Rc::clone(group);
    }

    /// Records that a request that began in `era` was responded to.
    pub(super) fn responded(self: &Rc<Self>, era: Era) {
        if !self.health().is_good() {
            self.update(self.health().responded(era));
        }
    }

    /// Records that a request that began in `era` failed.
    pub(super) fn failed(self: &Rc<Self>, era: Era, failure: Failure) {
        let may_eject = self.group.borrow().allows_for_errors();
        self.update(self.health().failed(era, failure, may_eject));
    }

    /// Records whether the endpoint's active check fails.
    pub(super) fn checked(self: &Rc<Self>, is_failing: bool) {
        let health = self.health();
        let next = if is_failing { health.check_failed() } else { health.check_passed() };
        if next != health {
            self.update(next);
        }
    }

    fn update(self: &Rc<Self>, health: Health) {
        let was_ejected = self.health.replace(health).is_ejected();
        if health.is_ejected() && !was_ejected {
            tracing::debug!(address = %self.address, "ejected the endpoint");
            self.connector.meter.upstream_ejected(self.group.borrow().set());
            self.group.borrow().eject();
            probe::start(self);
        } else if was_ejected && !health.is_ejected() {
            tracing::debug!(address = %self.address, "the endpoint responds again");
            self.connector.meter.upstream_returned();
            self.group.borrow().release();
            self.offer();
        }
    }

    /// The time until the next probe, if the endpoint is ejected.
    pub(super) fn until_probe(&self) -> Option<Duration> {
        self.health().until_probe(self.connector.random.next())
    }

    /// Connects to find out whether the endpoint responds again, and keeps the connection.
    pub(super) async fn probe(self: &Rc<Self>) {
        match self.transport(self.connector.settings.timeouts.connect).await {
            Ok(transport) => {
                self.connector.meter.upstream_probed("connected");
                if self.protocol == UpstreamProtocol::H2c || transport.is_http2() {
                    self.add(transport);
                } else {
                    self.keep(Idle::unused(transport, Instant::now()));
                }
                self.update(self.health().probed());
            }
            Err(error) => {
                tracing::debug!(address = %self.address, %error, "a probe of the endpoint failed");
                self.connector.meter.upstream_probed("failed");
                self.update(self.health().probe_failed());
            }
        }
    }

    /// Takes a place for a request; `None` if the endpoint is full, or what is left is for others.
    pub(crate) fn admit(self: &Rc<Self>, requester: Requester<'_>) -> Option<Load> {
        let take = || self.places.take(|| self.connector.key(requester));
        let place = take().or_else(|| {
            self.count_places();
            take()
        });
        place.map(|place| Load::new(self, place))
    }

    /// Over HTTP/2, streams are scarce: their number is that of the places.
    fn count_places(&self) {
        let clients = self.http2.borrow();
        if let Some(streams) = clients.iter().filter_map(Http2Client::known_capacity).max() {
            self.streams.set(streams.max(1));
        }
        let open = clients.iter().filter(|client| client.is_open());
        if let Some(streams) = open.map(Http2Client::capacity).max() {
            self.places.resize(streams.max(1) * HTTP2_CONNECTIONS);
        }
    }

    /// Counts a request that has a place.
    pub(super) fn begin(&self) {
        self.group.borrow().begin(1);
    }

    /// Gives up a place, to a request that waits if there is one.
    pub(super) fn release(self: &Rc<Self>, place: &Place) {
        self.places.release(place);
        self.group.borrow().end();
        if self.group.borrow().has_waiting() {
            self.offer();
        }
    }

    /// Gives free places to requests that wait.
    pub(super) fn offer(self: &Rc<Self>) {
        let group = Rc::clone(&self.group.borrow());
        if !group.offers(self.is_ejected()) {
            return;
        }
        self.count_places();
        let is_slowed = || group.has_others() && self.health().is_slowed(self.in_flight());
        while !is_slowed()
            && let Some((client, waiter)) = group.queue.next(|key| self.places.has_place(key))
        {
            let Some(place) = self.places.take(|| client) else { return };
            // If the request is gone, this gives up the place again.
            drop(waiter.send(Load::new(self, place)));
        }
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
        self.count_places();
        self.http2.borrow_mut().retain(Http2Client::is_open);
    }

    /// Sends a request's head over a pooled or a new connection. `load` is its place here: an
    /// endpoint that is being connected to is loaded already, or it would attract requests.
    ///
    /// # Errors
    /// Nothing was sent: the request may be sent to another endpoint.
    pub(crate) async fn start(
        self: &Rc<Self>,
        load: Load,
        message: &Message<'_>,
        pool: Pool,
        now: Instant,
    ) -> Result<Exchange, Failed> {
        let kind = match &self.protocol {
            UpstreamProtocol::Http1 => self.http1(message, pool, now).await?,
            UpstreamProtocol::H2c => self.http2(message).await?,
            UpstreamProtocol::Tls { .. } => self.tls(message, pool, now).await?,
        };
        Ok(Exchange::new(kind, load))
    }

    async fn http1(
        self: &Rc<Self>,
        message: &Message<'_>,
        pool: Pool,
        now: Instant,
    ) -> Result<Kind, Failed> {
        if let Some(idle) = self.checkout(pool, now) {
            return Ok(Kind::Http1(Http1Exchange::on_idle(idle, message, self.head_limits())));
        }
        let transport = self.connect(message).await?;
        Ok(Kind::Http1(Http1Exchange::on_new(transport, message, self.head_limits())))
    }

    /// Takes a live idle connection from the pool.
    fn checkout(&self, pool: Pool, now: Instant) -> Option<Idle> {
        if pool == Pool::Bypass {
            return None;
        }
        let timeout = self.connector.settings.timeouts.upstream_idle;
        let mut idle = self.idle.borrow_mut();
        while let Some(connection) = idle.pop() {
            if connection.is_fresh(now, timeout) && connection.is_alive() {
                self.connector.meter.upstream_reused();
                return Some(connection);
            }
        }
        None
    }

    async fn http2(self: &Rc<Self>, message: &Message<'_>) -> Result<Kind, Failed> {
        loop {
            if let Some(client) = self.usable() {
                return client.send(message, false).map(Kind::Http2);
            }
            let failures = self.connect_failures.get();
            if self.wait_for_connection().await {
                if self.connect_failures.get() != failures {
                    return Err(Failed::Connect);
                }
                continue;
            }
            let _connecting = self.connecting();
            let transport = self.connect(message).await?;
            self.add(transport);
        }
    }

    async fn tls(
        self: &Rc<Self>,
        message: &Message<'_>,
        pool: Pool,
        now: Instant,
    ) -> Result<Kind, Failed> {
        loop {
            if let Some(client) = self.usable() {
                return client.send(message, true).map(Kind::Http2);
            }
            if let Some(idle) = self.checkout(pool, now) {
                return Ok(Kind::Http1(Http1Exchange::on_idle(idle, message, self.head_limits())));
            }
            let transport = self.connect(message).await?;
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
        if let Some(first) = self.http2.borrow().first()
            && first.is_usable()
        {
            return Some(first.clone());
        }
        self.count_places();
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
        let settings = ClientSettings {
            streams: self.streams.get(),
            ..ClientSettings::new(&self.connector.settings)
        };
        self.http2.borrow_mut().push(Http2Client::connect(transport, &settings));
    }

    /// Connects for a request. This is boxed: it is rare, and would make the future of every request
    /// several times as large.
    async fn connect(self: &Rc<Self>, message: &Message<'_>) -> Result<Transport, Failed> {
        let era = self.health().era();
        Box::pin(self.transport(message.connect_timeout)).await.map_err(|error| {
            tracing::debug!(address = %self.address, %error, "failed to connect to the endpoint");
            self.connector.meter.upstream_failed(if error.kind() == io::ErrorKind::TimedOut {
                "timeout"
            } else {
                "connect"
            });
            self.connect_failures.set(self.connect_failures.get().wrapping_add(1));
            if !message.is_copy {
                self.failed(era, Failure::Unreachable);
            }
            Failed::Connect
        })
    }

    async fn transport(&self, timeout: Duration) -> io::Result<Transport> {
        self.connector.connect(self.address, &self.protocol, timeout).await
    }

    fn head_limits(&self) -> HeadLimits {
        HeadLimits {
            bytes: self.connector.settings.limits.response_head_bytes.get(),
            headers: crate::http1::head::MAX_RESPONSE_FIELDS,
        }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if self.health().is_ejected() {
            self.connector.meter.upstream_returned();
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
