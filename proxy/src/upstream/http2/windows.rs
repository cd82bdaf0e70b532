//! Receive windows (RFC 9113 §5.2): what a backend may send before clients have read it.
//!
//! Each stream has a small window from its beginning. A stream that is read grows to the configured
//! window, as long as there is some to spare. The window of the connection covers those of all
//! streams, so that clients that do not read their responses cannot stop those of others.

use super::ClientSettings;
use super::connection::{Connection, STREAMS};
use super::stream::{Shared, Stream};
use crate::http2::frame::{self, MAX_WINDOW, kind};

/// The window that a stream has from its beginning, in octets, unless the settings have a smaller one.
const GUARANTEED: u32 = 32 * 1024;
/// Octets of the connection's window in addition to those of all streams: half of them may have been
/// read before the window is opened for them.
const ANNOUNCED: u32 = 512 * 1024;

/// Returns the window of a stream from its beginning.
pub(super) fn guaranteed(settings: &ClientSettings) -> u32 {
    settings.stream_window.min(GUARANTEED)
}

/// Returns by how much all streams together may grow.
pub(super) fn spare(settings: &ClientSettings) -> u32 {
    settings.spare_window.min(MAX_WINDOW - all_guaranteed(settings))
}

/// Returns the window of the connection.
pub(super) fn connection(settings: &ClientSettings) -> u32 {
    all_guaranteed(settings) + spare(settings)
}

fn all_guaranteed(settings: &ClientSettings) -> u32 {
    guaranteed(settings) * STREAMS as u32 + ANNOUNCED
}

// === impl Connection ===

impl Connection {
    /// Adds octets that were read or discarded to the connection's window.
    pub(super) fn release(&mut self, octets: usize) {
        self.unannounced =
            self.unannounced.saturating_add(u32::try_from(octets).unwrap_or(u32::MAX));
        if self.unannounced >= ANNOUNCED / 2 {
            let octets = std::mem::take(&mut self.unannounced);
            self.receive_window = self.receive_window.saturating_add(octets);
            frame::number(kind::WINDOW_UPDATE, 0, octets, &mut self.out);
            self.wake_driver();
        }
    }

    /// Adds octets that were read to the windows of a stream and of the connection.
    pub(super) fn release_stream(&mut self, stream: &Shared, octets: usize) {
        self.release(octets);
        let mut state = stream.borrow_mut();
        state.unannounced =
            state.unannounced.saturating_add(u32::try_from(octets).unwrap_or(u32::MAX));
        if state.unannounced >= state.window / 2 && !state.is_complete && state.cause.is_none() {
            let grown =
                self.settings.stream_window.saturating_sub(state.window).min(self.spare_window);
            self.spare_window -= grown;
            state.window += grown;
            let octets = std::mem::take(&mut state.unannounced) + grown;
            state.receive_window = state.receive_window.saturating_add(octets);
            frame::number(kind::WINDOW_UPDATE, state.id, octets, &mut self.out);
            drop(state);
            self.wake_driver();
        }
    }

    /// Takes back what the stream of a finished exchange has grown by.
    pub(super) fn return_spare(&mut self, state: &mut Stream) {
        self.spare_window += state.window.saturating_sub(guaranteed(&self.settings));
        state.window = guaranteed(&self.settings);
    }
}
