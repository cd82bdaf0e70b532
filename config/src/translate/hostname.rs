//! How the hostname of a service in an environment is made.

use crate::settings::Settings;
use crate::snapshot::host::{HostPattern, Hostname, InvalidHostname, check_label};

/// A hostname template that was checked, such as `{service}--{environment}.{zone}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostnameTemplate {
    /// With the zone filled in.
    text: String,
    zone: Hostname,
    default_environment: Option<String>,
}

/// What is wrong with the settings that hostnames are made from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    /// `zone` is no hostname.
    #[error("`{0}` is no hostname: it {1}")]
    Zone(String, InvalidHostname),
    /// `defaultEnvironment` is no label of a hostname.
    #[error("no environment can have this name: it {0}")]
    DefaultEnvironment(InvalidHostname),
    /// `hostname` lacks a placeholder.
    #[error("`{0}` lacks `{1}`: names of different services would be the same")]
    Placeholder(String, &'static str),
    /// `hostname` leads elsewhere.
    #[error("`{0}` does not end in `.{{zone}}`: its names would be outside of the zone")]
    OutsideZone(String),
    /// `hostname` has what is no part of a hostname.
    #[error("`{0}` makes no hostname: `{1}` {2}")]
    Literal(String, String, InvalidHostname),
}

const SERVICE: &str = "{service}";
const ENVIRONMENT: &str = "{environment}";
const ZONE: &str = "{zone}";
/// What a template is tried with.
const PROBE: &str = "a";

// === impl InvalidTemplate ===

impl InvalidTemplate {
    /// The setting that is wrong.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::Zone(..) => "zone",
            Self::DefaultEnvironment(_) => "defaultEnvironment",
            Self::Placeholder(..) | Self::OutsideZone(_) | Self::Literal(..) => "hostname",
        }
    }

    /// How to mend it.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            Self::Zone(..) => "write a domain such as `apps.example.com`, in lower case",
            Self::DefaultEnvironment(_) => "write the value of a Namespace's label `portcullis.dev/environment`",
            Self::Placeholder(..) | Self::OutsideZone(_) | Self::Literal(..) => {
                "write a template such as `{service}--{environment}.{zone}`"
            }
        }
    }

    /// All that is wrong with the settings that hostnames are made from.
    #[must_use]
    pub fn all(settings: &Settings) -> Vec<Self> {
        let mut wrong = Vec::new();
        if let Err(error) = settings.zone.parse::<Hostname>() {
            wrong.push(Self::Zone(settings.zone.clone(), error));
        }
        if let Some(Err(error)) = settings.default_environment.as_deref().map(check_label) {
            wrong.push(Self::DefaultEnvironment(error));
        }
        let template = &settings.hostname;
        wrong.extend(
            [SERVICE, ENVIRONMENT]
                .into_iter()
                .filter(|part| !template.contains(part))
                .map(|part| Self::Placeholder(template.clone(), part)),
        );
        if !template.ends_with(&format!(".{ZONE}")) {
            wrong.push(Self::OutsideZone(template.clone()));
        }
        let name = template.replace(SERVICE, PROBE).replace(ENVIRONMENT, PROBE).replace(ZONE, PROBE);
        if let Err(error) = name.parse::<Hostname>() {
            wrong.push(Self::Literal(template.clone(), name, error));
        }
        wrong
    }
}

// === impl HostnameTemplate ===

impl HostnameTemplate {
    /// Checks the settings that hostnames are made from.
    ///
    /// # Errors
    /// Says all that is wrong.
    pub fn new(settings: &Settings) -> Result<Self, Vec<InvalidTemplate>> {
        let wrong = InvalidTemplate::all(settings);
        match settings.zone.parse::<Hostname>() {
            Ok(zone) if wrong.is_empty() => {
                let text = settings.hostname.replace(ZONE, zone.as_str());
                Ok(Self { text, zone, default_environment: settings.default_environment.clone() })
            }
            _ => Err(wrong),
        }
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
        self.text.replace(SERVICE, service).replace(ENVIRONMENT, environment).parse()
    }
}

fn is_at_or_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}
