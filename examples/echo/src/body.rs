//! Response bodies.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::HeaderMap;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame, SizeHint};

pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, io::Error>;

/// A body of `left` octets, generated on demand.
struct Octets {
    left: u64,
    breaks_at: u64,
    paused: bool,
}

/// Creates a body of one piece.
pub(crate) fn full(data: impl Into<Bytes>) -> ResponseBody {
    Full::new(data.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// Creates a body of `length` octets with a Content-Length.
pub(crate) fn octets(length: u64) -> ResponseBody {
    Octets { left: length, breaks_at: 0, paused: false }.boxed_unsync()
}

/// Creates a body that declares twice `length` octets and aborts after `length`.
pub(crate) fn broken(length: u64) -> ResponseBody {
    Octets { left: length.saturating_mul(2).max(1), breaks_at: length.max(1), paused: false }
        .boxed_unsync()
}

/// Creates a body of `count` pieces, made from their numbers, with a pause between them.
pub(crate) fn pieces(
    count: u64,
    interval: Duration,
    piece: impl Fn(u64) -> Bytes + Send + 'static,
) -> ResponseBody {
    let stream = futures::stream::iter(0..count).then(move |number| {
        let data = piece(number);
        async move {
            if number > 0 {
                tokio::time::sleep(interval).await;
            }
            Ok(Frame::data(data))
        }
    });
    frames(stream)
}

/// Creates a body of one piece and trailers.
pub(crate) fn with_trailers(data: Bytes, trailers: HeaderMap) -> ResponseBody {
    frames(futures::stream::iter([Ok(Frame::data(data)), Ok(Frame::trailers(trailers))]))
}

fn frames(stream: impl Stream<Item = io::Result<Frame<Bytes>>> + Send + 'static) -> ResponseBody {
    StreamBody::new(stream).boxed_unsync()
}

// === impl Octets ===

impl Octets {
    const PIECE: &'static [u8; 16 * 1024] = &[b'x'; 16 * 1024];
}

impl Body for Octets {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.breaks_at > 0 && self.left <= self.breaks_at {
            if !std::mem::replace(&mut self.paused, true) {
                // Pending makes the server flush its buffer, which an error would discard.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            return Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())));
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let max = self.left - self.breaks_at;
        let length = usize::try_from(max).unwrap_or(usize::MAX).min(Self::PIECE.len());
        self.left -= length as u64;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(Self::PIECE).slice(..length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
