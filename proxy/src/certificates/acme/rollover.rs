//! New keys for the accounts with authorities, when somebody asks for them (RFC 8555 §7.3.5):
//! certificates and orders stay as they are.
//!
//! The new key is known only once the authority has it, so that it is recorded before that it is
//! not known which key is good; whoever meets that later finds it out.

use instant_acme::Error;
use portcullis_config::store::Held;

use super::authority::{Authority, Refusal, judge};
use super::leader::{AGAIN, Leader};
use super::order::{Failed, failed};
use super::state::Rollover;

// === impl Leader ===

impl Leader<'_> {
    /// Replaces the keys of all accounts where somebody has asked for that since the last time.
    pub(super) async fn roll_over(&mut self, held: &Held) -> Result<(), Failed> {
        if held.rollover.is_none() || held.rollover == self.state.rollover.request {
            return Ok(());
        }
        let mut errors = Vec::new();
        for authority in self.acme.authorities() {
            match self.persist_in_replacing(authority).await {
                Ok(()) => {}
                Err(Failed::Store(error)) => return Err(Failed::Store(error)),
                Err(
                    Failed::Authority(error)
                    | Failed::Limited(error, _)
                    | Failed::Order(error)
                    | Failed::Names(_, error),
                ) => {
                    errors.push(format!("{}: {error}", authority.directory));
                }
                Err(Failed::Again) => {
                    errors.push(format!("{}: it takes none of its own nonces", authority.directory))
                }
            }
        }
        let error = (!errors.is_empty()).then(|| errors.join("; "));
        if let Some(error) = &error {
            tracing::warn!(error, "keys of accounts were not replaced");
        }
        self.state.rollover = Rollover { request: held.rollover.clone(), error };
        self.save().await
    }

    async fn persist_in_replacing(&mut self, authority: &Authority) -> Result<(), Failed> {
        for _ in 0..AGAIN {
            match self.replace_key(authority).await {
                Err(Failed::Again) => {}
                outcome => return outcome,
            }
        }
        Err(Failed::Again)
    }

    async fn replace_key(&mut self, authority: &Authority) -> Result<(), Failed> {
        if !self.state.accounts.contains_key(&authority.directory) {
            return Ok(());
        }
        let mut account = self.account(authority).await?;
        self.state.rolling.insert(authority.directory.clone());
        self.save().await?;
        match account.update_key().await {
            Ok(credentials) => {
                let credentials = serde_json::to_value(&credentials)
                    .map_err(|error| Failed::Order(error.to_string()))?;
                self.state.accounts.insert(authority.directory.clone(), credentials);
                self.state.rolling.remove(&authority.directory);
                tracing::info!(
                    authority = authority.directory,
                    account = account.id(),
                    "the account has a new key"
                );
                self.save().await
            }
            Err(error) => {
                // It was refused for certain; after anything else it may have been taken.
                if matches!(error, Error::Api(_)) {
                    self.state.rolling.remove(&authority.directory);
                    self.save().await?;
                }
                Err(failed(&error, authority))
            }
        }
    }

    /// Finds out whether the key that is kept is still good, where that is not known. An account
    /// whose key was lost is forgotten: another one is made.
    pub(super) async fn settle_key(&mut self, authority: &Authority) -> Result<(), Failed> {
        if !self.state.rolling.contains(&authority.directory) {
            return Ok(());
        }
        if let Some(kept) = self.state.accounts.get(&authority.directory).cloned() {
            let account =
                authority.account(kept).await.map_err(|error| failed(&error, authority))?;
            match authority.confirm(&account).await {
                Ok(()) => {}
                Err(error @ Error::Api(_))
                    if !matches!(
                        judge(&error),
                        Refusal::Nonce | Refusal::Limited(_) | Refusal::Authority(_)
                    ) =>
                {
                    tracing::warn!(authority = authority.directory, %error, "the key of the account was lost: another account is made");
                    self.state.accounts.remove(&authority.directory);
                }
                Err(error) => return Err(failed(&error, authority)),
            }
        }
        self.state.rolling.remove(&authority.directory);
        self.save().await
    }
}
