//! Deployments.

use sqlx::sqlite::SqliteRow;

use super::row::{self, get};
use super::{Connection, audit, placements, releases};
use crate::manifest::ObjectRef;
use crate::model::{DeploymentId, Placement, ReleaseId, Time};
use crate::state::{self, Event, Intent, Pin, State, step};
use crate::store::{AuditEntry, Deployment, DeploymentOrder, MAX_PAGE, Step, StoreError};

/// Records a deployment, or returns the one that its idempotency key made.
pub(super) async fn create(
    connection: &mut Connection,
    order: DeploymentOrder,
) -> Result<Deployment, StoreError> {
    if let Some(made) = audit::made(connection, &order.by).await? {
        let id = made.parse().map_err(|_| StoreError::Invalid(made))?;
        return find(connection, &id).await?.ok_or(StoreError::NotFound("deployment"));
    }
    let DeploymentOrder { placement, release, intent, by } = order;
    let standing = placements::standing(connection, &placement).await?;
    let number = match release {
        Some(number) => number,
        None => state::rollback_target(&standing)?,
    };
    let release = ReleaseId { service: placement.service.clone(), number };
    if releases::find(connection, &release).await?.is_none() {
        return Err(StoreError::NotFound("release"));
    }
    let pin = match state::admit(intent, number, &standing)? {
        Pin::Removed => None,
        Pin::Set(pinned) => Some(pinned),
    };
    placements::set_pin(connection, &placement, pin).await?;
    supersede(connection, &placement, by.at).await?;
    let deployment = Deployment {
        id: DeploymentId { number: next(connection, &placement).await?, placement },
        release,
        intent,
        state: State::Recorded,
        version: 0,
        namespace: None,
        requested_by: by.actor.clone(),
        requested_because: by.reason.clone(),
        created_at: by.at,
        updated_at: by.at,
    };
    insert(connection, &deployment).await?;
    let before = standing.running.map(|number| {
        ReleaseId { service: deployment.release.service.clone(), number }.to_string()
    });
    let entry = AuditEntry {
        service: Some(deployment.id.placement.service.clone()),
        environment: Some(deployment.id.placement.environment.clone()),
        before,
        after: Some(deployment.release.to_string()),
        ..audit::entry(&by, action(intent), deployment.id.to_string())?
    };
    audit::record(connection, &by, &entry).await?;
    Ok(deployment)
}

fn action(intent: Intent) -> &'static str {
    match intent {
        Intent::Deploy => "deployment.deploy",
        Intent::Promote => "deployment.promote",
        Intent::Rollback => "deployment.rollback",
    }
}

/// Supersedes the open deployment of a placement.
async fn supersede(
    connection: &mut Connection,
    placement: &Placement,
    now: Time,
) -> Result<(), StoreError> {
    let rows = sqlx::query(
        "SELECT * FROM deployments WHERE service = $1 AND environment = $2 AND is_open = 1",
    )
    .bind(placement.service.as_str())
    .bind(placement.environment.as_str())
    .fetch_all(&mut *connection)
    .await?;
    for row in &rows {
        let deployment = read(row)?;
        let (state, _) = step(deployment.state.clone(), Event::Superseded, now);
        advance(connection, &deployment, state, now).await?;
    }
    Ok(())
}

async fn next(connection: &mut Connection, placement: &Placement) -> Result<u32, StoreError> {
    let newest: Option<i64> = sqlx::query_scalar(
        "SELECT MAX(number) FROM deployments WHERE service = $1 AND environment = $2",
    )
    .bind(placement.service.as_str())
    .bind(placement.environment.as_str())
    .fetch_one(connection)
    .await?;
    u32::try_from(row::next(newest)).map_err(|_| StoreError::Full)
}

async fn insert(connection: &mut Connection, deployment: &Deployment) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO deployments (service, environment, number, release, intent, version, is_open, \
         state, requested_by, reason, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, 0, 1, $6, $7, $8, $9, $9)",
    )
    .bind(deployment.id.placement.service.as_str())
    .bind(deployment.id.placement.environment.as_str())
    .bind(i64::from(deployment.id.number))
    .bind(i64::from(deployment.release.number))
    .bind(row::to_json(&deployment.intent)?)
    .bind(row::to_json(&deployment.state)?)
    .bind(&deployment.requested_by)
    .bind(&deployment.requested_because)
    .bind(row::milliseconds(deployment.created_at))
    .execute(&mut *connection)
    .await?;
    record_step(connection, deployment).await
}

async fn record_step(
    connection: &mut Connection,
    deployment: &Deployment,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO steps (service, environment, number, version, state, at) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(deployment.id.placement.service.as_str())
    .bind(deployment.id.placement.environment.as_str())
    .bind(i64::from(deployment.id.number))
    .bind(i64::from(deployment.version))
    .bind(row::to_json(&deployment.state)?)
    .bind(row::milliseconds(deployment.updated_at))
    .execute(connection)
    .await?;
    Ok(())
}

/// Records a state, unless the deployment has changed.
pub(super) async fn advance(
    connection: &mut Connection,
    deployment: &Deployment,
    state: State,
    now: Time,
) -> Result<Option<Deployment>, StoreError> {
    let next = Deployment {
        version: deployment.version.saturating_add(1),
        state,
        updated_at: now,
        ..deployment.clone()
    };
    let changed = sqlx::query(
        "UPDATE deployments SET version = $5, state = $6, is_open = $7, updated_at = $8 \
         WHERE service = $1 AND environment = $2 AND number = $3 AND version = $4",
    )
    .bind(next.id.placement.service.as_str())
    .bind(next.id.placement.environment.as_str())
    .bind(i64::from(next.id.number))
    .bind(i64::from(deployment.version))
    .bind(i64::from(next.version))
    .bind(row::to_json(&next.state)?)
    .bind(i64::from(next.state.is_open()))
    .bind(row::milliseconds(now))
    .execute(&mut *connection)
    .await?;
    if changed.rows_affected() == 0 {
        return Ok(None);
    }
    record_step(connection, &next).await?;
    if next.state == State::Ready {
        placements::set_running(connection, &next).await?;
    }
    Ok(Some(next))
}

/// Records the namespace, and adds the objects to the inventory of the placement.
pub(super) async fn plan(
    connection: &mut Connection,
    deployment: &Deployment,
    namespace: &str,
    objects: &[ObjectRef],
) -> Result<bool, StoreError> {
    let placement = &deployment.id.placement;
    let changed = sqlx::query(
        "UPDATE deployments SET namespace = $5 \
         WHERE service = $1 AND environment = $2 AND number = $3 AND version = $4",
    )
    .bind(placement.service.as_str())
    .bind(placement.environment.as_str())
    .bind(i64::from(deployment.id.number))
    .bind(i64::from(deployment.version))
    .bind(namespace)
    .execute(&mut *connection)
    .await?;
    if changed.rows_affected() == 0 {
        return Ok(false);
    }
    placements::add_to_inventory(connection, placement, objects).await?;
    Ok(true)
}

/// A deployment.
pub(super) async fn find(
    connection: &mut Connection,
    id: &DeploymentId,
) -> Result<Option<Deployment>, StoreError> {
    let row = sqlx::query(
        "SELECT * FROM deployments WHERE service = $1 AND environment = $2 AND number = $3",
    )
    .bind(id.placement.service.as_str())
    .bind(id.placement.environment.as_str())
    .bind(i64::from(id.number))
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(read).transpose()
}

/// The states that a deployment had after its first `after` ones: versions count from 0.
pub(super) async fn steps(
    connection: &mut Connection,
    id: &DeploymentId,
    after: u32,
) -> Result<Vec<Step>, StoreError> {
    let rows = sqlx::query(
        "SELECT state, at FROM steps WHERE service = $1 AND environment = $2 AND number = $3 \
         AND version >= $4 ORDER BY version",
    )
    .bind(id.placement.service.as_str())
    .bind(id.placement.environment.as_str())
    .bind(i64::from(id.number))
    .bind(i64::from(after))
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| Ok(Step { state: row::json(row, "state")?, at: row::time(row, "at")? }))
        .collect()
}

/// A page of a placement's deployments, the newest first.
pub(super) async fn list(
    connection: &mut Connection,
    placement: &Placement,
    before: Option<u32>,
    limit: u32,
) -> Result<Vec<Deployment>, StoreError> {
    let rows = sqlx::query(
        "SELECT * FROM deployments WHERE service = $1 AND environment = $2 \
         AND ($3 IS NULL OR number < $3) ORDER BY number DESC LIMIT $4",
    )
    .bind(placement.service.as_str())
    .bind(placement.environment.as_str())
    .bind(before.map(i64::from))
    .bind(i64::from(limit.min(MAX_PAGE)))
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

/// All open deployments, the oldest first.
pub(super) async fn open(connection: &mut Connection) -> Result<Vec<Deployment>, StoreError> {
    let rows = sqlx::query(
        "SELECT * FROM deployments WHERE is_open = 1 ORDER BY created_at, service, environment",
    )
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

fn read(row: &SqliteRow) -> Result<Deployment, StoreError> {
    let service = row::service(row)?;
    let placement =
        Placement { service: service.clone(), environment: row::name(row, "environment")? };
    Ok(Deployment {
        id: DeploymentId { placement, number: row::number(row, "number")? },
        release: ReleaseId { service, number: row::number(row, "release")? },
        intent: row::json(row, "intent")?,
        state: row::json(row, "state")?,
        version: row::number(row, "version")?,
        namespace: get(row, "namespace")?,
        requested_by: get(row, "requested_by")?,
        requested_because: get(row, "reason")?,
        created_at: row::time(row, "created_at")?,
        updated_at: row::time(row, "updated_at")?,
    })
}
