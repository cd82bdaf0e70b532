//! HTTP/2 frames (RFC 9113 §4.1, §6): the parts that both directions share.

/// Octets of a frame's head.
pub(crate) const HEAD: usize = 9;
/// The default maximum payload in octets (RFC 9113 §6.5.2).
pub(crate) const MAX_PAYLOAD: usize = 16 * 1024;
/// The largest window, in octets (RFC 9113 §6.9.1).
pub(crate) const MAX_WINDOW: u32 = (1 << 31) - 1;
/// The default window of each stream and of the connection (RFC 9113 §6.9.2).
pub(crate) const WINDOW: u32 = 65_535;

/// The client connection preface (RFC 9113 §3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0x0;
    pub(crate) const HEADERS: u8 = 0x1;
    pub(crate) const PRIORITY: u8 = 0x2;
    pub(crate) const RST_STREAM: u8 = 0x3;
    pub(crate) const SETTINGS: u8 = 0x4;
    pub(crate) const PUSH_PROMISE: u8 = 0x5;
    pub(crate) const PING: u8 = 0x6;
    pub(crate) const GOAWAY: u8 = 0x7;
    pub(crate) const WINDOW_UPDATE: u8 = 0x8;
    pub(crate) const CONTINUATION: u8 = 0x9;
}

/// Flags of frames.
pub(crate) mod flag {
    pub(crate) const END_STREAM: u8 = 0x1;
    pub(crate) const ACK: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;
    pub(crate) const PADDED: u8 = 0x8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// Settings (RFC 9113 §6.5.2).
pub(crate) mod setting {
    pub(crate) const ENABLE_PUSH: u16 = 0x2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 0x3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 0x4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 0x5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 0x6;
    /// RFC 8441 §3.
    pub(crate) const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;
}

/// A frame's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Octets of the payload.
    pub(crate) length: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    /// 0 for the connection.
    pub(crate) stream: u32,
}

// === impl Head ===

impl Head {
    /// Parses the head at the start of `octets`; `None` if it is incomplete.
    pub(crate) fn read(octets: &[u8]) -> Option<Self> {
        let [l1, l2, l3, kind, flags, s1, s2, s3, s4] = *octets.first_chunk::<HEAD>()?;
        Some(Self {
            length: u32::from_be_bytes([0, l1, l2, l3]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes([s1, s2, s3, s4]) & MAX_WINDOW,
        })
    }

    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Writes the head. The payload must have at most [`MAX_PAYLOAD`] octets.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let [_, l1, l2, l3] = u32::try_from(self.length).unwrap_or_default().to_be_bytes();
        let [s1, s2, s3, s4] = self.stream.to_be_bytes();
        out.extend_from_slice(&[l1, l2, l3, self.kind, self.flags, s1, s2, s3, s4]);
    }
}

/// Writes a frame whose payload is one number: WINDOW_UPDATE or RST_STREAM.
pub(crate) fn number(kind: u8, stream: u32, number: u32, out: &mut Vec<u8>) {
    Head { length: 4, kind, flags: 0, stream }.write(out);
    out.extend_from_slice(&number.to_be_bytes());
}

/// Writes a SETTINGS frame.
pub(crate) fn settings(settings: &[(u16, u32)], out: &mut Vec<u8>) {
    Head { length: settings.len() * 6, kind: kind::SETTINGS, flags: 0, stream: 0 }.write(out);
    for (name, value) in settings {
        out.extend_from_slice(&name.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Writes a header block as HEADERS and as many CONTINUATION frames as needed.
pub(crate) fn headers(stream: u32, block: &[u8], is_last: bool, out: &mut Vec<u8>) {
    let (first, mut rest) = block.split_at(block.len().min(MAX_PAYLOAD));
    let end_headers = |rest: &[u8]| if rest.is_empty() { flag::END_HEADERS } else { 0 };
    let end_stream = if is_last { flag::END_STREAM } else { 0 };
    Head {
        length: first.len(),
        kind: kind::HEADERS,
        flags: end_headers(rest) | end_stream,
        stream,
    }
    .write(out);
    out.extend_from_slice(first);
    while !rest.is_empty() {
        let (next, left) = rest.split_at(rest.len().min(MAX_PAYLOAD));
        rest = left;
        Head { length: next.len(), kind: kind::CONTINUATION, flags: end_headers(rest), stream }
            .write(out);
        out.extend_from_slice(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_round_trips() {
        let head = Head {
            length: 0x01_02_03,
            kind: kind::DATA,
            flags: flag::END_STREAM | flag::PADDED,
            stream: 0x7fff_fffe,
        };
        let mut out = Vec::new();
        head.write(&mut out);
        assert_eq!(out, [1, 2, 3, 0, 9, 0x7f, 0xff, 0xff, 0xfe]);
        assert_eq!(Head::read(&out), Some(head));
        assert_eq!(Head::read(&out[..8]), None);
        out[5] = 0xff;
        assert_eq!(Head::read(&out), Some(head), "the reserved bit is ignored");
    }

    #[test]
    fn a_large_header_block_is_split_into_frames() {
        let block: Vec<u8> = (0..2 * MAX_PAYLOAD + 1).map(|octet| octet as u8).collect();
        let mut out = Vec::new();
        headers(5, &block, true, &mut out);
        let (mut rest, mut read, mut kinds) = (out.as_slice(), Vec::new(), Vec::new());
        while let Some(head) = Head::read(rest) {
            let (payload, next) = rest[HEAD..].split_at(head.length);
            read.extend_from_slice(payload);
            kinds.push((head.kind, head.flags, head.stream));
            rest = next;
        }
        assert_eq!(read, block);
        let expected = [
            (kind::HEADERS, flag::END_STREAM),
            (kind::CONTINUATION, 0),
            (kind::CONTINUATION, flag::END_HEADERS),
        ];
        assert_eq!(kinds, expected.map(|(kind, flags)| (kind, flags, 5)));
    }
}
