//! The audit log, and idempotency keys.

use aws_lc_rs::rand;

use super::query::{Connection, Row, query};
use super::row::{self, get};
use crate::model::Time;
use crate::store::{AuditCursor, AuditEntry, By, MAX_PAGE, StoreError};

/// How long an idempotency key is remembered, in milliseconds: a day.
const REMEMBERED: u64 = 24 * 3600 * 1000;

/// An entry about what a caller did.
pub(super) fn entry(by: &By, action: &str, subject: String) -> Result<AuditEntry, StoreError> {
    let mut id = [0; 16];
    rand::fill(&mut id)
        .map_err(|_| StoreError::Invalid("the system has no randomness".to_owned()))?;
    Ok(AuditEntry {
        id: hex::encode(id),
        at: by.at,
        actor: by.actor.clone(),
        action: action.to_owned(),
        service: None,
        environment: None,
        subject,
        reason: by.reason.clone(),
        before: None,
        after: None,
    })
}

/// Appends an entry, and remembers that the caller's idempotency key made its subject.
pub(super) async fn record(
    connection: &mut Connection,
    by: &By,
    entry: &AuditEntry,
) -> Result<(), StoreError> {
    query(
        "INSERT INTO audit (id, at, actor, action, service, environment, subject, reason, before, \
         after) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
    )
    .bind(&entry.id)
    .bind(row::milliseconds(entry.at))
    .bind(&entry.actor)
    .bind(&entry.action)
    .bind(entry.service.as_ref().map(|service| service.as_str()))
    .bind(entry.environment.as_ref().map(|environment| environment.as_str()))
    .bind(&entry.subject)
    .bind(&entry.reason)
    .bind(&entry.before)
    .bind(&entry.after)
    .execute(&mut *connection)
    .await?;
    let Some(idempotency) = &by.idempotency else { return Ok(()) };
    query("DELETE FROM idempotency WHERE at < $1")
        .bind(row::milliseconds(Time(by.at.0.saturating_sub(REMEMBERED))))
        .execute(&mut *connection)
        .await?;
    query(
        "INSERT INTO idempotency (caller, key, fingerprint, made, at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(&by.actor)
    .bind(&idempotency.key)
    .bind(&idempotency.fingerprint)
    .bind(&entry.subject)
    .bind(row::milliseconds(by.at))
    .execute(connection)
    .await?;
    Ok(())
}

/// What the caller's idempotency key made before, if it did.
pub(super) async fn made(
    connection: &mut Connection,
    by: &By,
) -> Result<Option<String>, StoreError> {
    let Some(idempotency) = &by.idempotency else { return Ok(None) };
    let row = query("SELECT fingerprint, made FROM idempotency WHERE caller = $1 AND key = $2")
        .bind(&by.actor)
        .bind(&idempotency.key)
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    if get::<String>(&row, "fingerprint")? == idempotency.fingerprint {
        Ok(Some(get(&row, "made")?))
    } else {
        Err(StoreError::KeyReused)
    }
}

/// A page of the audit log, the newest entry first.
pub(super) async fn list(
    connection: &mut Connection,
    after: Option<&AuditCursor>,
    limit: u32,
) -> Result<Vec<AuditEntry>, StoreError> {
    let rows = query(
        "SELECT * FROM audit WHERE ($1 IS NULL OR (at, id) < ($1, $2)) \
         ORDER BY at DESC, id DESC LIMIT $3",
    )
    .bind(after.map(|after| row::milliseconds(after.at)))
    .bind(after.map(|after| after.id.as_str()))
    .bind(i64::from(limit.min(MAX_PAGE)))
    .fetch_all(connection)
    .await?;
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<AuditEntry, StoreError> {
    let is_present = |column| Ok::<_, StoreError>(get::<Option<String>>(row, column)?.is_some());
    Ok(AuditEntry {
        id: get(row, "id")?,
        at: row::time(row, "at")?,
        actor: get(row, "actor")?,
        action: get(row, "action")?,
        service: is_present("service")?.then(|| row::service(row)).transpose()?,
        environment: is_present("environment")?
            .then(|| row::name(row, "environment"))
            .transpose()?,
        subject: get(row, "subject")?,
        reason: get(row, "reason")?,
        before: get(row, "before")?,
        after: get(row, "after")?,
    })
}
