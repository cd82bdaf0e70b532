//! `portcullis token`: the token of the user that signed in with `portcullis login`.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use tokio::runtime::Builder;

use super::login::provider::Provider;
use super::login::tokens::{self, StoredTokens, TokenKind};
use super::output;
use super::problems::Failure;

/// Print the token of the signed-in user
///
/// Refreshes an expired token first. Example:
/// `curl -H "Authorization: Bearer $(portcullis token)" URL`
#[derive(Debug, Args)]
pub(super) struct Token {
    /// Print the access token instead of the ID token
    #[arg(long)]
    access: bool,
}

// === impl Token ===

impl Token {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
        let kind = if self.access { TokenKind::Access } else { TokenKind::Id };
        let _lock = tokens::lock()?;
        let tokens = runtime.block_on(current(kind))?;
        let token = tokens.latest(kind).ok_or_else(signed_out)?;
        output::write(&format!("{token}\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Returns the stored tokens, refreshed if the token of this kind is expired.
async fn current(kind: TokenKind) -> Result<StoredTokens, Failure> {
    let stored = tokens::read()?;
    if stored.valid(kind, SystemTime::now()).is_some() {
        return Ok(stored);
    }
    let refresh_token = stored.refresh_token.clone().ok_or_else(signed_out)?;
    let provider = Provider::discover(&stored.registration).await?;
    let form = [("grant_type", "refresh_token"), ("refresh_token", &*refresh_token)];
    let response = provider.tokens(&form).await?.map_err(|_| signed_out())?;
    let registration = stored.registration.clone();
    let refreshed =
        StoredTokens::new(registration, response, Some(refresh_token), SystemTime::now());
    tokens::write(&refreshed)?;
    Ok(refreshed)
}

fn signed_out() -> Failure {
    Failure::with_help("you are no longer signed in", "sign in with `portcullis login`")
}
