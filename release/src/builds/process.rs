//! Programs that are run with bounds on their time and output, and killed with what they started.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How much of the error output is kept, in bytes.
const MAX_ERROR: usize = 4096;

/// What a program may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// How long it may take.
    pub(super) time: Duration,
    /// How many bytes it may write to its standard output.
    pub(super) output: usize,
}

/// Why a program has no result.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// It cannot be started.
    #[error("the program {0} cannot be started: {1}")]
    Start(String, #[source] std::io::Error),
    /// It took too long, and was killed.
    #[error("it took longer than {} s", .0.as_secs())]
    Late(Duration),
    /// It wrote too much, and was killed.
    #[error("it wrote more than {0} bytes")]
    Output(usize),
    /// It reported a failure.
    #[error("{0}")]
    Failed(String),
    /// Its input or output broke.
    #[error("its output cannot be read: {0}")]
    Pipe(#[source] std::io::Error),
}

/// Kills a process group unless it is disarmed.
pub(super) struct Group(Option<Pid>);

// === impl Group ===

impl Group {
    /// The group that a child leads.
    pub(super) fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)))
    }

    /// Lets it be: its leader was waited for, and its number may be that of another group.
    pub(super) fn disarm(&mut self) {
        self.0 = None;
    }

    /// Kills it now.
    pub(super) fn kill(&mut self) {
        if let Some(leader) = self.0.take() {
            // It may have ended.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a program in a process group of its own, and returns its standard output. The group is
/// killed if it exceeds the bounds, or if the returned future is dropped.
pub(super) async fn run(
    mut command: Command,
    input: &[u8],
    bounds: Bounds,
) -> Result<Vec<u8>, ProcessError> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| ProcessError::Start(program, error))?;
    let mut group = Group::of(&child);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A program that needs no more input closes it.
            let _ = stdin.write_all(input).await;
        }
    };
    let all = async {
        let ((), output, error) = tokio::join!(write, bounded(stdout, bounds.output), tail(stderr));
        let output = output?;
        let status = child.wait().await.map_err(ProcessError::Pipe)?;
        Ok::<_, ProcessError>((output, error, status))
    };
    let (output, error, status) =
        timeout(bounds.time, all).await.map_err(|_| ProcessError::Late(bounds.time))??;
    group.disarm();
    if status.success() {
        return Ok(output);
    }
    let message = String::from_utf8_lossy(&error).trim().to_owned();
    Err(ProcessError::Failed(if message.is_empty() { status.to_string() } else { message }))
}

/// Reads everything, unless it is too much.
async fn bounded(
    source: Option<impl AsyncRead + Unpin>,
    max: usize,
) -> Result<Vec<u8>, ProcessError> {
    let mut output = Vec::new();
    let Some(source) = source else { return Ok(output) };
    let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    source.take(limit).read_to_end(&mut output).await.map_err(ProcessError::Pipe)?;
    if output.len() > max { Err(ProcessError::Output(max)) } else { Ok(output) }
}

/// Reads everything, and keeps the end.
async fn tail(source: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let (mut kept, mut buffer) = (Vec::new(), [0; 1024]);
    let Some(mut source) = source else { return kept };
    while let Ok(count @ 1..) = source.read(&mut buffer).await {
        kept.extend_from_slice(buffer.get(..count).unwrap_or_default());
        kept.drain(..kept.len().saturating_sub(MAX_ERROR));
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const BOUNDS: Bounds = Bounds { time: Duration::from_secs(30), output: 1000 };

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[tokio::test]
    async fn output_and_failures_are_returned() {
        let output = run(shell("cat; echo note >&2"), b"in", BOUNDS).await.unwrap();
        assert_eq!(output, b"in");
        let failed = run(shell("echo no >&2; exit 3"), b"", BOUNDS).await.unwrap_err();
        assert_eq!(failed.to_string(), "no");
        let absent = run(Command::new("no-such-program"), b"", BOUNDS).await.unwrap_err();
        assert!(absent.to_string().starts_with("the program no-such-program"), "{absent}");
        let noisy = run(shell("yes | head -c 1000000 >&2; exit 1"), b"", BOUNDS).await.unwrap_err();
        assert!(noisy.to_string().len() <= MAX_ERROR);
    }

    #[tokio::test]
    async fn a_group_whose_leader_was_waited_for_is_not_killed() {
        let mut command = shell("echo $$; sleep 100 >&- & exit 0");
        let mut child = command.process_group(0).stdout(Stdio::piped()).spawn().unwrap();
        let mut group = Group::of(&child);
        let leader = group.0.unwrap();
        assert!(child.wait().await.unwrap().success());
        group.disarm();
        drop(group);
        // The signal finds what is left of it.
        kill_process_group(leader, Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn what_exceeds_its_bounds_is_killed_with_what_it_started() {
        let greedy = run(shell("yes"), b"", BOUNDS).await.unwrap_err();
        assert!(matches!(greedy, ProcessError::Output(1000)), "{greedy}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let started = Instant::now();
        let script = format!("(while :; do echo x >> {}; sleep 0.05; done) & wait", file.display());
        let bounds = Bounds { time: Duration::from_millis(500), ..BOUNDS };
        let late = run(shell(&script), b"", bounds).await.unwrap_err();
        assert!(matches!(late, ProcessError::Late(_)), "{late}");
        assert!(started.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(300)).await;
        let size = || std::fs::metadata(&file).unwrap().len();
        let before = size();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(size(), before, "the child of the program still runs");
    }
}
