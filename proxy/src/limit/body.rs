//! The size of a request's body.

use std::num::NonZeroU64;

use http::StatusCode;

use crate::exchange::{BodyLength, Frame, Refusal};

/// The body is larger than the route's policy allows.
pub(crate) const BODY_LARGE: Refusal =
    Refusal { status: StatusCode::PAYLOAD_TOO_LARGE, reason: "body_large", close: true };

/// The remaining allowed octets of a body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyBudget {
    left: Option<u64>,
}

// === impl BodyBudget ===

impl BodyBudget {
    /// Creates the budget for a body of `length`, limited to `max` octets. Tunnels are not limited.
    ///
    /// # Errors
    /// Returns [`BODY_LARGE`] if `length` exceeds the limit.
    pub(crate) fn new(length: BodyLength, max: Option<NonZeroU64>) -> Result<Self, Refusal> {
        match (length, max) {
            (BodyLength::Exact(length), Some(max)) if length > max.get() => Err(BODY_LARGE),
            (BodyLength::Unknown, Some(max)) => Ok(Self { left: Some(max.get()) }),
            _ => Ok(Self { left: None }),
        }
    }

    /// Counts a frame before it is forwarded to the backend.
    ///
    /// # Errors
    /// Returns [`BODY_LARGE`] if the frame exceeds the remaining budget.
    pub(crate) fn take(&mut self, frame: &Frame) -> Result<(), Refusal> {
        if let (Frame::Data(data), Some(left)) = (frame, &mut self.left) {
            *left = left.checked_sub(data.len() as u64).ok_or(BODY_LARGE)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;

    const TEN: Option<NonZeroU64> = NonZeroU64::new(10);

    #[test]
    fn a_declared_length_over_the_limit_is_rejected() {
        assert_eq!(BodyBudget::new(BodyLength::Exact(11), TEN).err(), Some(BODY_LARGE));
        for (length, max) in [
            (BodyLength::Exact(10), TEN),
            (BodyLength::None, TEN),
            (BodyLength::Exact(u64::MAX), None),
        ] {
            assert!(BodyBudget::new(length, max).is_ok(), "{length:?}");
        }
    }

    #[test]
    fn a_body_of_unknown_length_is_counted() {
        let mut budget = BodyBudget::new(BodyLength::Unknown, TEN).unwrap();
        assert_eq!(budget.take(&Frame::Data(Bytes::from_static(b"12345678"))), Ok(()));
        assert_eq!(budget.take(&Frame::Data(Bytes::from_static(b"90"))), Ok(()));
        assert_eq!(budget.take(&Frame::Trailers(HeaderMap::new())), Ok(()));
        assert_eq!(budget.take(&Frame::Data(Bytes::from_static(b"1"))), Err(BODY_LARGE));
    }

    #[test]
    fn tunnels_are_not_limited() {
        let mut budget = BodyBudget::new(BodyLength::Tunnel, TEN).unwrap();
        assert_eq!(budget.take(&Frame::Data(Bytes::from_static(b"12345678901"))), Ok(()));
    }
}
