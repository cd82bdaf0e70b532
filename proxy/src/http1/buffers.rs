//! Buffers that the connections of a worker take turns with: one that waits for its peer has none.
//!
//! The last one that was given back is taken first, since it is still in the processor's cache. No
//! octet of the connection before can be read: a buffer is empty, and only what is written to it is
//! its content.

use std::cell::RefCell;
use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// The capacity of a buffer, and the most octets of a read.
pub(super) const CAPACITY: usize = 16 * 1024;
/// A buffer that has grown beyond this is not kept: a large head is rarely followed by another.
const MAX_CAPACITY: usize = 2 * CAPACITY;
/// The most buffers that a worker keeps: 1 MiB.
const MAX_KEPT: usize = 64;
/// A longer head gets memory of its own, so that the room for short ones is not used up.
const MAX_SHARING: usize = 2 * 1024;

thread_local! {
    static BUFFERS: RefCell<Buffers> = RefCell::default();
}

/// The buffers of a worker that no connection has.
#[derive(Default)]
struct Buffers {
    kept: Vec<BytesMut>,
    /// What is read to next. It stays here if nothing has arrived, which is as frequent.
    next: BytesMut,
    /// Room for copies. It is used again once none of them is in use any more.
    copies: BytesMut,
}

// === impl Buffers ===

impl Buffers {
    fn take(&mut self) -> BytesMut {
        self.kept.pop().unwrap_or_else(|| BytesMut::with_capacity(CAPACITY))
    }

    fn give(&mut self, buffer: BytesMut) {
        if self.kept.len() < MAX_KEPT {
            self.kept.push(buffer);
        }
    }
}

/// An empty buffer with room for at least [`CAPACITY`] octets.
pub(super) fn take() -> BytesMut {
    BUFFERS.with_borrow_mut(Buffers::take)
}

/// Gives a buffer back, unless octets of it are in use elsewhere, and drops its content.
pub(super) fn give(mut buffer: BytesMut) {
    buffer.clear();
    // Room at the end of a buffer whose beginning is in use would suffice as well, but is rare.
    if buffer.try_reclaim(CAPACITY) && buffer.capacity() <= MAX_CAPACITY {
        BUFFERS.with_borrow_mut(|buffers| buffers.give(buffer));
    }
}

/// Reads once. If octets have arrived, `octets` is the buffer that they are in.
pub(super) fn poll_read<T: AsyncRead + Unpin>(
    io: &mut T,
    cx: &mut Context<'_>,
    octets: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    BUFFERS.with_borrow_mut(|buffers| {
        if buffers.next.capacity() < CAPACITY {
            buffers.next = buffers.take();
        }
        let read = poll_read_buf(Pin::new(io), cx, &mut buffers.next);
        if !buffers.next.is_empty() {
            *octets = mem::take(&mut buffers.next);
        }
        read
    })
}

/// A copy of a head, without an allocation for most.
pub(super) fn copy(head: &[u8]) -> BytesMut {
    if head.len() > MAX_SHARING {
        return BytesMut::from(head);
    }
    BUFFERS.with_borrow_mut(|Buffers { copies, .. }| {
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
        assert_eq!(BUFFERS.with_borrow(|buffers| buffers.kept.len()), MAX_KEPT);
        BUFFERS.take();
        give(BytesMut::with_capacity(MAX_CAPACITY + 1));
        give(BytesMut::with_capacity(CAPACITY - 1));
        assert_eq!(BUFFERS.with_borrow(|buffers| buffers.kept.len()), 0);
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
