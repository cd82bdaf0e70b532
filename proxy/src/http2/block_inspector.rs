//! Inspects header blocks from clients for what h2 drops silently: pseudo-headers in trailers (RFC
//! 9113 §8.1 calls them malformed), and fragments in `:path`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use smallvec::SmallVec;

use super::frame::{Head, MAX_PAYLOAD, flag, kind};
use super::hpack::{Findings, Scanner};

/// Octets of one block above which it is not inspected; h2 rejects smaller ones already.
const MAX_BLOCK: usize = 1024 * 1024;
/// Maximum number of streams in [`Irregular`].
const MAX_STREAMS: usize = 64;

/// Reads the header blocks of a connection.
#[derive(Debug)]
pub(super) struct BlockInspector {
    /// `None` after a block that could not be read.
    scanner: Option<Scanner>,
    /// The highest stream so far: a block on a stream up to it is trailers (RFC 9113 §5.1.1).
    last: u32,
    frame: Option<Head>,
    /// What has arrived of an incomplete frame's payload.
    payload: Vec<u8>,
    /// Fragments of an incomplete block.
    block: Vec<u8>,
    is_trailers: bool,
    irregular: Rc<Irregular>,
}

/// The streams of a connection whose blocks h2 takes for others than they are.
#[derive(Debug, Default)]
pub(crate) struct Irregular {
    streams: RefCell<SmallVec<[(u32, Irregularity); 2]>>,
    uncharged: Cell<u32>,
    has_overflowed: Cell<bool>,
}

/// What is wrong with a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Irregularity {
    /// Trailers with a pseudo-header, or that could not be read.
    Trailers,
    /// A `:path` with a fragment.
    Fragment,
}

// === impl BlockInspector ===

impl BlockInspector {
    pub(super) fn new() -> Self {
        Self {
            scanner: Some(Scanner::default()),
            last: 0,
            frame: None,
            payload: Vec::new(),
            block: Vec::new(),
            is_trailers: false,
            irregular: Rc::default(),
        }
    }

    pub(super) fn irregular(&self) -> Rc<Irregular> {
        Rc::clone(&self.irregular)
    }

    /// Starts a HEADERS or CONTINUATION frame.
    pub(super) fn begin(&mut self, head: Head) {
        if head.kind == kind::HEADERS {
            self.is_trailers = head.stream <= self.last;
            self.last = self.last.max(head.stream);
            self.block.clear();
        }
        // h2 closes the connection for a larger frame.
        self.frame = (head.length <= MAX_PAYLOAD).then_some(head);
        if self.frame.is_none() {
            self.scanner = None;
        }
    }

    /// Processes octets of the frame's payload; `is_end` states whether they complete it. Octets of
    /// other frames are ignored.
    pub(super) fn payload(&mut self, octets: &[u8], is_end: bool) {
        let Some(frame) = self.frame else { return };
        if !is_end {
            return self.payload.extend_from_slice(octets);
        }
        self.frame = None;
        if self.payload.is_empty() {
            return self.frame(&frame, octets);
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.extend_from_slice(octets);
        self.frame(&frame, &payload);
    }

    fn frame(&mut self, frame: &Head, payload: &[u8]) {
        // h2 closes the connection for a frame without its fields.
        let Some(fragment) = fragment(frame, payload) else { return self.scanner = None };
        let is_last = frame.has(flag::END_HEADERS);
        if is_last && self.block.is_empty() {
            return self.inspect(frame.stream, fragment);
        }
        self.block.extend_from_slice(fragment);
        if is_last {
            let block = std::mem::take(&mut self.block);
            self.inspect(frame.stream, &block);
        } else if self.block.len() > MAX_BLOCK {
            self.scanner = None;
            self.block = Vec::new();
        }
    }

    fn inspect(&mut self, stream: u32, block: &[u8]) {
        let findings = self.scanner.as_mut().and_then(|scanner| scanner.scan(block).ok());
        if findings.is_none() {
            self.scanner = None;
        }
        match findings {
            Some(Findings { has_pseudo: false, .. }) => {}
            _ if self.is_trailers => self.irregular.insert(stream, Irregularity::Trailers),
            Some(Findings { has_fragment: true, .. }) | None => {
                self.irregular.insert(stream, Irregularity::Fragment);
            }
            Some(_) => {}
        }
    }
}

/// Returns the field block fragment of a frame (RFC 9113 §6.2).
fn fragment<'p>(frame: &Head, mut payload: &'p [u8]) -> Option<&'p [u8]> {
    if frame.kind != kind::HEADERS {
        return Some(payload);
    }
    let mut padding = 0;
    if frame.has(flag::PADDED) {
        let (length, rest) = payload.split_first()?;
        padding = usize::from(*length);
        payload = rest;
    }
    if frame.has(flag::PRIORITY) {
        payload = payload.get(5..)?;
    }
    payload.get(..payload.len().checked_sub(padding)?)
}

// === impl Irregular ===

impl Irregular {
    fn insert(&self, stream: u32, irregularity: Irregularity) {
        self.uncharged.set(self.uncharged.get().saturating_add(1));
        let mut streams = self.streams.borrow_mut();
        if streams.len() < MAX_STREAMS {
            streams.push((stream, irregularity));
        } else {
            self.has_overflowed.set(true);
        }
    }

    fn contains(&self, stream: u32, irregularity: Irregularity) -> bool {
        self.streams.borrow().contains(&(stream, irregularity))
    }

    /// Whether the trailers of a stream are malformed.
    pub(crate) fn has_malformed_trailers(&self, stream: u32) -> bool {
        self.contains(stream, Irregularity::Trailers)
    }

    /// Whether the `:path` of a stream had a fragment, or its block could not be read.
    pub(crate) fn has_fragment(&self, stream: u32) -> bool {
        self.contains(stream, Irregularity::Fragment)
    }

    /// Removes a stream whose task has ended.
    pub(crate) fn remove(&self, stream: u32) {
        self.streams.borrow_mut().retain(|(other, _)| *other != stream);
    }

    /// Whether there were too many to keep: the connection must be closed.
    pub(crate) fn has_overflowed(&self) -> bool {
        self.has_overflowed.get()
    }

    /// Returns the number of irregular blocks since the last call.
    pub(crate) fn take_uncharged(&self) -> u32 {
        self.uncharged.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inspects frames that arrive in pieces of `size` octets.
    fn inspect(frames: &[(u8, u8, u32, &[u8])], size: usize) -> Rc<Irregular> {
        let mut inspector = BlockInspector::new();
        for (kind, flags, stream, payload) in frames.iter().copied() {
            inspector.begin(Head { length: payload.len(), kind, flags, stream });
            let mut pieces = payload.chunks(size).peekable();
            if pieces.peek().is_none() {
                inspector.payload(&[], true);
            }
            while let Some(piece) = pieces.next() {
                inspector.payload(piece, pieces.peek().is_none());
            }
        }
        inspector.irregular()
    }

    const END: u8 = flag::END_HEADERS;
    const REQUEST: &[u8] = b"\x82\x87\x41\x01a\x44\x02/a";

    #[test]
    fn only_trailers_must_not_have_pseudo_headers() {
        for size in [1, 2, 100] {
            for (trailers, expected) in
                [(&b"\x40\x01x\x01y"[..], false), (b"", false), (b"\xbe", true), (b"\x84", true)]
            {
                let frames = [
                    (kind::HEADERS, END, 1, REQUEST),
                    (kind::HEADERS, END, 3, REQUEST),
                    (kind::HEADERS, END, 1, trailers),
                ];
                let irregular = inspect(&frames, size);
                assert_eq!(irregular.has_malformed_trailers(1), expected, "{trailers:02x?}");
                assert!(!irregular.has_malformed_trailers(3) && !irregular.has_fragment(3));
            }
        }
    }

    #[test]
    fn blocks_are_read_across_frames_without_padding_and_priority() {
        let flags = flag::PADDED | flag::PRIORITY;
        for size in [1, 3, 100] {
            let frames = [
                (kind::HEADERS, flags, 1, &b"\x02\x00\x00\x00\x00\x10\x82\x87\x41\x01\x84\x84"[..]),
                (kind::CONTINUATION, 0, 1, b""),
                (kind::CONTINUATION, 0, 1, b"a\x44"),
                (kind::CONTINUATION, END, 1, b"\x02/#"),
                (kind::HEADERS, END, 1, b"\x00\x01x\x01y"),
            ];
            let irregular = inspect(&frames, size);
            assert!(irregular.has_fragment(1) && !irregular.has_malformed_trailers(1));
            assert_eq!(irregular.take_uncharged(), 1);
            irregular.remove(1);
            assert!(!irregular.has_fragment(1));
        }
    }

    #[test]
    fn after_an_unreadable_block_nothing_is_taken_for_regular() {
        let frames = [
            (kind::HEADERS, END, 1, REQUEST),
            (kind::HEADERS, END, 3, &b"\xff"[..]),
            (kind::HEADERS, END, 1, b"\x00\x01x\x01y"),
        ];
        let irregular = inspect(&frames, 100);
        assert!(irregular.has_fragment(3) && irregular.has_malformed_trailers(1));
    }

    #[test]
    fn the_number_of_streams_is_limited() {
        let irregular = Irregular::default();
        for stream in 0..65 {
            assert!(!irregular.has_overflowed());
            irregular.insert(stream, Irregularity::Trailers);
        }
        assert!(irregular.has_overflowed());
    }
}
