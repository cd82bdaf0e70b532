//! Releases.

use super::query::{Connection, Row, query};
use super::row::{self, get};
use super::{audit, settings};
use crate::model::{ReleaseId, ServiceName};
use crate::store::{
    AuditEntry, By, MAX_PAGE, NewRelease, Release, ReleaseCursor, ReleaseSummary, StoreError,
};

/// Records a release, or returns the one that its idempotency key made.
pub(super) async fn create(
    connection: &mut Connection,
    new: NewRelease,
) -> Result<ReleaseSummary, StoreError> {
    if let Some(made) = made(connection, &new.by).await? {
        return Ok(made);
    }
    let newest: Option<i64> = query("SELECT MAX(number) FROM releases WHERE service = $1")
        .bind(new.service.as_str())
        .fetch_scalar(&mut *connection)
        .await?;
    let number = row::next(newest);
    query(
        "INSERT INTO releases (service, number, source_commit, requested, image, template, \
         irreversible, created_at, created_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(new.service.as_str())
    .bind(number)
    .bind(&new.commit)
    .bind(&new.requested)
    .bind(&new.image)
    .bind(row::to_json(&new.template)?)
    .bind(&new.irreversible)
    .bind(row::milliseconds(new.by.at))
    .bind(&new.by.actor)
    .execute(&mut *connection)
    .await?;
    settings::declare(connection, &new.service, &new.template.settings()).await?;
    let number = u32::try_from(number).map_err(|_| StoreError::Full)?;
    let summary = ReleaseSummary {
        id: ReleaseId { service: new.service.clone(), number },
        commit: new.commit,
        requested: new.requested,
        image: new.image,
        irreversible: new.irreversible,
        created_at: new.by.at,
        created_by: new.by.actor.clone(),
    };
    let entry = AuditEntry {
        service: Some(new.service),
        after: Some(summary.image.clone()),
        ..audit::entry(&new.by, "release.create", summary.id.to_string())?
    };
    audit::record(connection, &new.by, &entry).await?;
    Ok(summary)
}

/// The release that an idempotency key made.
pub(super) async fn made(
    connection: &mut Connection,
    by: &By,
) -> Result<Option<ReleaseSummary>, StoreError> {
    let Some(made) = audit::made(connection, by).await? else { return Ok(None) };
    let id = made.parse().map_err(|_| StoreError::Invalid(made))?;
    let release = find(connection, &id).await?.ok_or(StoreError::NotFound("release"))?;
    Ok(Some(release.summary))
}

/// A release with its template.
pub(super) async fn find(
    connection: &mut Connection,
    id: &ReleaseId,
) -> Result<Option<Release>, StoreError> {
    let row = query("SELECT * FROM releases WHERE service = $1 AND number = $2")
        .bind(id.service.as_str())
        .bind(i64::from(id.number))
        .fetch_optional(connection)
        .await?;
    row.map(|row| Ok(Release { summary: summary(&row)?, template: row::json(&row, "template")? }))
        .transpose()
}

/// A page of all releases; `$1` is the services, which are not asked for.
const LIST: &str = "SELECT service, number, source_commit, requested, image, irreversible, \
     created_at, created_by FROM releases WHERE $1 IS NULL \
     AND ($2 IS NULL OR (created_at, service, number) < ($2, $3, $4)) \
     ORDER BY created_at DESC, service DESC, number DESC LIMIT $5";
/// A page of those of the services in the JSON list `$1`. The sign before `created_at` makes them be
/// read by the index of services: by that of times, those of all others would be, too.
pub(super) const LIST_OF: &str = "SELECT service, number, source_commit, requested, image, \
     irreversible, created_at, created_by FROM releases WHERE service IN (SELECT value FROM json_each($1)) \
     AND ($2 IS NULL OR (+created_at, service, number) < ($2, $3, $4)) \
     ORDER BY +created_at DESC, service DESC, number DESC LIMIT $5";

/// A page of releases, the newest first.
pub(super) async fn list(
    connection: &mut Connection,
    services: Option<&[ServiceName]>,
    after: Option<&ReleaseCursor>,
    limit: u32,
) -> Result<Vec<ReleaseSummary>, StoreError> {
    let query = query(if services.is_some() { LIST_OF } else { LIST })
        .bind(services.map(|services| row::to_json(&services)).transpose()?);
    let rows = query
        .bind(after.map(|after| row::milliseconds(after.created_at)))
        .bind(after.map(|after| after.id.service.as_str()))
        .bind(after.map(|after| i64::from(after.id.number)))
        .bind(i64::from(limit.min(MAX_PAGE)))
        .fetch_all(connection)
        .await?;
    rows.iter().map(summary).collect()
}

fn summary(row: &Row) -> Result<ReleaseSummary, StoreError> {
    Ok(ReleaseSummary {
        id: ReleaseId { service: row::service(row)?, number: row::number(row, "number")? },
        commit: get(row, "source_commit")?,
        requested: get(row, "requested")?,
        image: get(row, "image")?,
        irreversible: get(row, "irreversible")?,
        created_at: row::time(row, "created_at")?,
        created_by: get(row, "created_by")?,
    })
}
