//! The builder's side of a build in a pod.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use super::frames::{self, ALIVE_EVERY, Kind, Order, Outcome, PART};
use crate::builds::base;
use crate::builds::log::Log;
use crate::builds::sandbox::{Limits, SandboxError};
use crate::model::MirrorHost;

/// How long a build may take besides its own time: for what is sent before and after.
const TRANSFER: Duration = Duration::from_secs(10 * 60);

/// Why there is no outcome.
#[derive(Debug)]
pub(super) enum Broken {
    /// The connection broke.
    Lost(String),
    /// The pod reported a failure, or took too long.
    Sandbox(SandboxError),
}

/// What is sent to a pod.
pub(super) struct Sent<'s, I> {
    pub(super) arguments: &'s [String],
    pub(super) limits: &'s Limits,
    pub(super) mirrors: &'s [MirrorHost],
    pub(super) base: Option<base::Archive>,
    pub(super) files: I,
}

/// Lets a pod build. `receive` reads the image that it leaves. Returns what that returned, and whether
/// the build reported success.
pub(super) async fn converse<T>(
    from_pod: impl AsyncRead + Unpin,
    to_pod: impl AsyncWrite + Unpin,
    sent: Sent<'_, impl AsyncRead + Unpin>,
    log: &mut Log,
    receive: impl AsyncFnOnce(DuplexStream) -> T,
) -> Result<(T, bool), Broken> {
    let (limits, max_log) = (sent.limits, log.max());
    let (image, received) = tokio::io::duplex(PART);
    let all = async { tokio::join!(listen(from_pod, image, log, limits), receive(received)) };
    let send = async {
        let Err(error) = send(to_pod, sent, max_log).await;
        match error.kind() {
            // What the pod reports is the better reason.
            io::ErrorKind::BrokenPipe => std::future::pending().await,
            _ => error.to_string(),
        }
    };
    let late = || Broken::Sandbox(SandboxError::Late(limits.time));
    let bounded = timeout(limits.time.saturating_add(TRANSFER), all);
    let (outcome, received) = tokio::select! {
        all = bounded => all.map_err(|_| late())?,
        reason = send => return Err(Broken::Lost(reason)),
    };
    Ok((received, outcome?))
}

/// Reads what a pod sends until its outcome. Returns whether the build reported success.
async fn listen(
    mut from_pod: impl AsyncRead + Unpin,
    image: DuplexStream,
    log: &mut Log,
    limits: &Limits,
) -> Result<bool, Broken> {
    let mut image = Some(image);
    loop {
        let frame = frames::read(&mut from_pod).await.map_err(|error| lost(&error))?;
        let (kind, content) = frame.ok_or_else(|| Broken::Lost("it was closed".to_owned()))?;
        match kind {
            Kind::Alive => {}
            Kind::Log => log.write(&content).await,
            Kind::Image if content.is_empty() => image = None,
            Kind::Image => {
                let Some(open) = &mut image else {
                    return Err(Broken::Lost("the pod sent a second image".to_owned()));
                };
                // What was received was enough, such as too much: the pod need not go on.
                if open.write_all(&content).await.is_err() {
                    return Ok(false);
                }
            }
            Kind::Outcome => {
                let outcome: Outcome = serde_json::from_slice(&content)
                    .map_err(|error| Broken::Lost(format!("its outcome: {error}")))?;
                return outcome.into_result(limits).map_err(Broken::Sandbox);
            }
            Kind::Order | Kind::Base | Kind::Files => {
                return Err(Broken::Lost("the pod sent an unexpected frame".to_owned()));
            }
        }
    }
}

/// Sends what is built, then that the builder is alive, until that fails.
async fn send(
    mut to_pod: impl AsyncWrite + Unpin,
    sent: Sent<'_, impl AsyncRead + Unpin>,
    max_log: u64,
) -> io::Result<Infallible> {
    let Sent { arguments, limits, mirrors, base, files } = sent;
    let order = Order::new(arguments.to_vec(), limits, mirrors.to_vec(), base.is_some(), max_log);
    frames::write_document(&mut to_pod, Kind::Order, &order).await?;
    if let Some(base::Archive(mut tar)) = base {
        if let Some(archive) = tar.stdout.take() {
            send_all(&mut to_pod, Kind::Base, archive).await?;
        }
        // Without all of them there is no build.
        if !tar.wait().await?.success() {
            return Err(frames::invalid("the base images cannot be read"));
        }
        frames::write(&mut to_pod, Kind::Base, &[]).await?;
    }
    send_all(&mut to_pod, Kind::Files, files).await?;
    frames::write(&mut to_pod, Kind::Files, &[]).await?;
    loop {
        tokio::time::sleep(ALIVE_EVERY).await;
        frames::write(&mut to_pod, Kind::Alive, &[]).await?;
    }
}

async fn send_all(
    to_pod: &mut (impl AsyncWrite + Unpin),
    kind: Kind,
    mut stream: impl AsyncRead + Unpin,
) -> io::Result<()> {
    let mut part = vec![0; PART];
    loop {
        match timeout(ALIVE_EVERY, stream.read(&mut part)).await {
            Err(_) => frames::write(to_pod, Kind::Alive, &[]).await?,
            Ok(read) => {
                let count = read?;
                if count == 0 {
                    return Ok(());
                }
                frames::write(to_pod, kind, part.get(..count).unwrap_or_default()).await?;
            }
        }
    }
}

fn lost(error: &io::Error) -> Broken {
    Broken::Lost(match error.kind() {
        io::ErrorKind::TimedOut => "the pod is silent".to_owned(),
        _ => error.to_string(),
    })
}
