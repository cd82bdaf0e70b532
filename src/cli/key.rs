//! `portcullis key`: client keys of applications. Secrets store their hashes only; a key itself is
//! printed once, when it is created.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use clap::{Args, Subcommand};
use portcullis_config::client_key::{self, secret};
use portcullis_config::model::duration;
use portcullis_config::settings::KubernetesSettings;
use portcullis_config::snapshot::access::ClientKey;
use portcullis_config::store::credentials::Credentials;
use serde::Serialize;
use tokio::runtime::Builder;

use super::kubectl::namespace;
use super::output::{self, Output};
use super::problems::{self, Failure, Snippets};
use super::table;

/// Create, list, rotate and revoke client keys of applications
///
/// Only hashes are stored, in Secrets of the gateway's `access.credentialsNamespace`.
#[derive(Debug, Args)]
pub(super) struct Key {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Create),
    List(List),
    Rotate(Rotate),
    Revoke(Revoke),
}

/// Create a key and print it to standard output, once
#[derive(Debug, Args)]
struct Create {
    /// Name of the application, as grants use it
    application: String,
    /// Validity of the key, such as 90d or 12h; by default it does not expire
    #[arg(long, value_name = "DURATION", value_parser = parse_validity)]
    expires: Option<Duration>,
    /// Print the Secret's manifest to standard output instead of storing it, and the key to
    /// standard error
    #[arg(long, conflicts_with_all = ["folder", "context"])]
    print: bool,
    #[command(flatten)]
    location: SecretLocation,
}

/// List keys, without key material
#[derive(Debug, Args)]
struct List {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    location: SecretLocation,
}

/// Create a new key for an application, and expire its older keys after an overlap
#[derive(Debug, Args)]
struct Rotate {
    /// Name of the application
    application: String,
    /// How long the older keys stay valid beside the new one
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_validity)]
    overlap: Duration,
    /// Validity of the new key, such as 90d or 12h; by default it does not expire
    #[arg(long, value_name = "DURATION", value_parser = parse_validity)]
    expires: Option<Duration>,
    #[command(flatten)]
    location: SecretLocation,
}

/// Revoke keys: gateways reject them within seconds, on open connections too
#[derive(Debug, Args)]
struct Revoke {
    /// Names of the Secrets, as listed by `portcullis key list`
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    location: SecretLocation,
}

/// Where the Secrets are stored.
#[derive(Debug, Args)]
struct SecretLocation {
    /// Namespace of the Secrets: the gateway's `access.credentialsNamespace`
    #[arg(short, long, default_value = "portcullis", value_parser = namespace)]
    namespace: String,
    /// Folder of manifests, instead of a cluster
    #[arg(long, value_name = "PATH")]
    folder: Option<PathBuf>,
    /// Context of the kubeconfig, instead of the current one
    #[arg(long, conflicts_with = "folder")]
    context: Option<String>,
}

/// A row of `portcullis key list`.
#[derive(Serialize)]
struct Row {
    name: String,
    application: String,
    created: Option<String>,
    expires: Option<String>,
    expired: bool,
}

// === impl Key ===

impl Key {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
        let now = SystemTime::now();
        runtime.block_on(async {
            match self.command {
                Command::Create(command) => command.run(now).await,
                Command::List(command) => command.run(now).await,
                Command::Rotate(command) => command.run(now).await,
                Command::Revoke(command) => command.run().await,
            }
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

// === impl Create ===

impl Create {
    async fn run(self, now: SystemTime) -> Result<(), Failure> {
        let (key, stored) =
            generate(&self.application, &self.location.namespace, self.expires, now)?;
        if self.print {
            output::report(&format!(
                "The key of `{}`, which is not shown again:\n{}\n",
                stored.application,
                key.expose()
            ))?;
            return output::write(&secret::manifest(&stored));
        }
        self.location.store().await?.create(&stored).await.map_err(Failure::new)?;
        print(&key, &stored)
    }
}

// === impl List ===

impl List {
    async fn run(self, now: SystemTime) -> Result<(), Failure> {
        let found = self.location.store().await?.client_keys().await.map_err(Failure::new)?;
        problems::print(&found.problems, Snippets::Hidden);
        let rows: Vec<Row> =
            found.keys.iter().map(|(key, created)| Row::new(key, *created, now)).collect();
        match self.output {
            Output::Json => output::write_json(&rows),
            Output::Text => output::write(&table::format(&text(&rows))),
        }
    }
}

fn text(rows: &[Row]) -> Vec<Vec<String>> {
    let heading = ["NAME", "APPLICATION", "CREATED", "EXPIRES"].map(str::to_owned).to_vec();
    let or_none = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".to_owned());
    let line = |row: &Row| {
        let expires = or_none(&row.expires) + if row.expired { " (expired)" } else { "" };
        vec![row.name.clone(), row.application.clone(), or_none(&row.created), expires]
    };
    [heading].into_iter().chain(rows.iter().map(line)).collect()
}

// === impl Row ===

impl Row {
    fn new(key: &ClientKey, created: Option<SystemTime>, now: SystemTime) -> Self {
        Self {
            name: key.origin.name.to_string(),
            application: key.application.to_string(),
            created: created.map(secret::write_time),
            expires: key.expires.map(secret::write_time),
            expired: key.expires.is_some_and(|expires| expires <= now),
        }
    }
}

// === impl Rotate ===

impl Rotate {
    async fn run(self, now: SystemTime) -> Result<(), Failure> {
        let store = self.location.store().await?;
        let end = secret::expiry(now, self.overlap).ok_or_else(year_out_of_range)?;
        let keys = store.client_keys().await.map_err(Failure::new)?.keys;
        let older: Vec<ClientKey> = keys
            .into_iter()
            .map(|(key, _)| key)
            .filter(|key| *key.application == *self.application)
            .collect();
        if older.is_empty() {
            let help = format!(
                "`portcullis key list` lists existing keys; `portcullis key create {}` creates \
                 one",
                self.application
            );
            return Err(Failure::with_help(format!("`{}` has no key", self.application), help));
        }
        let (key, stored) =
            generate(&self.application, &self.location.namespace, self.expires, now)?;
        store.create(&stored).await.map_err(Failure::new)?;
        // The new key is stored: print it before anything else can fail.
        print(&key, &stored)?;
        for key in older.iter().filter(|key| key.expires.is_none_or(|expires| expires > end)) {
            let help = format!(
                "the new key is stored; revoke {} when no client uses it any more",
                key.origin.name
            );
            store.expire(key, end).await.map_err(|error| Failure::with_help(error, help))?;
            output::report(&format!("{} expires at {}.\n", key.origin, secret::write_time(end)))?;
        }
        Ok(())
    }
}

// === impl Revoke ===

impl Revoke {
    async fn run(self) -> Result<(), Failure> {
        let store = self.location.store().await?;
        let keys = store.client_keys().await.map_err(Failure::new)?.keys;
        // Look up all keys before revoking any.
        let mut found = Vec::new();
        for name in &self.names {
            let key = keys.iter().map(|(key, _)| key).find(|key| *key.origin.name == **name);
            let help = "`portcullis key list` lists existing keys";
            let missing = || {
                Failure::with_help(
                    format!("there is no client key `{name}`; nothing was revoked"),
                    help,
                )
            };
            found.push(key.ok_or_else(missing)?);
        }
        for key in found {
            store
                .revoke(key)
                .await
                .map_err(|error| Failure::with_help(error, "delete the Secret by hand"))?;
            output::report(&format!("{} of `{}` is revoked.\n", key.origin, key.application))?;
        }
        Ok(())
    }
}

// === impl SecretLocation ===

impl SecretLocation {
    async fn store(&self) -> Result<Credentials, Failure> {
        let help = "set KUBECONFIG to a kubeconfig, or --folder to a folder of manifests";
        match &self.folder {
            Some(folder) => Ok(Credentials::folder(folder.clone(), &self.namespace)),
            None => {
                let settings = KubernetesSettings {
                    context: self.context.clone(),
                    ..KubernetesSettings::default()
                };
                Credentials::cluster(&settings, &self.namespace)
                    .await
                    .map_err(|error| Failure::with_help(error, help))
            }
        }
    }
}

/// Generates a key, and what is stored of it.
fn generate(
    application: &str,
    namespace: &str,
    expires: Option<Duration>,
    now: SystemTime,
) -> Result<(client_key::Key, ClientKey), Failure> {
    let no_randomness = |_| Failure::new("the system returned no random numbers");
    let (mut random, mut name) = ([0; 32], [0; 4]);
    rand::fill(&mut random).and_then(|()| rand::fill(&mut name)).map_err(no_randomness)?;
    let expires = expires
        .map(|validity| secret::expiry(now, validity).ok_or_else(year_out_of_range))
        .transpose()?;
    let key = client_key::Key::new(&random);
    let stored = secret::new(namespace, application, key.hash(), expires, name);
    let stored = stored.map_err(|error| {
        Failure::with_help(
            format!("`{application}`: {error}"),
            "use the name by which grants refer to the application",
        )
    })?;
    Ok((key, stored))
}

/// Prints a stored key, so that `$(portcullis key create …)` is the key.
fn print(key: &client_key::Key, stored: &ClientKey) -> Result<(), Failure> {
    output::write(&format!("{}\n", key.expose()))?;
    let expiry = stored
        .expires
        .map(|expires| format!(", and it expires at {}", secret::write_time(expires)))
        .unwrap_or_default();
    output::report(&format!(
        "The key of `{}` is not shown again. Its hash is stored in {}{expiry}.\n",
        stored.application, stored.origin
    ))
}

fn year_out_of_range() -> Failure {
    Failure::new("the expiry is after the year 9999")
}

/// Parses a duration above zero: days, or as in the configuration.
fn parse_validity(text: &str) -> Result<Duration, String> {
    let days = text.strip_suffix('d').filter(|days| {
        (1..=5).contains(&days.len()) && days.bytes().all(|byte| byte.is_ascii_digit())
    });
    let parsed = match days.map(str::parse::<u64>) {
        Some(Ok(days)) => Some(Duration::from_secs(days * 24 * 3600)),
        _ => duration::parse(text),
    };
    parsed
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "write a duration above zero, such as 90d, 12h or 1h30m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_days_or_as_in_the_configuration() {
        let hours = |text| parse_validity(text).map(|time| time.as_secs() / 3600);
        assert_eq!((hours("90d"), hours("12h"), hours("1h60m")), (Ok(2160), Ok(12), Ok(2)));
        for wrong in ["", "d", "0d", "0s", "-1d", "1d12h", "123456d", "1 d", "90"] {
            assert!(parse_validity(wrong).is_err(), "{wrong}");
        }
    }
}
