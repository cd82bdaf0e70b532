//! Settings of the listeners for the kubelet's probes and for metrics.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{self, ErrorSink};
use super::{Settings, SourceSettings};

/// The listener for the kubelet's probes.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProbeSettings {
    /// The address; `null` for no such listener. It serves only `/livez` and `/readyz`, and exposes
    /// no hostname.
    pub address: Option<SocketAddr>,
}

/// The listener for metrics, which expose the names of all environments and services.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TelemetrySettings {
    /// The address; `null` for no such listener. It serves `/metrics` and `/v1/traffic`.
    pub address: Option<SocketAddr>,
    /// The credential that readers must present. The default is `tokenFile` where one is set, else
    /// `tokenReview` where the source is a cluster, else `none`, which requires a loopback address.
    pub require: Option<TelemetryCredential>,
    /// A file with the bearer token that readers present, for `require: tokenFile`. A replaced file
    /// takes effect at once.
    pub token_file: Option<PathBuf>,
}

/// The credential that readers of metrics must present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TelemetryCredential {
    /// A bearer token that the cluster's API server authenticates (TokenReview), of an account that
    /// may `get` the non-resource URL `/metrics` (SubjectAccessReview).
    TokenReview,
    /// The bearer token in `tokenFile`.
    TokenFile,
    /// None: all that reach the listener may read. The `Host` of a request must be an IP address or
    /// `localhost`, which prevents DNS rebinding by web pages.
    None,
}

/// How readers of telemetry are authorized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TelemetryAccess<'s> {
    /// By the API server of the cluster.
    TokenReview,
    /// By the token in this file.
    TokenFile(&'s Path),
    /// Not at all: all may read.
    Open,
}

// === impl ProbeSettings ===

impl Default for ProbeSettings {
    fn default() -> Self {
        Self { address: Some(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 9902))) }
    }
}

// === impl TelemetrySettings ===

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self {
            address: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9903))),
            require: None,
            token_file: None,
        }
    }
}

// === impl Settings ===

impl Settings {
    /// How readers of telemetry are authorized, with defaults that depend on other settings.
    #[must_use]
    pub fn telemetry_access(&self) -> TelemetryAccess<'_> {
        let is_cluster = matches!(self.source, SourceSettings::Kubernetes(_));
        match (self.telemetry.require, &self.telemetry.token_file) {
            (None | Some(TelemetryCredential::TokenFile), Some(file)) => {
                TelemetryAccess::TokenFile(file)
            }
            (Some(TelemetryCredential::None), _) => TelemetryAccess::Open,
            (None, None) if !is_cluster => TelemetryAccess::Open,
            // `tokenFile` without a file is rejected by validation; this would fail closed.
            _ => TelemetryAccess::TokenReview,
        }
    }
}

/// Validates what the types do not express.
pub(super) fn validate(settings: &Settings, report: &mut ErrorSink<'_>) {
    admin(settings, report);
    let telemetry = &settings.telemetry;
    let is_cluster = matches!(settings.source, SourceSettings::Kubernetes(_));
    match (telemetry.require, &telemetry.token_file) {
        (Some(TelemetryCredential::TokenReview), _) if !is_cluster => report(
            &["telemetry", "require"],
            "there is no cluster to review tokens".to_owned(),
            "write `tokenFile` and name the file, or `none`".to_owned(),
        ),
        (Some(TelemetryCredential::TokenFile), None) => report(
            &["telemetry", "require"],
            "there is no file with a token".to_owned(),
            "set `telemetry.tokenFile`".to_owned(),
        ),
        (Some(TelemetryCredential::TokenReview | TelemetryCredential::None), Some(_)) => report(
            &["telemetry", "tokenFile"],
            "`require` does not use a token file".to_owned(),
            "write `require: tokenFile`, or leave one of the two out".to_owned(),
        ),
        (None, None) if !is_cluster => {
            if let Some(address) = telemetry.address.filter(|address| !is_loopback(*address)) {
                report(
                    &["telemetry", "address"],
                    format!("{address} is not a loopback address, and readers need no credential"),
                    "set `tokenFile`, write `require: none` if all that reach the address may read \
                     the names of all environments, or write an address such as `127.0.0.1:9903`"
                        .to_owned(),
                );
            }
        }
        _ => {}
    }
}

fn admin(settings: &Settings, report: &mut ErrorSink<'_>) {
    if let Some(address) = settings.admin.address.filter(|address| !is_loopback(*address)) {
        report(
            &["admin", "address"],
            format!("{address} is not a loopback address: this listener accepts commands"),
            "write an address such as `127.0.0.1:9901`; the kubelet's probes have their own \
             address, `probes.address`, and so do metrics, `telemetry.address`"
                .to_owned(),
        );
    }
}

/// Checks the files that the settings name.
pub(super) fn files(settings: &Settings, report: &mut ErrorSink<'_>) {
    if let TelemetryAccess::TokenFile(path) = settings.telemetry_access() {
        check::secret(path, &["telemetry", "tokenFile"], report);
    }
}

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(source: &str, rest: &str) -> Result<Settings, String> {
        let text = format!("zone: apps.example.com\nsource: {source}\n{rest}");
        Settings::parse(Path::new("gateway.yaml"), text.as_bytes())
            .map_err(|problems| problems.iter().map(ToString::to_string).collect())
    }

    const CLUSTER: &str = "{kubernetes: {}}";
    const FOLDER: &str = "{directory: .}";

    #[test]
    fn bearers_are_reviewed_by_the_cluster_by_default() {
        let access = |source, rest| {
            let settings = parse(source, rest).expect("settings");
            match settings.telemetry_access() {
                TelemetryAccess::TokenReview => "review",
                TelemetryAccess::TokenFile(_) => "file",
                TelemetryAccess::Open => "open",
            }
        };
        assert_eq!(access(CLUSTER, ""), "review");
        assert_eq!(access(CLUSTER, "telemetry: {tokenFile: token}"), "file");
        assert_eq!(access(CLUSTER, "telemetry: {require: tokenFile, tokenFile: token}"), "file");
        assert_eq!(access(CLUSTER, "telemetry: {require: none, address: '[::]:9903'}"), "open");
        assert_eq!(access(FOLDER, ""), "open");
        assert_eq!(access(FOLDER, "telemetry: {tokenFile: token}"), "file");
    }

    #[test]
    fn without_a_cluster_metrics_need_a_token_or_an_explicit_opt_out_beyond_loopback() {
        fn refused(source: &str, rest: &str) -> String {
            parse(source, rest).expect_err("it is refused")
        }
        for address in ["'[::]:9903'", "'10.0.0.1:9903'", "'0.0.0.0:9903'"] {
            let error = refused(FOLDER, &format!("telemetry: {{address: {address}}}"));
            assert!(error.contains("`telemetry.address`"), "{error}");
        }
        assert!(parse(FOLDER, "telemetry: {address: '[::]:9903', tokenFile: token}").is_ok());
        assert!(parse(FOLDER, "telemetry: {address: '[::]:9903', require: none}").is_ok());
        assert!(parse(CLUSTER, "telemetry: {address: '[::]:9903'}").is_ok());
        refused(FOLDER, "telemetry: {require: tokenReview}");
        refused(FOLDER, "telemetry: {require: tokenFile}");
        refused(CLUSTER, "telemetry: {require: tokenReview, tokenFile: token}");
    }

    #[test]
    fn the_admin_listener_must_be_on_loopback() {
        for address in ["'[::]:9901'", "'0.0.0.0:9901'", "'10.0.0.1:9901'", "'[fd00::1]:9901'"] {
            let error = parse(CLUSTER, &format!("admin: {{address: {address}}}"))
                .expect_err("it is refused");
            assert!(error.contains("`admin.address`"), "{error}");
        }
        for address in ["'127.0.0.1:9901'", "'[::1]:9901'", "'[::ffff:127.0.0.1]:9901'", "null"] {
            assert!(parse(CLUSTER, &format!("admin: {{address: {address}}}")).is_ok());
        }
    }

    #[test]
    fn listeners_on_one_port_are_rejected_where_one_covers_all_addresses() {
        for (one, other) in
            [("'[::]:9901'", "127.0.0.1:9901"), ("'0.0.0.0:9901'", "127.0.0.1:9901")]
        {
            let rest = format!("probes: {{address: {one}}}\nadmin: {{address: '{other}'}}");
            let error = parse(CLUSTER, &rest).expect_err("they clash");
            assert!(error.contains("is taken by `probes.address`"), "{error}");
        }
        let rest = "probes: {address: '0.0.0.0:9901'}\nadmin: {address: '[::1]:9901'}";
        assert!(parse(CLUSTER, rest).is_ok());
    }
}
