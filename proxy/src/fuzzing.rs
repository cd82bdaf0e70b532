//! What must hold for any octets at all: the laws that the fuzz targets in `fuzz/` check for hours, and that every test run
//! checks again on the corpora which they have found.
//!
//! Each function panics where its law is broken, whatever the octets are.

mod proxy_protocol;

pub use self::proxy_protocol::proxy_protocol;

#[cfg(test)]
mod tests;
