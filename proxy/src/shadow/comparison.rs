//! How a request and its copy were responded to.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use crate::telemetry::{AnswerClass, Meter, ShadowAnswer, ShadowLabels};

/// The responses to a request and to its copy. Both hold it, and whichever ends last counts them.
pub(super) struct Comparison {
    meter: Rc<Meter>,
    labels: ShadowLabels,
    /// When the copy was sent.
    sent: Instant,
    shadow: Cell<ShadowAnswer>,
    original: Cell<ShadowAnswer>,
    /// Why the copy was not sent after all.
    dropped: Cell<Option<&'static str>>,
}

// === impl Comparison ===

impl Comparison {
    /// Compares with a copy that is sent now. Without a response, both have failed.
    pub(super) fn new(meter: Rc<Meter>, labels: ShadowLabels, now: Instant) -> Rc<Self> {
        Rc::new(Self {
            meter,
            labels,
            sent: now,
            shadow: Cell::default(),
            original: Cell::default(),
            dropped: Cell::default(),
        })
    }

    /// When the copy was sent.
    pub(super) fn sent(&self) -> Instant {
        self.sent
    }

    /// Records the response of the shadow, whose head arrived at `head_at`.
    pub(super) fn shadow_responded(&self, class: AnswerClass, head_at: Instant) {
        self.shadow.set(ShadowAnswer { class, head_at: Some(head_at) });
    }

    /// Records the response to the original request.
    pub(super) fn original_responded(&self, answer: ShadowAnswer) {
        self.original.set(answer);
    }

    /// Records that the copy was not sent after all.
    pub(super) fn dropped(&self, reason: &'static str) {
        self.dropped.set(Some(reason));
    }
}

impl Drop for Comparison {
    fn drop(&mut self) {
        let shadows = self.meter.shadows();
        match self.dropped.get() {
            Some(reason) => shadows.dropped(&self.labels, reason),
            None => {
                let (shadow, original) = (self.shadow.get(), self.original.get());
                shadows.compared(&self.labels, self.sent, shadow, original);
            }
        }
    }
}
