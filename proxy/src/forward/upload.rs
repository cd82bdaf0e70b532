//! A request's body on its way to an endpoint.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::task::{Context, Poll};

use http::StatusCode;

use super::Outcome;
use super::replay::{Replay, Replaying};
use crate::exchange::{BodyLength, Broken, Frame, Refusal, Sink, Source};
use crate::limit::BodyBudget;
use crate::memory::Charge;
use crate::proxy_headers::trailers;
use crate::relay::{BodyCopy, CopyError};

/// A request's body, how much of it is allowed, and what can be sent again.
pub(crate) struct Upload {
    length: BodyLength,
    copy: BodyCopy,
    /// What is left of the whole budget in this attempt.
    budget: BodyBudget,
    whole_budget: BodyBudget,
    replay: Replay,
}

// === impl Upload ===

impl Upload {
    /// Creates the upload of a body of `length`, of at most `max` octets.
    ///
    /// # Errors
    /// The body is too large.
    pub(crate) fn new(length: BodyLength, max: Option<NonZeroU64>) -> Result<Self, Refusal> {
        let budget = BodyBudget::new(length, max)?;
        Ok(Self {
            length,
            copy: BodyCopy::empty(),
            budget,
            whole_budget: budget,
            replay: Replay::new(length),
        })
    }

    /// Starts an attempt from the beginning of the body. A tunnel starts only after the response's
    /// head.
    pub(super) fn rewind(&mut self) {
        self.copy = if matches!(self.length, BodyLength::None | BodyLength::Tunnel) {
            BodyCopy::empty()
        } else {
            BodyCopy::new()
        };
        self.budget = self.whole_budget;
        self.replay.rewind();
    }

    /// Starts a tunnel.
    pub(super) fn open_tunnel(&mut self) {
        self.copy = BodyCopy::new();
    }

    /// Sends nothing more.
    pub(super) fn stop(&mut self) {
        self.copy.stop();
    }

    /// Whether the whole body can be sent again.
    pub(super) fn can_repeat(&self) -> bool {
        self.replay.is_possible()
    }

    /// Holds no part of the body any more: there is no further attempt.
    pub(super) fn release(&mut self, charge: &mut Charge) {
        self.replay.release(charge);
    }

    pub(super) fn octets(&self) -> u64 {
        self.copy.octets()
    }

    pub(super) fn is_done(&self) -> bool {
        self.copy.is_done()
    }

    /// Forwards what is available. Ready when all was forwarded, or the backend stopped reading; it
    /// may have responded anyway (RFC 9112 §9.5). What is held is charged to `memory`.
    pub(super) fn poll<B: Source, K: Sink>(
        &mut self,
        body: &mut B,
        memory: Option<(&mut Charge, IpAddr)>,
        sink: &mut K,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), CopyError>> {
        if self.copy.is_done() {
            return Poll::Ready(Ok(()));
        }
        let Self { copy, budget, replay, .. } = self;
        let mut source = Replaying { replay, body, memory };
        match copy.poll(&mut source, sink, |frame| inspect(frame, budget), cx) {
            Poll::Ready(Err(CopyError::Sink(_))) => {
                copy.stop();
                Poll::Ready(Ok(()))
            }
            polled => polled,
        }
    }
}

fn inspect(frame: &mut Frame, budget: &mut BodyBudget) -> Result<(), Refusal> {
    if let Frame::Trailers(trailers) = frame {
        trailers::of_request(trailers);
    }
    budget.take(frame)
}

/// The outcome of a request whose body could not be read before a backend responded.
pub(super) fn outcome_of(error: CopyError) -> Outcome {
    match error {
        CopyError::Refused(refusal) => Outcome::Refused(refusal),
        CopyError::Source(Broken::Malformed(reason)) => Outcome::Refused(Refusal::bad(reason)),
        CopyError::Source(Broken::TimedOut) => Outcome::Refused(LATE),
        CopyError::Source(Broken::Closed) | CopyError::Sink(_) => Outcome::ClientClosed,
    }
}

/// The client did not send its body in time.
pub(super) const LATE: Refusal =
    Refusal { status: StatusCode::REQUEST_TIMEOUT, reason: "body_late", close: true };
