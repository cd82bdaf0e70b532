//! Where the database is, and how it is reached.

use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};

use crate::settings::PostgresSettings;
use crate::store::StoreError;

/// How long a connection may take to be opened.
const PATIENCE: Duration = Duration::from_secs(10);
/// The parameters of a URL that have a meaning. Others might be a slip that weakens the connection.
const PARAMETERS: [&str; 11] = [
    "application_name",
    "dbname",
    "host",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];

/// A database, with the password. It has no `Debug`, so that no log has it.
#[derive(Clone)]
pub(super) struct Target {
    options: Arc<PgConnectOptions>,
}

// === impl Target ===

impl Target {
    /// Reads the file with the URL.
    pub(super) fn read(settings: &PostgresSettings) -> Result<Self, StoreError> {
        let path = &settings.url_file;
        let file = path.display();
        let text =
            fs::read_to_string(path).map_err(|error| StoreError::File(file.to_string(), error))?;
        let mut target = Self::parse(text.trim())
            .map_err(|problem| StoreError::Url(file.to_string(), problem))?;
        if let Some(authorities) = &settings.certificate_authorities {
            let options = target.options().clone().ssl_root_cert(authorities);
            target.options = Arc::new(options);
        }
        Ok(target)
    }

    /// Parses a URL. The problem has nothing of it but names of parameters.
    fn parse(url: &str) -> Result<Self, String> {
        if !url.starts_with("postgresql://") && !url.starts_with("postgres://") {
            return Err(
                "it is not of the form postgresql://USER:PASSWORD@HOST:PORT/DATABASE".to_owned()
            );
        }
        let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
        let mut mode = None;
        for (name, value) in form_urlencoded::parse(parameters.as_bytes()) {
            if !PARAMETERS.contains(&&*name) {
                return Err(format!(
                    "the parameter `{name}` is not supported: remove it; these are: {}",
                    PARAMETERS.join(", ")
                ));
            }
            if name == "sslmode" {
                mode = Some(value.into_owned());
            }
        }
        let options: PgConnectOptions = url.parse().map_err(|_| "it is not a URL".to_owned())?;
        let mode = match mode.as_deref() {
            Some("disable") => PgSslMode::Disable,
            Some("require") => PgSslMode::Require,
            Some("verify-ca") => PgSslMode::VerifyCa,
            Some("verify-full") => PgSslMode::VerifyFull,
            // These would send the password in plain text to whoever refuses TLS.
            Some(_) => {
                return Err("`sslmode` is neither `verify-full`, `verify-ca`, `require` nor \
                            `disable`"
                    .to_owned());
            }
            None if is_local(&options) => PgSslMode::Disable,
            None => PgSslMode::VerifyFull,
        };
        let name = options.get_application_name().unwrap_or("portcullis-builder").to_owned();
        let options = options.ssl_mode(mode).application_name(&name);
        Ok(Self { options: Arc::new(options) })
    }

    /// How it is connected to.
    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// Opens a connection.
    pub(super) async fn connect(&self) -> Result<PgConnection, StoreError> {
        let connected = tokio::time::timeout(PATIENCE, self.options.connect()).await;
        let timed_out = || Err(sqlx::Error::Io(ErrorKind::TimedOut.into()));
        connected.unwrap_or_else(|_| timed_out()).map_err(|error| self.failed(error))
    }

    /// An error of the server, with its name.
    pub(super) fn failed(&self, error: sqlx::Error) -> StoreError {
        let database = self.options.get_database().unwrap_or(self.options.get_username());
        let server = match self.options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", self.options.get_host(), self.options.get_port()),
        };
        StoreError::Server(format!("{server}/{database}"), error)
    }
}

/// Whether the connection does not leave this machine.
fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    let is_loopback = |host: &str| host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    options.get_socket().is_some()
        || host.starts_with('/')
        || host == "localhost"
        || is_loopback(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_elsewhere_is_verified_unless_the_url_says_otherwise() {
        let mode = |url: &str| format!("{:?}", Target::parse(url).unwrap().options.get_ssl_mode());
        for (url, expected) in [
            ("postgresql://u:p@db.example.com/d", "VerifyFull"),
            ("postgres://u:p@10.0.0.1:5433/d", "VerifyFull"),
            ("postgresql://u:p@db.example.com/d?sslmode=require", "Require"),
            ("postgresql://u:p@db.example.com/d?sslmode=disable", "Disable"),
            ("postgresql://u@localhost/d", "Disable"),
            ("postgresql://u@127.0.0.1/d", "Disable"),
            ("postgresql:///d?host=/run/postgresql&user=u", "Disable"),
            ("postgresql://u@localhost/d?sslmode=verify-full", "VerifyFull"),
        ] {
            assert_eq!(mode(url), expected, "{url}");
        }
    }

    #[test]
    fn a_problem_of_the_url_says_nothing_of_the_password() {
        for url in [
            "u:secret@host/d",
            "mysql://u:secret@host/d",
            "postgresql://u:secret@host:port/d",
            "postgresql://u:secret@host/d?sslmode=prefer",
            "postgresql://u:secret@host/d?sslmode=secret",
            "postgresql://u@host/d?passwort=secret",
            "postgresql://u:secret@[host/d",
        ] {
            let Err(problem) = Target::parse(url) else { panic!("{url}") };
            assert!(!problem.contains("secret"), "{problem}");
        }
    }
}
