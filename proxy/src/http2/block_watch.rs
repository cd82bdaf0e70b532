//! Detects unfinished header blocks: h2 waits for the rest of one without a timeout, and until then
//! nothing else on the connection is processed (RFC 9113 §4.3).

use super::frame::{self, Head, flag, kind};

/// Tracks the frame boundaries of the input.
#[derive(Debug)]
pub(crate) struct BlockWatch {
    /// Octets of a payload, or of the preface, that have not arrived.
    left: usize,
    head: [u8; frame::HEAD],
    /// Octets of the next frame's head that have arrived.
    head_len: usize,
    /// Number of header blocks so far.
    blocks: u64,
    /// Octets of the payloads of the current block, as far as frame heads have arrived.
    octets: usize,
    state: State,
}

/// An unfinished header block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unfinished {
    /// Its number on the connection.
    pub(crate) number: u64,
    /// Octets of its frames, without their heads.
    pub(crate) octets: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Outside,
    Within,
    /// In the last frame of a block.
    Ending,
}

// === impl BlockWatch ===

impl BlockWatch {
    /// Starts at the first octet that a client sends.
    pub(crate) fn new() -> Self {
        Self {
            left: frame::PREFACE.len(),
            head: [0; frame::HEAD],
            head_len: 0,
            blocks: 0,
            octets: 0,
            state: State::Outside,
        }
    }

    /// Returns the header block that is unfinished.
    pub(crate) fn unfinished(&self) -> Option<Unfinished> {
        let block = Unfinished { number: self.blocks, octets: self.octets };
        (self.state != State::Outside).then_some(block)
    }

    /// Processes octets that were read.
    pub(crate) fn read(&mut self, mut octets: &[u8]) {
        loop {
            let Some(rest) = octets.get(self.left..) else {
                self.left -= octets.len();
                return;
            };
            self.left = 0;
            if self.state == State::Ending && self.head_len == 0 {
                self.state = State::Outside;
            }
            let missing = self.head.get_mut(self.head_len..).unwrap_or_default();
            let (head, payload) = rest.split_at(missing.len().min(rest.len()));
            missing.iter_mut().zip(head).for_each(|(to, from)| *to = *from);
            self.head_len += head.len();
            if self.head_len < frame::HEAD {
                return;
            }
            self.begin();
            octets = payload;
        }
    }

    /// Processes a complete frame head.
    fn begin(&mut self) {
        self.head_len = 0;
        let Some(head) = Head::read(&self.head) else { return };
        self.left = head.length;
        match head.kind {
            kind::HEADERS => {
                self.blocks += 1;
                self.octets = head.length;
            }
            kind::CONTINUATION => self.octets = self.octets.saturating_add(head.length),
            _ => return,
        }
        self.state = if head.has(flag::END_HEADERS) { State::Ending } else { State::Within };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let mut octets = Vec::new();
        Head { length: payload, kind, flags, stream: 1 }.write(&mut octets);
        octets.resize(octets.len() + payload, b'x');
        octets
    }

    /// The unfinished block after each octet.
    fn watched(octets: &[u8]) -> Vec<Option<u64>> {
        let mut watch = BlockWatch::new();
        watch.read(frame::PREFACE);
        octets
            .chunks(1)
            .map(|octet| {
                watch.read(octet);
                watch.unfinished().map(|block| block.number)
            })
            .collect()
    }

    #[test]
    fn a_block_is_unfinished_from_its_first_frame_head_to_its_last_octet() {
        let octets = [
            frame(kind::SETTINGS, 0, 6),
            frame(kind::HEADERS, 0, 3),
            frame(kind::CONTINUATION, 0, 0),
            frame(kind::CONTINUATION, flag::END_HEADERS, 2),
            frame(kind::DATA, flag::END_HEADERS, 4),
            frame(kind::HEADERS, flag::END_HEADERS, 5),
        ]
        .concat();
        let states = watched(&octets);
        let runs: Vec<_> =
            states.chunk_by(|one, next| one == next).map(|run| (run[0], run.len())).collect();
        assert_eq!(
            runs,
            [(None, 15 + 8), (Some(1), 4 + 9 + 10), (None, 1 + 13 + 8), (Some(2), 5), (None, 1)]
        );
    }

    #[test]
    fn the_result_does_not_depend_on_read_sizes() {
        let octets = [
            frame::PREFACE.to_vec(),
            frame(kind::HEADERS, flag::END_HEADERS, 300),
            frame(kind::HEADERS, 0, 70),
            frame(kind::CONTINUATION, 0, 17),
        ]
        .concat();
        for size in 1..octets.len() {
            let mut watch = BlockWatch::new();
            octets.chunks(size).for_each(|octets| watch.read(octets));
            let unfinished = Some(Unfinished { number: 2, octets: 87 });
            assert_eq!(watch.unfinished(), unfinished, "{size}");
        }
    }
}
