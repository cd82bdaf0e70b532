//! Keeps one watch alive.

use std::pin::pin;
use std::time::{Duration, SystemTime};

use futures::{Stream, StreamExt};
use kube::Api;
use kube::api::{ListParams, WatchParams};
use kube::core::{Status, WatchEvent};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::backoff::{Backoff, random};
use super::watch_session::{ImplausibleList, Step, WatchSession, Watched, is_older};
use crate::model::Origin;
use crate::problem::{Problem, Severity};
use crate::rbac::MissingRule;
use crate::source::{Closed, Update, Updates};

/// How long one watch lasts before it is resumed by another. This detects an API server that
/// disappeared without closing the connection.
const WATCH_SECONDS: u32 = 40;
/// The grace period after which a watch that the API server did not end is dropped.
const GRACE: Duration = Duration::from_secs(5);
/// A watch that ends sooner counts as failed: the next one is delayed by the back-off.
const SHORTEST: Duration = Duration::from_secs(1);
/// How long an API server may refuse what it allowed before.
const ROLES_GRACE: Duration = Duration::from_secs(30);
/// The timeout for a response of the API server.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// The page size of lists, if the API server does not stream them.
const PAGE: u32 = 500;
/// The timeout for a page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// The watch of one kind.
pub(super) struct Watch<K> {
    api: Api<K>,
    selection: Selection,
    updates: Updates,
    session: WatchSession,
    /// Whether the API server is believed to stream lists (KEP-3157).
    streams: bool,
    backoff: Backoff,
    /// Whether nothing was received since the last failure.
    interrupted: bool,
    reported: Vec<Problem>,
    /// The missing permission, as a problem for the operator.
    forbidden: Option<Problem>,
    permission: Permission,
}

/// Whether a permission is missing, rather than not loaded yet: until an API server that starts has
/// read the roles, it refuses everyone.
#[derive(Debug, Default)]
struct Permission {
    /// Since when every response is that it is missing.
    refused_since: Option<Instant>,
    /// Whether the API server has ever responded otherwise, or was unavailable.
    was_different: bool,
}

/// Which objects of a kind are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selection {
    /// All objects.
    All,
    /// The object with this name.
    Name(String),
    /// Objects with this label, regardless of its value.
    Label(&'static str),
}

/// Why a watch was interrupted.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error("the API server reported: {}", .0.message)]
    Api(Box<Status>),
    #[error("{0}")]
    Client(#[source] Box<kube::Error>),
    #[error("the API server did not respond in time")]
    Timeout,
    #[error("the API server closed the watch immediately")]
    ClosedEarly,
    #[error("the API server did not complete the list")]
    IncompleteList,
    #[error(transparent)]
    ImplausibleList(#[from] ImplausibleList),
    #[error("the receiver of updates was dropped")]
    Closed,
}

// === impl Watch ===

impl<K: Watched> Watch<K> {
    /// Creates a watch of the objects that `api` reaches.
    pub(super) fn new(api: Api<K>, selection: Selection, updates: Updates) -> Self {
        let (session, backoff) = (WatchSession::default(), Backoff::default());
        Self {
            api,
            selection,
            updates,
            session,
            streams: true,
            backoff,
            interrupted: false,
            reported: Vec::new(),
            forbidden: None,
            permission: Permission::default(),
        }
    }

    /// Sends all objects and their changes, until the receiver is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let result = match self.session.version().map(ToOwned::to_owned) {
                Some(version) => self.resume(&version).await,
                None if self.streams => self.stream_list().await,
                None => self.list().await,
            };
            match result {
                Ok(()) => {
                    self.backoff.reset();
                    self.permission.is_missing(false, Instant::now());
                }
                Err(Interrupted::Closed) => return,
                Err(error) => {
                    let pause = self.interrupted(&error).await;
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = self.updates.closed() => return,
                    }
                }
            }
        }
    }

    /// Streams the list as a watch: the API server need not buffer it. Then the watch continues.
    async fn stream_list(&mut self) -> Result<(), Interrupted> {
        self.session.begin_list();
        let params = self.watch_params().initial_events();
        // Without a version the list is as new as the request.
        let result = match request(REQUEST_TIMEOUT, self.api.watch(&params, "")).await {
            Ok(events) => self.watch(events).await,
            Err(error) => Err(error),
        };
        if self.session.version().is_some() {
            return result;
        }
        // The API server does not support the parameter: it returns an error or never completes the
        // list. Use pages next time.
        let unsupported = result.as_ref().map_or_else(Interrupted::is_invalid, |()| true);
        self.streams = !unsupported;
        result.and(Err(Interrupted::IncompleteList))
    }

    /// Lists all objects by pages.
    async fn list(&mut self) -> Result<(), Interrupted> {
        self.session.begin_list();
        let mut params = self.list_params(PAGE);
        loop {
            let page = request(PAGE_TIMEOUT, self.api.list(&params)).await?;
            self.session.listed(&page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => {
                    let version = page.metadata.resource_version.unwrap_or_default();
                    let changes =
                        self.session.end_list::<K>(version, self.selection != Selection::All)?;
                    return self.report(Step::Changed { changes, whole: true }).await;
                }
            }
        }
    }

    /// Resumes from where the last watch ended.
    async fn resume(&mut self, version: &str) -> Result<(), Interrupted> {
        if self.was_restored(version).await? {
            tracing::warn!(kind = %K::kind(&()), version, "the API server has older data than before; listing everything again");
            self.session.lose_version();
            return Ok(());
        }
        self.mark_connected();
        self.send(Update { as_of: Some(SystemTime::now()), ..Update::default() }).await?;
        let events =
            request(REQUEST_TIMEOUT, self.api.watch(&self.watch_params(), version)).await?;
        self.watch(events).await
    }

    /// Whether etcd was restored from a backup older than `version`. A watch would receive nothing
    /// in that case.
    async fn was_restored(&self, version: &str) -> Result<bool, Interrupted> {
        let list = request(REQUEST_TIMEOUT, self.api.list(&self.list_params(1))).await?;
        Ok(list.metadata.resource_version.is_some_and(|now| is_older(&now, version)))
    }

    /// Applies the events of one watch until it ends.
    async fn watch(
        &mut self,
        events: impl Stream<Item = kube::Result<WatchEvent<K>>>,
    ) -> Result<(), Interrupted> {
        let mut events = pin!(events);
        let start = Instant::now();
        let end = start + Duration::from_secs(u64::from(WATCH_SECONDS)) + GRACE;
        loop {
            let event = tokio::select! {
                event = timeout_at(end, events.next()) => event.map_err(|_| Interrupted::Timeout)?,
                () = self.updates.closed() => return Err(Interrupted::Closed),
            };
            let Some(event) = event else {
                return if start.elapsed() < SHORTEST {
                    Err(Interrupted::ClosedEarly)
                } else {
                    Ok(())
                };
            };
            let event = event?;
            match self.session.event(event, self.selection != Selection::All)? {
                Step::Failed(status) => return Err(Interrupted::Api(status)),
                Step::Lost => return Ok(()),
                step => self.report(step).await?,
            }
        }
    }

    async fn report(&mut self, step: Step) -> Result<(), Interrupted> {
        let (changes, whole) = match step {
            Step::Changed { changes, whole } => (changes, whole),
            _ => (Vec::new(), false),
        };
        self.mark_connected();
        self.backoff.reset();
        self.forbidden = None;
        let as_of = self.session.version().map(|_| SystemTime::now());
        self.send(Update { changes, problems: None, synced: whole, as_of }).await
    }

    fn mark_connected(&mut self) {
        if std::mem::take(&mut self.interrupted) {
            tracing::info!(kind = %K::kind(&()), "the watch was restored");
        }
    }

    async fn send(&mut self, update: Update) -> Result<(), Interrupted> {
        let problems: Vec<Problem> =
            self.session.problems().chain(&self.forbidden).cloned().collect();
        let problems = (problems != self.reported).then(|| {
            self.reported.clone_from(&problems);
            problems
        });
        self.updates.send(Update { problems, ..update }).await.map_err(|Closed| Interrupted::Closed)
    }

    /// Logs a failure, as a warning if it is the first; returns the wait before the next retry.
    ///
    /// Then everything is listed again: during an outage etcd can be restored from a backup, and the
    /// cluster's own writes can pass the known version before the next request. A watch from there
    /// would never hear of what was undone.
    async fn interrupted(&mut self, error: &Interrupted) -> Duration {
        self.session.lose_version();
        let wait = self.backoff.next(random());
        let kind = K::kind(&());
        if !std::mem::replace(&mut self.interrupted, true) {
            tracing::warn!(%kind, %error, "the watch was interrupted; the last known state stays");
        } else {
            tracing::debug!(%kind, %error, "the watch is still interrupted");
        }
        let now = Instant::now();
        self.forbidden = self
            .permission
            .is_missing(error.is_forbidden(), now)
            .then(|| forbidden::<K>(&self.selection, self.api.namespace(), error));
        let is_refused = error.missing_rule().is_some() && self.permission.is_lasting(now);
        let is_done_without = is_refused && self.selection.is_optional();
        let as_of = is_done_without.then(SystemTime::now);
        // If the receiver was dropped, the next step returns.
        let _ = self.send(Update { synced: is_done_without, as_of, ..Update::default() }).await;
        wait
    }

    fn watch_params(&self) -> WatchParams {
        let (field_selector, label_selector) = self.selection.selectors();
        WatchParams {
            field_selector,
            label_selector,
            timeout: Some(WATCH_SECONDS),
            ..WatchParams::default()
        }
    }

    fn list_params(&self, limit: u32) -> ListParams {
        let (field_selector, label_selector) = self.selection.selectors();
        ListParams { field_selector, label_selector, limit: Some(limit), ..ListParams::default() }
    }
}

// === impl Permission ===

impl Permission {
    /// Records a response at `now`, which is that the permission is missing, or another one. Returns
    /// whether it is.
    fn is_missing(&mut self, is_refused: bool, now: Instant) -> bool {
        if !is_refused {
            (self.refused_since, self.was_different) = (None, true);
            return false;
        }
        let _ = self.refused_since.get_or_insert(now);
        !self.was_different || self.is_lasting(now)
    }

    /// Whether it has been missing for longer than an API server takes to read the roles.
    fn is_lasting(&self, now: Instant) -> bool {
        self.refused_since.is_some_and(|since| now.duration_since(since) >= ROLES_GRACE)
    }
}

async fn request<T>(
    limit: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, Interrupted> {
    match timeout(limit, request).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Interrupted::Timeout),
    }
}

fn forbidden<K: Watched>(
    selection: &Selection,
    namespace: Option<&str>,
    error: &Interrupted,
) -> Problem {
    let plural = K::plural(&());
    let what = match (selection, namespace) {
        (Selection::Name(name), _) => format!("{plural} `{name}`"),
        (_, Some(namespace)) => format!("{plural} of the Namespace `{namespace}`"),
        (_, None) => plural.to_string(),
    };
    Problem {
        severity: Severity::Error,
        reason: "Refused",
        origin: Origin::default(),
        message: format!("the gateway may not read {what}: {error}"),
        help: error.missing_rule().map_or_else(
            || format!("grant the gateway's ServiceAccount `list` and `watch` on {what}"),
            |rule| rule.to_string(),
        ),
    }
}

// === impl Selection ===

impl Selection {
    /// Whether the gateway starts without what it may not read: one certificate of several, whose
    /// Role the owner of another Namespace can delete. Without routes or credentials it would reject
    /// what the replicas before it serve.
    fn is_optional(&self) -> bool {
        matches!(self, Self::Name(_))
    }

    /// The field selector and the label selector.
    fn selectors(&self) -> (Option<String>, Option<String>) {
        match self {
            Self::All => (None, None),
            Self::Name(name) => (Some(format!("metadata.name={name}")), None),
            Self::Label(label) => (None, Some((*label).to_owned())),
        }
    }
}

// === impl Interrupted ===

impl From<kube::Error> for Interrupted {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Api(status),
            error => Self::Client(Box::new(error)),
        }
    }
}

impl Interrupted {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Api(status) => Some(status.code),
            _ => None,
        }
    }

    fn is_invalid(&self) -> bool {
        matches!(self.code(), Some(400 | 404 | 422))
    }

    fn is_forbidden(&self) -> bool {
        matches!(self.code(), Some(401 | 403))
    }

    fn missing_rule(&self) -> Option<MissingRule<'_>> {
        match self {
            Self::Api(status) => MissingRule::of(status),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
