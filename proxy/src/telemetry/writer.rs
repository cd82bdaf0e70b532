//! The thread that writes the access log.
//!
//! A worker appends to a buffer of its own; the thread takes the whole buffer from time to time.
//! Where the thread cannot write as fast as workers append, lines are dropped and counted: no
//! worker ever waits for a disk or a pipe.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

/// Octets that a worker's buffer holds; lines that come when it is full are dropped.
pub(super) const MAX_BUFFER: usize = 1024 * 1024;

/// Octets after which the thread is woken before its time.
const WAKE: usize = 64 * 1024;

/// How long a line waits at most.
const INTERVAL: Duration = Duration::from_millis(200);

/// How long the thread may take to write the last lines: whoever reads them may have stopped.
const CLOSE: Duration = Duration::from_secs(2);

/// The log and its thread.
#[derive(Debug)]
pub(super) struct AccessLog {
    shared: Arc<Shared>,
    writer: Thread,
    /// Disconnected when the thread has ended.
    ended: Mutex<Receiver<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    buffers: Mutex<Vec<Arc<Buffer>>>,
    unwritten: AtomicU64,
    closing: AtomicBool,
}

/// Where one worker's lines wait.
#[derive(Debug)]
pub(super) struct Buffer {
    lines: Mutex<Vec<u8>>,
    dropped: AtomicU64,
    writer: Thread,
}

/// Where lines go.
enum Target {
    Stdout,
    File { path: PathBuf, file: File },
}

// === impl AccessLog ===

impl AccessLog {
    /// Opens `file`, or standard output where there is none, and starts the thread.
    pub(super) fn start(file: Option<PathBuf>) -> io::Result<Self> {
        let target = Target::open(file)?;
        let shared = Arc::new(Shared::default());
        let held = Arc::clone(&shared);
        let (ends, ended) = mpsc::channel::<()>();
        let thread = thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            held.run(target);
            drop(ends);
        })?;
        Ok(Self { shared, writer: thread.thread().clone(), ended: Mutex::new(ended) })
    }

    /// A buffer for one more worker.
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

    /// Lines that were dropped because they came faster than they could be written, or could not be
    /// written at all.
    pub(super) fn dropped(&self) -> u64 {
        let buffers = self.shared.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let dropped: u64 =
            buffers.iter().map(|buffer| buffer.dropped.load(Ordering::Relaxed)).sum();
        dropped + self.shared.unwritten.load(Ordering::Relaxed)
    }

    /// Writes what is there and ends the thread; waits for it for [`CLOSE`] at most.
    pub(super) fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.writer.unpark();
        let _ = self.ended.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(CLOSE);
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
            thread::park_timeout(INTERVAL);
        }
    }
}

// === impl Buffer ===

impl Buffer {
    /// Lets `format` append one line. The lock is held elsewhere only while two pointers are
    /// swapped.
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
        if before < WAKE && after >= WAKE {
            self.writer.unpark();
        }
    }

    /// Takes the lines, and leaves the empty `batch` with its capacity.
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
                // Whoever rotates logs renames the file; the next lines go to a new one of the old
                // name.
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
