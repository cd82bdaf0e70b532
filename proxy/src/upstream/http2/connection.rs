//! The state of one connection to a backend (RFC 9113), independent of the transport.
//!
//! Frames are written directly into one buffer, which the [`driver`](super::driver) writes to the
//! transport. So an exchange's task only pays for its own frames, and the frames of many exchanges
//! are sent in one write.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::{Buf, Bytes};
use foldhash::fast::FixedState;
use http::HeaderMap;

use super::stream::{Cause, End, Shared, Stream, Tunnel};
use super::{ClientSettings, head, windows};
use crate::exchange::BodyLength;
use crate::http2::frame::{self, MAX_PAYLOAD, MAX_WINDOW, PREFACE, WINDOW, flag, kind, setting};
use crate::http2::hpack::Decoder;
use crate::upstream::exchange::{Failed, Message};

/// Buffered octets above which streams keep their data queued.
const BOUND: usize = 64 * 1024;
/// Maximum buffered octets of answers to a backend that sends PINGs or SETTINGS and does not read.
const BACKLOG: usize = 4 * 1024 * 1024;
/// Buffered octets above which requests wait instead of being written: heads have no window.
const HEADS: usize = 1024 * 1024;
/// Maximum streams of one connection, even if the backend allows more: they would only wait for
/// each other.
pub(super) const STREAMS: usize = 250;
/// Maximum requests that wait for a stream.
const WAITING: usize = 1024;

/// Error codes (RFC 9113 §7).
pub(super) mod code {
    pub(in super::super) const NO_ERROR: u32 = 0x0;
    pub(in super::super) const PROTOCOL_ERROR: u32 = 0x1;
    pub(in super::super) const FLOW_CONTROL_ERROR: u32 = 0x3;
    pub(in super::super) const STREAM_CLOSED: u32 = 0x5;
    pub(in super::super) const FRAME_SIZE_ERROR: u32 = 0x6;
    pub(in super::super) const REFUSED_STREAM: u32 = 0x7;
    pub(in super::super) const CANCEL: u32 = 0x8;
    pub(in super::super) const COMPRESSION_ERROR: u32 = 0x9;
    pub(in super::super) const ENHANCE_YOUR_CALM: u32 = 0xb;
}

/// A protocol violation by the backend, with the error code for GOAWAY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault(pub(super) u32);

/// A request that waits for a stream.
#[derive(Debug)]
struct Waiting {
    stream: Shared,
    block: Vec<u8>,
    is_finished: bool,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) settings: ClientSettings,
    /// Frames that wait for the transport.
    pub(super) out: Vec<u8>,
    /// Wakes the driver's task.
    driver: Option<Waker>,
    pub(super) decoder: Decoder,
    scratch: Vec<u8>,
    /// Open streams.
    pub(super) streams: HashMap<u32, Shared, FixedState>,
    waiting: VecDeque<Waiting>,
    /// Streams with something to send, served round-robin.
    sending: VecDeque<Shared>,
    pub(super) next_id: u32,
    /// New requests may be sent.
    pub(super) is_open: bool,
    pub(super) exchanges: usize,

    /// Limits of the backend.
    pub(super) max_streams: usize,
    pub(super) initial_window: u32,
    pub(super) send_window: i64,

    /// The receive window, and octets that were read and not yet added to it.
    pub(super) receive_window: u32,
    pub(super) unannounced: u32,
    /// Octets by which streams' windows may still grow together. A stream that is read grows to
    /// [`ClientSettings::stream_window`], and returns them at its end.
    pub(super) spare_window: u32,

    /// An incomplete header block: its stream, whether it ends the stream, and its octets.
    pub(super) block: Option<(u32, bool, Vec<u8>)>,
    pub(super) has_settings: bool,
    /// The backend supports extended CONNECT (RFC 8441 §3).
    pub(super) supports_tunnels: bool,
    /// Consecutive frames without effect since the driver's last tick.
    pub(super) idle_frames: u32,
    /// Changes of the initial window since the driver's last tick.
    pub(super) window_changes: u32,
    /// Octets of `out` that answer frames of the backend.
    pub(super) answered: usize,
}

// === impl Connection ===

impl Connection {
    /// Creates a connection, and buffers its preface (RFC 9113 §3.4).
    pub(super) fn new(settings: ClientSettings) -> Self {
        // Limit the windows to what the protocol allows.
        let stream_window = settings.stream_window.min(MAX_WINDOW);
        let settings = ClientSettings { stream_window, ..settings };
        let spare_window = windows::spare(&settings);
        let receive_window = windows::connection(&settings);
        let mut out = PREFACE.to_vec();
        let ours = [
            (setting::ENABLE_PUSH, 0),
            (setting::INITIAL_WINDOW_SIZE, windows::guaranteed(&settings)),
            (setting::MAX_HEADER_LIST_SIZE, settings.head_bytes),
        ];
        frame::settings(&ours, &mut out);
        frame::number(kind::WINDOW_UPDATE, 0, receive_window - WINDOW, &mut out);
        Self {
            settings,
            out,
            driver: None,
            decoder: Decoder::default(),
            scratch: Vec::new(),
            streams: HashMap::default(),
            waiting: VecDeque::new(),
            sending: VecDeque::new(),
            next_id: 1,
            is_open: true,
            exchanges: 0,
            max_streams: settings.streams,
            initial_window: WINDOW,
            send_window: i64::from(WINDOW),
            receive_window,
            unannounced: 0,
            spare_window,
            block: None,
            has_settings: false,
            supports_tunnels: false,
            idle_frames: 0,
            window_changes: 0,
            answered: 0,
        }
    }

    /// Returns the maximum number of open streams.
    pub(super) fn capacity(&self) -> usize {
        self.max_streams.min(STREAMS)
    }

    /// Whether it accepts no more requests, and the last one is complete.
    pub(super) fn is_done(&self) -> bool {
        !self.is_open && self.streams.is_empty() && self.waiting.is_empty()
    }

    /// Whether the backend caused more buffered frames than [`BACKLOG`]. What clients send does not
    /// count: it must not cost others their connection.
    pub(super) fn is_flooded(&self) -> bool {
        self.answered > BACKLOG
    }

    /// Forgets all buffered frames, which were written.
    pub(super) fn clear_written(&mut self) {
        self.out.clear();
        self.answered = 0;
    }

    /// Registers the driver's task to be woken when there is something to send.
    pub(super) fn register(&mut self, cx: &Context<'_>) {
        if !self.driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.driver = Some(cx.waker().clone());
        }
    }

    pub(super) fn wake_driver(&mut self) {
        if let Some(waker) = self.driver.take() {
            waker.wake();
        }
    }

    /// Stops accepting requests; the driver closes the connection after the last stream.
    pub(super) fn close(&mut self) {
        self.is_open = false;
        self.wake_driver();
    }

    /// Sends a request's head, or queues it until a stream is free.
    ///
    /// # Errors
    /// Nothing was sent: the connection accepts no requests, or too many are queued.
    pub(super) fn request(&mut self, message: &Message<'_>, tls: bool) -> Result<Shared, Failed> {
        if !self.is_open {
            return Err(Failed::NotSent);
        }
        let is_finished = message.is_finished();
        let is_tunnel = message.body == BodyLength::Tunnel;
        if is_tunnel && self.has_settings && !self.supports_tunnels {
            return Err(Failed::NoWebSocket);
        }
        let stream: Shared = Rc::new(
            Stream::new(message.method, is_finished, windows::guaranteed(&self.settings)).into(),
        );
        let mut block = std::mem::take(&mut self.scratch);
        block.clear();
        head::write(message, tls, &mut block);
        if is_tunnel {
            stream.borrow_mut().tunnel =
                Some(Tunnel { accept: head::websocket_accept(message.headers) });
        }
        // The backend's settings state whether it supports tunnels.
        let can_open = !is_tunnel || self.has_settings;
        if can_open && self.waiting.is_empty() && self.has_room() {
            self.open(&stream, &block, is_finished);
            self.scratch = block;
        } else if self.waiting.len() < WAITING {
            self.waiting.push_back(Waiting { stream: Rc::clone(&stream), block, is_finished });
        } else {
            return Err(Failed::Full);
        }
        self.exchanges += 1;
        Ok(stream)
    }

    fn open(&mut self, stream: &Shared, block: &[u8], is_finished: bool) {
        let id = self.next_id;
        self.next_id += 2;
        if self.next_id > MAX_WINDOW {
            // RFC 9113 §5.1.1: identifiers are exhausted.
            self.is_open = false;
        }
        frame::headers(id, block, is_finished, &mut self.out);
        {
            let mut state = stream.borrow_mut();
            state.id = id;
            state.send_window = i64::from(self.initial_window);
        }
        self.streams.insert(id, Rc::clone(stream));
        self.schedule(stream);
        self.wake_driver();
    }

    /// Whether another stream can be opened, and its head be buffered.
    fn has_room(&self) -> bool {
        self.streams.len() < self.capacity() && self.out.len() < HEADS
    }

    /// Opens streams for queued requests, up to the limit.
    pub(super) fn open_waiting(&mut self) {
        while self.has_room() && self.next_id <= MAX_WINDOW {
            let is_tunnel = self
                .waiting
                .front()
                .is_some_and(|waiting| waiting.stream.borrow().tunnel.is_some());
            if is_tunnel && !self.has_settings {
                return;
            }
            let Some(Waiting { stream, block, is_finished }) = self.waiting.pop_front() else {
                return;
            };
            if is_tunnel && !self.supports_tunnels {
                stream.borrow_mut().fail(Cause::NoWebSocket);
                continue;
            }
            self.open(&stream, &block, is_finished);
        }
    }

    /// Fails all queued requests.
    pub(super) fn fail_waiting(&mut self) {
        for waiting in self.waiting.drain(..) {
            waiting.stream.borrow_mut().fail(Cause::NotSent);
        }
    }

    /// Queues data of a request's body, and sends what can be sent.
    pub(super) fn send(&mut self, stream: &Shared, data: Bytes, is_last: bool) {
        {
            let mut state = stream.borrow_mut();
            if state.cause.is_some() || !matches!(state.end, End::Open) {
                return;
            }
            if is_last {
                state.end = End::Queued;
            }
            if !data.is_empty() {
                state.queued += data.len();
                state.queue.push_back(data);
            }
        }
        self.schedule(stream);
    }

    /// Ends a request's body with trailers.
    pub(super) fn send_trailers(&mut self, stream: &Shared, trailers: HeaderMap) {
        {
            let mut state = stream.borrow_mut();
            if state.cause.is_some() || !matches!(state.end, End::Open) {
                return;
            }
            state.end = End::Trailers(trailers);
        }
        self.schedule(stream);
    }

    /// Schedules a stream for sending, if it can send.
    pub(super) fn schedule(&mut self, stream: &Shared) {
        {
            let mut state = stream.borrow_mut();
            if state.id == 0 || state.is_scheduled || !state.can_send() {
                return;
            }
            state.is_scheduled = true;
        }
        self.sending.push_back(Rc::clone(stream));
        self.pump();
        self.wake_driver();
    }

    /// Writes DATA frames round-robin, as far as windows and the buffer have room.
    pub(super) fn pump(&mut self) {
        while self.out.len() < BOUND
            && let Some(stream) = self.sending.pop_front()
        {
            let mut state = stream.borrow_mut();
            state.is_scheduled = false;
            if state.cause.is_some() {
                continue;
            }
            if self.send_window <= 0 && !state.queue.is_empty() {
                state.is_scheduled = true;
                drop(state);
                self.sending.push_front(stream);
                break;
            }
            self.write_frame(&mut state);
            state.wake();
            if state.is_closed() {
                self.streams.remove(&state.id);
            } else if state.can_send() {
                state.is_scheduled = true;
                drop(state);
                self.sending.push_back(stream);
            }
        }
        self.open_waiting();
    }

    /// Writes the next frame of a stream's body: data, or its end.
    fn write_frame(&mut self, state: &mut Stream) {
        let Some(data) = state.queue.front_mut() else {
            match std::mem::replace(&mut state.end, End::Sent) {
                End::Queued => {
                    frame::Head {
                        length: 0,
                        kind: kind::DATA,
                        flags: flag::END_STREAM,
                        stream: state.id,
                    }
                    .write(&mut self.out);
                }
                End::Trailers(trailers) => {
                    self.scratch.clear();
                    head::write_trailers(&trailers, &mut self.scratch);
                    frame::headers(state.id, &self.scratch, true, &mut self.out);
                }
                end @ (End::Open | End::Sent) => state.end = end,
            }
            return;
        };
        let room = self.send_window.min(state.send_window).clamp(0, MAX_PAYLOAD as i64);
        let length = data.len().min(usize::try_from(room).unwrap_or_default());
        let whole = length == data.len();
        let is_last = whole && state.queue.len() == 1 && matches!(state.end, End::Queued);
        let Some(data) = state.queue.front_mut() else { return };
        let flags = if is_last { flag::END_STREAM } else { 0 };
        frame::Head { length, kind: kind::DATA, flags, stream: state.id }.write(&mut self.out);
        self.out.extend_from_slice(data.get(..length).unwrap_or_default());
        data.advance(length);
        if whole {
            state.queue.pop_front();
        }
        if is_last {
            state.end = End::Sent;
        }
        state.queued -= length;
        // Window updates that lead to sent data are not idle frames.
        self.idle_frames = 0;
        let sent = i64::try_from(length).unwrap_or_default();
        state.send_window -= sent;
        self.send_window -= sent;
    }

    /// Removes a closed stream, and opens a queued one.
    pub(super) fn remove(&mut self, id: u32) {
        if self.streams.remove(&id).is_some() {
            self.open_waiting();
            if self.is_done() {
                self.wake_driver();
            }
        }
    }

    /// Resets a stream, and removes it.
    pub(super) fn reset(&mut self, stream: &Shared, code: u32, cause: Cause) {
        let id = stream.borrow().id;
        stream.borrow_mut().fail(cause);
        if self.streams.contains_key(&id) {
            frame::number(kind::RST_STREAM, id, code, &mut self.out);
            self.wake_driver();
            self.remove(id);
        }
    }

    /// Releases the stream of a finished or dropped exchange, and resets it if it is still open.
    pub(super) fn abandon(&mut self, stream: &Shared) {
        self.exchanges = self.exchanges.saturating_sub(1);
        let (id, unread) = {
            let mut state = stream.borrow_mut();
            self.return_spare(&mut state);
            (state.id, std::mem::take(&mut state.data).iter().map(Bytes::len).sum())
        };
        if id == 0 {
            self.waiting.retain(|waiting| !Rc::ptr_eq(&waiting.stream, stream));
        } else if self.streams.contains_key(&id) {
            self.reset(stream, code::CANCEL, Cause::Closed);
        }
        self.release(unread);
        if self.is_done() {
            self.wake_driver();
        }
    }

    /// Writes a PING.
    pub(super) fn ping(&mut self) {
        frame::Head { length: 8, kind: kind::PING, flags: 0, stream: 0 }.write(&mut self.out);
        self.out.extend_from_slice(&[0; 8]);
    }

    /// Writes the final GOAWAY (RFC 9113 §6.8).
    pub(super) fn goaway(&mut self, code: u32) {
        frame::Head { length: 8, kind: kind::GOAWAY, flags: 0, stream: 0 }.write(&mut self.out);
        self.out.extend_from_slice(&[0; 4]);
        self.out.extend_from_slice(&code.to_be_bytes());
    }

    /// Checks windows, the schedule and queues.
    ///
    /// # Panics
    /// They are inconsistent.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn assert_is_sound(&self) {
        assert!(
            self.streams.len() <= self.capacity() || !self.has_settings || self.waiting.is_empty()
        );
        assert!(self.send_window <= i64::from(MAX_WINDOW));
        for (id, stream) in &self.streams {
            let state = stream.borrow();
            assert_eq!(state.id, *id);
            assert!(!state.is_closed() && state.send_window <= i64::from(MAX_WINDOW));
            assert_eq!(state.queued, state.queue.iter().map(Bytes::len).sum::<usize>());
            assert_eq!(
                state.is_scheduled,
                self.sending.iter().any(|scheduled| Rc::ptr_eq(scheduled, stream))
            );
            assert!(
                state.is_scheduled || !state.can_send() || state.send_window <= 0,
                "it can send, and is not scheduled"
            );
        }
    }

    /// Fails all streams and queued requests.
    pub(super) fn fail(&mut self, cause: Cause) {
        self.is_open = false;
        self.sending.clear();
        for (_, stream) in self.streams.drain() {
            stream.borrow_mut().fail(cause);
        }
        self.fail_waiting();
    }
}
