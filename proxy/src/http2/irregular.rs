//! Streams whose trailers h2 takes for well-formed although they have pseudo-headers (RFC 9113 §8.1).

use std::cell::{Cell, RefCell};

use smallvec::SmallVec;

/// Maximum number of streams.
const MAX_STREAMS: usize = 64;

/// The streams of a connection with malformed trailers.
#[derive(Debug, Default)]
pub(crate) struct Irregular {
    streams: RefCell<SmallVec<[u32; 2]>>,
    uncharged: Cell<u32>,
    has_overflowed: Cell<bool>,
}

// === impl Irregular ===

impl Irregular {
    pub(super) fn insert(&self, stream: u32) {
        self.uncharged.set(self.uncharged.get().saturating_add(1));
        let mut streams = self.streams.borrow_mut();
        if streams.len() < MAX_STREAMS {
            streams.push(stream);
        } else {
            self.has_overflowed.set(true);
        }
    }

    /// Whether the trailers of a stream are malformed.
    pub(crate) fn has_malformed_trailers(&self, stream: u32) -> bool {
        self.streams.borrow().contains(&stream)
    }

    /// Removes a stream whose task has ended.
    pub(crate) fn remove(&self, stream: u32) {
        self.streams.borrow_mut().retain(|other| *other != stream);
    }

    /// Whether there were too many to keep: the connection must be closed.
    pub(crate) fn has_overflowed(&self) -> bool {
        self.has_overflowed.get()
    }

    /// Returns the number of malformed trailers since the last call.
    pub(crate) fn take_uncharged(&self) -> u32 {
        self.uncharged.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_streams_is_limited() {
        let irregular = Irregular::default();
        for stream in 0..65 {
            assert!(!irregular.has_overflowed());
            irregular.insert(stream);
        }
        assert!(irregular.has_overflowed() && irregular.has_malformed_trailers(63));
        assert_eq!((irregular.take_uncharged(), irregular.take_uncharged()), (65, 0));
        irregular.remove(63);
        assert!(!irregular.has_malformed_trailers(63));
    }
}
