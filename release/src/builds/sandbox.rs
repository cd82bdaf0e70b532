//! A build as a process in namespaces of its own.
//!
//! What is built is hostile. It gets the files of its commit on its input and leaves an image on its
//! output; it shares no folder, no user, no network, no process and no key with the builder or with
//! another build. If the operator lists mirrors, a [proxy] is in its network.
//! [`sandbox.sh`](../../../../release/src/builds/sandbox.sh) is its first process, and
//! [`builders.sh`](../../../../release/src/builds/builders.sh) is what that does.
//!
//! | limit | enforced by |
//! | --- | --- |
//! | files | a file system in memory, of this size |
//! | processes | the kernel, for all users of the build together |
//! | memory | the kernel for each process, and the builder, which measures, for all of them |
//! | time, output | the builder |
//!
//! All of its processes end with its first one, which ends with the builder: nothing is left of a
//! build, even if the builder is killed.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use aws_lc_rs::rand;
use rustix::process::geteuid;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::log::Log;
use super::process::{self, Bounds, Group};
use super::proxy::{self, Proxy};
use crate::model::MirrorHost;

/// The first process: it sets up the sandbox, then builds.
const SCRIPT: &str = concat!(include_str!("sandbox.sh"), include_str!("builders.sh"));
/// The first ranges of users of sandboxes: those that no other program uses, by
/// <https://systemd.io/UIDS-GIDS/>.
const FIRST_USER: u32 = 0x7000_0000;
/// The users of a sandbox.
const USERS: u32 = 65_536;
/// How often the memory of a build is measured.
const MEASURED_EVERY: Duration = Duration::from_millis(200);
/// How long a sandbox may take until its build starts.
const SETUP: Duration = Duration::from_secs(30);
/// How long the end of a log is waited for after the end of a build.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// What the programs may use that map subordinate users.
const MAPPING: Bounds = Bounds { time: Duration::from_secs(10), output: 1024 };
/// Programs are looked for there alone.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a builder reaches no mirrors: it cannot enter the networks of its sandboxes.
pub(super) const NEEDS_ROOT: &str =
    "`builds.mirrors` needs a builder that is root, or `builds.jobs`";

/// What a build may use.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long it may take.
    pub time: Duration,
    /// Of all its processes together, in bytes.
    pub memory: u64,
    /// Of all its files together, in bytes.
    pub disk: u64,
    /// How many processes and threads it may have.
    pub processes: u32,
}

/// Where the log of a build goes.
pub trait Printed {
    /// Writes a part of it.
    fn write(&mut self, part: &[u8]) -> impl Future<Output = ()> + Send;
}

impl Printed for Log {
    async fn write(&mut self, part: &[u8]) {
        Self::write(self, part).await;
    }
}

/// What runs in a sandbox.
#[derive(Debug)]
pub struct Job {
    /// A layout of base images, read-only.
    pub base: Option<PathBuf>,
    /// A builder of `builders.sh`, and its arguments.
    pub arguments: Vec<String>,
    /// What it may use.
    pub limits: Limits,
    /// What it may reach.
    pub mirrors: Vec<MirrorHost>,
}

/// Why a build left no image.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The sandbox could not be set up: this is no fault of what is built.
    #[error("the sandbox of the build cannot be set up: {0}")]
    Setup(String),
    /// It took too long, and was killed.
    #[error("the build took longer than {} s, and was stopped", .0.as_secs())]
    Late(Duration),
    /// It used too much memory, and was killed.
    #[error("the build used more than {} MiB of memory, and was stopped", .0 / (1024 * 1024))]
    Memory(u64),
}

/// Runs a job with an archive of files. `receive` reads what it leaves, once the build has started.
/// Returns what that returned, and whether the build reported success.
///
/// # Errors
/// The build could not be started, or was stopped.
pub async fn run<T>(
    job: &Job,
    mut input: impl AsyncRead + Unpin,
    log: &mut impl Printed,
    receive: impl AsyncFnOnce(BufReader<ChildStdout>) -> T,
) -> Result<(T, bool), SandboxError> {
    let users = Users::choose()?;
    let mut child = users.command(job).spawn()?;
    let mut group = Group::of(&child);
    let id = child.id().ok_or_else(|| SandboxError::Setup("it ended at once".to_owned()))?;
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(SandboxError::Setup("it has no input and output".to_owned()));
    };
    let stdout = BufReader::new(stdout);
    let limits = &job.limits;
    let (notes, noted) = mpsc::channel(proxy::MAX_NOTES);
    let started = async {
        let started = timeout(SETUP, start(job, &users, id, stdin, stdout, notes)).await;
        started.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    };
    let work = async {
        let (mut stdin, stdout, proxy) = started.await?;
        // A build that needs no more input closes it.
        let feed = async move {
            let _ = tokio::io::copy(&mut input, &mut stdin).await;
        };
        let build = async {
            let ((), received) = tokio::join!(feed, receive(stdout));
            let status = child.wait().await?;
            Ok((received, status.success()))
        };
        tokio::select! {
            built = build => built,
            never = serve(proxy) => match never {},
        }
    };
    let write = write(stderr, noted, log);
    let bounded = async {
        tokio::select! {
            outcome = work => outcome,
            () = sleep(limits.time) => Err(SandboxError::Late(limits.time)),
            () = exceeds(id, limits.memory) => Err(SandboxError::Memory(limits.memory)),
        }
    };
    let (mut bounded, mut write) = (Box::pin(bounded), Box::pin(write));
    let outcome = tokio::select! {
        outcome = &mut bounded => outcome,
        // Its log may end before it does.
        () = &mut write => {
            let outcome = bounded.await;
            drop(write);
            // Only then its first process was waited for.
            if outcome.is_ok() {
                group.disarm();
            }
            return outcome;
        }
    };
    if outcome.is_ok() {
        group.disarm();
    } else {
        group.kill();
    }
    let _ = timeout(LAST_WORDS, write).await;
    outcome
}

/// Serves a build that has a proxy.
async fn serve(proxy: Option<Proxy>) -> Infallible {
    match proxy {
        Some(proxy) => proxy.serve().await,
        None => std::future::pending().await,
    }
}

/// Writes what a build prints until it closes that, with the notes of its proxy on lines of their own.
async fn write(
    mut printed: ChildStderr,
    mut notes: mpsc::Receiver<String>,
    log: &mut impl Printed,
) {
    let (mut buffer, mut is_in_line) = (vec![0; 8192], false);
    loop {
        tokio::select! {
            read = printed.read(&mut buffer) => {
                let Ok(count @ 1..) = read else { return };
                let part = buffer.get(..count).unwrap_or_default();
                is_in_line = !part.ends_with(b"\n");
                log.write(part).await;
            }
            Some(note) = notes.recv() => {
                let start = if std::mem::take(&mut is_in_line) { "\n" } else { "" };
                log.write(format!("{start}--- {note}\n").as_bytes()).await;
            }
        }
    }
}

impl From<io::Error> for SandboxError {
    fn from(error: io::Error) -> Self {
        Self::Setup(error.to_string())
    }
}

/// Maps the users of the sandbox once its first process asks for it, opens the proxy if it has one, and
/// waits until the build starts. Returns the input and the output of the build, and the proxy.
async fn start(
    job: &Job,
    users: &Users,
    id: u32,
    mut stdin: ChildStdin,
    mut stdout: BufReader<ChildStdout>,
    notes: mpsc::Sender<String>,
) -> Result<(ChildStdin, BufReader<ChildStdout>, Option<Proxy>), SandboxError> {
    expect(&mut stdout, "ready\n").await?;
    users.map(id).await?;
    let proxy = match (job.mirrors.as_slice(), users) {
        ([], _) => None,
        (_, Users::Subordinate(..)) => return Err(SandboxError::Setup(NEEDS_ROOT.to_owned())),
        (mirrors, Users::Range(first)) => {
            let bounds = proxy::Bounds::of_disk(job.limits.disk);
            let proxy = Proxy::open(id, *first, mirrors, bounds, notes).await;
            let failed = |error| SandboxError::Setup(format!("the proxy to mirrors: {error}"));
            Some(proxy.map_err(failed)?)
        }
    };
    stdin.write_all(b"go\n").await?;
    expect(&mut stdout, "started\n").await?;
    Ok((stdin, stdout, proxy))
}

async fn expect(stdout: &mut BufReader<ChildStdout>, expected: &str) -> Result<(), SandboxError> {
    let mut line = String::new();
    // Longer than any expected line; the build has not started.
    let read = (&mut *stdout).take(16).read_line(&mut line).await;
    match read {
        Ok(_) if line == expected => Ok(()),
        Ok(_) => Err(SandboxError::Setup("it ended early".to_owned())),
        Err(error) => Err(error.into()),
    }
}

/// The users that a sandbox has.
enum Users {
    /// A range of its own, for a builder that is root.
    Range(u32),
    /// The subordinate users of the builder's user, by subuid(5), as the arguments of `newuidmap`
    /// and `newgidmap`.
    Subordinate([String; 2], [String; 2]),
}

// === impl Users ===

impl Users {
    fn choose() -> Result<Self, SandboxError> {
        if !geteuid().is_root() {
            let ranges = subordinate("/etc/subuid").zip(subordinate("/etc/subgid"));
            let absent = "the builder is not root, and its user has no subordinate users: see \
                          subuid(5) and subgid(5)";
            let (users, groups) = ranges.ok_or_else(|| SandboxError::Setup(absent.to_owned()))?;
            return Ok(Self::Subordinate(users, groups));
        }
        let mut random = [0; 2];
        rand::fill(&mut random)
            .map_err(|_| SandboxError::Setup("the system has no randomness".to_owned()))?;
        // One of 4,096.
        let range = u32::from(u16::from_be_bytes(random) & 0xfff);
        Ok(Self::Range(FIRST_USER.saturating_add(range.saturating_mul(USERS))))
    }

    /// The command: it waits for the mapping of its users, then starts the first process.
    ///
    /// The user namespace is created by the first user of the range, not by root, which no limit of
    /// processes applies to.
    fn command(&self, job: &Job) -> Command {
        // It closes what the builder was started with: a shell may have left it files.
        const ENTER: &str = "for it in /proc/self/fd/*; do it=${it##*/}; \
            [ $it -le 2 ] || eval \"exec $it>&-\"; done; \
            echo ready; read -r go; \
            echo 1000 > /proc/self/oom_score_adj; \
            script=$1; shift; \
            exec setpriv --reuid 0 --regid 0 --clear-groups --pdeathsig KILL keyctl session build \
            unshare --mount --propagation private --pid --fork --kill-child --ipc --uts --cgroup \
            nice -n 10 sh -c \"$script\" sandbox \"$@\"";
        let mut command = Command::new("setpriv");
        if let Self::Range(first) = self {
            let first = first.to_string();
            command.args(["--reuid", &first, "--regid", &first, "--clear-groups"]);
        }
        command.args(["--no-new-privs", "--pdeathsig", "KILL", "prlimit"]);
        let Limits { memory, disk, processes, .. } = job.limits;
        command.arg(format!("--nproc={processes}"));
        command.args([format!("--data={memory}"), format!("--fsize={disk}")]);
        command.args(["--nofile=1024", "--core=0", "--"]);
        // The network belongs to the process that is known here: a proxy may be put into it.
        command.args(["unshare", "--user", "--net", "--keep-caps"]);
        // bash, since dash closes no descriptor above 9.
        command.args(["bash", "-c", ENTER, "sandbox", SCRIPT]);
        command.arg(disk.to_string());
        command.arg(job.base.as_deref().unwrap_or(Path::new("")));
        command.args(&job.arguments);
        command
            .env_clear()
            .envs([("PATH", PATH), ("HOME", "/home"), ("LC_ALL", "C.UTF-8"), ("TMPDIR", "/tmp")])
            .envs(proxy::ENVIRONMENT.into_iter().filter(|_| !job.mirrors.is_empty()))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    /// Maps them, from 0.
    async fn map(&self, id: u32) -> Result<(), SandboxError> {
        match self {
            Self::Range(first) => {
                for file in ["uid_map", "gid_map"] {
                    fs::write(format!("/proc/{id}/{file}"), format!("0 {first} {USERS}\n"))?;
                }
            }
            Self::Subordinate(users, groups) => {
                for (program, range) in [("newuidmap", users), ("newgidmap", groups)] {
                    let mut command = Command::new(program);
                    command.arg(id.to_string()).arg("0").args(range);
                    process::run(command, b"", MAPPING)
                        .await
                        .map_err(|error| SandboxError::Setup(format!("{program}: {error}")))?;
                }
            }
        }
        Ok(())
    }
}

/// The subordinate users or groups of the builder's user: the first one, and how many there are.
fn subordinate(file: &str) -> Option<[String; 2]> {
    let own = geteuid().as_raw().to_string();
    let accounts = fs::read_to_string("/etc/passwd").ok()?;
    // NAME:PASSWORD:USER:…
    let has_name = |line: &&str| line.split(':').nth(2) == Some(&own);
    let name = accounts.lines().find(has_name).and_then(|line| line.split(':').next());
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let whose = fields.next()?;
        let range = [fields.next()?.to_owned(), fields.next()?.to_owned()];
        (whose == own || Some(whose) == name).then_some(range)
    })
}

/// Returns when a process and all that descend from it use more memory.
async fn exceeds(id: u32, max: u64) {
    loop {
        sleep(MEASURED_EVERY).await;
        if spawn_blocking(move || memory(id)).await.is_ok_and(|used| used > max) {
            return;
        }
    }
}

/// The memory of a process and of all that descend from it, in bytes. In a sandbox an orphan becomes
/// the child of the first process, so that it still descends from it.
fn memory(id: u32) -> u64 {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    for entry in entries.flatten() {
        let process = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(process) = process
            && let Some(parent) = parent(process)
        {
            children.entry(parent).or_default().push(process);
        }
    }
    let (mut sum, mut open) = (0_u64, vec![id]);
    while let Some(process) = open.pop() {
        sum = sum.saturating_add(resident(process));
        open.extend(children.remove(&process).unwrap_or_default());
    }
    sum
}

/// The parent of a process: the second field after its name, which may have spaces and parentheses
/// (proc(5)).
fn parent(process: u32) -> Option<u32> {
    let text = fs::read(format!("/proc/{process}/stat")).ok()?;
    let end = text.iter().rposition(|octet| *octet == b')')?;
    let rest = std::str::from_utf8(text.get(end.checked_add(1)?..)?).ok()?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// The resident memory of a process, in bytes.
fn resident(process: u32) -> u64 {
    let text = fs::read(format!("/proc/{process}/status")).unwrap_or_default();
    // It has the name of the process, which need not be UTF-8.
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok());
    kibibytes.unwrap_or(0_u64).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_measured_in_bytes_for_all_sizes_of_pages() {
        let id = std::process::id();
        let before = resident(id);
        let used = vec![1_u8; 64 << 20];
        let after = resident(id);
        assert!(after.saturating_sub(before) > 48 << 20, "{before} {after}");
        assert!(memory(id) >= after / 2, "{}", used.len());
    }
}
