//! The traffic feed of all replicas of a gateway, added up to looks for the analysis.
//!
//! [`read`] reads them. [`Watch`] is pure: what was read goes in, and looks come out, each window
//! of 10 seconds once. A window in which something is missing is left out, with a reason: what is
//! not counted is never evidence.

mod look;
mod outage;
mod reader;
mod watch;
mod wire;

pub use self::look::{Measure, Service, stable_latencies};
pub use self::outage::Outage;
pub use self::reader::{Replica, read};
pub use self::watch::{LeftOut, Reading, Readout, Watch};
pub use self::wire::Feed;

#[cfg(test)]
mod tests;
