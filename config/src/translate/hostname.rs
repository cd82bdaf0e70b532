//! How the hostname of a service in an environment is made.

use crate::settings::Settings;
use crate::snapshot::host::{HostPattern, Hostname, InvalidHostname, check_label};

/// A hostname template that was checked, such as `{service}--{environment}.{zone}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostnameTemplate {
    /// Before, between and after the two placeholders, with the zone filled in.
    text: String,
    zone: Hostname,
    default_environment: Option<String>,
}

/// What is wrong with the settings that hostnames are made from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    /// `zone` is no hostname.
    #[error("`zone: {0}` {1}")]
    Zone(String, InvalidHostname),
    /// `defaultEnvironment` is no label of a hostname.
    #[error("`defaultEnvironment: {0}` {1}")]
    DefaultEnvironment(String, InvalidHostname),
    /// Without the placeholder, two services would have one name.
    #[error("`hostname: {0}` must have `{1}` once")]
    Placeholder(String, &'static str),
    /// Names outside of the zone would not lead here.
    #[error("`hostname: {0}` must end with `.{{zone}}`")]
    OutsideZone(String),
    /// What is around the placeholders is no part of a hostname.
    #[error("`hostname: {0}` {1}")]
    Literal(String, InvalidHostname),
}

const SERVICE: &str = "{service}";
const ENVIRONMENT: &str = "{environment}";
const ZONE: &str = ".{zone}";

// === impl HostnameTemplate ===

impl HostnameTemplate {
    /// Checks the settings that hostnames are made from.
    ///
    /// # Errors
    /// Says what is wrong.
    pub fn new(settings: &Settings) -> Result<Self, InvalidTemplate> {
        let zone: Hostname = settings.zone.parse().map_err(|error| InvalidTemplate::Zone(settings.zone.clone(), error))?;
        let template = &settings.hostname;
        for placeholder in [SERVICE, ENVIRONMENT] {
            if template.matches(placeholder).count() != 1 {
                return Err(InvalidTemplate::Placeholder(template.clone(), placeholder));
            }
        }
        let Some(prefix) = template.strip_suffix(ZONE) else { return Err(InvalidTemplate::OutsideZone(template.clone())) };
        if let Some(environment) = &settings.default_environment {
            check_label(environment).map_err(|error| InvalidTemplate::DefaultEnvironment(environment.clone(), error))?;
        }
        let made = Self { text: format!("{prefix}.{zone}"), zone, default_environment: settings.default_environment.clone() };
        made.fill("a", "a").map_err(|error| InvalidTemplate::Literal(template.clone(), error))?;
        Ok(made)
    }

    /// The hostname of a service in an environment, both of them labels.
    ///
    /// # Errors
    /// The name is too long.
    pub fn hostname(&self, service: &str, environment: &str) -> Result<Hostname, InvalidHostname> {
        if self.default_environment.as_deref() == Some(environment) {
            return format!("{service}.{}", self.zone).parse();
        }
        self.fill(service, environment)
    }

    /// Whether a wildcard would catch names of the zone. None may: a name that was never configured must look like one that is hidden.
    #[must_use]
    pub fn is_shadowed_by(&self, pattern: &HostPattern) -> bool {
        let HostPattern::Wildcard(parent) = pattern else { return false };
        is_at_or_below(self.zone.as_str(), parent.as_str()) || is_at_or_below(parent.as_str(), self.zone.as_str())
    }

    fn fill(&self, service: &str, environment: &str) -> Result<Hostname, InvalidHostname> {
        self.text.replacen(SERVICE, service, 1).replacen(ENVIRONMENT, environment, 1).parse()
    }
}

fn is_at_or_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
