//! Keeps one watch alive.

use std::pin::pin;
use std::time::{Duration, SystemTime};

use futures::{Stream, StreamExt};
use kube::Api;
use kube::api::{ListParams, WatchParams};
use kube::core::{Status, WatchEvent};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::backoff::{Backoff, random};
use super::watch_session::{Session, Step, Unbelievable, Watched, is_older};
use crate::model::Origin;
use crate::problem::{Problem, Severity};
use crate::source::{Stopped, Update, Updates};

/// How long one watch lasts before it is resumed by another. An API server that went away without a
/// word is found by that.
const WATCH_SECONDS: u32 = 40;
/// How much later than agreed the API server may end a watch.
const GRACE: Duration = Duration::from_secs(5);
/// A watch that ends before this was not one: the next is not asked for at once.
const SHORTEST: Duration = Duration::from_secs(1);
/// How long the API server may take to answer a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How many objects a page of a list has, where the API server does not stream lists.
const PAGE: u32 = 500;
/// How long an answer with a page may take.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// One kind, watched.
pub(super) struct Watch<K> {
    api: Api<K>,
    selection: Selection,
    updates: Updates,
    session: Session,
    /// Whether the API server streams lists (KEP-3157), as far as is known.
    streams: bool,
    backoff: Backoff,
    /// Whether the API server was not heard of since something went wrong.
    interrupted: bool,
    told: Vec<Problem>,
    /// What the API server refuses, for whoever may grant it.
    refused: Option<Problem>,
}

/// Which objects of a kind are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selection {
    /// All.
    All,
    /// The one of this name.
    Name(String),
    /// Those with this label, whatever its value.
    Label(&'static str),
}

/// Why a watch does not go on.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error("the API server said: {}", .0.message)]
    Said(Box<Status>),
    #[error("{0}")]
    Client(#[source] Box<kube::Error>),
    #[error("the API server did not answer in time")]
    Late,
    #[error("the API server ended the watch at once")]
    Short,
    #[error("the API server did not end the list that it began")]
    Unended,
    #[error(transparent)]
    Unbelievable(#[from] Unbelievable),
    #[error("nobody listens any more")]
    Stopped,
}

// === impl Watch ===

impl<K: Watched> Watch<K> {
    /// Of those objects that `api` reaches.
    pub(super) fn new(api: Api<K>, selection: Selection, updates: Updates) -> Self {
        let (session, backoff) = (Session::default(), Backoff::default());
        Self {
            api,
            selection,
            updates,
            session,
            streams: true,
            backoff,
            interrupted: false,
            told: Vec::new(),
            refused: None,
        }
    }

    /// Tells what there is and what changes, until nobody listens.
    pub(super) async fn run(mut self) {
        loop {
            let result = match self.session.version().map(ToOwned::to_owned) {
                Some(version) => self.resume(&version).await,
                None if self.streams => self.stream_list().await,
                None => self.list().await,
            };
            match result {
                Ok(()) => self.backoff.reset(),
                Err(Interrupted::Stopped) => return,
                Err(error) => {
                    let pause = self.interrupted(&error).await;
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = self.updates.stopped() => return,
                    }
                }
            }
        }
    }

    /// A list by way of a watch: the API server need not hold it in whole. The watch then goes on.
    async fn stream_list(&mut self) -> Result<(), Interrupted> {
        self.session.begin_list();
        let params = self.watch_params().initial_events();
        // Without a version it is as new as the moment of the request.
        let result = match request(REQUEST_TIMEOUT, self.api.watch(&params, "")).await {
            Ok(events) => self.follow(events).await,
            Err(error) => Err(error),
        };
        if self.session.version().is_some() {
            return result;
        }
        // It does not know the parameter: it says so, or it never ends the list. Next time by
        // pages.
        let unknown = result.as_ref().map_or_else(Interrupted::is_invalid, |()| true);
        self.streams = !unknown;
        result.and(Err(Interrupted::Unended))
    }

    /// A list by pages.
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
                    return self.tell(Step::Changed { changes, whole: true }).await;
                }
            }
        }
    }

    /// Goes on where the last watch ended.
    async fn resume(&mut self, version: &str) -> Result<(), Interrupted> {
        if self.is_set_back(version).await? {
            tracing::warn!(kind = %K::kind(&()), version, "the cluster's store was set back: all is listed again");
            self.session.lose();
            return Ok(());
        }
        self.heard();
        self.send(Update { heard: Some(SystemTime::now()), ..Update::default() }).await?;
        let events =
            request(REQUEST_TIMEOUT, self.api.watch(&self.watch_params(), version)).await?;
        self.follow(events).await
    }

    /// Whether the API server knows less than we do: a store that was restored from a backup. A
    /// watch would just be silent then.
    async fn is_set_back(&self, version: &str) -> Result<bool, Interrupted> {
        let list = request(REQUEST_TIMEOUT, self.api.list(&self.list_params(1))).await?;
        Ok(list.metadata.resource_version.is_some_and(|now| is_older(&now, version)))
    }

    /// Takes the events of one watch to its end.
    async fn follow(
        &mut self,
        events: impl Stream<Item = kube::Result<WatchEvent<K>>>,
    ) -> Result<(), Interrupted> {
        let mut events = pin!(events);
        let start = Instant::now();
        let end = start + Duration::from_secs(u64::from(WATCH_SECONDS)) + GRACE;
        loop {
            let event = tokio::select! {
                event = timeout_at(end, events.next()) => event.map_err(|_| Interrupted::Late)?,
                () = self.updates.stopped() => return Err(Interrupted::Stopped),
            };
            let Some(event) = event else {
                return if start.elapsed() < SHORTEST { Err(Interrupted::Short) } else { Ok(()) };
            };
            let event = event?;
            match self.session.event(event, self.selection != Selection::All)? {
                Step::Failed(status) => return Err(Interrupted::Said(status)),
                Step::Lost => return Ok(()),
                step => self.tell(step).await?,
            }
        }
    }

    async fn tell(&mut self, step: Step) -> Result<(), Interrupted> {
        let (changes, whole) = match step {
            Step::Changed { changes, whole } => (changes, whole),
            _ => (Vec::new(), false),
        };
        self.heard();
        self.backoff.reset();
        self.refused = None;
        let heard = self.session.version().map(|_| SystemTime::now());
        self.send(Update { changes, problems: None, synced: whole, heard }).await
    }

    fn heard(&mut self) {
        if std::mem::take(&mut self.interrupted) {
            tracing::info!(kind = %K::kind(&()), "heard of the API server again");
        }
    }

    async fn send(&mut self, update: Update) -> Result<(), Interrupted> {
        let problems: Vec<Problem> =
            self.session.problems().chain(&self.refused).cloned().collect();
        let problems = (problems != self.told).then(|| {
            self.told.clone_from(&problems);
            problems
        });
        self.updates
            .tell(Update { problems, ..update })
            .await
            .map_err(|Stopped| Interrupted::Stopped)
    }

    /// Says a failure, loudly where it is new; gives the time to wait before the next try.
    async fn interrupted(&mut self, error: &Interrupted) -> Duration {
        if error.is_gone() {
            self.session.lose();
        }
        let wait = self.backoff.next(random());
        let kind = K::kind(&());
        if !std::mem::replace(&mut self.interrupted, true) {
            tracing::warn!(%kind, %error, "the watch was interrupted; what is known stays");
        } else {
            tracing::debug!(%kind, %error, "the watch is still interrupted");
        }
        self.refused =
            error.is_refused().then(|| refused::<K>(&self.selection, self.api.namespace(), error));
        // That nobody listens any more is found by the next step.
        let _ = self.send(Update::default()).await;
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

async fn request<T>(
    limit: Duration,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, Interrupted> {
    match timeout(limit, request).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Interrupted::Late),
    }
}

fn refused<K: Watched>(
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
        message: format!("{what} may not be read: {error}"),
        help: format!("grant the gateway's ServiceAccount `list` and `watch` on {what}"),
    }
}

// === impl Selection ===

impl Selection {
    /// Of fields, and of labels.
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
            kube::Error::Api(status) => Self::Said(status),
            error => Self::Client(Box::new(error)),
        }
    }
}

impl Interrupted {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Said(status) => Some(status.code),
            _ => None,
        }
    }

    fn is_gone(&self) -> bool {
        self.code() == Some(410)
    }

    fn is_invalid(&self) -> bool {
        matches!(self.code(), Some(400 | 404 | 422))
    }

    fn is_refused(&self) -> bool {
        matches!(self.code(), Some(401 | 403))
    }
}

#[cfg(test)]
mod tests;
