//! The state of one connection to a backend (RFC 9113): what was sent and received, without the
//! transport.
//!
//! What is to be sent is written into one buffer at once; the [`driver`](super::driver) moves it.
//! So the task of an exchange costs no more than the frames that it writes, and what many of them
//! wrote goes out together.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::{Buf, Bytes};
use foldhash::fast::FixedState;
use http::HeaderMap;

use super::stream::{Cause, End, Shared, Stream, Tunnel};
use super::{ClientSettings, head};
use crate::exchange::BodyLength;
use crate::http2::frame::{self, MAX_PAYLOAD, MAX_WINDOW, PREFACE, WINDOW, flag, kind, setting};
use crate::http2::hpack::Decoder;
use crate::upstream::exchange::{Failed, Message};

/// Octets that may wait for the transport before streams must keep theirs.
const BOUND: usize = 64 * 1024;
/// Octets of all frames together that may wait: answers to a backend that asks and does not read.
const BACKLOG: usize = 4 * 1024 * 1024;
/// Streams that are opened before the backend has said how many it takes (RFC 9113 §6.5.2
/// recommends no less than this).
const STREAMS_BEFORE_SETTINGS: usize = 100;
/// Streams of one connection, whatever the backend allows: with more, they only wait for each
/// other.
const STREAMS: usize = 250;
/// Requests that wait for a stream.
const WAITING: usize = 1024;

/// Codes of errors (RFC 9113 §7).
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

/// A connection that the backend broke, and the code to tell it.
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
    /// Frames on their way to the transport.
    pub(super) out: Vec<u8>,
    /// The task that moves them, while it waits.
    driver: Option<Waker>,
    pub(super) decoder: Decoder,
    scratch: Vec<u8>,
    /// Those that are open.
    pub(super) streams: HashMap<u32, Shared, FixedState>,
    waiting: VecDeque<Waiting>,
    /// Streams with something to send, in turn.
    sending: VecDeque<Shared>,
    pub(super) next_id: u32,
    /// New requests may be sent.
    pub(super) is_open: bool,
    pub(super) exchanges: usize,

    /// What the backend allows.
    pub(super) max_streams: usize,
    pub(super) initial_window: u32,
    pub(super) send_window: i64,

    /// What it may still send, and octets that were read without telling it.
    pub(super) receive_window: u32,
    unannounced: u32,

    /// A header block that has not come in whole, and its stream; whether it ends the stream.
    pub(super) block: Option<(u32, bool, Vec<u8>)>,
    pub(super) has_settings: bool,
    /// The backend takes extended CONNECT (RFC 8441 §3).
    pub(super) takes_tunnels: bool,
    /// Frames in a row that brought nothing, since the driver last looked.
    pub(super) idle_frames: u32,
}

// === impl Connection ===

impl Connection {
    /// With what is to be sent first (RFC 9113 §3.4).
    pub(super) fn new(settings: ClientSettings) -> Self {
        // As far as the protocol knows such windows.
        let settings = ClientSettings {
            stream_window: settings.stream_window.min(MAX_WINDOW),
            connection_window: settings.connection_window.clamp(WINDOW, MAX_WINDOW),
            ..settings
        };
        let mut out = PREFACE.to_vec();
        let ours = [
            (setting::ENABLE_PUSH, 0),
            (setting::INITIAL_WINDOW_SIZE, settings.stream_window),
            (setting::MAX_HEADER_LIST_SIZE, settings.head_bytes),
        ];
        frame::settings(&ours, &mut out);
        if settings.connection_window > WINDOW {
            frame::number(kind::WINDOW_UPDATE, 0, settings.connection_window - WINDOW, &mut out);
        }
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
            max_streams: STREAMS_BEFORE_SETTINGS,
            initial_window: WINDOW,
            send_window: i64::from(WINDOW),
            receive_window: settings.connection_window,
            unannounced: 0,
            block: None,
            has_settings: false,
            takes_tunnels: false,
            idle_frames: 0,
        }
    }

    /// Streams that may be open at a time.
    pub(super) fn capacity(&self) -> usize {
        self.max_streams.min(STREAMS)
    }

    /// Whether nothing is left to be done on it.
    pub(super) fn is_done(&self) -> bool {
        !self.is_open && self.streams.is_empty() && self.waiting.is_empty()
    }

    /// Whether more waits for the transport than can be asked for in good faith.
    pub(super) fn is_flooded(&self) -> bool {
        self.out.len() > BACKLOG
    }

    /// Has the driver's task woken when there is something to send.
    pub(super) fn register(&mut self, cx: &Context<'_>) {
        if !self.driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.driver = Some(cx.waker().clone());
        }
    }

    fn wake_driver(&mut self) {
        if let Some(waker) = self.driver.take() {
            waker.wake();
        }
    }

    /// Takes no new requests; the driver ends with the last stream.
    pub(super) fn close(&mut self) {
        self.is_open = false;
        self.wake_driver();
    }

    /// Sends a request's head, or leaves it waiting for a stream.
    ///
    /// # Errors
    /// Nothing was sent: the connection takes no requests, or too many wait for it.
    pub(super) fn request(&mut self, message: &Message<'_>, tls: bool) -> Result<Shared, Failed> {
        if !self.is_open {
            return Err(Failed::NotSent);
        }
        let is_finished = message.is_finished();
        let is_tunnel = message.body == BodyLength::Tunnel;
        if is_tunnel && self.has_settings && !self.takes_tunnels {
            return Err(Failed::NoWebSocket);
        }
        let stream: Shared =
            Rc::new(Stream::new(message.method, is_finished, self.settings.stream_window).into());
        let mut block = std::mem::take(&mut self.scratch);
        block.clear();
        head::write(message, tls, &mut block);
        if is_tunnel {
            stream.borrow_mut().tunnel =
                Some(Tunnel { accept: head::websocket_accept(message.headers) });
        }
        // Whether it takes a tunnel, the backend says in its settings.
        let may_open = !is_tunnel || self.has_settings;
        if may_open && self.waiting.is_empty() && self.streams.len() < self.capacity() {
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
            // RFC 9113 §5.1.1: there are no more identifiers.
            self.is_open = false;
        }
        frame::headers(id, block, is_finished, &mut self.out);
        {
            let mut state = stream.borrow_mut();
            state.id = id;
            state.send_window = i64::from(self.initial_window);
        }
        self.streams.insert(id, Rc::clone(stream));
        self.list(stream);
        self.wake_driver();
    }

    /// Opens streams for requests that wait, as many as may be.
    pub(super) fn open_waiting(&mut self) {
        while self.streams.len() < self.capacity() && self.next_id <= MAX_WINDOW {
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
            if is_tunnel && !self.takes_tunnels {
                stream.borrow_mut().fail(Cause::NoWebSocket);
                continue;
            }
            self.open(&stream, &block, is_finished);
        }
    }

    /// Puts those that wait for a stream out of their misery: there will be none.
    pub(super) fn refuse_waiting(&mut self) {
        for waiting in self.waiting.drain(..) {
            waiting.stream.borrow_mut().fail(Cause::NotSent);
        }
    }

    /// Queues octets of a request's body, and sends what may be sent now.
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
        self.list(stream);
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
        self.list(stream);
    }

    /// Has a stream send in its turn, if it can.
    pub(super) fn list(&mut self, stream: &Shared) {
        {
            let mut state = stream.borrow_mut();
            if state.id == 0 || state.is_listed || !state.can_send() {
                return;
            }
            state.is_listed = true;
        }
        self.sending.push_back(Rc::clone(stream));
        self.pump();
        self.wake_driver();
    }

    /// Writes DATA frames in turn, as far as windows and the buffer have room.
    pub(super) fn pump(&mut self) {
        while self.out.len() < BOUND
            && let Some(stream) = self.sending.pop_front()
        {
            let mut state = stream.borrow_mut();
            state.is_listed = false;
            if state.cause.is_some() {
                continue;
            }
            if self.send_window <= 0 && !state.queue.is_empty() {
                state.is_listed = true;
                drop(state);
                self.sending.push_front(stream);
                return;
            }
            self.write_frame(&mut state);
            state.wake();
            if state.is_closed() {
                self.streams.remove(&state.id);
            } else if state.can_send() {
                state.is_listed = true;
                drop(state);
                self.sending.push_back(stream);
            }
        }
        self.open_waiting();
    }

    /// Writes the next frame of a stream's body: one of octets, or what ends it.
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
        // Whoever opens windows for octets that are then sent, does no idle work.
        self.idle_frames = 0;
        let sent = i64::try_from(length).unwrap_or_default();
        state.send_window -= sent;
        self.send_window -= sent;
    }

    /// Forgets a stream that has closed: its place is free.
    pub(super) fn forget(&mut self, id: u32) {
        if self.streams.remove(&id).is_some() {
            self.open_waiting();
            if self.is_done() {
                self.wake_driver();
            }
        }
    }

    /// Resets a stream, and forgets it.
    pub(super) fn reset(&mut self, stream: &Shared, code: u32, cause: Cause) {
        let id = stream.borrow().id;
        stream.borrow_mut().fail(cause);
        if self.streams.contains_key(&id) {
            frame::number(kind::RST_STREAM, id, code, &mut self.out);
            self.wake_driver();
            self.forget(id);
        }
    }

    /// The exchange of a stream is over: what is left of it is not needed.
    pub(super) fn abandon(&mut self, stream: &Shared) {
        self.exchanges = self.exchanges.saturating_sub(1);
        let (id, unread) = {
            let mut state = stream.borrow_mut();
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

    /// Octets were read, or thrown away: the backend may send as many more.
    pub(super) fn release(&mut self, octets: usize) {
        self.unannounced =
            self.unannounced.saturating_add(u32::try_from(octets).unwrap_or(u32::MAX));
        if self.unannounced >= self.settings.connection_window / 2 {
            let octets = std::mem::take(&mut self.unannounced);
            self.receive_window = self.receive_window.saturating_add(octets);
            frame::number(kind::WINDOW_UPDATE, 0, octets, &mut self.out);
            self.wake_driver();
        }
    }

    /// The same for octets of one stream.
    pub(super) fn release_stream(&mut self, stream: &Shared, octets: usize) {
        self.release(octets);
        let mut state = stream.borrow_mut();
        state.unannounced =
            state.unannounced.saturating_add(u32::try_from(octets).unwrap_or(u32::MAX));
        if state.unannounced >= self.settings.stream_window / 2
            && !state.is_complete
            && state.cause.is_none()
        {
            let octets = std::mem::take(&mut state.unannounced);
            state.receive_window = state.receive_window.saturating_add(octets);
            frame::number(kind::WINDOW_UPDATE, state.id, octets, &mut self.out);
            drop(state);
            self.wake_driver();
        }
    }

    /// Asks the backend whether it is there.
    pub(super) fn ping(&mut self) {
        frame::Head { length: 8, kind: kind::PING, flags: 0, stream: 0 }.write(&mut self.out);
        self.out.extend_from_slice(&[0; 8]);
    }

    /// Says goodbye, with the reason (RFC 9113 §6.8). Nothing is sent after it.
    pub(super) fn goaway(&mut self, code: u32) {
        frame::Head { length: 8, kind: kind::GOAWAY, flags: 0, stream: 0 }.write(&mut self.out);
        self.out.extend_from_slice(&[0; 4]);
        self.out.extend_from_slice(&code.to_be_bytes());
    }

    /// # Panics
    /// Where windows, lists and queues are not what they must be.
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
                state.is_listed,
                self.sending.iter().any(|listed| Rc::ptr_eq(listed, stream))
            );
            assert!(
                state.is_listed || !state.can_send() || state.send_window <= 0,
                "it can send, and is not in the list"
            );
        }
    }

    /// Everything on it ends.
    pub(super) fn fail(&mut self, cause: Cause) {
        self.is_open = false;
        self.sending.clear();
        for (_, stream) in self.streams.drain() {
            stream.borrow_mut().fail(cause);
        }
        self.refuse_waiting();
    }
}
