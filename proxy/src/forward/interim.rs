//! Forwards interim responses (1xx).

use super::OnHead;
use crate::exchange::{Broken, Respond, ResponseHead};
use crate::upstream::exchange::Failed;

/// Maximum interim responses to one request, and octets of their fields: they are buffered for
/// clients that do not read.
const MAX_HEADS: u32 = 32;
const MAX_OCTETS: usize = 64 * 1024;

/// Forwards the interim responses to one request, of all tries together.
pub(super) struct InterimResponses<'h, H> {
    on_head: &'h mut H,
    heads: u32,
    octets: usize,
}

// === impl InterimResponses ===

impl<'h, H: OnHead> InterimResponses<'h, H> {
    pub(super) fn new(on_head: &'h mut H) -> Self {
        Self { on_head, heads: MAX_HEADS, octets: MAX_OCTETS }
    }

    /// Forwards one head.
    ///
    /// # Errors
    /// The backend sends too many.
    pub(super) fn forward<R: Respond>(
        &mut self,
        mut head: ResponseHead,
        respond: &mut R,
    ) -> Result<(), Failed> {
        self.take(&head).ok_or(Failed::Broken(Broken::Malformed("too_many_interim_responses")))?;
        self.on_head.on_interim(&mut head);
        respond.informational(head);
        Ok(())
    }

    fn take(&mut self, head: &ResponseHead) -> Option<()> {
        let fields = head.headers.iter();
        let octets: usize = fields.map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        self.heads = self.heads.checked_sub(1)?;
        self.octets = self.octets.checked_sub(octets)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, StatusCode, header};

    use super::*;

    struct Unchanged;

    impl OnHead for Unchanged {
        fn on_interim(&mut self, _: &mut ResponseHead) {}
        fn on_head(&mut self, _: &mut ResponseHead) {}
    }

    /// How many of 40 heads with a field of `octets` octets are forwarded.
    fn taken(octets: usize) -> usize {
        let value = HeaderValue::from_bytes(&vec![b'x'; octets]).unwrap();
        let headers = HeaderMap::from_iter([(header::LINK, value)]);
        let head = ResponseHead { status: StatusCode::EARLY_HINTS, headers };
        let mut unchanged = Unchanged;
        let mut interim = InterimResponses::new(&mut unchanged);
        (0..40).map_while(|_| interim.take(&head)).count()
    }

    #[test]
    fn number_and_size_are_limited() {
        assert_eq!(taken(1), 32);
        assert_eq!(taken(10_000), 6);
        assert_eq!(taken(70_000), 0);
    }
}
