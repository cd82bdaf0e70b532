//! Builds of repositories.

use std::collections::BTreeMap;

use serde_json::Value;

use super::audit;
use super::query::{Connection, Row, query};
use super::row::{self, get};
use crate::model::{
    BuildId, CommitId, EnvironmentName, Placement, ReleaseId, RepositoryName, ServiceName, Time,
};
use crate::store::{
    AuditEntry, Autopush, Build, BuildChange, BuildState, BuildTarget, By, MAX_PAGE, StoreError,
    TargetState,
};

/// What waits and runs of each repository.
pub(super) async fn schedules(
    connection: &mut Connection,
) -> Result<BTreeMap<RepositoryName, Value>, StoreError> {
    let rows = query("SELECT repository, schedule FROM schedules").fetch_all(connection).await?;
    rows.iter()
        .map(|row| Ok((row::name(row, "repository")?, row::json(row, "schedule")?)))
        .collect()
}

/// Records what waits and runs of a repository, and how its builds change by it.
pub(super) async fn record_schedule(
    connection: &mut Connection,
    repository: &RepositoryName,
    schedule: &Value,
    changes: Vec<BuildChange>,
    by: &By,
) -> Result<Vec<Build>, StoreError> {
    query(
        "INSERT INTO schedules (repository, schedule) VALUES ($1, $2) \
         ON CONFLICT (repository) DO UPDATE SET schedule = excluded.schedule",
    )
    .bind(repository.as_str())
    .bind(row::to_json(schedule)?)
    .execute(&mut *connection)
    .await?;
    let mut changed = Vec::new();
    for change in changes {
        changed.push(match change {
            BuildChange::Create { commit, is_requested } => {
                create(connection, repository, commit, is_requested, by).await?
            }
            BuildChange::Advance { build, state, reason } => {
                advance(connection, build, state, reason, by).await?
            }
        });
    }
    Ok(changed)
}

async fn create(
    connection: &mut Connection,
    repository: &RepositoryName,
    commit: CommitId,
    is_requested: bool,
    by: &By,
) -> Result<Build, StoreError> {
    let newest: Option<i64> = query("SELECT MAX(number) FROM builds WHERE repository = $1")
        .bind(repository.as_str())
        .fetch_scalar(&mut *connection)
        .await?;
    let number = u32::try_from(row::next(newest)).map_err(|_| StoreError::Full)?;
    let build = Build {
        id: BuildId { repository: repository.clone(), number },
        commit,
        is_requested,
        state: BuildState::Waiting,
        reason: None,
        attempts: 0,
        version: 1,
        created_by: by.actor.clone(),
        created_at: by.at,
        started_at: None,
        updated_at: by.at,
    };
    query(
        "INSERT INTO builds (repository, number, source_commit, is_requested, version, is_open, \
         state, attempts, created_by, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, 1, 1, $5, 0, $6, $7, $7)",
    )
    .bind(repository.as_str())
    .bind(i64::from(number))
    .bind(build.commit.as_str())
    .bind(is_requested)
    .bind(row::to_json(&build.state)?)
    .bind(&by.actor)
    .bind(row::milliseconds(by.at))
    .execute(&mut *connection)
    .await?;
    if is_requested {
        let entry = AuditEntry {
            after: Some(build.commit.to_string()),
            ..audit::entry(by, "build.request", build.id.to_string())?
        };
        audit::record(connection, by, &entry).await?;
    }
    Ok(build)
}

async fn advance(
    connection: &mut Connection,
    build: Build,
    state: BuildState,
    reason: Option<String>,
    by: &By,
) -> Result<Build, StoreError> {
    let starts = state == BuildState::Running && build.state != BuildState::Running;
    let next = Build {
        attempts: build.attempts.saturating_add(u32::from(starts)),
        version: build.version.saturating_add(1),
        started_at: if starts { Some(by.at) } else { build.started_at },
        updated_at: by.at,
        state,
        reason,
        ..build.clone()
    };
    let changed = query(
        "UPDATE builds SET version = $4, is_open = $5, state = $6, reason = $7, attempts = $8, \
         started_at = $9, updated_at = $10 WHERE repository = $1 AND number = $2 AND version = $3",
    )
    .bind(build.id.repository.as_str())
    .bind(i64::from(build.id.number))
    .bind(i64::from(build.version))
    .bind(i64::from(next.version))
    .bind(next.state.is_open())
    .bind(row::to_json(&next.state)?)
    .bind(&next.reason)
    .bind(i64::from(next.attempts))
    .bind(next.started_at.map(row::milliseconds))
    .bind(row::milliseconds(by.at))
    .execute(&mut *connection)
    .await?;
    if changed == 0 {
        return Err(StoreError::Outdated);
    }
    if !next.state.is_open() {
        close_targets(connection, &next).await?;
    }
    // One that runs is told to stop, and has stopped later: only the order is that of a person.
    let is_ordered = match next.state {
        BuildState::Cancelled => build.state == BuildState::Waiting,
        BuildState::Running => build.state == BuildState::Running,
        _ => false,
    };
    if is_ordered {
        let entry = AuditEntry {
            before: Some(build.commit.to_string()),
            ..audit::entry(by, "build.cancel", build.id.to_string())?
        };
        audit::record(connection, by, &entry).await?;
    }
    Ok(next)
}

/// Records that nothing more becomes of the targets of a build that has ended.
async fn close_targets(connection: &mut Connection, build: &Build) -> Result<(), StoreError> {
    let ended = match &build.state {
        BuildState::Superseded { superseded_by } => format!("superseded by {superseded_by}"),
        BuildState::Cancelled => "the build was cancelled".to_owned(),
        _ => "the build has ended before".to_owned(),
    };
    query(
        "UPDATE build_targets SET state = $3, problem = $4 \
         WHERE repository = $1 AND number = $2 AND state IN ($5, $6)",
    )
    .bind(build.id.repository.as_str())
    .bind(i64::from(build.id.number))
    .bind(row::to_json(&TargetState::Failed)?)
    .bind(build.reason.clone().unwrap_or(ended))
    .bind(row::to_json(&TargetState::Building)?)
    .bind(row::to_json(&TargetState::Pushed)?)
    .execute(connection)
    .await?;
    Ok(())
}

/// A build.
pub(super) async fn find(
    connection: &mut Connection,
    id: &BuildId,
) -> Result<Option<Build>, StoreError> {
    let row = query("SELECT * FROM builds WHERE repository = $1 AND number = $2")
        .bind(id.repository.as_str())
        .bind(i64::from(id.number))
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read).transpose()
}

/// The build that an idempotency key made.
pub(super) async fn made(
    connection: &mut Connection,
    by: &By,
) -> Result<Option<Build>, StoreError> {
    let Some(made) = audit::made(connection, by).await? else { return Ok(None) };
    let id = made.parse().map_err(|_| StoreError::Invalid(made))?;
    find(connection, &id).await
}

/// Builds of a repository, the newest first.
pub(super) async fn list(
    connection: &mut Connection,
    repository: &RepositoryName,
    before: Option<u32>,
    limit: u32,
) -> Result<Vec<Build>, StoreError> {
    let rows = query(
        "SELECT * FROM builds WHERE repository = $1 AND ($2 IS NULL OR number < $2) \
         ORDER BY number DESC LIMIT $3",
    )
    .bind(repository.as_str())
    .bind(before.map(i64::from))
    .bind(i64::from(limit.min(MAX_PAGE)))
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

/// The builds of a repository that wait or run, the oldest first.
pub(super) async fn open(
    connection: &mut Connection,
    repository: &RepositoryName,
) -> Result<Vec<Build>, StoreError> {
    let rows = query("SELECT * FROM builds WHERE repository = $1 AND is_open = 1 ORDER BY number")
        .bind(repository.as_str())
        .fetch_all(connection)
        .await?;
    rows.iter().map(read).collect()
}

/// The targets of a build, by service.
pub(super) async fn targets(
    connection: &mut Connection,
    id: &BuildId,
) -> Result<Vec<BuildTarget>, StoreError> {
    let rows =
        query("SELECT * FROM build_targets WHERE repository = $1 AND number = $2 ORDER BY service")
            .bind(id.repository.as_str())
            .bind(i64::from(id.number))
            .fetch_all(connection)
            .await?;
    rows.iter().map(read_target).collect()
}

/// Records what became of a target, unless its build has changed.
pub(super) async fn record_target(
    connection: &mut Connection,
    build: &Build,
    target: &BuildTarget,
    now: Time,
) -> Result<bool, StoreError> {
    let found = query(
        "UPDATE builds SET updated_at = $4 \
         WHERE repository = $1 AND number = $2 AND version = $3 AND is_open = 1",
    )
    .bind(build.id.repository.as_str())
    .bind(i64::from(build.id.number))
    .bind(i64::from(build.version))
    .bind(row::milliseconds(now))
    .execute(&mut *connection)
    .await?;
    if found == 0 {
        return Ok(false);
    }
    let number = |release: &Option<ReleaseId>| release.as_ref().map(|id| i64::from(id.number));
    query(
        "INSERT INTO build_targets (repository, number, service, key, manifests, state, image, \
         release, unchanged_since, problem, autopush, autopushed) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
         ON CONFLICT (repository, number, service) DO UPDATE SET key = excluded.key, \
         manifests = excluded.manifests, state = excluded.state, image = excluded.image, \
         release = excluded.release, unchanged_since = excluded.unchanged_since, \
         problem = excluded.problem, autopush = excluded.autopush, \
         autopushed = excluded.autopushed",
    )
    .bind(build.id.repository.as_str())
    .bind(i64::from(build.id.number))
    .bind(target.service.as_str())
    .bind(&target.key)
    .bind(&target.manifests)
    .bind(row::to_json(&target.state)?)
    .bind(&target.image)
    .bind(number(&target.release))
    .bind(number(&target.unchanged_since))
    .bind(&target.problem)
    .bind(target.autopush.as_ref().map(EnvironmentName::as_str))
    .bind(&target.autopushed)
    .execute(connection)
    .await?;
    Ok(true)
}

/// The last target of a service that was released, with the same inputs if there is a `key`.
pub(super) async fn released_target(
    connection: &mut Connection,
    repository: &RepositoryName,
    service: &ServiceName,
    key: Option<&str>,
) -> Result<Option<BuildTarget>, StoreError> {
    let row = query(
        "SELECT * FROM build_targets WHERE repository = $1 AND service = $2 \
         AND release IS NOT NULL AND ($3 IS NULL OR key = $3) ORDER BY number DESC LIMIT 1",
    )
    .bind(repository.as_str())
    .bind(service.as_str())
    .bind(key)
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(read_target).transpose()
}

/// The releases that are still to be deployed, the newest first.
pub(super) async fn open_autopushes(
    connection: &mut Connection,
) -> Result<Vec<Autopush>, StoreError> {
    let rows = query(
        "SELECT repository, number, service, release, autopush FROM build_targets \
         WHERE autopush IS NOT NULL AND release IS NOT NULL ORDER BY service, release DESC",
    )
    .fetch_all(connection)
    .await?;
    let read = |row| {
        let service = row::service(row)?;
        let environment = row::name(row, "autopush")?;
        Ok(Autopush {
            build: id(row)?,
            release: ReleaseId { service: service.clone(), number: row::number(row, "release")? },
            placement: Placement { service, environment },
        })
    };
    rows.iter().map(read).collect()
}

/// Records what became of an autopush, and that earlier ones are not performed.
pub(super) async fn close_autopush(
    connection: &mut Connection,
    autopush: &Autopush,
    outcome: &str,
) -> Result<(), StoreError> {
    query(
        "UPDATE build_targets SET autopush = NULL, autopushed = \
         CASE WHEN release = $3 THEN $4 ELSE 'superseded by ' || $1 || '.' || $3 END \
         WHERE service = $1 AND autopush = $2 AND release <= $3",
    )
    .bind(autopush.placement.service.as_str())
    .bind(autopush.placement.environment.as_str())
    .bind(i64::from(autopush.release.number))
    .bind(outcome)
    .execute(connection)
    .await?;
    Ok(())
}

fn id(row: &Row) -> Result<BuildId, StoreError> {
    Ok(BuildId { repository: row::name(row, "repository")?, number: row::number(row, "number")? })
}

fn read(row: &Row) -> Result<Build, StoreError> {
    let has_started = get::<Option<i64>>(row, "started_at")?.is_some();
    Ok(Build {
        id: id(row)?,
        commit: row::name(row, "source_commit")?,
        is_requested: get::<i64>(row, "is_requested")? != 0,
        state: row::json(row, "state")?,
        reason: get(row, "reason")?,
        attempts: row::number(row, "attempts")?,
        version: row::number(row, "version")?,
        created_by: get(row, "created_by")?,
        created_at: row::time(row, "created_at")?,
        started_at: has_started.then(|| row::time(row, "started_at")).transpose()?,
        updated_at: row::time(row, "updated_at")?,
    })
}

fn read_target(row: &Row) -> Result<BuildTarget, StoreError> {
    let service = row::service(row)?;
    let release = |column| {
        let number = row::optional(row, column)?;
        Ok::<_, StoreError>(number.map(|number| ReleaseId { service: service.clone(), number }))
    };
    let has_autopush = get::<Option<String>>(row, "autopush")?.is_some();
    Ok(BuildTarget {
        key: get(row, "key")?,
        manifests: get(row, "manifests")?,
        state: row::json(row, "state")?,
        image: get(row, "image")?,
        release: release("release")?,
        unchanged_since: release("unchanged_since")?,
        problem: get(row, "problem")?,
        autopush: has_autopush.then(|| row::name(row, "autopush")).transpose()?,
        autopushed: get(row, "autopushed")?,
        service,
    })
}
