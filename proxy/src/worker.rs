//! A worker: a thread with its own runtime, listeners and upstream connections.
//!
//! Its connections share a [`WorkerContext`].

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc as blocking;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use portcullis_config::live::Live;
use portcullis_config::settings::Settings;
use portcullis_config::snapshot::Listener;
use portcullis_identity::authenticator::Authenticator;
use portcullis_identity::portal::PortalClient;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;

use crate::access::caller_cache::CallerCache;
use crate::access::identity_headers::IdentityHeadersCache;
use crate::access::reauthorization::{self, Reauthorization};
use crate::access::verification_queue::VerificationQueue;
use crate::choose::Dealer;
use crate::decision::LocalPaths;
use crate::hsts::Hsts;
use crate::limit::{RateLimiter, RateLimits};
use crate::listen::accept::{accept, take_over};
use crate::listen::admission::Admission;
use crate::listen::bind::Sockets;
use crate::listen::connection::ListenerContext;
use crate::listen::drain::Drains;
use crate::listen::placement::{Passed, Placement};
use crate::proxy_headers::ProxyHeaderSettings;
use crate::proxy_headers::prepared::PreparedCache;
use crate::random::Random;
use crate::shadow::Shadows;
use crate::telemetry::Telemetry;
use crate::upstream::active_check::{self, Failing};
use crate::upstream::{Authorities, Upstreams};
use crate::worker_context::WorkerContext;

/// The interval at which a worker evicts unused upstream connections and cached callers.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The worker that checks endpoints for all of them.
const CHECKING_WORKER: usize = 0;

/// The state that all workers of a gateway share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) settings: Arc<Settings>,
    pub(crate) live: Arc<Live>,
    pub(crate) tls: TlsAcceptor,
    pub(crate) authorities: Option<Authorities>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) identity_headers: Arc<IdentityHeadersCache>,
    pub(crate) portal: Option<PortalClient>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) rate_limits: Arc<RateLimits>,
    pub(crate) local_paths: Arc<LocalPaths>,
    /// The endpoints whose active check fails.
    pub(crate) failing: Arc<watch::Sender<Arc<Failing>>>,
    /// The phase of the gateway's life cycle.
    pub(crate) phase: watch::Receiver<Phase>,
}

/// A phase of a gateway's life cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Connections are accepted.
    Serving,
    /// Connections are accepted, and clients are asked to close them.
    Announcing,
    /// No connections are accepted, and open ones close after their current exchanges.
    Draining,
    /// Remaining connections are closed.
    Terminating,
}

/// Starts a worker's thread, which drops `alive` when it stops.
///
/// # Errors
/// Returns why the thread or its event queue could not be created.
pub(crate) fn start(
    index: usize,
    shared: Shared,
    sockets: Sockets,
    placement: (Placement, mpsc::Receiver<Passed>),
    alive: mpsc::Sender<()>,
) -> io::Result<JoinHandle<()>> {
    let (sender, built) = blocking::sync_channel(1);
    let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        let _alive = alive;
        // A local runtime: its tasks need not be `Send`.
        let runtime =
            match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                Ok(runtime) => runtime,
                Err(error) => return drop(sender.send(Err(error))),
            };
        drop(sender.send(Ok(())));
        if let Err(error) = runtime.block_on(run(index, shared, sockets, placement)) {
            tracing::error!(worker = index, %error, "worker failed");
        }
    })?;
    built.recv().map_err(io::Error::other)??;
    Ok(thread)
}

/// Creates the context of a worker.
pub(crate) fn context(index: usize, shared: &Shared) -> WorkerContext {
    let meter = Rc::new(shared.telemetry.meter());
    let random = Random::seeded(index);
    let authorities = shared.authorities.clone();
    let upstreams = Rc::new(Upstreams::new(&shared.settings, authorities, Rc::clone(&meter)));
    let shadows = Shadows::new(
        &shared.settings,
        Rc::clone(&upstreams),
        Rc::clone(&meter),
        Random::seeded(index),
    );
    WorkerContext {
        settings: Arc::clone(&shared.settings),
        live: Arc::clone(&shared.live),
        proxy_headers: ProxyHeaderSettings::from(&*shared.settings),
        prepared_headers: PreparedCache::new(),
        upstreams,
        shadows,
        meter,
        authenticator: Arc::clone(&shared.authenticator),
        identity_headers: Arc::clone(&shared.identity_headers),
        portal: shared.portal.clone(),
        caller_cache: CallerCache::new(),
        reauthorization: Reauthorization::default(),
        verification_queue: VerificationQueue::default(),
        rate_limiter: RateLimiter::new(Arc::clone(&shared.rate_limits)),
        local_paths: Arc::clone(&shared.local_paths),
        hsts: Hsts::new(shared.settings.listeners.https.hsts.as_ref()),
        dealer: Dealer::new(|| random.next()),
        random,
    }
}

/// Serves until the gateway stops.
async fn run(
    index: usize,
    shared: Shared,
    sockets: Sockets,
    (placement, passed): (Placement, mpsc::Receiver<Passed>),
) -> io::Result<()> {
    let worker = Rc::new(context(index, &shared));
    let drains = Drains::default();
    let placement = Rc::new(placement);
    let listener_context = |listener: &'static str, tls: Option<&TlsAcceptor>| {
        Rc::new(ListenerContext {
            worker: Rc::clone(&worker),
            listener,
            tls: tls.cloned(),
            admission: Arc::clone(&shared.admission),
            placement: Rc::clone(&placement),
            streams: Rc::default(),
        })
    };
    let mut listeners = Vec::new();
    let sockets =
        [(Listener::HTTP, sockets.http, None), (Listener::HTTPS, sockets.https, Some(&shared.tls))];
    for (name, socket, tls) in sockets {
        let Some(socket) = socket else { continue };
        let context = listener_context(name, tls);
        listeners.push(Rc::clone(&context));
        spawn_local(accept(TcpListener::from_std(socket)?, context, drains.handle()));
    }
    spawn_local(take_over(passed, listeners, drains.handle()));
    spawn_local(sweep(Rc::clone(&worker)));
    spawn_local(reauthorize(Rc::clone(&worker)));
    spawn_local(apply_checks(Rc::clone(&worker), shared.failing.subscribe()));
    if index == CHECKING_WORKER {
        let (checking, failing) = (Rc::clone(&worker), Arc::clone(&shared.failing));
        spawn_local(async move {
            active_check::run(&checking.upstreams, &checking.live, &failing).await;
        });
    }
    let queue_worker = Rc::clone(&worker);
    spawn_local(async move { queue_worker.verification_queue.run().await });
    // If the gateway was dropped without draining, these waits fail at once.
    let mut phase = shared.phase;
    let _ = phase.wait_for(|phase| *phase >= Phase::Announcing).await;
    drains.announce();
    let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
    drains.start();
    tokio::select! {
        () = drains.drained() => {}
        _ = phase.wait_for(|phase| *phase >= Phase::Terminating) => {
            tracing::warn!(worker = index, connections = drains.alive(), "closing connections after the drain deadline");
        }
    }
    Ok(())
}

/// Evicts unused upstream connections and cached callers, as long as the worker runs.
async fn sweep(worker: Rc<WorkerContext>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let snapshot = worker.live.snapshot.load_full();
        worker.upstreams.sweep(Instant::now(), snapshot.backends());
        worker.caller_cache.evict_unused();
        worker.rate_limiter.sweep();
    }
}

/// Takes over the verdicts of active checks, as long as there are any to come.
async fn apply_checks(worker: Rc<WorkerContext>, mut failing: watch::Receiver<Arc<Failing>>) {
    failing.mark_changed();
    while failing.changed().await.is_ok() {
        let failing = Arc::clone(&failing.borrow_and_update());
        worker.upstreams.apply_checks(failing);
    }
}

/// Reauthorizes open exchanges periodically, as long as the worker runs.
async fn reauthorize(worker: Rc<WorkerContext>) {
    loop {
        tokio::time::sleep(reauthorization::INTERVAL).await;
        worker.reauthorization.tick(
            worker.live.publications() + worker.authenticator.generation(),
            SystemTime::now(),
        );
    }
}
