//! `portcullis login`: signs in for the command line, with a browser on this machine or on another
//! one.

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
use self::tokens::{Registration, StoredTokens};
use super::output;
use super::problems::Failure;

/// Sign in for calls from the command line
///
/// `portcullis token` prints the token. Tokens are stored in the configuration folder, readable by
/// its owner only.
#[derive(Debug, Args)]
pub(super) struct Login {
    /// URL of the issuer, as in the gateway's access.issuers; by default the issuer of the last
    /// login
    #[arg(long, value_name = "URL", requires = "client_id")]
    issuer: Option<String>,
    /// Identifier of a public client of the issuer that allows loopback redirects or the device
    /// flow; must be one of the issuer's `audiences` in the gateway's configuration
    #[arg(long, value_name = "ID", requires = "issuer")]
    client_id: Option<String>,
    /// Scopes to request, separated by spaces
    #[arg(long, value_name = "SCOPES", default_value = "openid email profile offline_access")]
    scope: String,
    /// PEM file of authorities for the issuer's certificate, instead of the system's
    #[arg(long, value_name = "FILE")]
    certificate_authorities: Option<PathBuf>,
    /// Sign in with a browser on any machine, by typing a code (RFC 8628)
    #[arg(long)]
    device: bool,
    /// Print the URL without opening a browser
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
        let provider = Provider::discover(&registration).await?;
        let response = if self.device {
            device::sign_in(&provider).await?
        } else {
            loopback::sign_in(&provider, !self.no_browser).await?
        };
        let tokens = StoredTokens::new(registration, response, None, SystemTime::now());
        tokens::write(&tokens)?;
        output::report(&format!(
            "Signed in as {}. `portcullis token` prints the token.\n",
            tokens.name()
        ))
    }
}
