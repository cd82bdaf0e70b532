//! Handwritten HTTP/2 frames, valid and invalid, and as much parsing as the tests need.

/// The client's connection preface (RFC 9113 §3.4), without its SETTINGS.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const WITH_PRIORITY: u8 = 32;
/// A request without a body.
pub(super) const WHOLE: u8 = END_STREAM | END_HEADERS;

/// A frame as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

/// A serialized frame, valid or not.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut octets = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    octets.extend([kind, flags]);
    octets.extend(stream.to_be_bytes());
    octets.extend(payload);
    octets
}

/// A HEADERS frame.
pub(super) fn headers(flags: u8, stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, flags, stream, block(fields))
}

/// A header block without compression (RFC 7541 §6.2.2).
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| raw_field(name.as_bytes(), value.as_bytes())).collect()
}

/// One field of a header block, of any octets.
pub(super) fn raw_field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut octets = vec![0];
    for text in [name, value] {
        octets.extend(length(text.len()));
        octets.extend(text);
    }
    octets
}

/// An integer with a prefix of 7 bits (RFC 7541 §5.1).
fn length(mut number: usize) -> Vec<u8> {
    if number < 127 {
        return vec![u8::try_from(number).unwrap()];
    }
    let mut octets = vec![127];
    number -= 127;
    while number >= 128 {
        octets.push(u8::try_from(number % 128).unwrap() | 128);
        number /= 128;
    }
    octets.push(u8::try_from(number).unwrap());
    octets
}

// === impl Frame ===

impl Frame {
    /// Removes the first frame from the buffer once it is complete.
    pub(super) fn take(read: &mut Vec<u8>) -> Option<Self> {
        let (head, _) = read.split_first_chunk::<9>()?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        if read.len() < 9 + length {
            return None;
        }
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let (kind, flags) = (head[3], head[4]);
        let payload = read.drain(..9 + length).skip(9).collect();
        Some(Self { kind, flags, stream, payload })
    }

    /// The error code of RST_STREAM or GOAWAY.
    pub(super) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().unwrap())
    }

    /// The status in a response's HEADERS, unless it is in the dynamic table.
    pub(super) fn status(&self) -> Option<u16> {
        match *self.payload.first()? {
            // RFC 7541, appendix A.
            indexed @ 0x88..=0x8e => {
                Some([200, 204, 206, 304, 400, 404, 500][usize::from(indexed - 0x88)])
            }
            0x08 | 0x18 | 0x48 => text(&self.payload[1..])?.parse().ok(),
            _ => None,
        }
    }
}

/// A string of digits (RFC 7541 §5.2).
fn text(octets: &[u8]) -> Option<String> {
    let (&head, rest) = octets.split_first()?;
    let value = rest.get(..usize::from(head & 127))?;
    if head & 128 == 0 {
        return String::from_utf8(value.to_vec()).ok();
    }
    // RFC 7541, appendix B: `0` to `2` have 5 bits, `3` to `9` have 6.
    let bits: Vec<u8> =
        value.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1)).collect();
    let number = |bits: &[u8]| bits.iter().fold(0, |number, bit| number << 1 | bit);
    let mut digits = String::new();
    let mut rest = bits.as_slice();
    while rest.len() >= 5 && digits.len() < 3 {
        let short = number(&rest[..5]);
        let size = if short <= 2 { 5 } else { 6 };
        let digit = if short <= 2 { short } else { number(rest.get(..6)?) - 22 };
        digits.push(char::from(b'0' + digit));
        rest = &rest[size..];
    }
    Some(digits)
}
