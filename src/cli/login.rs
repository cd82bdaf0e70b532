//! `portcullis login`: signs a person in for the command line, by a browser on this machine or on
//! another one.

mod device;
mod loopback;
pub(super) mod provider;
pub(super) mod tokens;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use tokio::runtime::Builder;

use self::provider::Provider;
use self::tokens::{Kept, Registration};
use super::output;
use super::problems::Failure;

/// Signs you in for calls from the command line: `portcullis token` prints the token then. The
/// tokens are kept in your configuration folder, for you alone.
#[derive(Debug, Args)]
pub(super) struct Login {
    /// The issuer's URL, as the gateway's access.issuers has it; without it, the one of the last
    /// time
    #[arg(long, value_name = "URL", requires = "client_id")]
    issuer: Option<String>,
    /// The identifier of a public client there that may use redirects to this machine, or the
    /// device flow; one of the issuer's `audiences` in the gateway's configuration
    #[arg(long, value_name = "ID", requires = "issuer")]
    client_id: Option<String>,
    /// What is asked for, separated by spaces
    #[arg(long, value_name = "SCOPES", default_value = "openid email profile offline_access")]
    scope: String,
    /// A PEM file with the authorities for the issuer's certificate, instead of the system's
    #[arg(long, value_name = "FILE")]
    certificate_authorities: Option<PathBuf>,
    /// Signs in by a browser on any machine, where you type a code (RFC 8628)
    #[arg(long)]
    device: bool,
    /// Opens no browser, and only tells the address
    #[arg(long)]
    no_browser: bool,
}

// === impl Login ===

impl Login {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
        runtime.block_on(self.sign_in())?;
        Ok(ExitCode::SUCCESS)
    }

    async fn sign_in(self) -> Result<(), Failure> {
        let registration = match (self.issuer, self.client_id) {
            (Some(issuer), Some(client_id)) => Registration {
                issuer,
                client_id,
                scope: self.scope,
                certificate_authorities: self.certificate_authorities,
            },
            _ => tokens::read()?.registration,
        };
        let provider = Provider::find(&registration).await?;
        let answer = if self.device {
            device::sign_in(&provider).await?
        } else {
            loopback::sign_in(&provider, !self.no_browser).await?
        };
        let kept = Kept::new(registration, answer, None, SystemTime::now());
        tokens::write(&kept)?;
        output::tell(&format!(
            "Signed in as {}. `portcullis token` prints the token.\n",
            kept.name()
        ))
    }
}
