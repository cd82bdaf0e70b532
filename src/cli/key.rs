//! `portcullis key`: the keys that applications show. They are kept as hashes in Secrets; a key
//! itself is printed once, when it is made.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use clap::{Args, Subcommand};
use portcullis_config::client_key::{self, secret};
use portcullis_config::model::{check_label, duration};
use portcullis_config::settings::KubernetesSettings;
use portcullis_config::snapshot::access::ClientKey;
use portcullis_config::store::client_key::Store;
use serde::Serialize;
use tokio::runtime::Builder;

use super::output::{self, Output};
use super::problems::{self, Failure, Snippets};
use super::table;

/// Makes, lists, rotates and revokes the keys that applications show. Only their hashes are kept,
/// in Secrets of the gateway's `access.credentialsNamespace`.
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

/// Makes a key, and prints it: the key alone on standard output, once
#[derive(Debug, Args)]
struct Create {
    /// The application's name, as grants have it
    application: String,
    /// When the key ends, such as 90d or 12h; without it, never
    #[arg(long, value_name = "DURATION", value_parser = lasting)]
    expires: Option<Duration>,
    /// Prints the Secret's manifest on standard output instead of keeping it, and the key on
    /// standard error
    #[arg(long, conflicts_with_all = ["folder", "context"])]
    print: bool,
    #[command(flatten)]
    place: Place,
}

/// Shows the keys that there are, without what would let anyone use them
#[derive(Debug, Args)]
struct List {
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// Makes a new key for an application, and lets its older ones end after a while
#[derive(Debug, Args)]
struct Rotate {
    /// The application's name
    application: String,
    /// How long the older keys are accepted beside the new one
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = lasting)]
    overlap: Duration,
    /// When the new key ends, such as 90d or 12h; without it, never
    #[arg(long, value_name = "DURATION", value_parser = lasting)]
    expires: Option<Duration>,
    #[command(flatten)]
    place: Place,
}

/// Takes keys away: they are refused within seconds, on open connections too
#[derive(Debug, Args)]
struct Revoke {
    /// The names of their Secrets, as `portcullis key list` shows them
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    place: Place,
}

/// Where the Secrets are.
#[derive(Debug, Args)]
struct Place {
    /// The Namespace of the Secrets: the gateway's `access.credentialsNamespace`
    #[arg(short, long, default_value = "portcullis", value_parser = namespace)]
    namespace: String,
    /// A folder of manifests, instead of a cluster
    #[arg(long, value_name = "PATH")]
    folder: Option<PathBuf>,
    /// The kubeconfig's context, instead of the current one
    #[arg(long, conflicts_with = "folder")]
    context: Option<String>,
}

/// A key as it is listed.
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
        let (key, kept) = make(&self.application, &self.place.namespace, self.expires, now)?;
        if self.print {
            output::tell(&format!(
                "The key of `{}`, which is shown only now:\n{}\n",
                kept.application,
                key.expose()
            ))?;
            return output::write(&secret::manifest(&kept));
        }
        self.place.store().await?.create(&kept).await.map_err(Failure::new)?;
        show(&key, &kept)
    }
}

// === impl List ===

impl List {
    async fn run(self, now: SystemTime) -> Result<(), Failure> {
        let found = self.place.store().await?.list().await.map_err(Failure::new)?;
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
        let expires = or_none(&row.expires) + if row.expired { " (over)" } else { "" };
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
        let store = self.place.store().await?;
        let end = secret::end(now, self.overlap).ok_or_else(beyond)?;
        let older: Vec<ClientKey> = store
            .list()
            .await
            .map_err(Failure::new)?
            .keys
            .into_iter()
            .map(|(key, _)| key)
            .collect();
        let older: Vec<ClientKey> =
            older.into_iter().filter(|key| *key.application == *self.application).collect();
        if older.is_empty() {
            let help = format!(
                "`portcullis key list` shows those that there are; `portcullis key create {}` \
                 makes one",
                self.application
            );
            return Err(Failure::with_help(format!("`{}` has no key", self.application), help));
        }
        let (key, kept) = make(&self.application, &self.place.namespace, self.expires, now)?;
        store.create(&kept).await.map_err(Failure::new)?;
        // It is kept already: whatever happens to the older ones, it must not be lost.
        show(&key, &kept)?;
        for key in older.iter().filter(|key| key.expires.is_none_or(|expires| expires > end)) {
            let help = format!(
                "the new key is kept; revoke {} once nobody shows it any more",
                key.origin.name
            );
            store.end(key, end).await.map_err(|error| Failure::with_help(error, help))?;
            output::tell(&format!("{} ends {}.\n", key.origin, secret::write_time(end)))?;
        }
        Ok(())
    }
}

// === impl Revoke ===

impl Revoke {
    async fn run(self) -> Result<(), Failure> {
        let store = self.place.store().await?;
        let keys = store.list().await.map_err(Failure::new)?.keys;
        // All are found before any is taken away.
        let mut found = Vec::new();
        for name in &self.names {
            let key = keys.iter().map(|(key, _)| key).find(|key| *key.origin.name == **name);
            let help = "`portcullis key list` shows those that there are";
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
                .map_err(|error| Failure::with_help(error, "take it away by hand"))?;
            output::tell(&format!("{} of `{}` is revoked.\n", key.origin, key.application))?;
        }
        Ok(())
    }
}

// === impl Place ===

impl Place {
    async fn store(&self) -> Result<Store, Failure> {
        let help = "give a kubeconfig by KUBECONFIG, or a folder of manifests by --folder";
        match &self.folder {
            Some(folder) => Ok(Store::folder(folder.clone(), &self.namespace)),
            None => {
                let settings = KubernetesSettings {
                    context: self.context.clone(),
                    ..KubernetesSettings::default()
                };
                Store::cluster(&settings, &self.namespace)
                    .await
                    .map_err(|error| Failure::with_help(error, help))
            }
        }
    }
}

/// A new key, and what is kept of it.
fn make(
    application: &str,
    namespace: &str,
    expires: Option<Duration>,
    now: SystemTime,
) -> Result<(client_key::Key, ClientKey), Failure> {
    let no_randomness = |_| Failure::new("this machine gives no randomness");
    let (mut random, mut name) = ([0; 32], [0; 4]);
    rand::fill(&mut random).and_then(|()| rand::fill(&mut name)).map_err(no_randomness)?;
    let expires = expires.map(|lasts| secret::end(now, lasts).ok_or_else(beyond)).transpose()?;
    let key = client_key::Key::new(&random);
    let kept = secret::new(namespace, application, key.hash(), expires, name);
    let kept = kept.map_err(|error| {
        Failure::with_help(
            format!("`{application}`: {error}"),
            "give the name that grants are to have",
        )
    })?;
    Ok((key, kept))
}

/// Prints a key that is kept, so that `$(portcullis key create …)` is the key.
fn show(key: &client_key::Key, kept: &ClientKey) -> Result<(), Failure> {
    output::write(&format!("{}\n", key.expose()))?;
    let end = kept
        .expires
        .map(|expires| format!(", and ends {}", secret::write_time(expires)))
        .unwrap_or_default();
    output::tell(&format!(
        "The key of `{}` is shown only now. Its hash is kept in {}{end}.\n",
        kept.application, kept.origin
    ))
}

fn beyond() -> Failure {
    Failure::new("that is beyond the year 9999")
}

/// A time above zero: days, or as in the configuration.
fn lasting(text: &str) -> Result<Duration, String> {
    let days = text.strip_suffix('d').filter(|days| {
        (1..=5).contains(&days.len()) && days.bytes().all(|byte| byte.is_ascii_digit())
    });
    let parsed = match days.map(str::parse::<u64>) {
        Some(Ok(days)) => Some(Duration::from_secs(days * 24 * 3600)),
        _ => duration::parse(text),
    };
    parsed
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "write a time above zero, such as 90d, 12h or 1h30m".to_owned())
}

fn namespace(text: &str) -> Result<String, String> {
    check_label(text)
        .map(|()| text.to_owned())
        .map_err(|error| format!("no Namespace can have this name: it {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_days_or_as_in_the_configuration() {
        let hours = |text| lasting(text).map(|time| time.as_secs() / 3600);
        assert_eq!((hours("90d"), hours("12h"), hours("1h60m")), (Ok(2160), Ok(12), Ok(2)));
        for wrong in ["", "d", "0d", "0s", "-1d", "1d12h", "123456d", "1 d", "90"] {
            assert!(lasting(wrong).is_err(), "{wrong}");
        }
    }
}
