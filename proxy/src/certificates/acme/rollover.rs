//! Rollover of account keys on request (RFC 8555 §7.3.5): certificates and orders do not change.
//!
//! The client returns the new key only after the authority has accepted it. So the rollover is
//! saved as pending before that, and a leader that finds a pending one checks which key is valid.

use instant_acme::Error;
use portcullis_config::store::StoreState;

use super::attempt::MAX_ATTEMPTS;
use super::authority::{Authority, Rejection, classify};
use super::leader::Leader;
use super::order::{OrderError, order_error};
use super::state::Rollover;

// === impl Leader ===

impl Leader<'_> {
    /// Whether there is a new request to replace the keys of all accounts.
    pub(super) fn is_rollover_requested(&self, stored: &StoreState) -> bool {
        stored.rollover.is_some() && stored.rollover != self.state().rollover.request
    }

    /// Replaces the keys of all accounts if there is a new request for that.
    pub(super) async fn roll_over(&self, stored: &StoreState) -> Result<(), OrderError> {
        if !self.is_rollover_requested(stored) {
            return Ok(());
        }
        let mut errors = Vec::new();
        for authority in self.acme.authorities() {
            match self.replace_key_with_retries(authority).await {
                Ok(()) => {}
                Err(OrderError::Store(error)) => return Err(OrderError::Store(error)),
                Err(
                    OrderError::Authority(error)
                    | OrderError::RateLimited(error, _)
                    | OrderError::Order(error)
                    | OrderError::Names(_, error),
                ) => {
                    errors.push(format!("{}: {error}", authority.directory));
                }
                Err(OrderError::Retry) => errors
                    .push(format!("{}: it rejected all of its own nonces", authority.directory)),
            }
        }
        let error = (!errors.is_empty()).then(|| errors.join("; "));
        if let Some(error) = &error {
            tracing::warn!(error, "failed to replace account keys");
        }
        self.state().rollover = Rollover { request: stored.rollover.clone(), error };
        self.save().await
    }

    async fn replace_key_with_retries(&self, authority: &Authority) -> Result<(), OrderError> {
        for _ in 0..MAX_ATTEMPTS {
            match self.replace_key(authority).await {
                Err(OrderError::Retry) => {}
                outcome => return outcome,
            }
        }
        Err(OrderError::Retry)
    }

    async fn replace_key(&self, authority: &Authority) -> Result<(), OrderError> {
        if !self.state().accounts.contains_key(&authority.directory) {
            return Ok(());
        }
        let mut account = self.account(authority).await?;
        self.state().rolling.insert(authority.directory.clone());
        self.save().await?;
        match account.update_key().await {
            Ok(credentials) => {
                let credentials = serde_json::to_value(&credentials)
                    .map_err(|error| OrderError::Order(error.to_string()))?;
                self.state().accounts.insert(authority.directory.clone(), credentials);
                self.state().rolling.remove(&authority.directory);
                tracing::info!(
                    authority = authority.directory,
                    account = account.id(),
                    "the account has a new key"
                );
                self.save().await
            }
            Err(error) => {
                // The authority rejected the key; after other errors it may have accepted it.
                if matches!(error, Error::Api(_)) {
                    self.state().rolling.remove(&authority.directory);
                    self.save().await?;
                }
                Err(order_error(&error, authority))
            }
        }
    }

    /// Resolves a pending rollover: checks the stored key, and removes the account if that is no
    /// longer valid, so that a new account is created.
    pub(super) async fn resolve_rollover(&self, authority: &Authority) -> Result<(), OrderError> {
        if !self.state().rolling.contains(&authority.directory) {
            return Ok(());
        }
        let stored = self.state().accounts.get(&authority.directory).cloned();
        if let Some(stored) = stored {
            let account =
                authority.account(stored).await.map_err(|error| order_error(&error, authority))?;
            match authority.confirm(&account).await {
                Ok(()) => {}
                Err(error @ Error::Api(_))
                    if !matches!(
                        classify(&error),
                        Rejection::Nonce | Rejection::RateLimited(_) | Rejection::Authority(_)
                    ) =>
                {
                    tracing::warn!(authority = authority.directory, %error, "the stored account key is not valid: creating another account");
                    self.state().accounts.remove(&authority.directory);
                }
                Err(error) => return Err(order_error(&error, authority)),
            }
        }
        self.state().rolling.remove(&authority.directory);
        self.save().await
    }
}
