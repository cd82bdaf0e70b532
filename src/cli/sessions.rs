//! `portcullis sessions`: new keys for login sessions, on command.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use portcullis_proxy::admin::sessions::Rotated;

use super::gateway_access::Admin;
use super::output;
use super::problems::Failure;

/// Replaces the keys that seal login sessions and TLS session tickets, and that sign what pods are
/// told of callers.
#[derive(Debug, Args)]
pub(super) struct Sessions {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    admin: Admin,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Has a running gateway make another key, now. It is in use within two minutes, on all
    /// replicas; what others have sealed is good until it ends by itself
    Rotate {
        /// Takes the other keys away, for when somebody may have read one: all sessions end within
        /// seconds, and people log in again
        #[arg(long)]
        end_sessions: bool,
    },
}

// === impl Sessions ===

impl Sessions {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let Command::Rotate { end_sessions } = self.command;
        let rotated: Rotated = self.admin.order(&format!("/sessions/rotate?end={end_sessions}"))?;
        output::write(match end_sessions {
            true => {
                "another key was made, and the others were taken away: the sessions that they \
                 sealed end within seconds\n"
            }
            false => {
                "another key was made: it is in use within two minutes, and the others go when \
                 what they sealed has ended\n"
            }
        })?;
        if end_sessions && !rotated.made_by_people.is_empty() {
            let stay = rotated.made_by_people.join(", ");
            output::tell(&format!(
                "What was sealed by keys that people made goes on: delete {stay} to end it.\n"
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
