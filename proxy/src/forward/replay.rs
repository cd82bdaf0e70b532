//! Holds the beginning of a request's body, so that it can be sent again.

use std::net::IpAddr;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::exchange::{BodyLength, Broken, Frame, Source};
use crate::memory::{self, Charge};

/// The maximum size of a body that is held, in octets.
const MAX_OCTETS: usize = 64 * 1024;
/// The maximum number of its frames.
const MAX_FRAMES: usize = 64;

/// The size up to which a frame is copied, in octets.
const SMALL: usize = 4 * 1024;

/// What was read of a request's body, until a backend responds.
#[derive(Debug)]
pub(super) struct Replay {
    frames: SmallVec<[Frame; 1]>,
    /// The next one to send.
    next: usize,
    octets: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// All that was read is held.
    Holding,
    /// The same, and nothing follows.
    Complete,
    /// Frames are forwarded without being held. `has_dropped` says whether one was.
    Passing { has_dropped: bool },
}

/// A request's body as it is sent: first what is held, then what is read.
pub(super) struct Replaying<'a, B> {
    pub(super) replay: &'a mut Replay,
    pub(super) body: &'a mut B,
    /// What the held octets are charged to.
    pub(super) memory: Option<(&'a mut Charge, IpAddr)>,
}

// === impl Replay ===

impl Replay {
    /// Creates a replay of a body of `length`, of which nothing was read yet.
    pub(super) fn new(length: BodyLength) -> Self {
        let state = match length {
            BodyLength::Exact(length) if length > MAX_OCTETS as u64 => {
                State::Passing { has_dropped: false }
            }
            _ => State::Holding,
        };
        Self { frames: SmallVec::new(), next: 0, octets: 0, state }
    }

    /// Whether the whole body can be sent again.
    pub(super) fn is_possible(&self) -> bool {
        self.state != State::Passing { has_dropped: true }
    }

    /// Starts from the beginning.
    pub(super) fn rewind(&mut self) {
        self.next = 0;
    }

    /// Holds nothing more: the body is not sent again.
    pub(super) fn release(&mut self, charge: &mut Charge) {
        charge.shrink(charge.octets().saturating_sub(self.octets));
        self.octets = 0;
        self.frames.drain(..self.next.min(self.frames.len()));
        self.next = 0;
        if self.state == State::Holding {
            self.state = State::Passing { has_dropped: true };
        }
    }
}

// === impl Replaying ===

impl<B> Replaying<'_, B> {
    fn hold(&mut self, frame: &Frame) {
        let Self { replay, memory, .. } = self;
        let Some((charge, client)) = memory.as_mut().filter(|_| replay.state == State::Holding)
        else {
            replay.state = State::Passing { has_dropped: true };
            return;
        };
        let octets = weight(frame);
        let is_small = replay.octets + octets <= MAX_OCTETS && replay.frames.len() < MAX_FRAMES;
        if is_small && charge.extend(octets, *client) {
            replay.octets += octets;
            replay.frames.push(detached(frame));
            replay.next += 1;
        } else {
            // All that is held was sent already.
            replay.release(charge);
        }
    }
}

impl<B: Source> Source for Replaying<'_, B> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Broken>>> {
        if let Some(frame) = self.replay.frames.get(self.replay.next) {
            self.replay.next += 1;
            return Poll::Ready(Some(Ok(copy(frame))));
        }
        if self.replay.state == State::Complete {
            return Poll::Ready(None);
        }
        let frame = ready!(self.body.poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => self.hold(frame),
            None if self.replay.state == State::Holding => self.replay.state = State::Complete,
            None | Some(Err(_)) => {}
        }
        Poll::Ready(frame)
    }
}

/// A frame with the same octets, which are not copied.
fn copy(frame: &Frame) -> Frame {
    match frame {
        Frame::Data(data) => Frame::Data(data.clone()),
        Frame::Trailers(trailers) => Frame::Trailers(trailers.clone()),
    }
}

/// A frame whose octets are copied if they are few, so that they do not keep a whole read buffer in
/// memory.
fn detached(frame: &Frame) -> Frame {
    match frame {
        Frame::Data(data) if data.len() < SMALL => Frame::Data(Bytes::copy_from_slice(data)),
        frame => copy(frame),
    }
}

/// The memory of a frame, in octets.
fn weight(frame: &Frame) -> usize {
    match frame {
        Frame::Data(data) => data.len(),
        Frame::Trailers(trailers) => memory::weight(trailers),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::Ipv4Addr;
    use std::task::Waker;

    use http::HeaderMap;

    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    /// Frames that come one after the other; `None` for nothing yet.
    struct Body(VecDeque<Option<Frame>>);

    impl Source for Body {
        fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, Broken>>> {
            match self.0.pop_front() {
                Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
                Some(None) => Poll::Pending,
                None => Poll::Ready(None),
            }
        }
    }

    /// Reads until nothing comes; returns the octets, and whether the body has ended.
    fn read(replay: &mut Replay, body: &mut Body, charge: Option<&mut Charge>) -> (Vec<u8>, bool) {
        let memory = charge.map(|charge| (charge, CLIENT));
        let mut source = Replaying { replay, body, memory };
        let mut octets = Vec::new();
        loop {
            match source.poll_frame(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Some(Ok(Frame::Data(data)))) => octets.extend_from_slice(&data),
                Poll::Ready(Some(Ok(Frame::Trailers(_)))) => octets.push(b'T'),
                Poll::Ready(Some(Err(broken))) => panic!("{broken}"),
                Poll::Ready(None) => return (octets, true),
                Poll::Pending => return (octets, false),
            }
        }
    }

    fn data(octets: &'static [u8]) -> Option<Frame> {
        Some(Frame::Data(Bytes::from_static(octets)))
    }

    fn charge() -> Charge {
        crate::memory::tests::charge(&crate::normalize::tests::head("GET / HTTP/1.1\nHost: a"))
    }

    #[test]
    fn a_body_is_sent_again_from_its_beginning_and_read_once() {
        let mut charge = charge();
        let before = charge.octets();
        let frames = [data(b"one "), None, data(b"two "), Some(Frame::Trailers(HeaderMap::new()))];
        let mut body = Body(frames.into());
        let mut replay = Replay::new(BodyLength::Unknown);
        assert_eq!(read(&mut replay, &mut body, Some(&mut charge)), (b"one ".to_vec(), false));
        assert_eq!(charge.octets(), before + 4);
        replay.rewind();
        for _ in 0..3 {
            let whole = (b"one two T".to_vec(), true);
            assert_eq!(read(&mut replay, &mut body, Some(&mut charge)), whole);
            assert!(replay.is_possible());
            replay.rewind();
        }
        replay.release(&mut charge);
        assert_eq!(charge.octets(), before);
    }

    #[test]
    fn what_was_not_sent_again_yet_follows_after_the_response_began() {
        let mut charge = charge();
        let mut body = Body([data(b"one "), data(b"two "), None, data(b"three")].into());
        let mut replay = Replay::new(BodyLength::Unknown);
        read(&mut replay, &mut body, Some(&mut charge));
        replay.rewind();
        replay.next = 1;
        replay.release(&mut charge);
        assert_eq!(read(&mut replay, &mut body, None), (b"two three".to_vec(), true));
        assert!(!replay.is_possible());
    }

    #[test]
    fn a_large_body_is_not_held() {
        let mut charge = charge();
        let before = charge.octets();
        let large: &'static [u8] = &[b'x'; 40_000];
        let mut body = Body([data(large), data(large), data(b"y")].into());
        let mut replay = Replay::new(BodyLength::Unknown);
        assert_eq!(read(&mut replay, &mut body, Some(&mut charge)).0.len(), 80_001);
        assert!(!replay.is_possible());
        assert_eq!(charge.octets(), before);

        let mut replay = Replay::new(BodyLength::Exact(65_537));
        assert!(replay.is_possible(), "nothing was sent yet");
        read(&mut replay, &mut Body([data(b"x"), None].into()), Some(&mut charge));
        assert!(!replay.is_possible());
        assert_eq!(charge.octets(), before);
    }

    #[test]
    fn many_small_frames_are_not_held() {
        let mut charge = charge();
        let mut body = Body((0..65).map(|_| data(b"x")).collect());
        let mut replay = Replay::new(BodyLength::Unknown);
        assert_eq!(read(&mut replay, &mut body, Some(&mut charge)), (vec![b'x'; 65], true));
        assert!(!replay.is_possible());
    }
}
