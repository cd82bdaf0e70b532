//! The steps of a request, each by itself.

use std::hint::black_box;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Instant, SystemTime};

use bytes::BytesMut;
use portcullis_config::snapshot::Listener;

use super::fixture::Fixture;
use super::{Access, TIMES, requests};
use crate::access::Fields;
use crate::access::caller_cache::CachedCaller;
use crate::choose::{self, Traits};
use crate::decision::{self, Admitted, Arrived, Decision, Untraced};
use crate::http1::outbound::{Outbound, RequestLine};
use crate::normalize::Request;
use crate::proxy_headers::prepared::ProxyHeaders;
use crate::proxy_headers::{ClientFacts, RequestId};
use crate::upstream::exchange::AddedFields;
use crate::worker_context::WorkerContext;

/// A step of the request with a token over HTTP/1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Octets to a head.
    Parse,
    /// A head to a normalized request.
    Normalize,
    /// The caller, whose token was verified before.
    Authenticate,
    /// The route, and whether the caller may use it.
    Route,
    /// The variant, of a service with a canary.
    Choose,
    /// The headers for the backend, serialized.
    Headers,
}

/// [`TIMES`] times one step, with inputs of their own.
pub struct Piece {
    run: Box<dyn FnMut()>,
    _fixture: Fixture,
}

// === impl Step ===

impl Step {
    /// All steps, in their order.
    pub const ALL: [Self; 6] = [
        Self::Parse,
        Self::Normalize,
        Self::Authenticate,
        Self::Route,
        Self::Choose,
        Self::Headers,
    ];
}

// === impl Piece ===

impl Piece {
    /// Prepares the step.
    ///
    /// # Panics
    /// Panics if the gateway does not start, or the step fails.
    #[must_use]
    pub fn new(step: Step) -> Self {
        let fixture = Fixture::new();
        let worker = Rc::clone(fixture.worker());
        let octets = requests::http1(Access::Token, Access::Token.host());
        let request = || requests::normalized(&octets);
        let caller = authenticate(&worker, &request());
        let run = match step {
            Step::Parse => times(|| BytesMut::from(&*octets), requests::parse),
            Step::Normalize => times(|| requests::parse((&*octets).into()), requests::normalize),
            Step::Authenticate => times(request, move |request| {
                let caller = authenticate(&worker, &request);
                (request, caller)
            }),
            Step::Route => times(request, move |request| {
                let admitted = route(&worker, &request, Rc::clone(&caller));
                (request, admitted)
            }),
            Step::Choose => {
                let octets = requests::http1(Access::Token, requests::SPLIT);
                let request = || requests::normalized(&octets);
                let admitted = route(&worker, &request(), caller);
                times(request, move |request| {
                    let weight = choose(&worker, &request, &admitted);
                    (request, weight)
                })
            }
            Step::Headers => {
                let mut backend = Backend::default();
                times(request, move |mut request| {
                    backend.headers(&worker, &mut request, &caller);
                    request
                })
            }
        };
        Self { run, _fixture: fixture }
    }

    /// Does the step [`TIMES`] times.
    ///
    /// # Panics
    /// Panics if it fails.
    pub fn run(&mut self) {
        (self.run)();
    }
}

/// Prepares [`TIMES`] steps, after one that fills tables. What they return is dropped with all else.
fn times<I: 'static, O: 'static>(
    input: impl Fn() -> I,
    mut step: impl FnMut(I) -> O + 'static,
) -> Box<dyn FnMut()> {
    black_box(step(input()));
    let mut inputs: Vec<I> = std::iter::repeat_with(input).take(TIMES).collect();
    let mut outputs = Vec::with_capacity(TIMES);
    Box::new(move || {
        for input in inputs.drain(..) {
            outputs.push(step(input));
        }
    })
}

/// Finds the caller, as `request::caller` does first.
fn authenticate(worker: &WorkerContext, request: &Request) -> Rc<CachedCaller> {
    let (fields, host) = (Fields::of(&request.headers), request.authority.host.as_str());
    let generation = worker.authenticator.generation();
    worker.caller_cache.find(&fields, host, generation, now(worker)).unwrap()
}

/// Decides about a request.
fn route(worker: &WorkerContext, request: &Request, caller: Rc<CachedCaller>) -> Admitted {
    let arrived = Arrived { request, listener: Listener::HTTPS, tls: true, at: now(worker) };
    let undecided = decision::begin(arrived, &worker.local_paths, &worker.live);
    match undecided.map(|undecided| undecided.decide(caller, &mut Untraced)) {
        Ok(Decision::Forward(admitted)) => admitted,
        _ => panic!("the request is not forwarded"),
    }
}

/// Chooses the variant, and returns its weight.
fn choose(worker: &WorkerContext, request: &Request, admitted: &Admitted) -> u32 {
    let traits = Traits {
        headers: &request.headers,
        user: admitted.caller.user_name(),
        browser: None,
        client: Fixture::peer().client.ip(),
    };
    let random = || worker.random.next();
    let choice = choose::choose(&admitted.routed.rule, traits, &worker.dealer, random).unwrap();
    choice.backend.weight
}

fn now(worker: &WorkerContext) -> SystemTime {
    worker.meter.time_of_day(Instant::now())
}

/// The writing half of a connection to a backend.
struct Backend {
    outbound: Outbound,
    octets: Vec<u8>,
}

// === impl Backend ===

impl Backend {
    /// Writes a request for the backend.
    fn headers(&mut self, worker: &WorkerContext, request: &mut Request, caller: &CachedCaller) {
        let at = now(worker);
        let client = ClientFacts::of_connection(&Fixture::peer());
        let id = RequestId::new(1_795_256_100_042, worker.random.next().into());
        let prepared =
            worker.prepared_headers.of(client, &request.authority, &worker.proxy_headers);
        caller.presented.strip(&mut request.headers, caller.authenticated.token, false);
        let host = request.authority.host.as_str();
        let identity = caller.identity_headers(&worker.identity_headers, host, at);
        let added = AddedFields {
            proxy: Some(ProxyHeaders { prepared: &prepared, id: &id }),
            identity: identity.as_deref(),
        };
        self.outbound.request(RequestLine {
            method: &request.method,
            target: request.target.as_str(),
            host: prepared.host(),
            headers: &request.headers,
            put_added: |out: &mut BytesMut| added.put_lines(out),
            body: request.body,
            expects_continue: request.expects_continue,
        });
        self.octets.clear();
        let mut cx = Context::from_waker(Waker::noop());
        let flushed = self.outbound.poll_flush(&mut Pin::new(&mut self.octets), &mut cx);
        assert!(matches!(flushed, Poll::Ready(Ok(()))));
    }
}

impl Default for Backend {
    fn default() -> Self {
        Self { outbound: Outbound::new(), octets: Vec::new() }
    }
}
