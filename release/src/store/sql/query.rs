//! Queries that SQLite and PostgreSQL both understand, and the transactions that they run in.
//!
//! sqlx has a driver for any database of its own. It cannot read columns of type BIGINT from SQLite.

use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{
    Arguments, ColumnIndex, Database, Decode, Encode, Postgres, Row as _, Sqlite, Transaction, Type,
};

use crate::store::StoreError;

/// A transaction, which is rolled back unless it is committed.
pub(super) enum Connection {
    /// In SQLite.
    Sqlite(Transaction<'static, Sqlite>),
    /// In PostgreSQL.
    Postgres(Transaction<'static, Postgres>),
}

/// A row of a result.
pub(super) enum Row {
    /// Of SQLite.
    Sqlite(SqliteRow),
    /// Of PostgreSQL.
    Postgres(PgRow),
}

/// A value of a column.
pub(super) enum Value {
    Text(Option<String>),
    Number(Option<i64>),
}

/// A type that a column is read as.
pub(super) trait Column:
    for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>
{
}

impl<T> Column for T where
    T: for<'r> Decode<'r, Sqlite> + Type<Sqlite> + for<'r> Decode<'r, Postgres> + Type<Postgres>
{
}

/// A query with its parameters.
pub(super) struct Query {
    sql: &'static str,
    values: Vec<Value>,
}

/// Starts a query. Parameters are `$1` and so on.
pub(super) fn query(sql: &'static str) -> Query {
    Query { sql, values: Vec::new() }
}

// === impl Connection ===

impl Connection {
    /// Records what was changed.
    pub(super) async fn commit(self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(transaction) => transaction.commit().await?,
            Self::Postgres(transaction) => transaction.commit().await?,
        }
        Ok(())
    }
}

// === impl Query ===

impl Query {
    /// Adds a parameter.
    pub(super) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Returns the number of rows that were changed.
    pub(super) async fn execute(self, connection: &mut Connection) -> Result<u64, StoreError> {
        Ok(match connection {
            Connection::Sqlite(transaction) => {
                self.of::<Sqlite>().execute(&mut **transaction).await?.rows_affected()
            }
            Connection::Postgres(transaction) => {
                let query = self.without_nul().of::<Postgres>();
                query.execute(&mut **transaction).await?.rows_affected()
            }
        })
    }

    /// Returns all rows.
    pub(super) async fn fetch_all(
        self,
        connection: &mut Connection,
    ) -> Result<Vec<Row>, StoreError> {
        Ok(match connection {
            Connection::Sqlite(transaction) => {
                let rows = self.of::<Sqlite>().fetch_all(&mut **transaction).await?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Connection::Postgres(transaction) => {
                let query = self.without_nul().of::<Postgres>();
                let rows = query.fetch_all(&mut **transaction).await?;
                rows.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// Returns the row, if there is one. The query has at most one.
    pub(super) async fn fetch_optional(
        self,
        connection: &mut Connection,
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.fetch_all(connection).await?.pop())
    }

    /// Returns the column of the row.
    pub(super) async fn fetch_scalar<T: Column>(
        self,
        connection: &mut Connection,
    ) -> Result<T, StoreError> {
        self.fetch_optional_scalar(connection)
            .await?
            .ok_or_else(|| StoreError::Invalid("a row is missing".to_owned()))
    }

    /// Returns the column of the row, if there is one.
    pub(super) async fn fetch_optional_scalar<T: Column>(
        self,
        connection: &mut Connection,
    ) -> Result<Option<T>, StoreError> {
        let row = self.fetch_optional(connection).await?;
        row.map(|row| row.get(0_usize)).transpose()
    }

    /// Replaces NUL, which a text of PostgreSQL cannot have. What a program has written may have it.
    fn without_nul(mut self) -> Self {
        for value in &mut self.values {
            if let Value::Text(Some(text)) = value
                && text.contains('\0')
            {
                *text = text.replace('\0', "\u{fffd}");
            }
        }
        self
    }

    fn of<D: Database>(self) -> sqlx::query::Query<'static, D, D::Arguments>
    where
        Option<String>: Encode<'static, D> + Type<D>,
        Option<i64>: Encode<'static, D> + Type<D>,
        D::Arguments: Arguments<Database = D>,
    {
        self.values.into_iter().fold(sqlx::query(self.sql), |query, value| match value {
            Value::Text(text) => query.bind(text),
            Value::Number(number) => query.bind(number),
        })
    }
}

// === impl Row ===

impl Row {
    /// Reads a column, by its name or its position.
    pub(super) fn get<T: Column, I>(&self, column: I) -> Result<T, StoreError>
    where
        I: ColumnIndex<SqliteRow> + ColumnIndex<PgRow>,
    {
        Ok(match self {
            Self::Sqlite(row) => row.try_get(column)?,
            Self::Postgres(row) => row.try_get(column)?,
        })
    }
}

// === impl Value ===

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Some(text))
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        text.as_str().into()
    }
}

impl From<Option<String>> for Value {
    fn from(text: Option<String>) -> Self {
        Self::Text(text)
    }
}

impl From<&Option<String>> for Value {
    fn from(text: &Option<String>) -> Self {
        Self::Text(text.clone())
    }
}

impl From<Option<&str>> for Value {
    fn from(text: Option<&str>) -> Self {
        Self::Text(text.map(str::to_owned))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(Some(number))
    }
}

impl From<Option<i64>> for Value {
    fn from(number: Option<i64>) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Self {
        i64::from(truth).into()
    }
}
