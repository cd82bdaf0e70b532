//! Buffers that the connections of a worker take turns with: one that waits for its peer has none.
//!
//! The last one that was given back is taken first, since it is still in the processor's cache. No
//! octet of the connection before can be read: a buffer is empty, and only what is written to it is
//! its content.

use std::cell::RefCell;

use bytes::BytesMut;

/// The capacity of a buffer, and the most octets of a read.
pub(super) const CAPACITY: usize = 16 * 1024;
/// A buffer that has grown beyond this is not kept: a large head is rarely followed by another.
const MAX_CAPACITY: usize = 2 * CAPACITY;
/// The most buffers that a worker keeps: 1 MiB.
const MAX_KEPT: usize = 64;
/// A longer head gets memory of its own, so that the room for short ones is not used up.
const MAX_SHARING: usize = 2 * 1024;

thread_local! {
    static KEPT: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    /// Room for copies. It is used again once none of them is in use any more.
    static COPIES: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

/// An empty buffer with room for at least [`CAPACITY`] octets.
pub(super) fn take() -> BytesMut {
    let kept = KEPT.with_borrow_mut(Vec::pop);
    kept.unwrap_or_else(|| BytesMut::with_capacity(CAPACITY))
}

/// Gives a buffer back, unless octets of it are in use elsewhere, and drops its content.
pub(super) fn give(mut buffer: BytesMut) {
    buffer.clear();
    // Room at the end of a buffer whose beginning is in use would suffice as well, but is rare.
    if buffer.try_reclaim(CAPACITY) && buffer.capacity() <= MAX_CAPACITY {
        KEPT.with_borrow_mut(|kept| {
            if kept.len() < MAX_KEPT {
                kept.push(buffer);
            }
        });
    }
}

/// A copy of a head, without an allocation for most.
pub(super) fn copy(head: &[u8]) -> BytesMut {
    if head.len() > MAX_SHARING {
        return BytesMut::from(head);
    }
    COPIES.with_borrow_mut(|copies| {
        if copies.capacity() < head.len() {
            copies.reserve(CAPACITY);
        }
        copies.extend_from_slice(head);
        copies.split()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_taken_again_and_is_empty() {
        let mut buffer = take();
        buffer.extend_from_slice(b"secret");
        let place = buffer.as_ptr();
        give(buffer);
        let again = take();
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
        assert!(again.capacity() >= CAPACITY);
        assert_ne!(take().as_ptr(), place, "it is taken once");
    }

    #[test]
    fn a_buffer_that_is_in_use_elsewhere_is_not_given_back() {
        let mut buffer = take();
        buffer.extend_from_slice(&[b'a'; 100]);
        let place = buffer.as_ptr();
        let used = buffer.split_to(10).freeze();
        give(buffer);
        assert_ne!(take().as_ptr(), place);
        assert_eq!(used, [b'a'; 10][..]);
    }

    #[test]
    fn few_buffers_are_kept_and_no_large_one() {
        let buffers: Vec<BytesMut> = (0..MAX_KEPT + 9).map(|_| take()).collect();
        buffers.into_iter().for_each(give);
        assert_eq!(KEPT.with_borrow(Vec::len), MAX_KEPT);
        KEPT.take();
        give(BytesMut::with_capacity(MAX_CAPACITY + 1));
        give(BytesMut::with_capacity(CAPACITY - 1));
        assert_eq!(KEPT.with_borrow(Vec::len), 0);
    }

    #[test]
    fn copies_share_room_that_is_used_again() {
        let first = copy(b"first");
        let second = copy(b"second");
        assert_eq!((&first[..], &second[..]), (&b"first"[..], &b"second"[..]));
        let place = first.as_ptr();
        drop((first, second));
        let long = copy(&[b'a'; MAX_SHARING + 1]);
        assert_eq!(long.len(), MAX_SHARING + 1);
        let again = (0..CAPACITY).map(|_| copy(b"octets").as_ptr()).filter(|one| *one == place);
        assert!(again.count() > 1, "no new room is allocated");
    }
}
