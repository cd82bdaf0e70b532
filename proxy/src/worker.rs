//! One worker: a thread with a runtime, listeners and upstream connections of its own.
//!
//! What its connections share is in a [`WorkerContext`].

use std::collections::HashSet;
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
use portcullis_identity::portal::Reception;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;

use crate::access::caller_cache::Recent;
use crate::access::identity_headers::Introductions;
use crate::access::reauthorization::{self, Reviews};
use crate::access::verification_queue::Turns;
use crate::certificates::acme::challenges::Challenges;
use crate::hsts::Hsts;
use crate::listen::accept::accept;
use crate::listen::admission::Admission;
use crate::listen::bind::Sockets;
use crate::listen::connection::Entrance;
use crate::listen::drain::Drains;
use crate::proxy_headers::Forwarding;
use crate::random::Random;
use crate::telemetry::Telemetry;
use crate::upstream::{Authorities, Upstreams};
use crate::worker_context::WorkerContext;

/// How often a worker looks for connections to backends, and for callers, that nobody needs any
/// more.
const SWEEP: Duration = Duration::from_secs(5);

/// What all workers of a gateway are given alike.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) settings: Arc<Settings>,
    pub(crate) live: Arc<Live>,
    pub(crate) tls: TlsAcceptor,
    pub(crate) authorities: Option<Authorities>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) authenticator: Arc<Authenticator>,
    pub(crate) introductions: Arc<Introductions>,
    pub(crate) reception: Option<Reception>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) challenges: Arc<Challenges>,
    /// How far the gateway is.
    pub(crate) phase: watch::Receiver<Phase>,
}

/// How far a gateway is on its way to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Connections are accepted.
    Serving,
    /// They still are, and clients are told to leave.
    Leaving,
    /// None is accepted any more, and those that are open end with what is under way on them.
    Draining,
    /// Those that are still open are cut.
    Over,
}

/// Starts a worker's thread. `alive` is closed when it has ended.
///
/// # Errors
/// The system gives no thread, or nothing to wait for events with.
pub(crate) fn start(
    index: usize,
    shared: Shared,
    sockets: Sockets,
    alive: mpsc::Sender<()>,
) -> io::Result<JoinHandle<()>> {
    let (sender, built) = blocking::sync_channel(1);
    let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        let _alive = alive;
        // Tasks of this runtime need not be sent to another thread: it cannot be either.
        let runtime =
            match Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
                Ok(runtime) => runtime,
                Err(error) => return drop(sender.send(Err(error))),
            };
        drop(sender.send(Ok(())));
        if let Err(error) = runtime.block_on(run(index, shared, sockets)) {
            tracing::error!(worker = index, %error, "a worker cannot serve");
        }
    })?;
    built.recv().map_err(io::Error::other)??;
    Ok(thread)
}

/// What one worker has.
fn context(index: usize, shared: &Shared) -> WorkerContext {
    let meter = Rc::new(shared.telemetry.meter());
    WorkerContext {
        settings: Arc::clone(&shared.settings),
        live: Arc::clone(&shared.live),
        forwarding: Forwarding::from(&*shared.settings),
        upstreams: Upstreams::new(&shared.settings, shared.authorities.clone(), Rc::clone(&meter)),
        meter,
        authenticator: Arc::clone(&shared.authenticator),
        introductions: Arc::clone(&shared.introductions),
        reception: shared.reception.clone(),
        recent: Recent::new(),
        reviews: Reviews::default(),
        turns: Turns::default(),
        challenges: Arc::clone(&shared.challenges),
        hsts: Hsts::new(shared.settings.listeners.https.hsts.as_ref()),
        random: Random::seeded(index),
    }
}

/// Serves until the gateway's end.
async fn run(index: usize, shared: Shared, sockets: Sockets) -> io::Result<()> {
    let worker = Rc::new(context(index, &shared));
    let drains = Drains::default();
    let entrance = |listener: &'static str, tls: Option<&TlsAcceptor>| {
        Rc::new(Entrance {
            worker: Rc::clone(&worker),
            listener,
            tls: tls.cloned(),
            admission: Arc::clone(&shared.admission),
        })
    };
    if let Some(http) = sockets.http {
        spawn_local(accept(
            TcpListener::from_std(http)?,
            entrance(Listener::HTTP, None),
            drains.handle(),
        ));
    }
    if let Some(https) = sockets.https {
        spawn_local(accept(
            TcpListener::from_std(https)?,
            entrance(Listener::HTTPS, Some(&shared.tls)),
            drains.handle(),
        ));
    }
    spawn_local(sweep(Rc::clone(&worker)));
    spawn_local(review(Rc::clone(&worker)));
    let giving = Rc::clone(&worker);
    spawn_local(async move { giving.turns.give().await });
    // A gateway that is gone without a word is over: then both waits end with an error at once.
    let mut phase = shared.phase;
    let _ = phase.wait_for(|phase| *phase >= Phase::Leaving).await;
    drains.announce();
    let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
    drains.start();
    tokio::select! {
        () = drains.ended() => {}
        _ = phase.wait_for(|phase| *phase >= Phase::Over) => {
            tracing::warn!(worker = index, connections = drains.alive(), "cutting connections that did not end in time");
        }
    }
    Ok(())
}

/// Closes connections to backends that nobody needs any more, for as long as the worker runs.
async fn sweep(worker: Rc<WorkerContext>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let snapshot = worker.live.snapshot.load_full();
        let current: HashSet<u64> =
            snapshot.backends().map(|backend| backend.endpoints.id()).collect();
        worker.upstreams.sweep(Instant::now(), |id| current.contains(&id));
        worker.recent.tidy_up();
    }
}

/// Looks at who is still let in, for as long as the worker runs.
async fn review(worker: Rc<WorkerContext>) {
    loop {
        tokio::time::sleep(reauthorization::EVERY).await;
        worker.reviews.look(
            worker.live.publications() + worker.authenticator.generation(),
            SystemTime::now(),
        );
    }
}
