//! When keys of callers were used last.

use std::collections::BTreeMap;

use super::query::{Connection, query};
use super::row::{self, get};
use crate::model::Time;
use crate::store::StoreError;

/// Records a use.
pub(super) async fn used(
    connection: &mut Connection,
    key: &str,
    at: Time,
) -> Result<(), StoreError> {
    query(
        "INSERT INTO key_uses (key, at) VALUES ($1, $2) \
         ON CONFLICT (key) DO UPDATE SET at = excluded.at",
    )
    .bind(key)
    .bind(row::milliseconds(at))
    .execute(connection)
    .await?;
    Ok(())
}

/// The last uses of all keys that were used.
pub(super) async fn list(
    connection: &mut Connection,
) -> Result<BTreeMap<String, Time>, StoreError> {
    let rows = query("SELECT key, at FROM key_uses").fetch_all(connection).await?;
    rows.iter().map(|row| Ok((get(row, "key")?, row::time(row, "at")?))).collect()
}
