//! TXT records for `dns-01` (RFC 8555 §8.4): their names, their providers, and their propagation.
//!
//! | step | module |
//! | --- | --- |
//! | send one query | [`message`] |
//! | find the record's name and name servers, and check these | [`lookup`] |
//! | create and remove it | [`update`] (RFC 2136), [`call`] (a program or an HTTPS service) |

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

/// The first and the longest pause between checks of name servers.
const POLL: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Creates records, and waits for their propagation.
pub(super) struct Dns {
    provider: Provider,
    lookup: Lookup,
    nameservers: Vec<SocketAddr>,
    timeout: Duration,
}

enum Provider {
    Update(Update),
    Call(Call),
}

/// Why a record could not be created, or found.
#[derive(Debug, thiserror::Error)]
pub(super) enum DnsError {
    /// A file, or a name, cannot be used.
    #[error("{0}")]
    Unusable(String),
    /// A server sent no response, or an invalid one.
    #[error("no valid response from the DNS server {0}: {1}")]
    Server(SocketAddr, String),
    /// A server refused the query or update.
    #[error("the DNS server {0} refused: {1}")]
    Refused(SocketAddr, String),
    /// No zone was found.
    #[error("found no DNS zone for {0}")]
    NoZone(String),
    /// The program or the service failed.
    #[error("{0}")]
    Call(String),
    /// Some name servers do not have the record.
    #[error("{missing} still lack the record {record} after {} s", timeout.as_secs())]
    NotPropagated { record: String, missing: String, timeout: Duration },
}

// === impl Dns ===

impl Dns {
    /// Creates the provider; reads the files that the settings name.
    pub(super) fn new(settings: &DnsSettings) -> Result<Self, DnsError> {
        let provider = match &settings.provider {
            Some(DnsProviderSettings::Rfc2136(rfc2136)) => {
                Provider::Update(Update::new(rfc2136, settings.ttl.get())?)
            }
            Some(DnsProviderSettings::Exec(exec)) => Provider::Call(Call::exec(&exec.command)),
            Some(DnsProviderSettings::Webhook(webhook)) => Provider::Call(Call::webhook(webhook)?),
            None => {
                return Err(DnsError::Unusable(
                    "no provider of DNS records is configured: set `acme.dns.provider`".to_owned(),
                ));
            }
        };
        let lookup = Lookup::new(&settings.resolvers);
        Ok(Self {
            provider,
            lookup,
            nameservers: settings.nameservers.clone(),
            timeout: settings.propagation_timeout,
        })
    }

    /// The name of the record for `domain`: `_acme-challenge.` before it, or the target of a CNAME
    /// there.
    pub(super) async fn record_name(&self, domain: &str) -> Result<String, DnsError> {
        let name = name(&format!("_acme-challenge.{domain}."))?;
        Ok(self.lookup.resolve_cname(name).await?.to_ascii())
    }

    /// Creates a record.
    pub(super) async fn present(&self, record: &str, value: &str) -> Result<(), DnsError> {
        match &self.provider {
            Provider::Update(update) => update.present(&name(record)?, value).await,
            Provider::Call(call) => call.run("present", record, value).await,
        }
    }

    /// Removes a record.
    pub(super) async fn remove(&self, record: &str, value: &str) -> Result<(), DnsError> {
        match &self.provider {
            Provider::Update(update) => update.remove(&name(record)?, value).await,
            Provider::Call(call) => call.run("cleanup", record, value).await,
        }
    }

    /// Waits until all name servers of the zone have the record.
    pub(super) async fn wait_until_propagated(
        &self,
        record: &str,
        value: &str,
    ) -> Result<(), DnsError> {
        let owner = name(record)?;
        let deadline = Instant::now() + self.timeout;
        let mut missing = match self.nameservers.as_slice() {
            [] => self.lookup.nameservers(&owner).await?,
            given => given.to_vec(),
        };
        let mut pause = POLL.0;
        loop {
            let mut lacking = Vec::new();
            for server in missing {
                if !lookup::has_txt(server, &owner, value).await {
                    lacking.push(server);
                }
            }
            missing = lacking;
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() + pause > deadline {
                let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
                return Err(DnsError::NotPropagated {
                    record: record.to_owned(),
                    missing: missing.join(", "),
                    timeout: self.timeout,
                });
            }
            sleep(pause).await;
            pause = (pause * 2).min(POLL.1);
        }
    }
}

fn name(text: &str) -> Result<Name, DnsError> {
    let mut name = Name::from_ascii(text)
        .map_err(|error| DnsError::Unusable(format!("{text} is not a DNS name: {error}")))?;
    name.set_fqdn(true);
    Ok(name)
}
