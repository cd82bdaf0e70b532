//! `portcullis sessions`: rotation of session keys.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use portcullis_proxy::admin::sessions::Rotated;

use super::gateway_access::Admin;
use super::output;
use super::problems::Failure;

/// Rotate session keys
///
/// Session keys seal login sessions and TLS session tickets, and sign the identity headers that
/// pods receive.
#[derive(Debug, Args)]
pub(super) struct Sessions {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    admin: Admin,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a new session key
    ///
    /// All replicas use it within two minutes. What the older keys sealed stays valid until it
    /// expires.
    Rotate {
        /// Delete the older keys, for example after a key has leaked: revokes all sessions within
        /// seconds, so that users have to sign in again
        #[arg(long)]
        end_sessions: bool,
    },
}

// === impl Sessions ===

impl Sessions {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let Command::Rotate { end_sessions } = self.command;
        let rotated: Rotated = self.admin.post(&format!("/sessions/rotate?end={end_sessions}"))?;
        output::write(match end_sessions {
            true => {
                "created a new session key and deleted the older ones: their sessions are revoked \
                 within seconds\n"
            }
            false => {
                "created a new session key: it is in use within two minutes, and the older ones \
                 are deleted when what they sealed has expired\n"
            }
        })?;
        if end_sessions && !rotated.made_by_people.is_empty() {
            let remaining = rotated.made_by_people.join(", ");
            output::report(&format!(
                "Sessions of manually created keys stay valid: delete {remaining} to revoke them.\n"
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
