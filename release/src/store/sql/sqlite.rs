//! A SQLite file: write-ahead log, one writer, every commit on disk.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::file_lock::FileLock;
use super::migrations;
use super::query::Connection;
use crate::store::StoreError;

/// How many lists are read at the same time.
const READERS: u32 = 4;
/// How long a call waits for the file and for a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// An open file.
pub(super) struct SqliteFile {
    pub(super) writer: SqlitePool,
    readers: SqlitePool,
    _lock: FileLock,
}

// === impl SqliteFile ===

impl SqliteFile {
    /// Opens the file, or creates it, and migrates its schema.
    pub(super) async fn open(path: &Path) -> Result<Self, StoreError> {
        let lock = FileLock::take(path)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(PATIENCE);
        let pool = |connections| {
            SqlitePoolOptions::new().max_connections(connections).acquire_timeout(PATIENCE)
        };
        let writer = pool(1).connect_with(options.clone().create_if_missing(true)).await?;
        migrations::sqlite().run(&writer).await?;
        let readers = pool(READERS).connect_with(options.read_only(true)).await?;
        Ok(Self { writer, readers, _lock: lock })
    }

    /// Starts a transaction that writes.
    pub(super) async fn write(&self) -> Result<Connection, StoreError> {
        Ok(Connection::Sqlite(self.writer.begin_with("BEGIN IMMEDIATE").await?))
    }

    /// Starts a transaction that reads.
    pub(super) async fn read(&self) -> Result<Connection, StoreError> {
        Ok(Connection::Sqlite(self.readers.begin().await?))
    }
}
