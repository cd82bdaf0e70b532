//! Closes HTTP/1.1 connections without losing the last response.
//!
//! Closing a connection with unread octets resets it, and the reset may overtake the response (RFC
//! 9112 §9.6). So our half is closed first, and what the client still sends is read for a while.
//! After a request that the client announced as its last one, there is nothing to read.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use portcullis_config::settings::Settings;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::http1::connection::Shared;

/// How long a client may take to read the last response after a complete request, and how many
/// octets it may send until then.
const AFTER_REQUEST: Linger = Linger { time: Duration::from_secs(2), octets: 256 * 1024 };

/// How long a client may send before its connection is closed, and how much.
#[derive(Debug, Clone, Copy)]
pub(super) struct Linger {
    time: Duration,
    octets: usize,
}

/// Closes a connection whose client sends nothing more. TLS ends with an alert, so that the client
/// knows that nothing was cut off (RFC 8446 §6.1).
pub(super) async fn close<T: AsyncWrite + Unpin>(connection: &Shared<T>, is_tls: bool) {
    if is_tls {
        let shutdown = poll_fn(|cx| Pin::new(&mut connection.borrow().io).poll_shutdown(cx));
        // Whether the client still reads makes no difference.
        let _ = tokio::time::timeout(AFTER_REQUEST.time, shutdown).await;
    }
}

// === impl Linger ===

impl Linger {
    /// After a complete request.
    pub(super) fn after_request() -> Self {
        AFTER_REQUEST
    }

    /// After a response to an incomplete request: many clients read it only when they have sent
    /// everything.
    pub(super) fn within_request(settings: &Settings) -> Self {
        Self {
            time: settings.timeouts.unread_body,
            octets: settings.limits.unread_body_bytes.get(),
        }
    }

    /// Closes our half, and reads until the client closes its half. Returns `false` if it exceeds
    /// the limits.
    pub(super) async fn close<T: AsyncRead + AsyncWrite + Unpin>(
        self,
        connection: &Shared<T>,
    ) -> bool {
        let mut left = self.octets;
        let closing = async {
            if poll_fn(|cx| Pin::new(&mut connection.borrow().io).poll_shutdown(cx)).await.is_err()
            {
                return true;
            }
            loop {
                let discarded = poll_fn(|cx| {
                    let connection = &mut *connection.borrow();
                    connection.inbound.poll_discard(&mut connection.io, cx)
                });
                match discarded.await {
                    Ok(0) | Err(_) => return true,
                    Ok(octets) => match left.checked_sub(octets) {
                        Some(rest) => left = rest,
                        None => return false,
                    },
                }
            }
        };
        tokio::time::timeout(self.time, closing).await.unwrap_or(false)
    }
}
