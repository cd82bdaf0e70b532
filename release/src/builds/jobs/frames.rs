//! The messages between a builder and the pod of a build, on one stream in each direction.
//!
//! A frame is its kind (one octet), the length of its content (four octets, the highest first), and
//! its content. Everything has a length, since neither side of a stream to a pod can be closed alone.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::builds::log::as_reason;
use crate::builds::sandbox::{Limits, SandboxError};
use crate::model::MirrorHost;

/// The largest content of a frame, in bytes. A larger one is not read.
pub(super) const MAX_FRAME: usize = 256 * 1024;
/// How much of a stream is in one frame.
pub(super) const PART: usize = 32 * 1024;
/// How often a side writes a frame, at least.
pub(super) const ALIVE_EVERY: Duration = Duration::from_secs(10);
/// How long a side waits for a frame until it takes the other one for lost.
pub(super) const SILENCE: Duration = Duration::from_secs(60);
/// The version of this protocol. Builder and pod are the same program, of the same version.
pub(super) const VERSION: u32 = 2;

/// What a frame has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// To the pod: the first frame, an [`Order`].
    Order = 1,
    /// To the pod: a part of the archive of base images; an empty one ends it.
    Base = 2,
    /// To the pod: a part of the archive of files; an empty one ends it.
    Files = 3,
    /// Both ways: nothing, so that the connection is not idle.
    Alive = 4,
    /// From the pod: a part of the log.
    Log = 5,
    /// From the pod: a part of the image; an empty one ends it.
    Image = 6,
    /// From the pod: the last frame, an [`Outcome`].
    Outcome = 7,
}

/// What a pod builds.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Order {
    pub(super) version: u32,
    /// A builder of `builders.sh`, and its arguments.
    pub(super) arguments: Vec<String>,
    pub(super) has_base: bool,
    pub(super) seconds: u64,
    pub(super) memory: u64,
    pub(super) disk: u64,
    pub(super) processes: u32,
    /// What the build may reach, by a proxy in the pod.
    pub(super) mirrors: Vec<MirrorHost>,
    /// How much of the log is sent, in bytes; of the rest, the end.
    pub(super) log: u64,
}

/// How a build in a pod ended.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum Outcome {
    /// It ended, and reported success or not.
    Ended(bool),
    /// The sandbox could not be set up.
    Setup(String),
    /// It took too long.
    Late,
    /// It used too much memory.
    Memory,
}

// === impl Kind ===

impl Kind {
    fn of(octet: u8) -> Option<Self> {
        [Self::Order, Self::Base, Self::Files, Self::Alive, Self::Log, Self::Image, Self::Outcome]
            .into_iter()
            .find(|kind| *kind as u8 == octet)
    }
}

// === impl Order ===

impl Order {
    pub(super) fn new(
        arguments: Vec<String>,
        limits: &Limits,
        mirrors: Vec<MirrorHost>,
        has_base: bool,
        log: u64,
    ) -> Self {
        let Limits { time, memory, disk, processes } = *limits;
        let seconds = time.as_secs();
        Self {
            version: VERSION,
            arguments,
            has_base,
            seconds,
            memory,
            disk,
            processes,
            mirrors,
            log,
        }
    }

    pub(super) fn limits(&self) -> Limits {
        let time = Duration::from_secs(self.seconds);
        Limits { time, memory: self.memory, disk: self.disk, processes: self.processes }
    }
}

// === impl Outcome ===

impl Outcome {
    /// Whether the build reported success.
    pub(super) fn into_result(self, limits: &Limits) -> Result<bool, SandboxError> {
        match self {
            Self::Ended(is_success) => Ok(is_success),
            // What leaves its sandbox could write it.
            Self::Setup(reason) => Err(SandboxError::Setup(as_reason(reason.as_bytes()))),
            Self::Late => Err(SandboxError::Late(limits.time)),
            Self::Memory => Err(SandboxError::Memory(limits.memory)),
        }
    }
}

impl From<SandboxError> for Outcome {
    fn from(error: SandboxError) -> Self {
        match error {
            SandboxError::Setup(reason) => Self::Setup(reason),
            SandboxError::Late(_) => Self::Late,
            SandboxError::Memory(_) => Self::Memory,
        }
    }
}

/// Reads the next frame; `None` at the end of the stream.
///
/// # Errors
/// It is not a frame, is cut off, or does not arrive in time.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<(Kind, Vec<u8>)>> {
    match timeout(SILENCE, read_frame(stream)).await {
        Ok(read) => read,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let mut kind = [0];
    if stream.read(&mut kind).await? == 0 {
        return Ok(None);
    }
    let kind = Kind::of(kind[0]).ok_or_else(|| invalid("an unknown kind of frame"))?;
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    if length > MAX_FRAME {
        return Err(invalid("a frame that is too large"));
    }
    let mut content = vec![0; length];
    stream.read_exact(&mut content).await?;
    Ok(Some((kind, content)))
}

/// Writes a frame.
///
/// # Errors
/// The stream is broken, or the content too large.
pub(super) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    kind: Kind,
    content: &[u8],
) -> io::Result<()> {
    let length = u32::try_from(content.len()).ok().filter(|_| content.len() <= MAX_FRAME);
    let length = length.ok_or_else(|| invalid("a frame that is too large"))?;
    let mut frame = vec![kind as u8];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(content);
    stream.write_all(&frame).await?;
    stream.flush().await
}

/// Writes a frame with a document.
///
/// # Errors
/// The stream is broken, or the document too large.
pub(super) async fn write_document(
    stream: &mut (impl AsyncWrite + Unpin),
    kind: Kind,
    document: &impl Serialize,
) -> io::Result<()> {
    write(stream, kind, &serde_json::to_vec(document)?).await
}

pub(super) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_are_read_as_they_were_written_wherever_they_are_cut() {
        let mut written = Vec::new();
        let frames = [
            (Kind::Log, b"a\nb".to_vec()),
            (Kind::Image, Vec::new()),
            (Kind::Files, vec![7; PART]),
        ];
        for (kind, content) in &frames {
            write(&mut written, *kind, content).await.unwrap();
        }
        let mut stream = written.as_slice();
        for frame in &frames {
            assert_eq!(read(&mut stream).await.unwrap().as_ref(), Some(frame));
        }
        assert!(read(&mut stream).await.unwrap().is_none());
        // A stream that ends within a frame is no stream that ended.
        for end in 1..8 {
            assert!(read(&mut written.get(..end).unwrap()).await.is_err(), "{end}");
        }
    }

    #[tokio::test]
    async fn no_frame_is_larger_than_the_bound_and_no_memory_is_taken_for_one() {
        for length in [MAX_FRAME as u32 + 1, u32::MAX] {
            let mut frame = vec![Kind::Log as u8];
            frame.extend_from_slice(&length.to_be_bytes());
            let error = read(&mut frame.as_slice()).await.unwrap_err();
            assert!(error.to_string().contains("too large"), "{error}");
        }
        let large = vec![0; MAX_FRAME + 1];
        assert!(write(&mut Vec::new(), Kind::Log, &large).await.is_err());
        for kind in [0, 8, 255] {
            assert!(read(&mut [kind, 0, 0, 0, 0].as_slice()).await.is_err(), "{kind}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_side_is_lost() {
        let (mut here, _there) = tokio::io::duplex(64);
        let error = read(&mut here).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn an_outcome_is_that_of_the_sandbox() {
        let time = Duration::from_secs(7);
        let limits = Limits { time, memory: 5, disk: 1, processes: 1 };
        let errors = || {
            [
                SandboxError::Setup("x".to_owned()),
                SandboxError::Late(limits.time),
                SandboxError::Memory(limits.memory),
            ]
        };
        for (error, expected) in errors().into_iter().zip(errors()) {
            let outcome = Outcome::from(error).into_result(&limits).unwrap_err();
            assert_eq!(outcome.to_string(), expected.to_string());
        }
        let long = Outcome::Setup(format!("\0{}", "x".repeat(1000)));
        let reason = long.into_result(&limits).unwrap_err().to_string();
        assert!(reason.len() < 400 && !reason.contains('\0'), "{reason}");
        assert!(matches!(Outcome::Ended(true).into_result(&limits), Ok(true)));
        for bad in ["", "1", "{}", "{\"ended\":2}", "{\"ended\":true,\"late\":1}", "\"early\""] {
            assert!(serde_json::from_str::<Outcome>(bad).is_err(), "{bad}");
        }
    }
}
