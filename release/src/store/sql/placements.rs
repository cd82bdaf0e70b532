//! Services in environments: what runs, pins, inventories, freezes.

use super::audit;
use super::query::{Connection, Row, query};
use super::row::{self, get};
use crate::manifest::ObjectRef;
use crate::model::{EnvironmentName, Placement, ReleaseId, ServiceName};
use crate::state::Standing;
use crate::store::{AuditEntry, By, Deployment, Freeze, PlacementStatus, StoreError};

/// What admission depends on.
pub(super) async fn standing(
    connection: &mut Connection,
    placement: &Placement,
) -> Result<Standing, StoreError> {
    let frozen: i64 = query("SELECT COUNT(*) FROM frozen WHERE environment = $1")
        .bind(placement.environment.as_str())
        .fetch_scalar(connection)
        .await?;
    let status = find(connection, placement).await?;
    let number = |release: Option<ReleaseId>| release.map(|release| release.number);
    let attempted: Option<i64> = query(
        "SELECT release FROM deployments WHERE service = $1 AND environment = $2 \
         ORDER BY number DESC LIMIT 1",
    )
    .bind(placement.service.as_str())
    .bind(placement.environment.as_str())
    .fetch_optional_scalar(&mut *connection)
    .await?;
    let ready = row::to_json(&crate::state::State::Ready)?;
    let ran = query(
        "SELECT DISTINCT release FROM deployments WHERE service = $1 AND environment = $2 \
         AND state = $3 ORDER BY release",
    )
    .bind(placement.service.as_str())
    .bind(placement.environment.as_str())
    .bind(ready)
    .fetch_all(&mut *connection)
    .await?;
    let irreversible = query(
        "SELECT DISTINCT number, irreversible FROM releases WHERE service = $1 \
         AND irreversible IS NOT NULL AND number IN \
         (SELECT release FROM deployments WHERE service = $1 AND environment = $2)",
    )
    .bind(placement.service.as_str())
    .bind(placement.environment.as_str())
    .fetch_all(connection)
    .await?;
    Ok(Standing {
        frozen: frozen > 0,
        pinned: status.as_ref().and_then(|status| number(status.pinned.clone())),
        running: status.and_then(|status| number(status.running)),
        attempted: attempted.and_then(|number| u32::try_from(number).ok()),
        ran: ran.iter().map(|row| row::number(row, "release")).collect::<Result<_, _>>()?,
        irreversible: irreversible
            .iter()
            .map(|row| Ok((row::number(row, "number")?, get(row, "irreversible")?)))
            .collect::<Result<_, StoreError>>()?,
    })
}

/// What is recorded of a placement.
pub(super) async fn find(
    connection: &mut Connection,
    placement: &Placement,
) -> Result<Option<PlacementStatus>, StoreError> {
    let row = query("SELECT * FROM placements WHERE service = $1 AND environment = $2")
        .bind(placement.service.as_str())
        .bind(placement.environment.as_str())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(read).transpose()
}

/// All placements.
const LIST: &str = "SELECT service, environment, running, pinned FROM placements \
                    ORDER BY environment, service";
/// Those of the services in the JSON list `$1`, read by the index of services.
pub(super) const LIST_OF: &str = "SELECT service, environment, running, pinned FROM placements \
     WHERE service IN (SELECT value FROM json_each($1)) ORDER BY environment, service";

/// What runs where.
pub(super) async fn list(
    connection: &mut Connection,
    services: Option<&[ServiceName]>,
) -> Result<Vec<PlacementStatus>, StoreError> {
    let query = match services {
        None => query(LIST),
        Some(services) => query(LIST_OF).bind(row::to_json(&services)?),
    };
    query.fetch_all(connection).await?.iter().map(read).collect()
}

fn read(row: &Row) -> Result<PlacementStatus, StoreError> {
    let service = row::service(row)?;
    let release = |column| -> Result<Option<ReleaseId>, StoreError> {
        let number = row::optional(row, column)?;
        Ok(number.map(|number| ReleaseId { service: service.clone(), number }))
    };
    Ok(PlacementStatus {
        running: release("running")?,
        pinned: release("pinned")?,
        placement: Placement { environment: row::name(row, "environment")?, service },
    })
}

/// Sets or removes the pin, and creates the placement's row.
pub(super) async fn set_pin(
    connection: &mut Connection,
    placement: &Placement,
    pinned: Option<u32>,
) -> Result<(), StoreError> {
    query(
        "INSERT INTO placements (service, environment, pinned, inventory) VALUES ($1, $2, $3, '[]') \
         ON CONFLICT (service, environment) DO UPDATE SET pinned = excluded.pinned",
    )
    .bind(placement.service.as_str())
    .bind(placement.environment.as_str())
    .bind(pinned.map(i64::from))
    .execute(connection)
    .await?;
    Ok(())
}

/// Records that a deployment's release runs.
pub(super) async fn set_running(
    connection: &mut Connection,
    deployment: &Deployment,
) -> Result<(), StoreError> {
    let placement = &deployment.id.placement;
    query("UPDATE placements SET running = $3 WHERE service = $1 AND environment = $2")
        .bind(placement.service.as_str())
        .bind(placement.environment.as_str())
        .bind(i64::from(deployment.release.number))
        .execute(connection)
        .await?;
    Ok(())
}

/// All objects that were applied and are not pruned yet.
pub(super) async fn inventory(
    connection: &mut Connection,
    placement: &Placement,
) -> Result<Vec<ObjectRef>, StoreError> {
    let row = query("SELECT inventory FROM placements WHERE service = $1 AND environment = $2")
        .bind(placement.service.as_str())
        .bind(placement.environment.as_str())
        .fetch_optional(connection)
        .await?;
    row.map_or_else(|| Ok(Vec::new()), |row| row::json(&row, "inventory"))
}

/// Adds objects to the inventory.
pub(super) async fn add_to_inventory(
    connection: &mut Connection,
    placement: &Placement,
    objects: &[ObjectRef],
) -> Result<(), StoreError> {
    let mut inventory = inventory(connection, placement).await?;
    inventory.retain(|known| !objects.iter().any(|object| object.is_same(known)));
    inventory.extend_from_slice(objects);
    write_inventory(connection, placement, &inventory).await
}

/// Removes pruned objects from the inventory.
pub(super) async fn pruned(
    connection: &mut Connection,
    placement: &Placement,
    objects: &[ObjectRef],
) -> Result<(), StoreError> {
    let mut inventory = inventory(connection, placement).await?;
    inventory.retain(|known| !objects.contains(known));
    write_inventory(connection, placement, &inventory).await
}

async fn write_inventory(
    connection: &mut Connection,
    placement: &Placement,
    inventory: &[ObjectRef],
) -> Result<(), StoreError> {
    query("UPDATE placements SET inventory = $3 WHERE service = $1 AND environment = $2")
        .bind(placement.service.as_str())
        .bind(placement.environment.as_str())
        .bind(row::to_json(&inventory)?)
        .execute(connection)
        .await?;
    Ok(())
}

/// Pins the newest release of the service, or removes the pin.
pub(super) async fn pin(
    connection: &mut Connection,
    placement: &Placement,
    pinned: bool,
    by: &By,
) -> Result<(), StoreError> {
    let status = find(connection, placement).await?.ok_or(StoreError::NotFound("service there"))?;
    let newest: i64 = query("SELECT COALESCE(MAX(number), 0) FROM releases WHERE service = $1")
        .bind(placement.service.as_str())
        .fetch_scalar(&mut *connection)
        .await?;
    let pin = u32::try_from(newest).ok().filter(|_| pinned);
    record_pin(connection, placement, status.pinned, pin, by).await
}

/// Sets the pin to a release, or removes it, with its audit entry.
pub(super) async fn record_pin(
    connection: &mut Connection,
    placement: &Placement,
    before: Option<ReleaseId>,
    pin: Option<u32>,
    by: &By,
) -> Result<(), StoreError> {
    set_pin(connection, placement, pin).await?;
    let Placement { service, environment } = placement;
    let action = if pin.is_some() { "service.pin" } else { "service.unpin" };
    let entry = AuditEntry {
        service: Some(service.clone()),
        environment: Some(environment.clone()),
        before: before.map(|release| release.to_string()),
        after: pin.map(|number| ReleaseId { service: service.clone(), number }.to_string()),
        ..audit::entry(by, action, format!("{service}.{environment}"))?
    };
    audit::record(connection, by, &entry).await
}

/// Freezes an environment, or ends its freeze.
pub(super) async fn freeze(
    connection: &mut Connection,
    environment: &EnvironmentName,
    frozen: bool,
    expected: Option<String>,
    by: &By,
) -> Result<(), StoreError> {
    if let Some(expected) = expected {
        let known = self::frozen(connection).await?;
        let freeze = known.iter().find(|freeze| freeze.environment == *environment);
        if Freeze::version(freeze) != expected {
            return Err(StoreError::Outdated);
        }
    }
    query("DELETE FROM frozen WHERE environment = $1")
        .bind(environment.as_str())
        .execute(&mut *connection)
        .await?;
    if frozen {
        query("INSERT INTO frozen (environment, reason, frozen_by, at) VALUES ($1, $2, $3, $4)")
            .bind(environment.as_str())
            .bind(&by.reason)
            .bind(&by.actor)
            .bind(row::milliseconds(by.at))
            .execute(&mut *connection)
            .await?;
    }
    let action = if frozen { "environment.freeze" } else { "environment.thaw" };
    let entry = AuditEntry {
        environment: Some(environment.clone()),
        ..audit::entry(by, action, environment.to_string())?
    };
    audit::record(connection, by, &entry).await
}

/// The frozen environments.
pub(super) async fn frozen(connection: &mut Connection) -> Result<Vec<Freeze>, StoreError> {
    let rows = query("SELECT * FROM frozen ORDER BY environment").fetch_all(connection).await?;
    rows.iter()
        .map(|row| {
            Ok(Freeze {
                environment: row::name(row, "environment")?,
                reason: get(row, "reason")?,
                frozen_by: get(row, "frozen_by")?,
                at: row::time(row, "at")?,
            })
        })
        .collect()
}
