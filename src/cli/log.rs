//! The gateway's own log, on standard error.

use std::io;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::problems::Failure;

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// What is logged without `RUST_LOG`. The Kubernetes client calls each failed try an error; its
/// caller tells an outage once.
const DEFAULT: &str = "info,kube_client=off";

/// Starts to log what `RUST_LOG` asks for, else [`DEFAULT`].
pub(super) fn start(format: LogFormat) -> Result<(), Failure> {
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_| DEFAULT.to_owned());
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(directives)
        .map_err(|error| {
            Failure::with_help(
                format!("RUST_LOG cannot be understood: {error}"),
                "write for example RUST_LOG=info,portcullis_proxy=debug",
            )
        })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(Failure::new)
}
