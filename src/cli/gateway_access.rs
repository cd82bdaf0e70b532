//! Where `routes` and `explain` look: at a running gateway, or at what a configuration would make
//! of its source.

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

/// How long a source may take to be read in whole.
const SYNC: Duration = Duration::from_secs(30);
/// How long a gateway may take to answer.
const ANSWER: Duration = Duration::from_secs(30);
/// The largest answer that is read.
const MAX_ANSWER: u64 = 1 << 30;

/// Where to look.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The admin address of a running gateway
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9901",
        conflicts_with = "config",
        env = "PORTCULLIS_ADMIN"
    )]
    admin: SocketAddr,
    /// A configuration file: its source is read once, and no gateway is needed
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// A running gateway.
#[derive(Debug, Args)]
pub(super) struct Admin {
    /// The admin address of a running gateway
    #[arg(
        long,
        global = true,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9901",
        env = "PORTCULLIS_ADMIN"
    )]
    admin: SocketAddr,
}

/// What a configuration makes of its source.
pub(super) struct Known {
    pub(super) settings: Arc<Settings>,
    pub(super) live: Arc<Live>,
}

// === impl Place ===

impl Place {
    /// Reads the source of the configuration, where one is given.
    pub(super) fn known(&self) -> Result<Option<Known>, Failure> {
        let Some(config) = &self.config else { return Ok(None) };
        let settings = Settings::read(config).map_err(Failure::Problems)?;
        Known::read(settings).map(Some)
    }

    /// Asks the running gateway.
    pub(super) fn ask<T: DeserializeOwned>(&self, target: &str) -> Result<T, Failure> {
        Admin { admin: self.admin }.ask(target)
    }
}

// === impl Admin ===

impl Admin {
    /// Asks the running gateway.
    pub(super) fn ask<T: DeserializeOwned>(&self, target: &str) -> Result<T, Failure> {
        self.call("GET", target)
    }

    /// Has the running gateway do something.
    pub(super) fn order<T: DeserializeOwned>(&self, target: &str) -> Result<T, Failure> {
        self.call("POST", target)
    }

    fn call<T: DeserializeOwned>(&self, method: &str, target: &str) -> Result<T, Failure> {
        let answer = self.exchange(method, target).map_err(|error| {
            let help = "give the address of its `admin` listener by --admin, or a configuration \
                        by --config";
            Failure::with_help(format!("no gateway answers at {}: {error}", self.admin), help)
        })?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).unwrap_or_default();
        if status != "200" {
            return Err(Failure::new(format!(
                "the gateway at {} answers {status}: {}",
                self.admin,
                body.trim()
            )));
        }
        serde_json::from_str(body).map_err(|error| {
            Failure::new(format!("the answer of {} cannot be understood: {error}", self.admin))
        })
    }

    /// One HTTP/1.0 request: its answer ends with the connection.
    fn exchange(&self, method: &str, target: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.admin, ANSWER)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        write!(stream, "{method} {target} HTTP/1.0\r\nHost: {}\r\n\r\n", self.admin)?;
        let mut answer = String::new();
        stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
        Ok(answer)
    }
}

// === impl Known ===

impl Known {
    /// Reads the source of `settings` in whole, as the gateway does.
    pub(super) fn read(settings: Settings) -> Result<Self, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
        let known = runtime.block_on(sync(Arc::new(settings)));
        runtime.shutdown_background();
        known
    }
}

async fn sync(settings: Arc<Settings>) -> Result<Known, Failure> {
    let live = Arc::new(Live::default());
    let mut published = live.published();
    let read = portcullis_config::run(Arc::clone(&settings), Arc::clone(&live), async {
        while !live.is_synced() && published.changed().await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    match tokio::time::timeout(SYNC, read).await {
        Ok(Ok(())) => Ok(Known { settings, live }),
        Ok(Err(error)) => Err(Failure::new(error)),
        Err(_) => {
            let told: Vec<String> = live.problems.load().iter().map(ToString::to_string).collect();
            Err(Failure::new(format!(
                "the source could not be read in whole within {} s\n{}",
                SYNC.as_secs(),
                told.join("\n")
            )))
        }
    }
}
