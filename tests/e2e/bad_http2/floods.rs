//! Floods of well-formed frames.

use super::cases::good;
use super::frames::*;

/// A flood: the bytes to send first, and those to send repeatedly.
pub(super) struct Flood {
    pub(super) name: &'static str,
    pub(super) first: Vec<u8>,
    /// Some hundred frames at once; the number counts up with each call.
    pub(super) again: Box<dyn Fn(u32) -> Vec<u8> + Send>,
    /// Whether the gateway must close the connection; if not, it may go on without reading or with
    /// serving it.
    pub(super) closes: bool,
}

fn flood(
    name: &'static str,
    closes: bool,
    first: Vec<u8>,
    again: impl Fn(u32) -> Vec<u8> + Send + 'static,
) -> Flood {
    Flood { name, first, again: Box::new(again), closes }
}

/// The same frames each time.
fn same(octets: Vec<u8>) -> impl Fn(u32) -> Vec<u8> + Send + 'static {
    let many = octets.repeat(500);
    move |_| many.clone()
}

pub(super) fn all(host: &'static str) -> Vec<Flood> {
    let fields = [(":method", "POST"), (":scheme", "http"), (":authority", host), (":path", "/")];
    let begun = frame(HEADERS, END_STREAM, 1, block(&fields));
    let open = headers(END_HEADERS, 1, &fields);
    let reset = frame(RST_STREAM, 0, 0, [0, 0, 0, 8]);
    vec![
        flood(
            "empty CONTINUATION frames",
            true,
            begun.clone(),
            same(frame(CONTINUATION, 0, 1, [])),
        ),
        flood(
            "small CONTINUATION frames",
            true,
            begun.clone(),
            same(frame(CONTINUATION, 0, 1, raw_field(b"x", b"y"))),
        ),
        flood(
            "large CONTINUATION frames",
            true,
            begun,
            same(frame(CONTINUATION, 0, 1, raw_field(b"x", &[b'y'; 8_000]))),
        ),
        flood("streams that are reset at once", true, Vec::new(), move |round| {
            let ids = (0..250).map(move |index| round * 500 + index * 2 + 1);
            ids.flat_map(|id| [good(id, host), with_stream(&reset, id)].concat()).collect()
        }),
        flood("streams that the gateway must reset", true, Vec::new(), move |round| {
            let ids = (0..250).map(move |index| round * 500 + index * 2 + 1);
            ids.flat_map(|id| {
                [good(id, host), frame(WINDOW_UPDATE, 0, id, [0x7f, 255, 255, 255])].concat()
            })
            .collect()
        }),
        flood("empty DATA frames", true, open, same(frame(DATA, 0, 1, []))),
        flood("PING frames", false, Vec::new(), same(frame(PING, 0, 0, [1; 8]))),
        flood(
            "SETTINGS frames",
            false,
            Vec::new(),
            same(frame(SETTINGS, 0, 0, [0, 3, 0, 0, 0, 100])),
        ),
        flood("PRIORITY frames", false, Vec::new(), same(frame(PRIORITY, 0, 5, [0, 0, 0, 3, 1]))),
        flood("frames of unknown kind", false, Vec::new(), same(frame(99, 0, 0, [0; 1_000]))),
    ]
}

fn with_stream(frame: &[u8], stream: u32) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[5..9].copy_from_slice(&stream.to_be_bytes());
    frame
}

/// A small header block that references a table entry of 4000 octets repeatedly.
pub(super) fn bomb(host: &str) -> Vec<u8> {
    let mut fields =
        block(&[(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", "/")]);
    // A literal with incremental indexing (RFC 7541 §6.2.1): the first entry of the dynamic table,
    // number 62.
    let mut entry = raw_field(b"x", &[b'y'; 4_000]);
    entry[0] = 0x40;
    fields.extend(entry);
    fields.extend([0x80 | 62; 12_000]);
    frame(HEADERS, WHOLE, 1, fields)
}
