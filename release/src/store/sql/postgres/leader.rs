//! One builder per database: an advisory lock of a connection, which ends with it.
//!
//! The lock keeps a second builder from starting while one runs. It is not what protects the record: a
//! builder may lose it without noticing. What protects the record is the epoch, which each change
//! reads and locks.

use std::io::ErrorKind;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::target::Target;
use crate::store::StoreError;

/// How often another builder tries to lead, and one that has lost its connection tries again.
const RETRY: Duration = Duration::from_secs(1);
/// How often a builder that leads shows that it runs: a part of `idle_session_timeout`.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the connection sets: a builder that is cut off, or does not run, loses the lock.
const SESSION: &str = "SET idle_session_timeout = '30s'; SET tcp_keepalives_idle = 10; \
     SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; SET lock_timeout = '15s'";
/// Takes the lock of the schema that the store is in, if it is free.
const LOCK: &str = "SELECT pg_try_advisory_lock(hashtextextended(\
     'portcullis.dev/builder ' || COALESCE(current_schema(), ''), 0))";

/// The builder's leadership.
pub(super) struct Leader {
    superseded: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

/// Waits until no other builder leads. Returns the connection that has the lock.
pub(super) async fn elect(target: &Target) -> Result<PgConnection, StoreError> {
    let mut has_waited = false;
    let failed = |error| target.failed(error);
    let mut connection = target.connect().await?;
    loop {
        let locked = timeout(PATIENCE, try_lock(&mut connection)).await;
        if locked.unwrap_or(Err(sqlx::Error::Io(ErrorKind::TimedOut.into()))).map_err(failed)? {
            return Ok(connection);
        }
        if !has_waited {
            tracing::info!("waiting for the builder that uses the store");
        }
        has_waited = true;
        sleep(RETRY).await;
    }
}

async fn try_lock(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::raw_sql(SESSION).execute(&mut *connection).await?;
    sqlx::query_scalar(LOCK).fetch_one(connection).await
}

// === impl Leader ===

impl Leader {
    /// A leadership that no other builder has ended.
    pub(super) fn new() -> Self {
        let (superseded, _) = watch::channel(false);
        Self { superseded, task: None }
    }

    /// Keeps the lock that the connection has, until another builder increments the epoch.
    pub(super) fn watch(&mut self, connection: PgConnection, target: Target, epoch: i64) {
        let superseded = self.superseded.clone();
        self.task = Some(tokio::spawn(async move {
            keep(connection, &target, epoch).await;
            superseded.send_replace(true);
        }));
    }

    /// Waits until another builder leads.
    pub(super) async fn superseded(&self) {
        let mut superseded = self.superseded.subscribe();
        // The sender lives as long as `self`.
        let _ = superseded.wait_for(|superseded| *superseded).await;
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Returns when another builder leads.
async fn keep(mut connection: PgConnection, target: &Target, epoch: i64) {
    loop {
        while matches!(timeout(PATIENCE, connection.ping()).await, Ok(Ok(()))) {
            sleep(HEARTBEAT).await;
        }
        tracing::warn!("lost the connection that holds the lock of the store: connecting again");
        match retake(target, epoch).await {
            Some(retaken) => connection = retaken,
            None => return,
        }
        tracing::info!("holding the lock of the store again");
    }
}

/// Takes the lock again; `None` if another builder has led since.
async fn retake(target: &Target, epoch: i64) -> Option<PgConnection> {
    loop {
        match timeout(PATIENCE, try_retake(target, epoch)).await {
            Ok(Ok(Retaken::Leads(connection))) => return Some(connection),
            Ok(Ok(Retaken::Superseded)) => return None,
            Ok(Ok(Retaken::Waits)) | Err(_) => {}
            Ok(Err(error)) => tracing::warn!(%error, "failed to take the lock of the store"),
        }
        sleep(RETRY).await;
    }
}

enum Retaken {
    Leads(PgConnection),
    /// The server has not noticed yet that the connection has gone, or another builder starts.
    Waits,
    Superseded,
}

async fn try_retake(target: &Target, epoch: i64) -> Result<Retaken, StoreError> {
    let mut connection = target.connect().await?;
    let taken = try_lock(&mut connection).await?;
    let current: i64 =
        sqlx::query_scalar("SELECT epoch FROM epoch").fetch_one(&mut connection).await?;
    Ok(match (current == epoch, taken) {
        (false, _) => Retaken::Superseded,
        (true, true) => Retaken::Leads(connection),
        (true, false) => Retaken::Waits,
    })
}
