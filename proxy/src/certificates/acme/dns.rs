//! Records for `dns-01` (RFC 8555 §8.4): where they belong, who makes them, and whether everybody
//! can see them.
//!
//! | step | module |
//! | --- | --- |
//! | one question and its answer | [`message`] |
//! | where does the record belong, who serves it, do they have it? | [`lookup`] |
//! | make and remove it | [`update`] (RFC 2136), [`call`] (a program or an HTTPS service) |

mod call;
mod lookup;
mod message;
mod update;

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::rr::Name;
use portcullis_config::settings::acme::{DnsProviderSettings, DnsSettings};
use tokio::time::{Instant, sleep};

use self::call::Call;
use self::lookup::Lookup;
use self::update::Update;

/// How often servers are asked whether they have a record: first, and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Makes records, and knows when they can be seen.
pub(super) struct Dns {
    provider: Provider,
    lookup: Lookup,
    nameservers: Vec<SocketAddr>,
    patience: Duration,
}

enum Provider {
    Update(Update),
    Call(Call),
}

/// Why a record is not there.
#[derive(Debug, thiserror::Error)]
pub(super) enum DnsError {
    /// A file, or a name, cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// A server did not answer, or not properly.
    #[error("the DNS server {0} did not answer properly: {1}")]
    Server(SocketAddr, String),
    /// A server refused.
    #[error("the DNS server {0} refused: {1}")]
    Refused(SocketAddr, String),
    /// Nobody knows the zone.
    #[error("no zone is known for {0}")]
    NoZone(String),
    /// The program or the service failed.
    #[error("{0}")]
    Call(String),
    /// Some servers do not have it.
    #[error("the record {record} was not seen at {missing} within {} s", patience.as_secs())]
    NotSeen { record: String, missing: String, patience: Duration },
}

// === impl Dns ===

impl Dns {
    /// Reads the files that the settings name.
    pub(super) fn new(settings: &DnsSettings) -> Result<Self, DnsError> {
        let provider = match &settings.provider {
            Some(DnsProviderSettings::Rfc2136(rfc2136)) => {
                Provider::Update(Update::new(rfc2136, settings.ttl.get())?)
            }
            Some(DnsProviderSettings::Exec(exec)) => Provider::Call(Call::exec(&exec.command)),
            Some(DnsProviderSettings::Webhook(webhook)) => Provider::Call(Call::webhook(webhook)?),
            None => return Err(DnsError::Unusable("nobody makes the DNS records".to_owned())),
        };
        let lookup = Lookup::new(&settings.resolvers);
        Ok(Self {
            provider,
            lookup,
            nameservers: settings.nameservers.clone(),
            patience: settings.propagation_timeout,
        })
    }

    /// Where the record for a name belongs: `_acme-challenge.` before it, or where a CNAME
    /// delegates that to.
    pub(super) async fn place(&self, domain: &str) -> Result<String, DnsError> {
        let name = name(&format!("_acme-challenge.{domain}."))?;
        Ok(self.lookup.follow(name).await?.to_ascii())
    }

    /// Makes a record.
    pub(super) async fn present(&self, record: &str, value: &str) -> Result<(), DnsError> {
        match &self.provider {
            Provider::Update(update) => update.present(&name(record)?, value).await,
            Provider::Call(call) => call.run("present", record, value).await,
        }
    }

    /// Removes it.
    pub(super) async fn remove(&self, record: &str, value: &str) -> Result<(), DnsError> {
        match &self.provider {
            Provider::Update(update) => update.remove(&name(record)?, value).await,
            Provider::Call(call) => call.run("cleanup", record, value).await,
        }
    }

    /// Waits until all servers of the record's zone have it.
    pub(super) async fn seen(&self, record: &str, value: &str) -> Result<(), DnsError> {
        let owner = name(record)?;
        let deadline = Instant::now() + self.patience;
        let mut missing = match self.nameservers.as_slice() {
            [] => self.lookup.nameservers(&owner).await?,
            given => given.to_vec(),
        };
        let mut pause = LOOK.0;
        loop {
            let mut still = Vec::new();
            for server in missing {
                if !lookup::has(server, &owner, value).await {
                    still.push(server);
                }
            }
            missing = still;
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() + pause > deadline {
                let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
                return Err(DnsError::NotSeen {
                    record: record.to_owned(),
                    missing: missing.join(", "),
                    patience: self.patience,
                });
            }
            sleep(pause).await;
            pause = (pause * 2).min(LOOK.1);
        }
    }
}

fn name(text: &str) -> Result<Name, DnsError> {
    let mut name = Name::from_ascii(text)
        .map_err(|error| DnsError::Unusable(format!("{text} is no DNS name: {error}")))?;
    name.set_fqdn(true);
    Ok(name)
}
