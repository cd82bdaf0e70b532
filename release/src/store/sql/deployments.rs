//! Deployments.

use super::query::{Connection, Row, query};
use super::row::{self, get};
use super::{audit, placements, releases};
use crate::manifest::{self, ObjectRef, Setting};
use crate::model::{DeploymentId, EnvironmentName, Placement, ReleaseId, ServiceName, Time};
use crate::state::{self, Event, Intent, Pin, State, step};
use crate::store::{AuditEntry, Deployment, DeploymentOrder, MAX_PAGE, Release, Step, StoreError};

/// Records a deployment, or returns the one that its idempotency key made.
pub(super) async fn create(
    connection: &mut Connection,
    order: DeploymentOrder,
) -> Result<Deployment, StoreError> {
    if let Some(made) = audit::made(connection, &order.by).await? {
        let id = made.parse().map_err(|_| StoreError::Invalid(made))?;
        return find(connection, &id).await?.ok_or(StoreError::NotFound("deployment"));
    }
    let DeploymentOrder { placement, release, intent, force, by } = order;
    let standing = placements::standing(connection, &placement).await?;
    let number = match release {
        Some(number) => number,
        None => state::rollback_target(&standing)?,
    };
    let release = ReleaseId { service: placement.service.clone(), number };
    let found = releases::find(connection, &release).await?;
    let found = found.ok_or(StoreError::NotFound("release"))?;
    let pin = match state::admit(intent, number, force, &standing)? {
        Pin::Removed => None,
        Pin::Set(pinned) => Some(pinned),
    };
    // What ran is what a rollback brings back, with its settings.
    let settings = match intent {
        Intent::Rollback => ready_settings(connection, &release, &placement.environment).await?,
        Intent::Deploy | Intent::Promote => {
            settings(connection, &found, &placement.environment).await?
        }
    };
    placements::set_pin(connection, &placement, pin).await?;
    supersede(connection, &placement, by.at).await?;
    let replaces = last_ready(connection, &placement).await?;
    let replaces = replaces.map(|number| DeploymentId { placement: placement.clone(), number });
    let deployment = Deployment {
        id: DeploymentId { number: next(connection, &placement).await?, placement },
        release,
        intent,
        replaces,
        state: State::Recorded,
        version: 0,
        settings,
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

/// The values that a deployment of a release would have now.
pub(super) async fn settings(
    connection: &mut Connection,
    release: &Release,
    environment: &EnvironmentName,
) -> Result<Vec<Setting>, StoreError> {
    let declared = release.template.settings();
    let service = release.summary.id.service.clone();
    let placement = Placement { service, environment: environment.clone() };
    let layers = super::settings::layers(connection, &placement).await?;
    manifest::resolve_settings(&declared, &layers).map_err(StoreError::Settings)
}

/// The values of the last deployment of a release that became ready in an environment.
pub(super) async fn ready_settings(
    connection: &mut Connection,
    release: &ReleaseId,
    environment: &EnvironmentName,
) -> Result<Vec<Setting>, StoreError> {
    let row = query(
        "SELECT settings FROM deployments WHERE service = $1 AND environment = $2 \
         AND release = $3 AND state = $4 ORDER BY number DESC LIMIT 1",
    )
    .bind(release.service.as_str())
    .bind(environment.as_str())
    .bind(i64::from(release.number))
    .bind(row::to_json(&State::Ready)?)
    .fetch_optional(connection)
    .await?;
    row.map_or_else(|| Ok(Vec::new()), |row| row::json(&row, "settings"))
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
    let rows =
        query("SELECT * FROM deployments WHERE service = $1 AND environment = $2 AND is_open = 1")
            .bind(placement.service.as_str())
            .bind(placement.environment.as_str())
            .fetch_all(&mut *connection)
            .await?;
    for row in &rows {
        let deployment = read(row)?;
        let (state, _) = step(deployment.state.clone(), Event::Superseded, now);
        // A rollout is not superseded at once: it goes back first, or is waited for.
        if state != deployment.state {
            advance(connection, &deployment, state, now).await?;
        }
    }
    Ok(())
}

/// The number of the last deployment of a placement that became ready.
async fn last_ready(
    connection: &mut Connection,
    placement: &Placement,
) -> Result<Option<u32>, StoreError> {
    let number: Option<i64> = query(
        "SELECT MAX(number) FROM deployments WHERE service = $1 AND environment = $2 \
         AND state = $3",
    )
    .bind(placement.service.as_str())
    .bind(placement.environment.as_str())
    .bind(row::to_json(&State::Ready)?)
    .fetch_scalar(connection)
    .await?;
    Ok(number.and_then(|number| u32::try_from(number).ok()))
}

async fn next(connection: &mut Connection, placement: &Placement) -> Result<u32, StoreError> {
    let newest: Option<i64> =
        query("SELECT MAX(number) FROM deployments WHERE service = $1 AND environment = $2")
            .bind(placement.service.as_str())
            .bind(placement.environment.as_str())
            .fetch_scalar(connection)
            .await?;
    u32::try_from(row::next(newest)).map_err(|_| StoreError::Full)
}

async fn insert(connection: &mut Connection, deployment: &Deployment) -> Result<(), StoreError> {
    query(
        "INSERT INTO deployments (service, environment, number, release, intent, version, is_open, \
         state, requested_by, reason, created_at, updated_at, settings, \
         replaces) VALUES ($1, $2, $3, $4, $5, 0, 1, $6, $7, $8, $9, $9, $10, $11)",
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
    .bind(row::to_json(&deployment.settings)?)
    .bind(deployment.replaces.as_ref().map(|replaced| i64::from(replaced.number)))
    .execute(&mut *connection)
    .await?;
    record_step(connection, deployment).await
}

async fn record_step(
    connection: &mut Connection,
    deployment: &Deployment,
) -> Result<(), StoreError> {
    query(
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
    let changed = query(
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
    if changed == 0 {
        return Ok(None);
    }
    record_step(connection, &next).await?;
    if next.state == State::Ready {
        placements::set_running(connection, &next).await?;
        replaced_by_later(connection, &next.id).await?;
    }
    Ok(Some(next))
}

/// Deployments that waited for this one replace it.
async fn replaced_by_later(
    connection: &mut Connection,
    id: &DeploymentId,
) -> Result<(), StoreError> {
    query(
        "UPDATE deployments SET replaces = $3 WHERE service = $1 AND environment = $2 \
         AND number > $3 AND is_open = 1",
    )
    .bind(id.placement.service.as_str())
    .bind(id.placement.environment.as_str())
    .bind(i64::from(id.number))
    .execute(connection)
    .await?;
    Ok(())
}

/// Records the namespace, and adds the objects to the inventory of the placement.
pub(super) async fn plan(
    connection: &mut Connection,
    deployment: &Deployment,
    namespace: &str,
    objects: &[ObjectRef],
) -> Result<bool, StoreError> {
    let placement = &deployment.id.placement;
    let changed = query(
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
    if changed == 0 {
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
    let row =
        query("SELECT * FROM deployments WHERE service = $1 AND environment = $2 AND number = $3")
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
    let rows = query(
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
    let rows = query(
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

/// The last deployments of the services in the JSON list `$1`, each found by the primary key.
pub(super) const LAST_OF: &str = "SELECT deployments.* FROM json_each($1) AS wanted \
     JOIN deployments ON deployments.service = wanted.value AND deployments.environment = $2 \
     AND deployments.number = (SELECT MAX(number) FROM deployments AS later \
     WHERE later.service = wanted.value AND later.environment = $2) ORDER BY deployments.service";

/// The last deployment of each service in an environment.
pub(super) async fn last(
    connection: &mut Connection,
    environment: &EnvironmentName,
    services: &[ServiceName],
) -> Result<Vec<Deployment>, StoreError> {
    let rows = query(LAST_OF)
        .bind(row::to_json(&services)?)
        .bind(environment.as_str())
        .fetch_all(connection)
        .await?;
    rows.iter().map(read).collect()
}

/// The last deployments of a placement that became ready, the newest first.
pub(super) async fn ready(
    connection: &mut Connection,
    placement: &Placement,
    before: u32,
    limit: u32,
) -> Result<Vec<Deployment>, StoreError> {
    let rows = query(
        "SELECT * FROM deployments WHERE service = $1 AND environment = $2 AND number < $3 \
         AND state = $4 ORDER BY number DESC LIMIT $5",
    )
    .bind(placement.service.as_str())
    .bind(placement.environment.as_str())
    .bind(i64::from(before))
    .bind(row::to_json(&State::Ready)?)
    .bind(i64::from(limit.min(MAX_PAGE)))
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

/// The open deployments, the oldest first: of each environment a page. Those of a placement with an
/// open rollout wait for it.
pub(super) async fn open(connection: &mut Connection) -> Result<Vec<DeploymentId>, StoreError> {
    let rows = query(
        "SELECT service, environment, number FROM (SELECT service, environment, number, created_at, \
         ROW_NUMBER() OVER (PARTITION BY environment ORDER BY created_at, service, number) AS place \
         FROM deployments WHERE is_open = 1 AND NOT EXISTS (SELECT 1 FROM rollouts \
         WHERE rollouts.is_open = 1 AND rollouts.service = deployments.service \
         AND rollouts.environment = deployments.environment)) AS placed WHERE place <= $1 \
         ORDER BY created_at, service, environment, number",
    )
    .bind(i64::from(MAX_PAGE))
    .fetch_all(connection)
    .await?;
    rows.iter().map(id).collect()
}

pub(super) fn id(row: &Row) -> Result<DeploymentId, StoreError> {
    let placement =
        Placement { service: row::service(row)?, environment: row::name(row, "environment")? };
    Ok(DeploymentId { placement, number: row::number(row, "number")? })
}

fn read(row: &Row) -> Result<Deployment, StoreError> {
    let id = id(row)?;
    let replaces = row::optional(row, "replaces")?;
    let service = id.placement.service.clone();
    Ok(Deployment {
        replaces: replaces.map(|number| DeploymentId { number, ..id.clone() }),
        id,
        release: ReleaseId { service, number: row::number(row, "release")? },
        intent: row::json(row, "intent")?,
        state: row::json(row, "state")?,
        version: row::number(row, "version")?,
        settings: row::json(row, "settings")?,
        namespace: get(row, "namespace")?,
        requested_by: get(row, "requested_by")?,
        requested_because: get(row, "reason")?,
        created_at: row::time(row, "created_at")?,
        updated_at: row::time(row, "updated_at")?,
    })
}
