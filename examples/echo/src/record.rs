//! What `POST /record/ID` wrote: a file that outlives the process, so that a request that was
//! processed twice is found even if the pod was killed in between.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use http::StatusCode;

/// The file of one pod.
#[derive(Debug)]
pub(crate) struct Record(Option<PathBuf>);

// === impl Record ===

impl Record {
    /// The record in `folder`; without one nothing can be recorded.
    pub(crate) fn new(folder: Option<&Path>) -> Self {
        Self(folder.map(|folder| folder.join("records")))
    }

    /// Adds `id` as a line.
    ///
    /// # Errors
    /// The status of the response: there is no record, or it cannot be written.
    pub(crate) fn add(&self, id: &str) -> Result<(), StatusCode> {
        let path = self.0.as_ref().ok_or(StatusCode::NOT_FOUND)?;
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(format!("{id}\n").as_bytes()))
            .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// All lines; none if nothing was recorded.
    ///
    /// # Errors
    /// The status of the response: there is no record, or it cannot be read.
    pub(crate) fn read(&self) -> Result<String, StatusCode> {
        match fs::read_to_string(self.0.as_ref().ok_or(StatusCode::NOT_FOUND)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR),
        }
    }
}
