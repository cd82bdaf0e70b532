//! `portcullis token`: the token of who signed in by `portcullis login`.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use tokio::runtime::Builder;

use super::login::provider::Provider;
use super::login::tokens::{self, Kept, Which};
use super::output;
use super::problems::Failure;

/// Prints the token of who signed in by `portcullis login`, and gets a new one first where that has
/// ended: `curl -H "Authorization: Bearer $(portcullis token)" URL`.
#[derive(Debug, Args)]
pub(super) struct Token {
    /// Prints the access token instead of the ID token
    #[arg(long)]
    access: bool,
}

// === impl Token ===

impl Token {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
        let which = if self.access { Which::Access } else { Which::Id };
        let _lock = tokens::lock()?;
        let kept = runtime.block_on(current(which))?;
        let token = kept.latest(which).ok_or_else(over)?;
        output::write(&format!("{token}\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What is kept, with a token that is still good.
async fn current(which: Which) -> Result<Kept, Failure> {
    let kept = tokens::read()?;
    if kept.token(which, SystemTime::now()).is_some() {
        return Ok(kept);
    }
    let refresh_token = kept.refresh_token.clone().ok_or_else(over)?;
    let provider = Provider::find(&kept.registration).await?;
    let form = [("grant_type", "refresh_token"), ("refresh_token", &*refresh_token)];
    let answer = provider.tokens(&form).await?.map_err(|_| over())?;
    let kept = Kept::new(kept.registration.clone(), answer, Some(refresh_token), SystemTime::now());
    tokens::write(&kept)?;
    Ok(kept)
}

fn over() -> Failure {
    Failure::with_help("you are not signed in any more", "sign in again with `portcullis login`")
}
