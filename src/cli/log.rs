//! The gateway's own log, on standard error.

use std::io;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::problems::Failure;

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines: one JSON object per line.
    Json,
}

/// The filter without `RUST_LOG`. The Kubernetes client logs an error per failed attempt; its
/// caller logs each outage once.
const DEFAULT: &str = "info,kube_client=off";

/// Installs the logger with the filter of `RUST_LOG`, else [`DEFAULT`].
pub(super) fn start(format: LogFormat) -> Result<(), Failure> {
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_| DEFAULT.to_owned());
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(directives)
        .map_err(|error| {
            Failure::with_help(
                format!("failed to parse RUST_LOG: {error}"),
                "set for example RUST_LOG=info,portcullis_proxy=debug",
            )
        })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(Failure::new)
}
