//! Access to a gateway's state: over the admin listener, or by translating a configuration's source
//! offline.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use portcullis_config::live::Live;
use portcullis_config::settings::Settings;
use serde::de::DeserializeOwned;
use tokio::runtime::Builder;

use super::problems::Failure;

/// Timeout for the initial sync of a source.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout for connecting to the admin listener, and for each read and write.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(30);
/// The maximum size of a response, in octets.
const MAX_RESPONSE: u64 = 1 << 30;

/// The environment variable with the admin address.
pub(super) const ADMIN_VARIABLE: &str = "PORTCULLIS_ADMIN";
/// The admin address without another one.
pub(super) const DEFAULT_ADMIN: &str = "127.0.0.1:9901";

/// Selects a running gateway or a configuration.
#[derive(Debug, Args)]
pub(super) struct SourceArgs {
    /// Admin address of a running gateway
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = DEFAULT_ADMIN,
        conflicts_with = "config",
        env = ADMIN_VARIABLE
    )]
    admin: SocketAddr,
    /// Configuration file to translate once, instead of asking a running gateway
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Selects a running gateway.
#[derive(Debug, Args)]
pub(super) struct Admin {
    /// Admin address of a running gateway
    #[arg(
        long,
        global = true,
        value_name = "ADDRESS",
        default_value = DEFAULT_ADMIN,
        env = ADMIN_VARIABLE
    )]
    admin: SocketAddr,
}

/// The translated source of a configuration.
pub(super) struct Offline {
    pub(super) settings: Arc<Settings>,
    pub(super) live: Arc<Live>,
}

// === impl SourceArgs ===

impl SourceArgs {
    /// Translates the source of the configuration, if `--config` is given.
    pub(super) fn offline(&self) -> Result<Option<Offline>, Failure> {
        let Some(config) = &self.config else { return Ok(None) };
        let settings = Settings::read(config).map_err(Failure::Problems)?;
        Offline::read(settings).map(Some)
    }

    /// Sends a GET request to the admin listener and returns the response.
    pub(super) fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, Failure> {
        Admin { admin: self.admin }.get(target)
    }
}

// === impl Admin ===

impl Admin {
    /// Selects the gateway at `address`, else that of the environment, else that of this machine.
    pub(super) fn new(address: Option<SocketAddr>) -> Result<Self, Failure> {
        if let Some(admin) = address {
            return Ok(Self { admin });
        }
        let text = std::env::var(ADMIN_VARIABLE).unwrap_or_else(|_| DEFAULT_ADMIN.to_owned());
        let invalid = |error| Failure::new(format!("{ADMIN_VARIABLE}={text}: {error}"));
        text.parse().map(|admin| Self { admin }).map_err(invalid)
    }

    /// Sends a GET request to the admin listener and returns the response.
    pub(super) fn get<T: DeserializeOwned>(&self, target: &str) -> Result<T, Failure> {
        self.call("GET", target, ADMIN_TIMEOUT)
    }

    /// As [`get`](Self::get), with another timeout for connecting, and for each read and write.
    pub(super) fn get_within<T: DeserializeOwned>(
        &self,
        target: &str,
        timeout: Duration,
    ) -> Result<T, Failure> {
        self.call("GET", target, timeout)
    }

    /// Sends a POST request to the admin listener and returns the response.
    pub(super) fn post<T: DeserializeOwned>(&self, target: &str) -> Result<T, Failure> {
        self.call("POST", target, ADMIN_TIMEOUT)
    }

    fn call<T: DeserializeOwned>(
        &self,
        method: &str,
        target: &str,
        timeout: Duration,
    ) -> Result<T, Failure> {
        let response = self.exchange(method, target, timeout).map_err(|error| {
            let help = "set --admin to the address of its `admin` listener, or --config to a \
                        configuration file";
            Failure::with_help(format!("no gateway responds at {}: {error}", self.admin), help)
        })?;
        let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
        let status = head.split(' ').nth(1).unwrap_or_default();
        if status != "200" {
            return Err(Failure::new(format!(
                "the gateway at {} returned status {status}: {}",
                self.admin,
                body.trim()
            )));
        }
        serde_json::from_str(body).map_err(|error| {
            Failure::new(format!("failed to parse the response of {}: {error}", self.admin))
        })
    }

    /// Sends an HTTP/1.0 request: its response ends with the connection.
    fn exchange(&self, method: &str, target: &str, timeout: Duration) -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.admin, timeout)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        write!(stream, "{method} {target} HTTP/1.0\r\nHost: {}\r\n\r\n", self.admin)?;
        let mut response = String::new();
        stream.take(MAX_RESPONSE).read_to_string(&mut response)?;
        Ok(response)
    }
}

// === impl Offline ===

impl Offline {
    /// Reads and translates the source of `settings`, as the gateway does.
    pub(super) fn read(settings: Settings) -> Result<Self, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
        let offline = runtime.block_on(sync(Arc::new(settings)));
        runtime.shutdown_background();
        offline
    }
}

async fn sync(settings: Arc<Settings>) -> Result<Offline, Failure> {
    let live = Arc::new(Live::default());
    let mut published = live.published();
    let read = portcullis_config::run(Arc::clone(&settings), Arc::clone(&live), async {
        while !live.is_synced() && published.changed().await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    match tokio::time::timeout(SYNC_TIMEOUT, read).await {
        Ok(Ok(())) => Ok(Offline { settings, live }),
        Ok(Err(error)) => Err(Failure::new(error)),
        Err(_) => {
            let problems: Vec<String> =
                live.problems.load().iter().map(ToString::to_string).collect();
            Err(Failure::new(format!(
                "the source did not sync within {} s\n{}",
                SYNC_TIMEOUT.as_secs(),
                problems.join("\n")
            )))
        }
    }
}
