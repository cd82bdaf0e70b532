//! Processes a backend's frames (RFC 9113 §6).
//!
//! A stream error resets that stream; a connection error closes the connection (§5.4).

use bytes::{Buf, Bytes, BytesMut};

use super::connection::{Connection, Fault, code};
use super::head::{self, Block};
use super::stream::{Cause, Shared};
use crate::exchange::BodyLength;
use crate::http2::frame::{HEAD, Head, MAX_PAYLOAD, MAX_WINDOW, flag, kind, setting};

/// The cause of stream failures after a protocol violation.
pub(super) const MALFORMED: Cause = Cause::Malformed("http2");
/// Payloads up to this size are copied, so that a small one does not keep the read buffer alive.
const COPIED: usize = 2048;
/// Maximum consecutive frames without effect between ticks: PING, SETTINGS, empty DATA, and frames
/// for closed streams.
const IDLE_FRAMES: u32 = 10_000;
/// Maximum changes of the initial window between ticks: each costs as much as there are streams.
const WINDOW_CHANGES: u32 = 100;

const PROTOCOL_ERROR: Fault = Fault(code::PROTOCOL_ERROR);
const FRAME_SIZE_ERROR: Fault = Fault(code::FRAME_SIZE_ERROR);

impl Connection {
    /// Processes all complete frames in `input`.
    ///
    /// # Errors
    /// The backend violated the protocol.
    pub(super) fn receive(&mut self, input: &mut BytesMut) -> Result<(), Fault> {
        while let Some(head) = Head::read(input) {
            if head.length > MAX_PAYLOAD {
                return Err(FRAME_SIZE_ERROR);
            }
            let whole = HEAD + head.length;
            if input.len() < whole {
                break;
            }
            self.check_order(&head)?;
            if head.kind == kind::DATA && head.length > COPIED {
                input.advance(HEAD);
                let payload = input.split_to(head.length).freeze();
                self.data(&head, payload)?;
            } else {
                self.frame(&head, input.get(HEAD..whole).unwrap_or_default())?;
                input.advance(whole);
            }
        }
        Ok(())
    }

    /// Checks that the first frame is SETTINGS (RFC 9113 §3.4), that header blocks are contiguous
    /// (§4.3), and that there are not too many frames without effect.
    fn check_order(&mut self, head: &Head) -> Result<(), Fault> {
        if !self.has_settings && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return Err(PROTOCOL_ERROR);
        }
        if self
            .block
            .as_ref()
            .is_some_and(|(stream, ..)| head.kind != kind::CONTINUATION || head.stream != *stream)
        {
            return Err(PROTOCOL_ERROR);
        }
        self.idle_frames += 1;
        if self.idle_frames > IDLE_FRAMES { Err(Fault(code::ENHANCE_YOUR_CALM)) } else { Ok(()) }
    }

    fn frame(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        match head.kind {
            kind::DATA => self.data(head, Bytes::copy_from_slice(payload)),
            kind::HEADERS => self.headers(head, payload),
            kind::CONTINUATION => self.continuation(head, payload),
            kind::RST_STREAM => self.rst_stream(head, payload),
            kind::SETTINGS => self.settings(head, payload),
            kind::PING => self.receive_ping(head, payload),
            kind::GOAWAY => self.receive_goaway(head, payload),
            kind::WINDOW_UPDATE => self.window_update(head, payload),
            kind::PRIORITY if head.stream == 0 => Err(PROTOCOL_ERROR),
            // Our settings disable it.
            kind::PUSH_PROMISE => Err(PROTOCOL_ERROR),
            // PRIORITY is deprecated (§5.3.2), and unknown types are ignored (§5.5).
            _ => Ok(()),
        }
    }

    /// Returns the stream of a frame; `None` for a closed one, whose last frames were in flight.
    fn stream(&self, id: u32) -> Result<Option<Shared>, Fault> {
        // Our streams have odd identifiers, and unopened ones are idle (§5.1).
        if id.is_multiple_of(2) || id >= self.next_id {
            Err(PROTOCOL_ERROR)
        } else {
            Ok(self.streams.get(&id).cloned())
        }
    }

    fn data(&mut self, head: &Head, mut payload: Bytes) -> Result<(), Fault> {
        let counted = u32::try_from(head.length).unwrap_or(u32::MAX);
        self.receive_window =
            self.receive_window.checked_sub(counted).ok_or(Fault(code::FLOW_CONTROL_ERROR))?;
        let padding = strip_padding(head, &mut payload)?;
        let Some(stream) = self.stream(head.stream)? else {
            self.release(head.length);
            return Ok(());
        };
        match self.take_data(head, &stream, counted, payload) {
            Ok(()) => self.release_stream(&stream, padding),
            Err(code) => {
                self.release(head.length);
                self.reset(&stream, code, MALFORMED);
            }
        }
        Ok(())
    }

    fn take_data(
        &mut self,
        head: &Head,
        stream: &Shared,
        counted: u32,
        payload: Bytes,
    ) -> Result<(), u32> {
        let mut state = stream.borrow_mut();
        if !state.has_final_head {
            return Err(code::PROTOCOL_ERROR);
        }
        if state.is_complete {
            return Err(code::STREAM_CLOSED);
        }
        state.receive_window =
            state.receive_window.checked_sub(counted).ok_or(code::FLOW_CONTROL_ERROR)?;
        if let Some(expected) = state.expected {
            state.expected =
                Some(expected.checked_sub(payload.len() as u64).ok_or(code::PROTOCOL_ERROR)?);
        }
        if !payload.is_empty() {
            self.idle_frames = 0;
            state.data.push_back(payload);
        }
        drop(state);
        if head.has(flag::END_STREAM) {
            return self.complete(stream);
        }
        stream.borrow_mut().wake();
        Ok(())
    }

    /// Completes the response.
    fn complete(&mut self, stream: &Shared) -> Result<(), u32> {
        let mut state = stream.borrow_mut();
        if state.expected.is_some_and(|expected| expected > 0) {
            return Err(code::PROTOCOL_ERROR);
        }
        state.is_complete = true;
        state.wake();
        let (id, is_closed) = (state.id, state.is_closed());
        drop(state);
        if is_closed {
            self.remove(id);
        }
        Ok(())
    }

    fn headers(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        let mut block = payload;
        let padding = if head.has(flag::PADDED) { take_octet(&mut block)? } else { 0 };
        if head.has(flag::PRIORITY) {
            block = block.get(5..).ok_or(FRAME_SIZE_ERROR)?;
        }
        let block = block
            .get(..block.len().checked_sub(padding).ok_or(PROTOCOL_ERROR)?)
            .unwrap_or_default();
        let is_last = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.header_block(head.stream, is_last, block);
        }
        self.block = Some((head.stream, is_last, block.to_vec()));
        Ok(())
    }

    fn continuation(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        let (stream, is_last, mut block) = self.block.take().ok_or(PROTOCOL_ERROR)?;
        // The compressed block is not larger than the decoded one may be, except for table size
        // updates before it.
        if block.len() + payload.len() > self.settings.head_bytes as usize + MAX_PAYLOAD {
            return Err(Fault(code::ENHANCE_YOUR_CALM));
        }
        block.extend_from_slice(payload);
        if head.has(flag::END_HEADERS) {
            return self.header_block(stream, is_last, &block);
        }
        self.block = Some((stream, is_last, block));
        Ok(())
    }

    fn header_block(&mut self, id: u32, is_last: bool, octets: &[u8]) -> Result<(), Fault> {
        let limit = self.settings.head_bytes as usize;
        // Decoded even for closed streams: all streams share the dynamic table.
        let block = Block::read(octets, &mut self.decoder, limit)
            .map_err(|_| Fault(code::COMPRESSION_ERROR))?;
        let Some(stream) = self.stream(id)? else { return Ok(()) };
        self.idle_frames = 0;
        let is_trailers = stream.borrow().has_final_head;
        let taken = if is_trailers {
            self.trailers(&stream, is_last, block)
        } else {
            self.response(&stream, is_last, block)
        };
        if let Err(cause) = taken {
            self.reset(&stream, code::PROTOCOL_ERROR, cause);
        }
        Ok(())
    }

    fn response(&mut self, stream: &Shared, is_last: bool, block: Block) -> Result<(), Cause> {
        let head = block.into_head().ok_or(MALFORMED)?;
        if head.status.is_informational() {
            // §8.6: HTTP/2 has no 101.
            if head.status == http::StatusCode::SWITCHING_PROTOCOLS {
                return Err(Cause::Malformed("switching_protocols"));
            }
            let taken = !is_last && stream.borrow_mut().take_head(head, None);
            return if taken { Ok(()) } else { Err(MALFORMED) };
        }
        let expected = head::content_length(&head.headers).map_err(|()| MALFORMED)?;
        {
            let mut state = stream.borrow_mut();
            if head.status.is_success()
                && let Some(tunnel) = state.tunnel.take()
            {
                return if !is_last
                    && state.take_head(tunnel.established(head), Some(BodyLength::Tunnel))
                {
                    Ok(())
                } else {
                    Err(MALFORMED)
                };
            }
            let is_bodiless = is_last || state.is_bodiless(head.status);
            let length = match expected {
                _ if is_bodiless => BodyLength::None,
                Some(length) => BodyLength::Exact(length),
                None => BodyLength::Unknown,
            };
            state.expected = if is_bodiless { Some(0) } else { expected };
            if !state.take_head(head, Some(length)) {
                return Err(MALFORMED);
            }
        }
        if is_last { self.complete(stream).map_err(|_| MALFORMED) } else { Ok(()) }
    }

    fn trailers(&mut self, stream: &Shared, is_last: bool, block: Block) -> Result<(), Cause> {
        let trailers = block
            .into_trailers()
            .filter(|_| is_last && !stream.borrow().is_complete)
            .ok_or(MALFORMED)?;
        stream.borrow_mut().trailers = Some(trailers);
        self.complete(stream).map_err(|_| MALFORMED)
    }

    fn rst_stream(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        let code = read_number(payload)?;
        let Some(stream) = self.stream(head.stream)? else { return Ok(()) };
        let cause = match code {
            code::REFUSED_STREAM => Cause::NotSent,
            code => Cause::Reset { no_error: code == code::NO_ERROR },
        };
        stream.borrow_mut().fail(cause);
        self.remove(head.stream);
        Ok(())
    }

    fn settings(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        if head.stream != 0 {
            return Err(PROTOCOL_ERROR);
        }
        if head.has(flag::ACK) {
            return if payload.is_empty() { Ok(()) } else { Err(FRAME_SIZE_ERROR) };
        }
        if !self.has_settings {
            self.has_settings = true;
            // No limit, unless the settings contain one (§6.5.2).
            self.max_streams = usize::MAX;
        }
        let (settings, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(FRAME_SIZE_ERROR);
        }
        let mut initial_window = self.initial_window;
        for [n1, n2, v1, v2, v3, v4] in settings {
            let value = u32::from_be_bytes([*v1, *v2, *v3, *v4]);
            match u16::from_be_bytes([*n1, *n2]) {
                setting::INITIAL_WINDOW_SIZE if value > MAX_WINDOW => {
                    return Err(Fault(code::FLOW_CONTROL_ERROR));
                }
                // A frame may repeat it thousands of times; the last value counts (§6.5.3).
                setting::INITIAL_WINDOW_SIZE => initial_window = value,
                name => self.setting(name, value)?,
            }
        }
        self.change_initial_window(initial_window)?;
        Head { length: 0, kind: kind::SETTINGS, flags: flag::ACK, stream: 0 }.write(&mut self.out);
        self.answered += HEAD;
        self.open_waiting();
        Ok(())
    }

    fn setting(&mut self, name: u16, value: u32) -> Result<(), Fault> {
        match name {
            setting::ENABLE_PUSH if value > 0 => Err(PROTOCOL_ERROR),
            setting::MAX_CONCURRENT_STREAMS => {
                self.max_streams = value as usize;
                Ok(())
            }
            // RFC 8441 §3: it must not be withdrawn.
            setting::ENABLE_CONNECT_PROTOCOL
                if value > 1 || value == 0 && self.supports_tunnels =>
            {
                Err(PROTOCOL_ERROR)
            }
            setting::ENABLE_CONNECT_PROTOCOL => {
                self.supports_tunnels = value == 1;
                Ok(())
            }
            setting::MAX_FRAME_SIZE if !(MAX_PAYLOAD as u32..1 << 24).contains(&value) => {
                Err(PROTOCOL_ERROR)
            }
            // Our frames and header blocks fit any value of the others.
            _ => Ok(()),
        }
    }

    /// Applies a new initial window to open streams as well (§6.9.2).
    fn change_initial_window(&mut self, value: u32) -> Result<(), Fault> {
        let change = i64::from(value) - i64::from(self.initial_window);
        if change == 0 {
            return Ok(());
        }
        self.window_changes += 1;
        if self.window_changes > WINDOW_CHANGES {
            return Err(Fault(code::ENHANCE_YOUR_CALM));
        }
        self.initial_window = value;
        let streams: Vec<Shared> = self.streams.values().cloned().collect();
        for stream in streams {
            let mut state = stream.borrow_mut();
            state.send_window += change;
            if state.send_window > i64::from(MAX_WINDOW) {
                return Err(Fault(code::FLOW_CONTROL_ERROR));
            }
            drop(state);
            self.schedule(&stream);
        }
        Ok(())
    }

    fn receive_ping(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        if head.stream != 0 {
            return Err(PROTOCOL_ERROR);
        }
        let payload: &[u8; 8] = payload.try_into().map_err(|_| FRAME_SIZE_ERROR)?;
        if !head.has(flag::ACK) {
            Head { length: payload.len(), kind: kind::PING, flags: flag::ACK, stream: 0 }
                .write(&mut self.out);
            self.out.extend_from_slice(payload);
            self.answered += HEAD + payload.len();
        }
        Ok(())
    }

    fn receive_goaway(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        let last = read_number(payload.get(..4).ok_or(FRAME_SIZE_ERROR)?)? & MAX_WINDOW;
        if head.stream != 0 || payload.len() < 8 {
            return Err(PROTOCOL_ERROR);
        }
        self.close();
        self.fail_waiting();
        let refused: Vec<u32> = self.streams.keys().copied().filter(|id| *id > last).collect();
        for id in refused {
            if let Some(stream) = self.streams.remove(&id) {
                stream.borrow_mut().fail(Cause::NotSent);
            }
        }
        Ok(())
    }

    fn window_update(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        let octets = i64::from(read_number(payload)? & MAX_WINDOW);
        let grown = |window: i64| {
            Some(window + octets).filter(|window| octets > 0 && *window <= i64::from(MAX_WINDOW))
        };
        if head.stream == 0 {
            self.send_window = grown(self.send_window).ok_or(Fault(if octets > 0 {
                code::FLOW_CONTROL_ERROR
            } else {
                code::PROTOCOL_ERROR
            }))?;
            self.pump();
            return Ok(());
        }
        let Some(stream) = self.stream(head.stream)? else { return Ok(()) };
        let window = grown(stream.borrow().send_window);
        match window {
            Some(window) => {
                stream.borrow_mut().send_window = window;
                self.schedule(&stream);
            }
            None => self.reset(
                &stream,
                if octets > 0 { code::FLOW_CONTROL_ERROR } else { code::PROTOCOL_ERROR },
                MALFORMED,
            ),
        }
        Ok(())
    }
}

/// Strips the padding, and returns its number of octets, including the length octet.
fn strip_padding(head: &Head, payload: &mut Bytes) -> Result<usize, Fault> {
    if !head.has(flag::PADDED) {
        return Ok(0);
    }
    let padding = payload.first().copied().map(usize::from).ok_or(FRAME_SIZE_ERROR)?;
    payload.advance(1);
    payload.truncate(payload.len().checked_sub(padding).ok_or(PROTOCOL_ERROR)?);
    Ok(padding + 1)
}

fn take_octet(octets: &mut &[u8]) -> Result<usize, Fault> {
    let (first, rest) = octets.split_first().ok_or(FRAME_SIZE_ERROR)?;
    *octets = rest;
    Ok(usize::from(*first))
}

fn read_number(payload: &[u8]) -> Result<u32, Fault> {
    payload.try_into().map(u32::from_be_bytes).map_err(|_| FRAME_SIZE_ERROR)
}
