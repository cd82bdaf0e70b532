//! Values of columns.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::query::{Column, Row};
use crate::model::{ServiceName, Time};
use crate::store::StoreError;

/// Reads a column.
pub(super) fn get<T: Column>(row: &Row, column: &str) -> Result<T, StoreError> {
    row.get(column)
}

/// Reads a column of text as a type that has this text form.
pub(super) fn name<T: TryFrom<String>>(row: &Row, column: &str) -> Result<T, StoreError>
where
    T::Error: std::fmt::Display,
{
    T::try_from(get(row, column)?).map_err(|error| invalid(column, error))
}

/// Reads a number of a release, a deployment or a version.
pub(super) fn number(row: &Row, column: &str) -> Result<u32, StoreError> {
    u32::try_from(get::<i64>(row, column)?).map_err(|error| invalid(column, error))
}

/// Reads a number that may be absent.
pub(super) fn optional(row: &Row, column: &str) -> Result<Option<u32>, StoreError> {
    get::<Option<i64>>(row, column)?
        .map(|value| u32::try_from(value).map_err(|error| invalid(column, error)))
        .transpose()
}

/// Reads a time.
pub(super) fn time(row: &Row, column: &str) -> Result<Time, StoreError> {
    Ok(Time(get::<i64>(row, column)?.unsigned_abs()))
}

/// The column of a time.
pub(super) fn milliseconds(time: Time) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

/// Reads a column of JSON.
pub(super) fn json<T: DeserializeOwned>(row: &Row, column: &str) -> Result<T, StoreError> {
    serde_json::from_str(&get::<String>(row, column)?).map_err(|error| invalid(column, error))
}

/// The column of a value in JSON.
pub(super) fn to_json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| invalid("a value", error))
}

/// The next number of a service's releases, or of a placement's deployments.
pub(super) fn next(newest: Option<i64>) -> i64 {
    newest.unwrap_or_default().saturating_add(1)
}

/// The service of a row.
pub(super) fn service(row: &Row) -> Result<ServiceName, StoreError> {
    name(row, "service")
}

fn invalid(column: &str, error: impl std::fmt::Display) -> StoreError {
    StoreError::Invalid(format!("{column}: {error}"))
}
