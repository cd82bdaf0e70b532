//! Rollouts: their state, what became of them, and each look.

use serde_json::Value;

use super::query::{Connection, Row, query};
use super::row::{self, get};
use super::{audit, deployments, placements};
use crate::model::{DeploymentId, Placement, ReleaseId, Time};
use crate::rollout::{self, Cause, Order, Stage};
use crate::state::{Event, RolloutEnd, State, step};
use crate::store::{
    AuditEntry, By, Deployment, Look, MAX_PAGE, MAX_ROLLOUTS, Rollout, RolloutChange,
    RolloutCursor, RolloutStep, StoreError, WantedRollouts,
};

/// The last rollouts of a service in an environment whose looks are kept.
const KEPT_LOOKS: u32 = 20;

/// A rollout with the releases of its deployment. Each query adds its own condition.
macro_rules! select {
    ($($rest:literal)+) => {
        concat!(
            "SELECT rollouts.*, deployments.release AS release, stable.release AS stable \
             FROM rollouts JOIN deployments USING (service, environment, number) \
             LEFT JOIN deployments AS stable ON stable.service = deployments.service \
             AND stable.environment = deployments.environment \
             AND stable.number = deployments.replaces ",
            $($rest),+
        )
    };
}

/// Records the rollout of a deployment.
pub(super) async fn begin(
    connection: &mut Connection,
    deployment: &Deployment,
    state: rollout::Rollout,
    now: Time,
) -> Result<Option<Rollout>, StoreError> {
    let (next, _) = step(deployment.state.clone(), Event::RolloutBegan, now);
    let began = next == State::RollingOut && deployment.state != State::RollingOut;
    if !began || deployments::advance(connection, deployment, next, now).await?.is_none() {
        return Ok(None);
    }
    let DeploymentId { placement, number } = &deployment.id;
    query(
        "INSERT INTO rollouts (service, environment, number, version, is_open, state, evidence, \
         created_at, updated_at) VALUES ($1, $2, $3, 0, 1, $4, 'null', $5, $5)",
    )
    .bind(placement.service.as_str())
    .bind(placement.environment.as_str())
    .bind(i64::from(*number))
    .bind(row::to_json(&state)?)
    .bind(row::milliseconds(now))
    .execute(&mut *connection)
    .await?;
    record_step(connection, &deployment.id, &state, None, now).await?;
    forget_looks(connection, &deployment.id).await?;
    find(connection, &deployment.id).await
}

/// Removes the looks of all but the last rollouts of a placement.
async fn forget_looks(connection: &mut Connection, id: &DeploymentId) -> Result<(), StoreError> {
    query(
        "DELETE FROM looks WHERE service = $1 AND environment = $2 AND number NOT IN \
         (SELECT number FROM rollouts WHERE service = $1 AND environment = $2 \
         ORDER BY number DESC LIMIT $3)",
    )
    .bind(id.placement.service.as_str())
    .bind(id.placement.environment.as_str())
    .bind(i64::from(KEPT_LOOKS))
    .execute(connection)
    .await?;
    Ok(())
}

/// Records a change, and the end of the deployment with that of its rollout.
pub(super) async fn advance(
    connection: &mut Connection,
    rollout: &Rollout,
    change: RolloutChange,
    now: Time,
) -> Result<Option<Rollout>, StoreError> {
    let RolloutChange { state, evidence, problem, looks, gate } = change;
    let next = Rollout {
        version: rollout.version.saturating_add(1),
        state,
        evidence,
        problem,
        gate: gate.or_else(|| rollout.gate.clone()),
        updated_at: now,
        ..rollout.clone()
    };
    if !write(connection, rollout.version, &next).await? {
        return Ok(None);
    }
    for look in &looks {
        record_look(connection, &next.id, look).await?;
    }
    if next.state.is_further(&rollout.state) {
        record_step(connection, &next.id, &next.state, None, now).await?;
    }
    if let Some(end) = end(&next.state) {
        let found = deployments::find(connection, &next.id).await?;
        let deployment = found.ok_or(StoreError::NotFound("deployment"))?;
        let (state, _) = step(deployment.state.clone(), Event::RolledOut(end), now);
        deployments::advance(connection, &deployment, state, now).await?;
        record_end(connection, &next, now).await?;
    }
    Ok(Some(next))
}

/// Appends the end of a rollout to the audit log.
async fn record_end(
    connection: &mut Connection,
    rollout: &Rollout,
    now: Time,
) -> Result<(), StoreError> {
    let action = match rollout.state.stage {
        Stage::Promoted => "rollout.promoted",
        _ => "rollout.rolled-back",
    };
    let by = By::rollout(&rollout.state.sentence, now);
    let Placement { service, environment } = rollout.id.placement.clone();
    let (stable, release) =
        (rollout.stable.as_ref().map(ToString::to_string), rollout.release.to_string());
    // What ran in the environment before, and what runs there now.
    let after = match rollout.state.stage {
        Stage::Promoted => Some(release),
        _ => stable.clone(),
    };
    let entry = AuditEntry {
        service: Some(service),
        environment: Some(environment),
        before: stable,
        after,
        ..audit::entry(&by, action, rollout.id.to_string())?
    };
    audit::record(connection, &by, &entry).await
}

/// How a rollout ended, if it has.
fn end(state: &rollout::Rollout) -> Option<RolloutEnd> {
    match &state.stage {
        Stage::Promoted => Some(RolloutEnd::Promoted),
        Stage::RolledBack { cause: Cause::Superseded(_) } => Some(RolloutEnd::Superseded),
        Stage::RolledBack { .. } => Some(RolloutEnd::RolledBack(state.sentence.clone())),
        _ => None,
    }
}

/// Records an order, or returns the rollout as it is if its idempotency key was used before.
pub(super) async fn order(
    connection: &mut Connection,
    id: &DeploymentId,
    order: Order,
    by: &By,
) -> Result<Rollout, StoreError> {
    let rollout = find(connection, id).await?.ok_or(StoreError::NotFound("rollout"))?;
    if audit::made(connection, by).await?.is_some() {
        return Ok(rollout);
    }
    let state = rollout::order(rollout.state.clone(), order, &by.reason, by.at)?;
    let next = Rollout {
        version: rollout.version.saturating_add(1),
        state,
        updated_at: by.at,
        ..rollout.clone()
    };
    if !write(connection, rollout.version, &next).await? {
        return Err(StoreError::Outdated);
    }
    record_step(connection, id, &next.state, Some((order, by)), by.at).await?;
    let Placement { service, environment } = id.placement.clone();
    let entry = AuditEntry {
        service: Some(service),
        environment: Some(environment),
        before: Some(rollout.state.sentence),
        after: Some(rollout.release.to_string()),
        ..audit::entry(by, &format!("rollout.{}", order.name()), id.to_string())?
    };
    audit::record(connection, by, &entry).await?;
    Ok(next)
}

/// Writes the record, if it still has this version.
async fn write(
    connection: &mut Connection,
    version: u32,
    next: &Rollout,
) -> Result<bool, StoreError> {
    let changed = query(
        "UPDATE rollouts SET version = $5, is_open = $6, state = $7, evidence = $8, problem = $9, \
         updated_at = $10, gate = $11 \
         WHERE service = $1 AND environment = $2 AND number = $3 AND version = $4",
    )
    .bind(next.id.placement.service.as_str())
    .bind(next.id.placement.environment.as_str())
    .bind(i64::from(next.id.number))
    .bind(i64::from(version))
    .bind(i64::from(next.version))
    .bind(i64::from(next.state.is_open()))
    .bind(row::to_json(&next.state)?)
    .bind(row::to_json(&next.evidence)?)
    .bind(&next.problem)
    .bind(row::milliseconds(next.updated_at))
    .bind(next.gate.as_ref().map(row::to_json).transpose()?)
    .execute(connection)
    .await?;
    Ok(changed > 0)
}

async fn record_step(
    connection: &mut Connection,
    id: &DeploymentId,
    state: &rollout::Rollout,
    ordered: Option<(Order, &By)>,
    at: Time,
) -> Result<(), StoreError> {
    let order = ordered.map(|(order, _)| row::to_json(&order)).transpose()?;
    query(
        "INSERT INTO rollout_steps (service, environment, number, step, at, stage, weight, \
         sentence, ordered, actor, reason) SELECT $1, $2, $3, COALESCE(MAX(step), 0) + 1, $4, $5, \
         $6, $7, $8, $9, $10 FROM rollout_steps \
         WHERE service = $1 AND environment = $2 AND number = $3",
    )
    .bind(id.placement.service.as_str())
    .bind(id.placement.environment.as_str())
    .bind(i64::from(id.number))
    .bind(row::milliseconds(at))
    .bind(row::to_json(&state.stage)?)
    .bind(i64::from(state.weight()))
    .bind(&state.sentence)
    .bind(order)
    .bind(ordered.map(|(_, by)| by.actor.clone()))
    .bind(ordered.map(|(_, by)| by.reason.clone()))
    .execute(connection)
    .await?;
    Ok(())
}

async fn record_look(
    connection: &mut Connection,
    id: &DeploymentId,
    look: &Look,
) -> Result<(), StoreError> {
    query(
        "INSERT INTO looks (service, environment, number, at, weight, report) \
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(id.placement.service.as_str())
    .bind(id.placement.environment.as_str())
    .bind(i64::from(id.number))
    .bind(row::milliseconds(look.at))
    .bind(i64::from(look.weight))
    .bind(row::to_json(&look.report)?)
    .execute(connection)
    .await?;
    Ok(())
}

/// Pins out the release of a rollout, and those before it.
pub(super) async fn pin_out(
    connection: &mut Connection,
    rollout: &Rollout,
    by: &By,
) -> Result<(), StoreError> {
    let placement = &rollout.id.placement;
    let status = placements::find(connection, placement).await?;
    let pinned = status.and_then(|status| status.pinned);
    let number = rollout.release.number;
    if pinned.as_ref().is_some_and(|pinned| pinned.number >= number) {
        return Ok(());
    }
    placements::record_pin(connection, placement, pinned, Some(number), by).await
}

/// The rollout of a deployment.
pub(super) async fn find(
    connection: &mut Connection,
    id: &DeploymentId,
) -> Result<Option<Rollout>, StoreError> {
    let row = query(select!(
        "WHERE rollouts.service = $1 AND rollouts.environment = $2 AND rollouts.number = $3"
    ))
    .bind(id.placement.service.as_str())
    .bind(id.placement.environment.as_str())
    .bind(i64::from(id.number))
    .fetch_optional(connection)
    .await?;
    row.as_ref().map(read).transpose()
}

/// The open rollouts, the oldest first: of each environment a page.
pub(super) async fn open(connection: &mut Connection) -> Result<Vec<DeploymentId>, StoreError> {
    let rows = query(
        "SELECT service, environment, number FROM (SELECT service, environment, number, created_at, \
         ROW_NUMBER() OVER (PARTITION BY environment ORDER BY created_at, service) AS place \
         FROM rollouts WHERE is_open = 1) AS placed WHERE place <= $1 \
         ORDER BY created_at, service, environment",
    )
    .bind(i64::from(MAX_ROLLOUTS))
    .fetch_all(connection)
    .await?;
    rows.iter().map(deployments::id).collect()
}

/// The condition of a list, after that for its services: the environment `$2`, the JSON list `$3` of
/// what is readable, and the position from `$4` on.
macro_rules! wanted {
    ($services:literal, $time:literal) => {
        select!(
            $services
            " AND ($2 IS NULL OR rollouts.environment = $2) \
              AND EXISTS (SELECT 1 FROM json_each($3) AS readable \
              WHERE (json_extract(readable.value, '$.services') IS NULL OR rollouts.service IN \
              (SELECT value FROM json_each(readable.value, '$.services'))) \
              AND (json_extract(readable.value, '$.environments') IS NULL OR rollouts.environment IN \
              (SELECT value FROM json_each(readable.value, '$.environments')))) \
              AND ($4 IS NULL OR ("
            $time
            ", rollouts.service, rollouts.environment, rollouts.number) < ($4, $5, $6, $7)) \
              ORDER BY "
            $time
            " DESC, rollouts.service DESC, rollouts.environment DESC, rollouts.number DESC LIMIT $8"
        )
    };
}

/// The last rollouts; `$1` is the services, which are not asked for.
const LIST: &str = wanted!("WHERE $1 IS NULL", "rollouts.created_at");
/// Those of the services in the JSON list `$1`. The sign makes them be read by the index of services.
pub(super) const LIST_OF: &str =
    wanted!("WHERE rollouts.service IN (SELECT value FROM json_each($1))", "+rollouts.created_at");

/// The rollouts that are wanted, the newest first.
pub(super) async fn list(
    connection: &mut Connection,
    wanted: &WantedRollouts,
    after: Option<&RolloutCursor>,
    limit: u32,
) -> Result<Vec<Rollout>, StoreError> {
    let WantedRollouts { services, environment, readable } = wanted;
    let placement = after.map(|after| &after.id.placement);
    let query = query(if services.is_some() { LIST_OF } else { LIST })
        .bind(services.as_ref().map(row::to_json).transpose()?)
        .bind(environment.as_ref().map(|environment| environment.as_str()))
        .bind(row::to_json(readable)?)
        .bind(after.map(|after| row::milliseconds(after.created_at)))
        .bind(placement.map(|placement| placement.service.as_str()))
        .bind(placement.map(|placement| placement.environment.as_str()))
        .bind(after.map(|after| i64::from(after.id.number)))
        .bind(i64::from(limit.min(MAX_PAGE)));
    query.fetch_all(connection).await?.iter().map(read).collect()
}

/// What became of a rollout after its first `after` steps, in their order.
pub(super) async fn steps(
    connection: &mut Connection,
    id: &DeploymentId,
    after: u32,
) -> Result<Vec<RolloutStep>, StoreError> {
    let query = query(
        "SELECT * FROM rollout_steps WHERE service = $1 AND environment = $2 AND number = $3 \
         AND step > $4 ORDER BY step LIMIT $5",
    )
    .bind(id.placement.service.as_str())
    .bind(id.placement.environment.as_str())
    .bind(i64::from(id.number))
    .bind(i64::from(after))
    .bind(i64::from(MAX_PAGE));
    query.fetch_all(connection).await?.iter().map(read_step).collect()
}

/// The last steps of a rollout with numbers below `before`, the newest first.
pub(super) async fn last_steps(
    connection: &mut Connection,
    id: &DeploymentId,
    before: Option<u32>,
    limit: u32,
) -> Result<Vec<RolloutStep>, StoreError> {
    let query = query(
        "SELECT * FROM rollout_steps WHERE service = $1 AND environment = $2 AND number = $3 \
         AND ($4 IS NULL OR step < $4) ORDER BY step DESC LIMIT $5",
    )
    .bind(id.placement.service.as_str())
    .bind(id.placement.environment.as_str())
    .bind(i64::from(id.number))
    .bind(before.map(i64::from))
    .bind(i64::from(limit.min(MAX_PAGE)));
    query.fetch_all(connection).await?.iter().map(read_step).collect()
}

fn read_step(row: &Row) -> Result<RolloutStep, StoreError> {
    let ordered: Option<String> = get(row, "ordered")?;
    Ok(RolloutStep {
        number: row::number(row, "step")?,
        at: row::time(row, "at")?,
        stage: row::json(row, "stage")?,
        weight: weight(row)?,
        sentence: get(row, "sentence")?,
        order: ordered.is_some().then(|| row::json(row, "ordered")).transpose()?,
        actor: get(row, "actor")?,
        reason: get(row, "reason")?,
    })
}

/// The last looks of a rollout, the newest first.
pub(super) async fn looks(
    connection: &mut Connection,
    id: &DeploymentId,
    before: Option<Time>,
    limit: u32,
) -> Result<Vec<Look>, StoreError> {
    let rows = query(
        "SELECT at, weight, report FROM looks WHERE service = $1 AND environment = $2 \
         AND number = $3 AND ($4 IS NULL OR at < $4) ORDER BY at DESC LIMIT $5",
    )
    .bind(id.placement.service.as_str())
    .bind(id.placement.environment.as_str())
    .bind(i64::from(id.number))
    .bind(before.map(row::milliseconds))
    .bind(i64::from(limit.min(MAX_PAGE)))
    .fetch_all(connection)
    .await?;
    let read = |row| {
        Ok(Look {
            at: row::time(row, "at")?,
            weight: weight(row)?,
            report: row::json(row, "report")?,
        })
    };
    rows.iter().map(read).collect()
}

fn weight(row: &Row) -> Result<u16, StoreError> {
    let weight = row::number(row, "weight")?;
    u16::try_from(weight).map_err(|_| StoreError::Invalid(format!("weight: {weight}")))
}

fn read(row: &Row) -> Result<Rollout, StoreError> {
    let gate: Option<String> = get(row, "gate")?;
    let id = deployments::id(row)?;
    let service = id.placement.service.clone();
    let release = |number| ReleaseId { service: service.clone(), number };
    Ok(Rollout {
        release: release(row::number(row, "release")?),
        stable: row::optional(row, "stable")?.map(release),
        state: row::json(row, "state")?,
        evidence: row::json::<Value>(row, "evidence")?,
        problem: get(row, "problem")?,
        gate: gate.is_some().then(|| row::json(row, "gate")).transpose()?,
        version: row::number(row, "version")?,
        created_at: row::time(row, "created_at")?,
        updated_at: row::time(row, "updated_at")?,
        id,
    })
}
