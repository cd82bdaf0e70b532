//! A build as a Job of a cluster.
//!
//! The pod of the Job has no credentials, and no network but to mirrors: the builder reaches a process
//! in it by the API server (`exec`), sends what is built, and reads the log and the image, as
//! [`frames`]. In the pod the build is in the same [sandbox](super::sandbox) as elsewhere.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`mod@manifest`] | the Job: pure |
//! | [`frames`] | the messages between builder and pod |
//! | [`conversation`] | the builder's side |
//! | [`pod`] | the pod's side |

mod conversation;
mod frames;
mod manifest;
pub mod pod;

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::rand;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::{Api, DeleteParams, ListParams, PostParams, PropagationPolicy};
use kube::{Client, ResourceExt};
use tokio::io::{AsyncRead, DuplexStream};
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout};

use self::conversation::{Broken, Sent, converse};
pub(super) use self::manifest::START;
use self::manifest::{CONTAINER, MANAGED, PROGRAM, SUBCOMMAND, manifest};
use super::base;
use super::log::{Log, as_reason};
use super::sandbox::{Limits, SandboxError};
use crate::causes::causes;
use crate::cluster::{Program, why_not_ready};
use crate::model::MirrorHost;
use crate::settings::JobSettings;

/// How often it is looked whether a pod runs.
const POLL: Duration = Duration::from_millis(300);
/// How often it is looked why a pod does not run.
const EXPLAINED_EVERY: Duration = Duration::from_secs(5);
/// How long a call of the API server may take.
const CALL: Duration = Duration::from_secs(30);
/// How long it is looked for why a connection was lost.
const POST_MORTEM: Duration = Duration::from_secs(10);
/// How often the deletion of a Job is tried.
const DELETIONS: u32 = 5;
/// How much of a stream is on its way.
const BUFFER: usize = 64 * 1024;

/// Builds in Jobs.
pub struct Jobs {
    client: Client,
    settings: JobSettings,
    /// How long a pod may take until it runs.
    patience: Duration,
    /// Whether what an earlier builder has left was removed.
    removed: OnceCell<()>,
}

/// What runs in a Job.
pub(super) struct Work<'w, I> {
    /// What it is for, as annotations.
    pub(super) annotations: BTreeMap<String, String>,
    /// A builder of `builders.sh`, and its arguments.
    pub(super) arguments: &'w [String],
    /// What it may use.
    pub(super) limits: &'w Limits,
    /// What it may reach.
    pub(super) mirrors: &'w [MirrorHost],
    /// Its base images.
    pub(super) base: Option<base::Archive>,
    /// The archive of its files.
    pub(super) files: I,
}

/// A Job that is deleted when this is dropped: at the end of its build, however that ends.
struct Running {
    jobs: Api<Job>,
    name: String,
    uid: String,
}

// === impl Jobs ===

impl Jobs {
    /// Jobs of the cluster of a client. Sends no request.
    #[must_use]
    pub fn new(client: Client, settings: JobSettings) -> Self {
        Self { client, settings, patience: START, removed: OnceCell::new() }
    }

    /// Removes the Jobs that an earlier builder has left. No build starts before.
    ///
    /// # Errors
    /// The API server rejects it, or cannot be reached.
    pub(super) async fn remove_left_over(&self) -> Result<(), SandboxError> {
        let remove = || async {
            let jobs = self.jobs();
            let selected = ListParams::default().labels(MANAGED);
            for job in bounded(jobs.list_metadata(&selected)).await?.items {
                let name = job.name_any();
                tracing::info!(job = %name, "removing a build that an earlier builder has left");
                delete(&jobs, &name, job.uid()).await.map_err(SandboxError::Setup)?;
            }
            Ok::<_, SandboxError>(())
        };
        self.removed.get_or_try_init(remove).await?;
        Ok(())
    }

    /// Builds in a Job. `receive` reads the image that it leaves. Returns what that returned, and
    /// whether the build reported success.
    ///
    /// # Errors
    /// The Job could not be started, or the build was stopped.
    pub(super) async fn run<T>(
        &self,
        work: Work<'_, impl AsyncRead + Unpin>,
        log: &mut Log,
        receive: impl AsyncFnOnce(DuplexStream) -> T,
    ) -> Result<(T, bool), SandboxError> {
        let Work { annotations, arguments, limits, mirrors, base, files } = work;
        self.remove_left_over().await?;
        let running = self.create(&annotations, limits).await?;
        log.note(&format!("it is the Job {}", running.name)).await;
        let pod = self.started(&running, log).await?;
        let namespace = &self.settings.namespace;
        let command = [PROGRAM, SUBCOMMAND, "--connect"];
        let program = Program::start(&self.client, namespace, &pod, CONTAINER, &command);
        let program = timeout(CALL, program).await.map_err(|_| late())?;
        let program = program.map_err(|reason| {
            SandboxError::Setup(format!("the pod {pod} cannot be reached: {reason}"))
        })?;
        let (to_pod, input) = tokio::io::duplex(BUFFER);
        let (output, from_pod) = tokio::io::duplex(BUFFER);
        let sent = Sent { arguments, limits, mirrors, base, files };
        // Boxed: both are large.
        let mut conversation = Box::pin(converse(from_pod, to_pod, sent, log, receive));
        let mut relay = Box::pin(program.relay(input, output));
        let (ended, end) = tokio::select! {
            ended = &mut conversation => (ended, None),
            // What it has read may be the outcome.
            end = &mut relay => (conversation.await, Some(end)),
        };
        match ended {
            Ok(ended) => Ok(ended),
            Err(Broken::Sandbox(error)) => Err(error),
            Err(Broken::Lost(reason)) => {
                let reason = end.filter(|end| !end.is_empty()).unwrap_or(reason);
                Err(self.why_lost(&pod, limits, &as_reason(reason.as_bytes())).await)
            }
        }
    }

    fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.client.clone(), &self.settings.namespace)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.settings.namespace)
    }

    async fn create(
        &self,
        annotations: &BTreeMap<String, String>,
        limits: &Limits,
    ) -> Result<Running, SandboxError> {
        let mut random = [0; 8];
        rand::fill(&mut random)
            .map_err(|_| SandboxError::Setup("the system has no randomness".to_owned()))?;
        let name = format!("build-{}", hex::encode(random));
        let job = manifest(&name, annotations, limits, &self.settings);
        let job: Job = serde_json::from_value(job)
            .map_err(|error| SandboxError::Setup(format!("the Job: {error}")))?;
        let jobs = self.jobs();
        // From here on it may be there, whatever becomes of the call.
        let mut running = Running { jobs: jobs.clone(), name, uid: String::new() };
        match timeout(CALL, jobs.create(&PostParams::default(), &job)).await {
            Ok(Ok(created)) => {
                running.uid = created.uid().unwrap_or_default();
                Ok(running)
            }
            Ok(Err(kube::Error::Api(status))) if (400..500).contains(&status.code) => {
                // Under this name there is none, or that of somebody else.
                running.name.clear();
                Err(SandboxError::Setup(format!("the Job is rejected: {}", status.message)))
            }
            Ok(Err(error)) => Err(SandboxError::Setup(causes(&error))),
            Err(_) => Err(late()),
        }
    }

    /// Waits until the pod of a Job runs; returns its name.
    async fn started(&self, running: &Running, log: &mut Log) -> Result<String, SandboxError> {
        let selector = format!("batch.kubernetes.io/controller-uid={}", running.uid);
        let selected = ListParams::default().labels(&selector);
        let deadline = Instant::now().checked_add(self.patience);
        let mut explained = Instant::now();
        loop {
            let pods = bounded(self.pods().list(&selected)).await?.items;
            let mut pods = pods.into_iter().filter(|pod| is_of(pod, &running.uid));
            let pod = pods.next();
            // A Job has one. Another one says that it is of this Job, too: it is not known which is.
            if pods.next().is_some() {
                let name = &running.name;
                return Err(SandboxError::Setup(format!("the Job {name} has more than one pod")));
            }
            let phase = pod.as_ref().and_then(|pod| pod.status.as_ref()?.phase.as_deref());
            match (&pod, phase) {
                (Some(pod), Some("Running")) => {
                    log.waits_for(None).await;
                    return Ok(pod.name_any());
                }
                (_, Some("Failed" | "Succeeded")) => break,
                _ if deadline.is_none_or(|deadline| Instant::now() >= deadline) => break,
                _ => sleep(POLL).await,
            }
            if explained.elapsed() >= EXPLAINED_EVERY {
                log.waits_for(self.obstacle(running, &selector).await.as_deref()).await;
                explained = Instant::now();
            }
        }
        let why = self.obstacle(running, &selector).await;
        let why = why.unwrap_or_else(|| "it has no pod that runs".to_owned());
        Err(SandboxError::Setup(format!("the Job {} does not start: {why}", running.name)))
    }

    /// Why the pod of a Job does not run, as far as that can be found out.
    async fn obstacle(&self, running: &Running, selector: &str) -> Option<String> {
        let namespace = &self.settings.namespace;
        let why = why_not_ready(&self.client, namespace, ("Job", &running.name), selector);
        timeout(CALL, why).await.ok().flatten()
    }

    /// Why a connection to a pod was lost.
    async fn why_lost(&self, pod: &str, limits: &Limits, reason: &str) -> SandboxError {
        let ended = async {
            loop {
                let found = self.pods().get_opt(pod).await.ok().flatten();
                let phase = found.as_ref().and_then(|pod| pod.status.as_ref()?.phase.as_deref());
                match phase {
                    Some("Failed" | "Succeeded") | None => return found,
                    _ => sleep(POLL).await,
                }
            }
        };
        let ended = timeout(POST_MORTEM, ended).await.ok().flatten();
        if ended.as_ref().is_some_and(was_out_of_memory) {
            return SandboxError::Memory(limits.memory);
        }
        let status = ended.and_then(|pod| pod.status);
        let why = status.and_then(|status| status.message.or(status.reason));
        let why = why.map_or_else(String::new, |why| format!(" ({why})"));
        SandboxError::Setup(format!("the connection to the pod {pod} was lost: {reason}{why}"))
    }
}

/// Whether the controller of a Job made a pod.
fn is_of(pod: &Pod, job: &str) -> bool {
    pod.owner_references()
        .iter()
        .any(|owner| owner.kind == "Job" && owner.uid == job && owner.controller == Some(true))
}

/// Whether the kernel killed a container, since the pod had too much memory.
fn was_out_of_memory(pod: &Pod) -> bool {
    let reason =
        |container: &ContainerStatus| container.state.as_ref()?.terminated.as_ref()?.reason.clone();
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    containers.into_iter().flatten().any(|one| reason(one).as_deref() == Some("OOMKilled"))
}

async fn bounded<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, SandboxError> {
    let answer = timeout(CALL, call).await.map_err(|_| late())?;
    answer.map_err(|error| SandboxError::Setup(causes(&error)))
}

fn late() -> SandboxError {
    SandboxError::Setup(format!("the API server did not answer within {} s", CALL.as_secs()))
}

/// Deletes a Job and its pod, if they are there.
async fn delete(jobs: &Api<Job>, name: &str, uid: Option<String>) -> Result<(), String> {
    let mut parameters = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        ..DeleteParams::default()
    };
    if let Some(uid) = uid {
        parameters = parameters
            .preconditions(kube::api::Preconditions { uid: Some(uid), resource_version: None });
    }
    match timeout(CALL, jobs.delete(name, &parameters)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(()),
        Ok(Err(error)) => Err(causes(&error)),
        Err(_) => Err(late().to_string()),
    }
}

// === impl Running ===

impl Drop for Running {
    fn drop(&mut self) {
        let (jobs, name) = (self.jobs.clone(), std::mem::take(&mut self.name));
        let uid = Some(std::mem::take(&mut self.uid)).filter(|uid| !uid.is_empty());
        if name.is_empty() {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            for attempt in 1..=DELETIONS {
                match delete(&jobs, &name, uid.clone()).await {
                    Ok(()) => return,
                    // It ends by itself: its connection is lost.
                    Err(error) => tracing::warn!(%error, job = %name, attempt, "failed to delete"),
                }
                sleep(Duration::from_secs(u64::from(attempt))).await;
            }
        });
    }
}

#[cfg(test)]
mod tests;
