//! The copies of one request: its body is copied while it is forwarded, and then sent.

use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use portcullis_config::snapshot::filter::Mirror;
use smallvec::SmallVec;
use tokio::task::spawn_local;

use super::budget::{Owners, Usage};
use super::comparison::Comparison;
use super::copied::{self, CopiedRequest};
use super::send::{Target, send};
use super::{Original, ShadowContext};
use crate::exchange::{BodyLength, Broken, Frame, Source};
use crate::telemetry::{ShadowAnswer, ShadowLabels};

/// The copies of a request, as long as the request itself lasts.
pub(crate) struct Copies {
    context: Rc<ShadowContext>,
    owners: Rc<Owners>,
    /// Those that the copies are still to be sent to.
    targets: SmallVec<[Target; 1]>,
    /// Until its body was read.
    request: Option<CopiedRequest>,
    /// Those that were sent.
    comparisons: SmallVec<[Rc<Comparison>; 1]>,
}

/// The body of a request, of which a copy is kept.
pub(crate) struct CopiedBody<'a, B> {
    pub(crate) body: &'a mut B,
    pub(crate) copies: Option<&'a mut Copies>,
}

// === impl Copies ===

impl Copies {
    /// Begins to copy a request to these `mirrors`; sends the copies at once if there is no body.
    pub(super) fn begin<'m>(
        context: &Rc<ShadowContext>,
        original: &Original<'_>,
        mirrors: impl Iterator<Item = &'m Mirror>,
    ) -> Option<Box<Self>> {
        let targets = mirrors.map(|mirror| Target {
            labels: ShadowLabels {
                environment: original.environment.clone(),
                service: original.rule.service.clone(),
                variant: mirror.backend.variant.clone(),
            },
            backend: mirror.backend.clone(),
            load_balancing: original.rule.policy.load_balancing,
        });
        let origin = &original.rule.origin;
        let mut copies = Box::new(Self {
            context: Rc::clone(context),
            owners: Owners::of(&origin.namespace, &origin.name),
            targets: targets.collect(),
            request: None,
            comparisons: SmallVec::new(),
        });
        match copies.copy_head(original) {
            Ok(request) => copies.request = Some(request),
            Err(reason) => {
                copies.drop_all(reason);
                return None;
            }
        }
        if original.request.body == BodyLength::None {
            copies.send();
        }
        Some(copies)
    }

    fn copy_head(&self, original: &Original<'_>) -> Result<CopiedRequest, &'static str> {
        if !copied::is_small(original.request.body) {
            return Err("body_too_large");
        }
        let budget = &self.context.budget;
        // Nothing is copied in vain while the shadow is slow.
        budget.take(&self.owners, Usage::COPY).ok_or("too_many")?;
        let memory = budget.take(&self.owners, Usage::default()).ok_or("memory")?;
        CopiedRequest::new(original, memory).ok_or("memory")
    }

    /// Copies what was read of the body.
    fn observe(&mut self, frame: Option<&Result<Frame, Broken>>) {
        let Some(request) = &mut self.request else { return };
        match frame {
            Some(Ok(Frame::Data(data))) => {
                if let Err(reason) = request.extend(data) {
                    self.drop_all(reason);
                }
            }
            Some(Ok(Frame::Trailers(_))) => {}
            Some(Err(_)) => self.drop_all("body_incomplete"),
            None => self.send(),
        }
    }

    /// Sends the copies. Each is a task of its own, which nothing waits for.
    fn send(&mut self) {
        let Some(mut request) = self.request.take() else { return };
        request.finish();
        let request = Rc::new(request);
        let now = Instant::now();
        for target in self.targets.drain(..) {
            let meter = &self.context.meter;
            let Some(share) = self.context.budget.take(&self.owners, Usage::COPY) else {
                meter.shadows().dropped(&target.labels, "too_many");
                continue;
            };
            let comparison = Comparison::new(Rc::clone(meter), target.labels.clone(), now);
            self.comparisons.push(Rc::clone(&comparison));
            let (context, request) = (Rc::clone(&self.context), Rc::clone(&request));
            spawn_local(async move {
                send(&context, &request, &target, &comparison).await;
                drop(share);
            });
        }
    }

    fn drop_all(&mut self, reason: &'static str) {
        self.request = None;
        for target in self.targets.drain(..) {
            self.context.meter.shadows().dropped(&target.labels, reason);
        }
    }

    /// Records how the request itself was responded to.
    pub(crate) fn original_responded(&self, answer: ShadowAnswer) {
        self.comparisons.iter().for_each(|comparison| comparison.original_responded(answer));
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        // The response ended before the body.
        self.drop_all("body_incomplete");
    }
}

// === impl CopiedBody ===

impl<B: Source> Source for CopiedBody<'_, B> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Broken>>> {
        let frame = ready!(self.body.poll_frame(cx));
        if let Some(copies) = &mut self.copies {
            copies.observe(frame.as_ref());
        }
        Poll::Ready(frame)
    }
}
