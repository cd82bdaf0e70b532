//! Passes what a client sends on to h2, except paths that h2 would reject or cut: they are replaced,
//! and kept for the request. Notes the streams whose trailers are malformed for a reason that h2
//! ignores.
//!
//! h2 uses the URI type of the `http` crate, which rejects `"`, `<` and `>` in a query and drops a
//! fragment. What a path may contain is for [`normalize`](crate::normalize) to decide, the same for
//! both versions of HTTP.
//!
//! Header blocks pass in place. One that has not arrived completely is held back, because h2 would
//! otherwise have seen a part of it.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;

use super::frame::{self, Head, flag, kind};
use super::hpack::Scanner;
use super::irregular::Irregular;

/// Maximum number of paths that are kept. They belong to requests that h2 has not returned yet; the
/// request of a forgotten one is rejected.
const KEPT: usize = 256;
/// Maximum octets of those paths. h2 does not return all requests: it refuses streams over the limit,
/// and resets malformed ones.
const KEPT_OCTETS: usize = 256 * 1024;
/// Octets of a header block per frame that a client must not go below on average, after a few
/// frames: h2 closes the connection for many small ones.
const FRAME: usize = 4 * 1024;
/// Frames of a header block of any size.
const FRAMES: usize = 64;

/// Filters the input of one connection.
#[derive(Debug)]
pub(crate) struct BlockFilter {
    /// Octets to pass before the next frame's head.
    left: usize,
    /// The beginning of a frame or header block that is incomplete.
    held: Vec<u8>,
    /// Octets for h2, before all that is held, and how many it has taken.
    ready: Vec<u8>,
    taken: usize,
    scanner: Scanner,
    /// The highest stream so far: a block on a stream up to it is trailers (RFC 9113 §5.1.1).
    last: u32,
    irregular: Rc<Irregular>,
    /// The paths that were replaced, by stream.
    kept: VecDeque<(u32, Bytes)>,
    kept_octets: usize,
    max_held: usize,
    /// Whether header blocks cannot be decoded any more. So h2 cannot decode them either.
    is_blind: bool,
}

/// How far octets can be passed, and why not further.
enum Scanned {
    /// All.
    All,
    /// Up to here: a frame or header block is incomplete.
    Incomplete(usize),
    /// Up to here: the header block up to there is to be replaced.
    Replaced { from: usize, to: usize, frames: Vec<u8> },
}

/// A complete header block.
struct Block<'o> {
    stream: u32,
    fragment: Cow<'o, [u8]>,
    is_last: bool,
    /// Octets of its frames.
    octets: usize,
}

/// h2 closes the connection for it.
struct Invalid;

// === impl BlockFilter ===

impl BlockFilter {
    /// Starts at the first octet that a client sends. `max_held` limits what is held back.
    pub(crate) fn new(max_held: usize) -> Self {
        Self {
            left: frame::PREFACE.len(),
            held: Vec::new(),
            ready: Vec::new(),
            taken: 0,
            scanner: Scanner::default(),
            last: 0,
            irregular: Rc::default(),
            kept: VecDeque::new(),
            kept_octets: 0,
            max_held,
            is_blind: false,
        }
    }

    /// Returns the streams with malformed trailers.
    pub(crate) fn irregular(&self) -> Rc<Irregular> {
        Rc::clone(&self.irregular)
    }

    /// Whether the connection must be closed, because header blocks cannot be decoded.
    pub(crate) fn is_blind(&self) -> bool {
        self.is_blind
    }

    /// Returns the path of a request of `stream`, if it was replaced. Requests must be asked for in
    /// the order of their streams.
    pub(crate) fn take(&mut self, stream: u32) -> Option<Bytes> {
        while self.take_first(|kept| kept < stream).is_some() {}
        self.take_first(|kept| kept == stream)
    }

    /// Takes the first path that is kept, if it is of such a stream.
    fn take_first(&mut self, is_wanted: impl Fn(u32) -> bool) -> Option<Bytes> {
        let (_, path) = self.kept.pop_front_if(|(stream, _)| is_wanted(*stream))?;
        self.kept_octets -= path.len();
        Some(path)
    }

    /// Returns octets that are ready for h2, up to `room`.
    pub(crate) fn ready(&mut self, room: usize) -> &[u8] {
        let rest = self.ready.get(self.taken..).unwrap_or_default();
        let part = rest.get(..room).unwrap_or(rest);
        self.taken += part.len();
        part
    }

    /// Processes octets that were read. Returns how many of them h2 may have now; the others are
    /// held back or [ready](Self::ready) later.
    pub(crate) fn read(&mut self, octets: &[u8]) -> usize {
        if self.taken > 0 && self.taken == self.ready.len() {
            // It is rarely needed again.
            self.ready = Vec::new();
            self.taken = 0;
        }
        if self.held.is_empty() && self.ready.is_empty() {
            match self.scan(octets) {
                Scanned::All => return octets.len(),
                Scanned::Incomplete(from) => {
                    self.held.extend_from_slice(octets.get(from..).unwrap_or_default());
                    return from;
                }
                Scanned::Replaced { from, to, frames } => {
                    self.ready = frames;
                    self.held.extend_from_slice(octets.get(to..).unwrap_or_default());
                    self.release();
                    return from;
                }
            }
        }
        self.held.extend_from_slice(octets);
        self.release();
        0
    }

    /// Makes ready what is held and complete.
    fn release(&mut self) {
        loop {
            let held = std::mem::take(&mut self.held);
            match self.scan(&held) {
                Scanned::All => {
                    self.ready.extend_from_slice(&held);
                    return;
                }
                Scanned::Incomplete(from) => {
                    self.ready.extend_from_slice(held.get(..from).unwrap_or_default());
                    self.held = held;
                    self.held.drain(..from);
                    return;
                }
                Scanned::Replaced { from, to, frames } => {
                    self.ready.extend_from_slice(held.get(..from).unwrap_or_default());
                    self.ready.extend_from_slice(&frames);
                    self.held = held;
                    self.held.drain(..to);
                }
            }
        }
    }

    /// Scans octets from the beginning of a frame, or `left` octets before one.
    fn scan(&mut self, octets: &[u8]) -> Scanned {
        let mut at = 0;
        loop {
            let Some(rest) = octets.get(at + self.left..).filter(|_| !self.is_blind) else {
                self.left = self.left.saturating_sub(octets.len() - at);
                return Scanned::All;
            };
            at += std::mem::take(&mut self.left);
            if rest.is_empty() {
                return Scanned::All;
            }
            let Some(head) = Head::read(rest) else { return Scanned::Incomplete(at) };
            if head.kind != kind::HEADERS || head.length > frame::MAX_PAYLOAD {
                self.left = frame::HEAD + head.length;
                continue;
            }
            match block(rest, FRAMES + self.max_held / FRAME) {
                Ok(Some(block)) => {
                    self.left = block.octets;
                    if let Some(frames) = self.replaced(&block) {
                        self.left = 0;
                        return Scanned::Replaced { from: at, to: at + block.octets, frames };
                    }
                }
                Ok(None) if rest.len() <= self.max_held => return Scanned::Incomplete(at),
                Ok(None) | Err(Invalid) => self.is_blind = true,
            }
        }
    }

    /// Returns the frames that replace those of a block, if it has a path that h2 must not see.
    fn replaced(&mut self, block: &Block<'_>) -> Option<Vec<u8>> {
        let is_trailers = block.stream <= self.last;
        self.last = self.last.max(block.stream);
        let Ok(findings) = self.scanner.scan(&block.fragment) else {
            self.is_blind = true;
            return None;
        };
        if is_trailers && findings.has_pseudo {
            self.irregular.insert(block.stream);
        }
        if findings.odd_paths.is_empty() {
            return None;
        }
        let mut fragment = None::<Vec<u8>>;
        // From the last one on, so that places stay valid.
        for odd in findings.odd_paths.into_iter().rev() {
            if !is_trailers {
                self.keep(block.stream, odd.path);
            }
            if let Some((place, string)) = odd.replacement {
                fragment.get_or_insert_with(|| block.fragment.to_vec()).splice(place, string);
            }
        }
        let mut frames = Vec::new();
        frame::headers(block.stream, &fragment?, block.is_last, &mut frames);
        Some(frames)
    }

    fn keep(&mut self, stream: u32, path: Bytes) {
        self.kept_octets += path.len();
        self.kept.push_back((stream, path));
        while self.kept.len() > KEPT || self.kept_octets > KEPT_OCTETS {
            self.take_first(|_| true);
        }
    }
}

/// Reads the header block at the start of `octets`; `None` if it is incomplete.
fn block(octets: &[u8], max_frames: usize) -> Result<Option<Block<'_>>, Invalid> {
    let Some((first, payload)) = frame_at(octets, 0) else { return Ok(None) };
    let fragment = fragment(first, payload).ok_or(Invalid)?;
    let is_last = first.has(flag::END_STREAM);
    let mut end = frame::HEAD + first.length;
    if first.has(flag::END_HEADERS) {
        let fragment = Cow::Borrowed(fragment);
        return Ok(Some(Block { stream: first.stream, fragment, is_last, octets: end }));
    }
    let mut whole = fragment.to_vec();
    for _ in 0..max_frames {
        let Some(head) = octets.get(end..).and_then(Head::read) else { return Ok(None) };
        if head.kind != kind::CONTINUATION
            || head.stream != first.stream
            || head.length > frame::MAX_PAYLOAD
        {
            return Err(Invalid);
        }
        let Some((_, payload)) = frame_at(octets, end) else { return Ok(None) };
        whole.extend_from_slice(payload);
        end += frame::HEAD + head.length;
        if head.has(flag::END_HEADERS) {
            let fragment = Cow::Owned(whole);
            return Ok(Some(Block { stream: first.stream, fragment, is_last, octets: end }));
        }
    }
    Err(Invalid)
}

/// Returns the complete frame at `start`.
fn frame_at(octets: &[u8], start: usize) -> Option<(Head, &[u8])> {
    let octets = octets.get(start..)?;
    let head = Head::read(octets)?;
    Some((head, octets.get(frame::HEAD..frame::HEAD + head.length)?))
}

/// Returns the payload of a HEADERS frame without padding and priority (RFC 9113 §6.2); `None` if its
/// header block cannot be decoded.
fn fragment(head: Head, payload: &[u8]) -> Option<&[u8]> {
    let mut fragment = payload;
    if head.has(flag::PADDED) {
        let (padding, rest) = fragment.split_first()?;
        fragment = rest.get(..rest.len().checked_sub(usize::from(*padding))?)?;
    }
    if head.has(flag::PRIORITY) {
        let (dependency, rest) = fragment.split_first_chunk()?;
        // h2 resets a stream that depends on itself without decoding its block. From then on it reads
        // other fields than the client wrote.
        let is_own = u32::from_be_bytes(*dependency) & frame::MAX_WINDOW == head.stream;
        fragment = rest.get(1..).filter(|_| !is_own)?;
    }
    Some(fragment)
}

#[cfg(test)]
mod tests;
