use super::*;

/// Decodes `pieces` in order; returns the data, the trailers as text, and whether the end was
/// reached.
fn decode(mut decoder: Decoder, pieces: &[&[u8]]) -> Result<(Vec<u8>, String, bool), Broken> {
    let mut octets = BytesMut::new();
    let (mut data, mut trailers, mut ended) = (Vec::new(), String::new(), false);
    for piece in pieces {
        octets.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut octets)? {
                Decoded::Frame(Frame::Data(bytes)) => data.extend_from_slice(&bytes),
                Decoded::Frame(Frame::Trailers(map)) => trailers = format!("{map:?}"),
                Decoded::More => break,
                Decoded::End => {
                    ended = true;
                    break;
                }
            }
        }
    }
    ended |= decoder.is_done();
    Ok((data, trailers, ended))
}

#[test]
fn chunks_are_decoded_at_every_split() {
    let body = b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n";
    for split in 0..=body.len() {
        let (data, trailers, ended) =
            decode(Decoder::chunked(Blanks::Rejected), &[&body[..split], &body[split..]])
                .expect("is well-formed");
        assert_eq!(data, b"hello world", "split at {split}");
        assert_eq!(trailers, r#"{"x-sum": "1"}"#, "split at {split}");
        assert!(ended, "split at {split}");
    }
}

#[test]
fn octets_after_the_body_stay_in_the_buffer() {
    let mut octets = BytesMut::from(&b"abcGET"[..]);
    let mut decoder = Decoder::exact(3);
    assert!(
        matches!(decoder.decode(&mut octets), Ok(Decoded::Frame(Frame::Data(data))) if data == "abc")
    );
    assert!(matches!(decoder.decode(&mut octets), Ok(Decoded::End)));
    assert_eq!(octets, "GET");
}

#[test]
fn malformed_chunks_are_rejected() {
    for body in [
        &b"5 \r\nhello\r\n0\r\n\r\n"[..],
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"\r\nhello",
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5;\x00\r\nhello\r\n0\r\n\r\n",
        b"5;a\rb\r\nhello\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\nX: y\n\r\n",
    ] {
        assert!(
            decode(Decoder::chunked(Blanks::Rejected), &[body]).is_err(),
            "{:?}",
            String::from_utf8_lossy(body)
        );
    }
    let long = [b"5;".to_vec(), vec![b'a'; 2000]].concat();
    assert_eq!(
        decode(Decoder::chunked(Blanks::Rejected), &[&long]).expect_err("is too long"),
        Broken::Malformed("chunk_line_too_long")
    );
}

#[test]
fn end_of_input_completes_only_bodies_delimited_by_close() {
    assert!(Decoder::UntilClose.end_of_input().is_ok());
    assert!(Decoder::Tunnel.end_of_input().is_ok());
    assert_eq!(Decoder::exact(1).end_of_input(), Err(Broken::Closed));
    assert_eq!(Decoder::chunked(Blanks::Rejected).end_of_input(), Err(Broken::Closed));
}

#[test]
fn sizes_are_written_in_hexadecimal() {
    for size in [0, 1, 15, 16, 255, 4096, usize::MAX] {
        let mut out = BytesMut::new();
        put_hex(size, &mut out);
        assert_eq!(out, format!("{size:x}").as_bytes());
    }
}

#[test]
fn a_body_longer_or_shorter_than_announced_is_an_error() {
    let mut out = BytesMut::new();
    let mut encoder = Encoder::Exact(3);
    assert!(encoder.before_data(2, &mut out));
    assert!(!encoder.before_data(2, &mut out));
    assert!(!encoder.finish(None, &mut out));
}

#[test]
fn blanks_around_a_size_are_accepted_in_responses_only() {
    for size in ["5 ", "5  \t", " 5", "\t 5 ", "5 ;name=value", "5\t; name"] {
        let body = format!("{size}\r\nhello\r\n0\r\n\r\n");
        let accepted = decode(Decoder::chunked(Blanks::Accepted), &[body.as_bytes()]);
        assert_eq!(accepted.expect(size).0, b"hello", "{size:?}");
        let rejected = decode(Decoder::chunked(Blanks::Rejected), &[body.as_bytes()]);
        assert_eq!(rejected.err(), Some(Broken::Malformed("bad_chunk_size")), "{size:?}");
    }
    let last = b"5\r\nhello\r\n   0   \r\n\r\n";
    assert!(decode(Decoder::chunked(Blanks::Accepted), &[last]).expect("is well-formed").2);
    for size in ["", " ", " \t", "5 0", "5 x", "0x5", "5\x0b", "5\x0c", "\r5", "5 \r", "+5", "5 \0"]
    {
        let body = format!("{size}\r\nhello\r\n0\r\n\r\n");
        let rejected = decode(Decoder::chunked(Blanks::Accepted), &[body.as_bytes()]);
        assert!(rejected.is_err(), "{size:?}");
    }
}
