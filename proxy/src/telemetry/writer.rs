//! The thread that writes the access log.
//!
//! Each worker appends to its own buffer, which the thread swaps out periodically. If workers
//! append faster than the thread writes, lines are dropped and counted: workers never wait for a
//! disk or pipe.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

/// The maximum size of a worker's buffer, in octets; further lines are dropped.
pub(super) const MAX_BUFFER: usize = 1024 * 1024;

/// The buffer size at which the thread is woken early, in octets.
const WAKE_SIZE: usize = 64 * 1024;

/// The maximum delay of a line.
const WRITE_INTERVAL: Duration = Duration::from_millis(200);

/// Timeout for writing the last lines: the reader of a pipe may have stopped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The access log and its thread.
#[derive(Debug)]
pub(super) struct AccessLog {
    shared: Arc<Shared>,
    writer: Thread,
    /// Disconnected when the thread has stopped.
    stopped: Mutex<Receiver<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    buffers: Mutex<Vec<Arc<Buffer>>>,
    unwritten: AtomicU64,
    closing: AtomicBool,
}

/// The lines of a worker that are not yet written.
#[derive(Debug)]
pub(super) struct Buffer {
    lines: Mutex<Vec<u8>>,
    dropped: AtomicU64,
    writer: Thread,
}

/// The destination of lines.
enum Target {
    Stdout,
    File { path: PathBuf, file: File },
}

// === impl AccessLog ===

impl AccessLog {
    /// Opens `file`, or standard output if `None`, and starts the thread.
    pub(super) fn start(file: Option<PathBuf>) -> io::Result<Self> {
        let target = Target::open(file)?;
        let shared = Arc::new(Shared::default());
        let running = Arc::clone(&shared);
        let (sender, stopped) = mpsc::channel::<()>();
        let thread = thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            running.run(target);
            drop(sender);
        })?;
        Ok(Self { shared, writer: thread.thread().clone(), stopped: Mutex::new(stopped) })
    }

    /// Creates the buffer of a worker.
    pub(super) fn buffer(&self) -> Arc<Buffer> {
        let buffer = Arc::new(Buffer {
            lines: Mutex::default(),
            dropped: AtomicU64::new(0),
            writer: self.writer.clone(),
        });
        self.shared
            .buffers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&buffer));
        buffer
    }

    /// Returns the number of lines that were dropped because a buffer was full or writing failed.
    pub(super) fn dropped(&self) -> u64 {
        let buffers = self.shared.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped: u64 =
            buffers.iter().map(|buffer| buffer.dropped.load(Ordering::Relaxed)).sum();
        dropped + self.shared.unwritten.load(Ordering::Relaxed)
    }

    /// Writes the remaining lines and stops the thread; waits at most [`CLOSE_TIMEOUT`].
    pub(super) fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.writer.unpark();
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = stopped.recv_timeout(CLOSE_TIMEOUT);
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.close();
    }
}

// === impl Shared ===

impl Shared {
    fn run(&self, mut target: Target) {
        let mut batch = Vec::new();
        loop {
            let closing = self.closing.load(Ordering::Acquire);
            let buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for buffer in buffers {
                buffer.swap(&mut batch);
                if !batch.is_empty() && target.write(&batch).is_err() {
                    let lines = batch.iter().filter(|byte| **byte == b'\n').count();
                    self.unwritten.fetch_add(lines as u64, Ordering::Relaxed);
                }
                batch.clear();
            }
            if closing {
                return;
            }
            thread::park_timeout(WRITE_INTERVAL);
        }
    }
}

// === impl Buffer ===

impl Buffer {
    /// Appends a line with `format`. The lock is not contended: the thread holds it only to swap
    /// the buffer.
    pub(super) fn write(&self, format: impl FnOnce(&mut Vec<u8>)) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let before = lines.len();
        if before >= MAX_BUFFER {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        format(&mut lines);
        let after = lines.len();
        drop(lines);
        if before < WAKE_SIZE && after >= WAKE_SIZE {
            self.writer.unpark();
        }
    }

    /// Swaps the lines with the empty `batch`, whose capacity is reused.
    fn swap(&self, batch: &mut Vec<u8>) {
        std::mem::swap(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner), batch);
    }
}

// === impl Target ===

impl Target {
    fn open(path: Option<PathBuf>) -> io::Result<Self> {
        match path {
            None => Ok(Self::Stdout),
            Some(path) => Ok(Self::File { file: append(&path)?, path }),
        }
    }

    fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(batch)?;
                stdout.flush()
            }
            Self::File { path, file } => {
                // Log rotation renames the file: then create a new one.
                if !is_same(path, file) {
                    *file = append(path)?;
                }
                file.write_all(batch)
            }
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

fn is_same(path: &Path, file: &File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let (Ok(at_path), Ok(open)) = (path.metadata(), file.metadata()) else { return false };
    (at_path.dev(), at_path.ino()) == (open.dev(), open.ino())
}
