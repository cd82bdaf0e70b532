//! Hostnames of services in environments.

use crate::model::vocabulary::prefixed;
use crate::model::{HostPattern, Hostname, InvalidHostname, check_label};
use crate::settings::Settings;

/// A valid hostname template, such as `{service}--{environment}.{zone}`: text, a placeholder, text,
/// the other placeholder, text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostnameTemplate {
    before: String,
    between: String,
    /// With the zone filled in.
    after: String,
    environment_first: bool,
    zone: Hostname,
    default_environment: Option<String>,
}

/// A problem with the settings of hostnames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    /// `zone` is not a hostname.
    #[error("`{0}` is not a hostname: it {1}")]
    Zone(String, InvalidHostname),
    /// `defaultEnvironment` is not a label of a hostname.
    #[error("no environment can have this name: it {0}")]
    DefaultEnvironment(InvalidHostname),
    /// `hostname` lacks a placeholder.
    #[error("`{0}` lacks `{1}`: names of different services would be the same")]
    Placeholder(String, &'static str),
    /// `hostname` has a placeholder twice.
    #[error("`{0}` has `{1}` more than once")]
    Repeated(String, &'static str),
    /// `hostname` does not end in the zone.
    #[error("`{0}` does not end in `.{{zone}}`: its names would be outside of the zone")]
    OutsideZone(String),
    /// `hostname` has text that is not allowed in a hostname.
    #[error("`{0}` does not yield a hostname: `{1}` {2}")]
    Literal(String, String, InvalidHostname),
}

const SERVICE: &str = "{service}";
const ENVIRONMENT: &str = "{environment}";
const ZONE: &str = "{zone}";
/// The value of placeholders in a trial.
const PROBE: &str = "a";

// === impl InvalidTemplate ===

impl InvalidTemplate {
    /// The setting that is wrong.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::Zone(..) => "zone",
            Self::DefaultEnvironment(_) => "defaultEnvironment",
            Self::Placeholder(..)
            | Self::Repeated(..)
            | Self::OutsideZone(_)
            | Self::Literal(..) => "hostname",
        }
    }

    /// How to fix it.
    #[must_use]
    pub fn help(&self) -> &'static str {
        match self {
            Self::Zone(..) => "write a domain such as `apps.example.com`, in lower case",
            Self::DefaultEnvironment(_) => {
                concat!("write the value of a Namespace's label `", prefixed!("environment"), "`")
            }
            Self::Placeholder(..)
            | Self::Repeated(..)
            | Self::OutsideZone(_)
            | Self::Literal(..) => "write a template such as `{service}--{environment}.{zone}`",
        }
    }

    /// All problems with the settings of hostnames.
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
        for placeholder in [SERVICE, ENVIRONMENT, ZONE] {
            match template.matches(placeholder).count() {
                1 => {}
                0 if placeholder == ZONE => {}
                0 => wrong.push(Self::Placeholder(template.clone(), placeholder)),
                _ => wrong.push(Self::Repeated(template.clone(), placeholder)),
            }
        }
        if !template.ends_with(&format!(".{ZONE}")) {
            wrong.push(Self::OutsideZone(template.clone()));
        }
        let name =
            template.replace(SERVICE, PROBE).replace(ENVIRONMENT, PROBE).replace(ZONE, PROBE);
        if let Err(error) = name.parse::<Hostname>() {
            wrong.push(Self::Literal(template.clone(), name, error));
        }
        wrong
    }
}

// === impl HostnameTemplate ===

impl HostnameTemplate {
    /// Parses and validates the settings of hostnames.
    ///
    /// # Errors
    /// All problems.
    pub fn new(settings: &Settings) -> Result<Self, Vec<InvalidTemplate>> {
        let wrong = InvalidTemplate::all(settings);
        Self::parse(settings).filter(|_| wrong.is_empty()).ok_or(wrong)
    }

    fn parse(settings: &Settings) -> Option<Self> {
        let zone: Hostname = settings.zone.parse().ok()?;
        let text = settings.hostname.replace(ZONE, zone.as_str());
        let environment_first = text.find(ENVIRONMENT)? < text.find(SERVICE)?;
        let (first, second) =
            if environment_first { (ENVIRONMENT, SERVICE) } else { (SERVICE, ENVIRONMENT) };
        let (before, rest) = text.split_once(first)?;
        let (between, after) = rest.split_once(second)?;
        Some(Self {
            before: before.to_owned(),
            between: between.to_owned(),
            after: after.to_owned(),
            environment_first,
            zone,
            default_environment: settings.default_environment.clone(),
        })
    }

    /// The hostname of a service in an environment, both given as labels.
    ///
    /// # Errors
    /// The name is too long.
    pub fn hostname(&self, service: &str, environment: &str) -> Result<Hostname, InvalidHostname> {
        if self.default_environment.as_deref() == Some(environment) {
            return format!("{service}.{}", self.zone).parse();
        }
        let (first, second) =
            if self.environment_first { (environment, service) } else { (service, environment) };
        format!("{}{first}{}{second}{}", self.before, self.between, self.after).parse()
    }

    /// Whether a name belongs to an environment other than `environment`: whether the template
    /// yields it for some service there. Owners of one environment must not claim names of another.
    #[must_use]
    pub fn is_foreign(&self, name: &Hostname, environment: &str) -> bool {
        let mut readings = self.readings(name).peekable();
        if readings.peek().is_some() {
            return !readings.any(|owner| owner == environment);
        }
        let below_zone =
            name.as_str().strip_suffix(self.zone.as_str()).and_then(|rest| rest.strip_suffix('.'));
        below_zone.is_some_and(|label| check_label(label).is_ok())
            && self.default_environment.as_deref().is_some_and(|default| default != environment)
    }

    /// The environments for which the template yields a name, except the default one: `a--b--c` may
    /// be of `c`, or of `b--c`.
    fn readings<'a>(&'a self, name: &'a Hostname) -> impl Iterator<Item = &'a str> {
        let inner = name
            .as_str()
            .strip_prefix(&*self.before)
            .and_then(|rest| rest.strip_suffix(&*self.after))
            .unwrap_or_default();
        inner.char_indices().filter_map(move |(index, _)| {
            let (first, rest) = inner.split_at_checked(index)?;
            let second = rest.strip_prefix(&*self.between)?;
            check_label(first).and_then(|()| check_label(second)).ok()?;
            Some(if self.environment_first { first } else { second })
        })
    }

    /// Whether a wildcard would match names of the zone. None may: an unknown name must look like a
    /// hidden one.
    #[must_use]
    pub fn is_shadowed_by(&self, pattern: &HostPattern) -> bool {
        let HostPattern::Wildcard(parent) = pattern else { return false };
        is_at_or_below(self.zone.as_str(), parent.as_str())
            || is_at_or_below(parent.as_str(), self.zone.as_str())
    }
}

fn is_at_or_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests;
