//! Names and identifiers of services, environments, releases, deployments and commits; times and
//! scopes.

mod commit;
mod git_url;
mod mirror_host;

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use portcullis_config::model::{InvalidHostname, check_label};
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

pub use self::commit::{Branch, CommitId, InvalidName};
pub use self::git_url::{GitUrl, InvalidGitUrl, Transport};
pub use self::mirror_host::{Host, InvalidMirrorHost, MirrorHost};

/// A type for names that are one DNS label.
macro_rules! label {
    ($(#[$documentation:meta])* $name:ident) => {
        $(#[$documentation])*
        #[derive(
            Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
        )]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidHostname;

            fn try_from(text: String) -> Result<Self, InvalidHostname> {
                check_label(&text).map(|()| Self(text))
            }
        }

        impl FromStr for $name {
            type Err = InvalidHostname;

            fn from_str(text: &str) -> Result<Self, InvalidHostname> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

label! {
    /// The name of a service: one DNS label.
    ServiceName
}
label! {
    /// The name of an environment: one DNS label.
    EnvironmentName
}
label! {
    /// The name of a repository that is followed: one DNS label.
    RepositoryName
}

/// A service in an environment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub struct Placement {
    /// The service.
    pub service: ServiceName,
    /// The environment.
    pub environment: EnvironmentName,
}

/// Services in environments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Placements {
    /// The services; `None` for all.
    pub services: Option<Vec<ServiceName>>,
    /// The environments; `None` for all.
    pub environments: Option<Vec<EnvironmentName>>,
}

/// A release: the service and a number that counts from 1, written `web.17`.
///
/// Numbers count per service, so that they reveal nothing about other services.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReleaseId {
    /// The service.
    pub service: ServiceName,
    /// Its number.
    pub number: u32,
}

/// A deployment: placement and a number that counts from 1, written `web.staging.3`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeploymentId {
    /// The service and the environment.
    pub placement: Placement,
    /// Its number.
    pub number: u32,
}

/// A build: the repository and a number that counts from 1, written `shop.17`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BuildId {
    /// The repository.
    pub repository: RepositoryName,
    /// Its number.
    pub number: u32,
}

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Not a release.
    #[error("{0:?} is not a release: write its service and number, such as `web.17`")]
    Release(String),
    /// Not a deployment.
    #[error("{0:?} is not a deployment: write it as `SERVICE.ENVIRONMENT.NUMBER`")]
    Deployment(String),
    /// Not a build.
    #[error("{0:?} is not a build: write its repository and number, such as `shop.17`")]
    Build(String),
}

/// What a caller may do. Each scope includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Scope {
    /// Read releases and deployments.
    Read,
    /// Create releases, deploy, promote and roll back.
    Deploy,
    /// Freeze environments, pin, and read the audit log.
    Admin,
}

/// What the names of users begin with in the audit log, so that none is that of a caller with keys.
pub const USER_PREFIX: &str = "user:";

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(transparent)]
pub struct Time(pub u64);

// === impl Time ===

impl Time {
    /// The current time.
    #[must_use]
    pub fn now() -> Self {
        let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
    }
}

// === impl ReleaseId ===

impl FromStr for ReleaseId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parsed = text
            .split_once('.')
            .and_then(|(service, count)| Some((service.parse().ok()?, number(count)?)));
        parsed
            .map(|(service, number)| Self { service, number })
            .ok_or_else(|| InvalidId::Release(text.to_owned()))
    }
}

impl TryFrom<String> for ReleaseId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<ReleaseId> for String {
    fn from(id: ReleaseId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for ReleaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.service, self.number)
    }
}

// === impl DeploymentId ===

impl FromStr for DeploymentId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let mut parts = text.split('.');
        let mut parse = || {
            let service = parts.next()?.parse().ok()?;
            let environment = parts.next()?.parse().ok()?;
            let number = number(parts.next()?)?;
            let placement = Placement { service, environment };
            parts.next().is_none().then_some(Self { placement, number })
        };
        parse().ok_or_else(|| InvalidId::Deployment(text.to_owned()))
    }
}

impl TryFrom<String> for DeploymentId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<DeploymentId> for String {
    fn from(id: DeploymentId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Placement { service, environment } = &self.placement;
        write!(f, "{service}.{environment}.{}", self.number)
    }
}

// === impl BuildId ===

impl FromStr for BuildId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parsed = text
            .split_once('.')
            .and_then(|(repository, count)| Some((repository.parse().ok()?, number(count)?)));
        parsed
            .map(|(repository, number)| Self { repository, number })
            .ok_or_else(|| InvalidId::Build(text.to_owned()))
    }
}

impl TryFrom<String> for BuildId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<BuildId> for String {
    fn from(id: BuildId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.repository, self.number)
    }
}

/// The schema of identifiers: a text, such as `example`.
macro_rules! text_schema {
    ($name:ident, $example:literal) => {
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let text = ObjectBuilder::new().schema_type(Type::String);
                text.examples([$example]).into()
            }
        }

        impl ToSchema for $name {}
    };
}
text_schema!(ReleaseId, "web.17");
text_schema!(DeploymentId, "web.staging.3");
text_schema!(BuildId, "shop.17");

/// Whether a text is a host with an optional port. In the name of an image, a
/// first part without dot and port would be a repository of Docker Hub.
pub(crate) fn is_host(text: &str) -> bool {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (text, None),
    };
    let is_name = |name: &str| {
        name.split('.').all(|label| {
            let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            !label.is_empty() && label.bytes().all(is_inner)
        })
    };
    let is_address = |name: &str| {
        name.strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'))
            .is_some_and(|name| name.parse::<std::net::Ipv6Addr>().is_ok())
    };
    (is_name(name) || is_address(name))
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|number| number > 0))
        && (port.is_some() || name.contains('.') || name == "localhost")
}

/// Whether a text is a tag of an image, by the OCI distribution specification.
pub(crate) fn is_tag(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (1..=128).contains(&text.len()) && !text.starts_with(['.', '-']) && text.bytes().all(is_inner)
}

/// A number from 1 in its only spelling: no sign, no leading zero.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number: &u32| *number > 0 && number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_have_one_spelling() {
        for good in ["web.17", "a-1.2"] {
            assert_eq!(good.parse::<ReleaseId>().unwrap().to_string(), good);
        }
        for bad in ["", "web", "web.", "web.0", "web.01", "web.+1", "Web.1", "web.1.1", ".1"] {
            assert!(bad.parse::<ReleaseId>().is_err(), "{bad}");
            assert!(bad.parse::<BuildId>().is_err(), "{bad}");
        }
        assert_eq!("web.staging.3".parse::<DeploymentId>().unwrap().to_string(), "web.staging.3");
        for bad in ["web.3", "web.staging.0", "web.staging.3.4", "web..3"] {
            assert!(bad.parse::<DeploymentId>().is_err(), "{bad}");
        }
    }
}
