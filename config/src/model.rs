//! Basic types, which depend on no other module: names, addresses, origins, durations, and the
//! labels and annotations that users write.

pub mod address;
pub mod credential;
pub mod duration;
mod hostname;
mod name;
mod name_pattern;
mod origin;
pub mod vocabulary;
mod web_origin;

pub use self::hostname::{
    HostPattern, Hostname, InvalidHostname, MAX_HOSTNAME, MAX_LABEL, check_label,
};
pub use self::name::NamespacedName;
pub(crate) use self::name_pattern::NamePatternKind;
pub use self::name_pattern::{InvalidNamePattern, NamePattern};
pub use self::origin::{Origin, SourceLocation};
pub use self::web_origin::{InvalidOrigin, OriginPattern, OriginSet};
