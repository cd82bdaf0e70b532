//! Pruned objects that a late call may create again.

use super::placements;
use super::query::{Connection, query};
use super::row;
use crate::manifest::ObjectRef;
use crate::model::{Placement, Time};
use crate::store::{StoreError, WatchedObject};

/// Remembers pruned objects, until then at least.
pub(super) async fn add(
    connection: &mut Connection,
    placement: &Placement,
    namespace: &str,
    objects: &[ObjectRef],
    until: Time,
) -> Result<(), StoreError> {
    for object in objects {
        query(
            "INSERT INTO pruned (service, environment, namespace, object, watched_until) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (service, environment, namespace, object) \
             DO UPDATE SET watched_until = excluded.watched_until",
        )
        .bind(placement.service.as_str())
        .bind(placement.environment.as_str())
        .bind(namespace)
        .bind(row::to_json(object)?)
        .bind(row::milliseconds(until))
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Forgets an object, unless it was pruned again and is not over.
pub(super) async fn forget(
    connection: &mut Connection,
    watched: &WatchedObject,
    now: Time,
) -> Result<(), StoreError> {
    query(
        "DELETE FROM pruned WHERE service = $1 AND environment = $2 AND namespace = $3 \
         AND object = $4 AND watched_until <= $5",
    )
    .bind(watched.placement.service.as_str())
    .bind(watched.placement.environment.as_str())
    .bind(&watched.namespace)
    .bind(row::to_json(&watched.object)?)
    .bind(row::milliseconds(now))
    .execute(connection)
    .await?;
    Ok(())
}

/// The placements with objects that are watched.
pub(super) async fn placements(connection: &mut Connection) -> Result<Vec<Placement>, StoreError> {
    let rows =
        query("SELECT DISTINCT service, environment FROM pruned ORDER BY service, environment")
            .fetch_all(connection)
            .await?;
    let placement = |row| {
        let environment = row::name(row, "environment")?;
        Ok(Placement { service: row::service(row)?, environment })
    };
    rows.iter().map(placement).collect()
}

/// The objects of a placement that are watched.
pub(super) async fn list(
    connection: &mut Connection,
    placement: &Placement,
    now: Time,
) -> Result<Vec<WatchedObject>, StoreError> {
    let rows = query(
        "SELECT namespace, object, watched_until FROM pruned \
         WHERE service = $1 AND environment = $2 ORDER BY namespace, object",
    )
    .bind(placement.service.as_str())
    .bind(placement.environment.as_str())
    .fetch_all(connection)
    .await?;
    let inventory = placements::inventory(connection, placement).await?;
    let watched = |row| {
        let object: ObjectRef = row::json(row, "object")?;
        Ok(WatchedObject {
            placement: placement.clone(),
            namespace: row::get(row, "namespace")?,
            is_back: inventory.iter().any(|known| known.is_same(&object)),
            is_over: row::time(row, "watched_until")? <= now,
            object,
        })
    };
    rows.iter().map(watched).collect()
}
