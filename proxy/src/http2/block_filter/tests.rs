use super::*;
use crate::http2::hpack;

fn request(stream: u32, path: &str) -> Vec<u8> {
    let mut fragment = vec![0x82, 0x87];
    hpack::literal(4, path.as_bytes(), &mut fragment);
    hpack::literal(1, b"host", &mut fragment);
    let mut frames = Vec::new();
    frame::headers(stream, &fragment, true, &mut frames);
    frames
}

fn data(stream: u32) -> Vec<u8> {
    let mut frame = Vec::new();
    Head { length: 5, kind: kind::DATA, flags: 0, stream }.write(&mut frame);
    frame.extend_from_slice(b"hello");
    frame
}

/// What h2 gets of octets that arrive in pieces.
fn passed(filter: &mut BlockFilter, octets: &[u8], size: usize) -> Vec<u8> {
    let mut passed = Vec::new();
    for piece in octets.chunks(size) {
        let now = filter.read(piece);
        passed.extend_from_slice(&piece[..now]);
        loop {
            let ready = filter.ready(7);
            if ready.is_empty() {
                break;
            }
            passed.extend_from_slice(ready);
        }
    }
    passed
}

#[test]
fn odd_paths_are_replaced_and_kept_for_their_streams() {
    let sent = [
        frame::PREFACE.to_vec(),
        request(1, "/plain"),
        request(3, "/a?b=\"c\""),
        data(3),
        request(5, "/#x"),
        request(7, "/plain"),
    ]
    .concat();
    let expected = [
        frame::PREFACE.to_vec(),
        request(1, "/plain"),
        request(3, "?xxxxxxx"),
        data(3),
        request(5, "?xx"),
        request(7, "/plain"),
    ]
    .concat();
    for size in 1..sent.len() {
        let mut filter = BlockFilter::new(64 * 1024);
        assert_eq!(passed(&mut filter, &sent, size), expected, "{size}");
        let paths: Vec<_> = [1, 3, 5, 7].map(|stream| filter.take(stream)).into();
        let path = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        assert_eq!(paths, [None, path("/a?b=\"c\""), path("/#x"), None]);
    }
}

#[test]
fn padding_priority_and_continuations_are_understood() {
    let mut block = vec![0x82, 0x87];
    hpack::literal(4, b"/<", &mut block);
    let (first, second) = block.split_at(3);
    let mut sent = frame::PREFACE.to_vec();
    let flags = flag::PADDED | flag::PRIORITY | flag::END_STREAM;
    let payload = [&[2][..], &[0; 5], first, &[0; 2]].concat();
    Head { length: payload.len(), kind: kind::HEADERS, flags, stream: 1 }.write(&mut sent);
    sent.extend(payload);
    let flags = flag::END_HEADERS;
    Head { length: second.len(), kind: kind::CONTINUATION, flags, stream: 1 }.write(&mut sent);
    sent.extend(second);
    let mut expected = frame::PREFACE.to_vec();
    let mut block = vec![0x82, 0x87];
    hpack::literal(4, b"?x", &mut block);
    frame::headers(1, &block, true, &mut expected);
    for size in 1..=sent.len() {
        let mut filter = BlockFilter::new(64 * 1024);
        assert_eq!(passed(&mut filter, &sent, size), expected, "{size}");
        assert_eq!(filter.take(1).as_deref(), Some(&b"/<"[..]));
    }
}

#[test]
fn only_trailers_must_not_have_pseudo_headers() {
    for (trailers, expected) in
        [(&b"\x40\x01x\x01y"[..], false), (b"", false), (b"\x84", true), (b"\x04\x02/#", true)]
    {
        let mut sent = [frame::PREFACE.to_vec(), request(1, "/a"), request(3, "/<")].concat();
        frame::headers(1, trailers, true, &mut sent);
        let mut filter = BlockFilter::new(64 * 1024);
        passed(&mut filter, &sent, 100);
        let irregular = filter.irregular();
        assert_eq!(irregular.has_malformed_trailers(1), expected, "{trailers:02x?}");
        assert!(!irregular.has_malformed_trailers(3));
        assert_eq!((filter.take(1), filter.take(3)), (None, Some(Bytes::from_static(b"/<"))));
    }
}

#[test]
fn what_h2_rejects_passes_unchanged() {
    let mut endless = Vec::new();
    Head { length: 1, kind: kind::HEADERS, flags: 0, stream: 1 }.write(&mut endless);
    endless.push(0x82);
    for _ in 0..200 {
        Head { length: 0, kind: kind::CONTINUATION, flags: 0, stream: 1 }.write(&mut endless);
    }
    let mut other = Vec::new();
    Head { length: 1, kind: kind::HEADERS, flags: 0, stream: 1 }.write(&mut other);
    other.push(0x82);
    other.extend(data(1));
    let mut padded = Vec::new();
    let flags = flag::PADDED | flag::END_HEADERS;
    Head { length: 1, kind: kind::HEADERS, flags, stream: 1 }.write(&mut padded);
    padded.push(9);
    let mut undecodable = Vec::new();
    frame::headers(1, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff], true, &mut undecodable);
    let mut of_itself = Vec::new();
    let payload = [&[0x80, 0, 0, 1, 0, 0x82][..], &[0x87]].concat();
    let flags = flag::PRIORITY | flag::END_HEADERS;
    Head { length: payload.len(), kind: kind::HEADERS, flags, stream: 1 }.write(&mut of_itself);
    of_itself.extend(payload);
    for invalid in [endless, other, padded, undecodable, of_itself] {
        let sent = [frame::PREFACE, &invalid, &request(3, "/<")].concat();
        let mut filter = BlockFilter::new(64 * 1024);
        assert_eq!(passed(&mut filter, &sent, 11), sent);
        assert!(filter.is_blind());
    }
}

#[test]
fn little_is_held_back_and_kept() {
    let mut large = frame::PREFACE.to_vec();
    Head { length: 16_000, kind: kind::HEADERS, flags: 0, stream: 1 }.write(&mut large);
    large.resize(large.len() + 16_000, 0x82);
    let mut filter = BlockFilter::new(10_000);
    assert_eq!(passed(&mut filter, &large, 1_000), large);
    assert!(filter.is_blind() && filter.held.is_empty());

    let mut filter = BlockFilter::new(10_000);
    let mut sent = frame::PREFACE.to_vec();
    (0..1_000).for_each(|number| sent.extend(request(2 * number + 1, "/<")));
    passed(&mut filter, &sent, 5_000);
    assert_eq!(filter.kept.len(), KEPT);
    assert_eq!((filter.take(1), filter.take(1999).is_some()), (None, true));
    assert_eq!(filter.kept_octets, 0);

    let mut filter = BlockFilter::new(64 * 1024);
    let mut sent = frame::PREFACE.to_vec();
    let large = format!("/<{}", "x".repeat(10_000));
    (0..200).for_each(|number| sent.extend(request(2 * number + 1, &large)));
    passed(&mut filter, &sent, 5_000);
    let octets: usize = filter.kept.iter().map(|(_, path)| path.len()).sum();
    assert!(octets > KEPT_OCTETS - large.len() && octets <= KEPT_OCTETS, "{octets}");
    assert_eq!((filter.kept_octets, filter.take(399).is_some()), (octets, true));
}
