//! What one worker counts.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderValue;
use portcullis_config::settings::AccessLogFormat;
use portcullis_config::unix_time::seconds;

use super::access_log;
use super::clock::Clock;
use super::counter::{Counter, Tally};
use super::record::Record;
use super::series::{Directory, Shelf};
use super::writer::Buffer;

/// A worker's counters and its end of the access log. Only to be used on the worker's own thread.
#[derive(Debug)]
pub(crate) struct Meter {
    clock: Clock,
    counts: Arc<Counts>,
    directory: Arc<Directory>,
    shelf: RefCell<Shelf>,
    log: Option<(AccessLogFormat, Arc<Buffer>)>,
}

/// What is spoken on a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// The counts of one worker, of which the worker alone is the writer.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) begun: Counter,
    pub(super) ended: Counter,
    pub(super) heads_taken: Counter,
    pub(super) heads_given_back: Counter,
    pub(super) refusals: Tally<&'static str>,
    pub(super) rejected: Tally<&'static str>,
    pub(super) logins: Tally<&'static str>,
    pub(super) failures: Tally<&'static str>,
    pub(super) opened: Tally<(&'static str, Protocol)>,
    pub(super) closed: Tally<(&'static str, Protocol)>,
    pub(super) accepted: Tally<&'static str>,
    pub(super) accept_errors: Tally<(&'static str, &'static str)>,
    pub(super) turned_away: Tally<(&'static str, &'static str)>,
    pub(super) handshakes: Tally<&'static str>,
    pub(super) handshake_failures: Tally<&'static str>,
    pub(super) upstream_opened: Counter,
    pub(super) upstream_closed: Counter,
    pub(super) upstream_reused: Counter,
    pub(super) upstream_retries: Counter,
    pub(super) upstream_failures: Tally<&'static str>,
    pub(super) upstream_ejections: Counter,
}

/// A request that is under way, until this is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Counts>);

/// A client's connection that is open, until this is dropped.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    counts: Arc<Counts>,
    label: (&'static str, Protocol),
}

/// A connection to a backend that is open, until this is dropped.
#[derive(Debug)]
pub(crate) struct UpstreamConnection(Arc<Counts>);

// === impl Meter ===

impl Meter {
    pub(super) fn new(
        worker: usize,
        counts: Arc<Counts>,
        directory: Arc<Directory>,
        log: Option<(AccessLogFormat, Arc<Buffer>)>,
    ) -> Self {
        Self {
            clock: Clock::new(),
            counts,
            directory,
            shelf: RefCell::new(Shelf::new(worker)),
            log,
        }
    }

    /// The value of a `Date` header.
    pub(crate) fn date(&self, now: SystemTime) -> HeaderValue {
        self.clock.date(now)
    }

    /// A request's head has been read.
    pub(crate) fn request(&self) -> InFlight {
        self.counts.begun.add(1);
        InFlight(Arc::clone(&self.counts))
    }

    /// A request that came at `came` has ended: counts it, and writes a line about it.
    pub(crate) fn record(&self, record: &Record<'_>, came: SystemTime) {
        let second = seconds(came);
        self.shelf.borrow_mut().count(&self.directory, record, second);
        if let Some(reason) = record.refusal {
            self.counts.refusals.add(reason);
        }
        if let Some(reason) = record.rejected {
            self.counts.rejected.add(reason);
        }
        if let Some(outcome) = record.login {
            self.counts.logins.add(outcome);
        }
        if let Some(reason) = record.failure {
            self.counts.failures.add(reason);
        }
        if let Some((format, buffer)) = &self.log {
            buffer.write(|lines| match format {
                AccessLogFormat::Json => self.clock.stamp(came, |stamp, milliseconds| {
                    access_log::json(lines, record, stamp, milliseconds)
                }),
                AccessLogFormat::Combined => {
                    self.clock.combined(came, |time| access_log::combined(lines, record, time))
                }
                AccessLogFormat::None => {}
            });
        }
    }

    /// A client's connection or stream was given up for `reason`, one word with underscores: counted
    /// like a request that is refused.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.counts.refusals.add(reason);
    }

    /// Request heads hold so many octets more.
    pub(crate) fn heads_taken(&self, octets: usize) {
        self.counts.heads_taken.add(octets as u64);
    }

    /// Request heads hold so many octets less.
    pub(crate) fn heads_given_back(&self, octets: usize) {
        self.counts.heads_given_back.add(octets as u64);
    }

    /// A client's connection speaks `protocol` on `listener`.
    pub(crate) fn connection(&self, listener: &'static str, protocol: Protocol) -> OpenConnection {
        let label = (listener, protocol);
        self.counts.opened.add(label);
        OpenConnection { counts: Arc::clone(&self.counts), label }
    }

    /// A client's connection was accepted on `listener`.
    pub(crate) fn accepted(&self, listener: &'static str) {
        self.counts.accepted.add(listener);
    }

    /// A client's connection could not be accepted, for `reason`.
    pub(crate) fn accept_failed(&self, listener: &'static str, reason: &'static str) {
        self.counts.accept_errors.add((listener, reason));
    }

    /// A client's connection was closed before it spoke, for `reason`.
    pub(crate) fn turned_away(&self, listener: &'static str, reason: &'static str) {
        self.counts.turned_away.add((listener, reason));
    }

    /// A client's TLS handshake is complete; `version` is `1.2` or `1.3`.
    pub(crate) fn handshake(&self, version: &'static str) {
        self.counts.handshakes.add(version);
    }

    /// A client's TLS handshake failed for `reason`, one word with underscores.
    pub(crate) fn handshake_failed(&self, reason: &'static str) {
        self.counts.handshake_failures.add(reason);
    }

    /// A connection to a backend was made.
    pub(crate) fn upstream_connection(&self) -> UpstreamConnection {
        self.counts.upstream_opened.add(1);
        UpstreamConnection(Arc::clone(&self.counts))
    }

    /// A kept connection to a backend was used again.
    pub(crate) fn upstream_reused(&self) {
        self.counts.upstream_reused.add(1);
    }

    /// A request is tried once more.
    pub(crate) fn upstream_retried(&self) {
        self.counts.upstream_retries.add(1);
    }

    /// A try failed for `reason`, one word with underscores: `connect`, `timeout`, `closed`,
    /// `malformed` and the like.
    pub(crate) fn upstream_failed(&self, reason: &'static str) {
        self.counts.upstream_failures.add(reason);
    }

    /// An endpoint is avoided for a while because it failed.
    pub(crate) fn upstream_ejected(&self) {
        self.counts.upstream_ejections.add(1);
    }
}

// === impl Protocol ===

impl Protocol {
    /// As a label's value.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.ended.add(1);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.counts.closed.add(self.label);
    }
}

impl Drop for UpstreamConnection {
    fn drop(&mut self) {
        self.0.upstream_closed.add(1);
    }
}
