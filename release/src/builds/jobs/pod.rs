//! The side of a build that runs in its pod.
//!
//! The first process of the pod waits for the builder, which reaches it by another process in the same
//! container, builds in the [`sandbox`], and ends when the builder is lost. A program that is started in
//! a container ends neither with the connection that started it nor with the container's log, and what
//! it prints is in no log of the node: the builder keeps the only one, bounded and masked.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

use super::frames::{self, ALIVE_EVERY, Kind, Order, Outcome, PART, VERSION};
use crate::builds::process::{self, Bounds};
use crate::builds::sandbox::{self, Printed, SandboxError};

/// The socket of the pod, which has no file. Only processes of the pod's network can reach it, and a
/// build has a network of its own.
const SOCKET: &str = "portcullis-build";
/// How long a pod waits for its builder.
const WAIT: Duration = Duration::from_secs(120);
/// How long the builder's process in the container waits for the first one.
const REACHED: Duration = Duration::from_secs(10);
/// How long the builder has to read the outcome.
const DRAINED: Duration = Duration::from_secs(30);
/// How much of the end of a log is sent that is too long, in bytes.
const KEPT_END: usize = 4096;
/// Where the base images are.
pub(super) const BASE: &str = "/base";
/// File systems that show everything of their kind in the pod: over those of the container, parts of
/// which are hidden, the kernel lets no user namespace mount further ones.
const MOUNTS: &str = "mount -t proc -o nosuid,nodev,noexec proc /proc && \
    umount --recursive /sys && mount -t sysfs -o ro,nosuid,nodev,noexec sysfs /sys";
/// What they may use.
const MOUNTING: Bounds = Bounds { time: Duration::from_secs(10), output: 1024 };

/// Why a pod built nothing.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// The container has not the rights that a build needs.
    #[error("the file systems of the sandbox cannot be mounted: {0}")]
    Mount(String),
    /// There is no builder.
    #[error("no builder came within {} s", WAIT.as_secs())]
    Alone,
    /// The builder is lost.
    #[error("the connection to the builder is lost: {0}")]
    Lost(#[from] io::Error),
}

/// Waits for a builder, and builds what it sends.
///
/// # Errors
/// No builder came, or it was lost.
pub async fn build() -> Result<(), PodError> {
    let mut mount = Command::new("sh");
    mount.args(["-c", MOUNTS]);
    process::run(mount, b"", MOUNTING).await.map_err(|error| PodError::Mount(error.to_string()))?;
    let listener = net::UnixListener::bind_addr(&address()?)?;
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    let accepted = timeout(WAIT, listener.accept()).await.map_err(|_| PodError::Alone)?;
    // One builder alone.
    drop(listener);
    let (stream, _) = accepted?;
    let (mut input, output) = stream.into_split();
    serve(&mut input, output, Path::new(BASE)).await?;
    // The end of this process is that of the one that passes on the outcome.
    let _ = timeout(DRAINED, tokio::io::copy(&mut input, &mut tokio::io::sink())).await;
    Ok(())
}

/// Connects a builder's streams to the first process of the pod, until one of them ends.
///
/// # Errors
/// There is no such process.
pub async fn connect(
    mut input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let stream = async {
        loop {
            match net::UnixStream::connect_addr(&address()?) {
                Ok(stream) => return Ok::<_, io::Error>(stream),
                // It has just started.
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let stream = timeout(REACHED, stream).await.map_err(|_| io::ErrorKind::TimedOut)??;
    stream.set_nonblocking(true)?;
    let (mut from, mut to) = UnixStream::from_std(stream)?.into_split();
    tokio::select! {
        up = tokio::io::copy(&mut input, &mut to) => up.map(drop),
        down = copy(&mut from, &mut output) => down,
    }
}

/// Copies, and writes each part at once.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut part = vec![0; PART];
    loop {
        let count = from.read(&mut part).await?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(part.get(..count).unwrap_or_default()).await?;
        to.flush().await?;
    }
}

fn address() -> io::Result<net::SocketAddr> {
    net::SocketAddr::from_abstract_name(SOCKET)
}

/// Builds what the builder sends, in a sandbox of this machine. Base images are stored in a folder.
///
/// # Errors
/// The builder is lost: nothing of the build is left.
pub(super) async fn serve(
    input: &mut (impl AsyncRead + Unpin),
    output: impl AsyncWrite + Unpin + Send,
    base: &Path,
) -> io::Result<()> {
    let order = match frames::read(input).await? {
        Some((Kind::Order, order)) => order,
        _ => return Err(frames::invalid("no order")),
    };
    let output = Arc::new(Mutex::new(output));
    let order = serde_json::from_slice::<Order>(&order).ok().filter(|it| it.version == VERSION);
    let Some(order) = order else {
        let reason = "the image of the pod is of another version than the builder".to_owned();
        return end(&output, &Outcome::Setup(reason)).await;
    };
    if order.has_base
        && let Err(reason) = unpack(input, base).await?
    {
        return end(&output, &Outcome::Setup(reason)).await;
    }
    let (files, fed) = tokio::io::duplex(PART);
    let job = sandbox::Job {
        base: order.has_base.then(|| PathBuf::from(base)),
        limits: order.limits(),
        arguments: order.arguments,
        mirrors: order.mirrors,
    };
    let outcome = tokio::select! {
        outcome = run(&job, files, order.log, &output) => outcome,
        lost = feed(input, fed) => return Err(lost),
        broken = alive(&output) => return Err(broken),
    };
    end(&output, &outcome).await
}

type Shared<W> = Arc<Mutex<W>>;

async fn end(output: &Shared<impl AsyncWrite + Unpin>, outcome: &Outcome) -> io::Result<()> {
    let mut output = output.lock().await;
    frames::write_document(&mut *output, Kind::Outcome, outcome).await
}

/// Runs the sandbox, with its log and its image as frames.
async fn run(
    job: &sandbox::Job,
    files: DuplexStream,
    max_log: u64,
    output: &Shared<impl AsyncWrite + Unpin + Send>,
) -> Outcome {
    let image = async |mut image| -> io::Result<()> {
        let mut part = vec![0; PART];
        loop {
            let count = AsyncReadExt::read(&mut image, &mut part).await?;
            let part = part.get(..count).unwrap_or_default();
            frames::write(&mut *output.lock().await, Kind::Image, part).await?;
            if count == 0 {
                return Ok(());
            }
        }
    };
    let mut log = FrameLog { output, left: max_log, end: Vec::new() };
    let ran = sandbox::run(job, files, &mut log, image).await;
    log.close().await;
    match ran {
        Ok((Ok(()), is_success)) => Outcome::Ended(is_success),
        Ok((Err(error), _)) => SandboxError::from(error).into(),
        Err(error) => error.into(),
    }
}

/// A log that the builder writes. What it would leave out is not sent, but for the end, which may say
/// why a build failed.
struct FrameLog<'o, W> {
    output: &'o Shared<W>,
    left: u64,
    end: Vec<u8>,
}

impl<W: AsyncWrite + Unpin + Send> FrameLog<'_, W> {
    async fn send(&self, part: &[u8]) {
        // If the builder is lost, the build ends.
        let _ = frames::write(&mut *self.output.lock().await, Kind::Log, part).await;
    }

    async fn close(self) {
        self.send(&self.end).await;
    }
}

impl<W: AsyncWrite + Unpin + Send> Printed for FrameLog<'_, W> {
    async fn write(&mut self, part: &[u8]) {
        if self.left > 0 {
            self.left = self.left.saturating_sub(part.len() as u64);
            return self.send(part).await;
        }
        self.end.extend_from_slice(part);
        self.end.drain(..self.end.len().saturating_sub(KEPT_END));
    }
}

/// Passes on the archive of files. Returns why the builder is lost.
async fn feed(input: &mut (impl AsyncRead + Unpin), files: DuplexStream) -> io::Error {
    let mut files = Some(files);
    loop {
        match frames::read(input).await {
            Ok(Some((Kind::Files, part))) if part.is_empty() => files = None,
            Ok(Some((Kind::Files, part))) => {
                // A build that needs no more input closes it.
                if let Some(open) = &mut files
                    && open.write_all(&part).await.is_err()
                {
                    files = None;
                }
            }
            Ok(Some((Kind::Alive, _))) => {}
            Ok(Some(_)) => return frames::invalid("an unexpected frame"),
            Ok(None) => return io::ErrorKind::UnexpectedEof.into(),
            Err(error) => return error,
        }
    }
}

async fn alive(output: &Shared<impl AsyncWrite + Unpin>) -> io::Error {
    loop {
        sleep(ALIVE_EVERY).await;
        let written = frames::write(&mut *output.lock().await, Kind::Alive, &[]).await;
        if let Err(error) = written {
            return error;
        }
    }
}

/// Unpacks the archive of base images into a folder.
async fn unpack(
    input: &mut (impl AsyncRead + Unpin),
    folder: &Path,
) -> io::Result<Result<(), String>> {
    let mut tar = match tar(folder) {
        Ok(tar) => tar,
        Err(error) => return Ok(Err(format!("the base images cannot be stored: {error}"))),
    };
    let mut stdin = tar.stdin.take();
    loop {
        match frames::read(input).await? {
            Some((Kind::Base, part)) if part.is_empty() => break,
            Some((Kind::Base, part)) => {
                if let Some(open) = &mut stdin
                    && open.write_all(&part).await.is_err()
                {
                    stdin = None;
                }
            }
            Some((Kind::Alive, _)) => {}
            _ => return Err(frames::invalid("an unexpected frame")),
        }
    }
    drop(stdin);
    let output = tar.wait_with_output().await?;
    let error = String::from_utf8_lossy(&output.stderr);
    let failed = || format!("the base images cannot be stored: {}", error.trim());
    Ok(if output.status.success() { Ok(()) } else { Err(failed()) })
}

fn tar(folder: &Path) -> io::Result<Child> {
    Command::new("tar")
        .args(["--extract", "--no-same-owner", "--file=-", "--directory"])
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}
