//! `portcullis certs`: lists and renews the certificates of a running gateway.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use portcullis_proxy::admin::certificates::Certificate;

use super::gateway_access::Admin;
use super::output::{self, Output};
use super::problems::Failure;
use super::table;

/// List the certificates of a running gateway
///
/// Without a subcommand, prints the names, expiry, next step, issuer and last error of each
/// certificate.
#[derive(Debug, Args)]
pub(super) struct Certs {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    admin: Admin,
    /// Output format
    #[arg(short, long, value_enum, default_value_t, global = true)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Renew a certificate now
    Renew {
        /// Hostname of the certificate, or its name
        name: String,
    },
    /// Replace the keys of all ACME accounts now
    Rollover,
}

// === impl Certs ===

impl Certs {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            Some(Command::Renew { name }) => {
                let query: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
                let own: String = self.admin.post(&format!("/certificates/renew?name={query}"))?;
                output::write(&format!("renewing {own}; `portcullis certs` shows the progress\n"))?;
            }
            Some(Command::Rollover) => {
                let _: String = self.admin.post("/certificates/rollover")?;
                output::write(
                    "replacing the account keys; `portcullis routes -o json` reports failures as \
                     problems\n",
                )?;
            }
            None => {
                let certificates: Vec<Certificate> = self.admin.get("/certificates")?;
                match self.output {
                    Output::Json => output::write_json(&certificates)?,
                    Output::Text => output::write(&text(&certificates))?,
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(certificates: &[Certificate]) -> String {
    let heading = ["NAMES", "EXPIRES IN", "NEXT", "ISSUER", "SOURCE"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(certificates.iter().map(row));
    let mut text = table::format(&rows);
    for certificate in certificates {
        let names = certificate.names.join(", ");
        if let Some(problem) = &certificate.problem {
            text.push_str(&format!("\n{names}: {problem}\n"));
        }
        if let Some(error) = &certificate.last_error {
            let failed = match certificate.failures {
                1 => "failed once".to_owned(),
                failures => format!("failed {failures} times in a row"),
            };
            text.push_str(&format!("\n{names}: {failed}: {error}\n"));
        }
    }
    text
}

fn row(certificate: &Certificate) -> Vec<String> {
    const MAX_NAMES: usize = 3;
    let mut names =
        certificate.names.iter().take(MAX_NAMES).cloned().collect::<Vec<_>>().join(", ");
    if let Some(more) = certificate.names.len().checked_sub(MAX_NAMES).filter(|more| *more > 0) {
        names.push_str(&format!(" and {more} more"));
    }
    let expires = match certificate.expires_in_seconds {
        None => "not issued yet".to_owned(),
        Some(0) => "expired".to_owned(),
        Some(seconds) => duration(seconds),
    };
    let from_now = |time: u64| {
        certificate
            .not_after
            .zip(certificate.expires_in_seconds)
            .map(|(end, left)| time.saturating_sub(end - left))
    };
    let next = match (certificate.next_try, certificate.renew_at.and_then(from_now)) {
        (Some(_), _) => "retried".to_owned(),
        (None, Some(seconds)) => format!("renewed in {}", duration(seconds)),
        (None, None) => String::new(),
    };
    let source = if certificate.name.is_empty() { &certificate.origin } else { &certificate.name };
    vec![names, expires, next, certificate.issuer.clone().unwrap_or_default(), source.clone()]
}

/// Formats in the largest unit of which there are at least two.
fn duration(seconds: u64) -> String {
    match seconds {
        172_800.. => format!("{} d", seconds / 86_400),
        7_200.. => format!("{} h", seconds / 3_600),
        120.. => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_expiry_and_next_step() {
        let certificate = |name: &str| Certificate {
            name: name.to_owned(),
            names: vec![format!("{name}.test")],
            ..Certificate::default()
        };
        let good = Certificate {
            issuer: Some("https://ca.test/".to_owned()),
            not_after: Some(1_000_000),
            expires_in_seconds: Some(300_000),
            renew_at: Some(710_000),
            ..certificate("good")
        };
        let bad = Certificate {
            next_try: Some(5),
            failures: 2,
            last_error: Some("no".to_owned()),
            ..certificate("bad")
        };
        let gone = Certificate {
            origin: "Secret shop/tls".to_owned(),
            expires_in_seconds: Some(90),
            problem: Some("the certificate has been removed".to_owned()),
            failures: 1,
            last_error: Some("why".to_owned()),
            name: String::new(),
            ..certificate("gone")
        };
        let expected = "NAMES      EXPIRES IN      NEXT            ISSUER            SOURCE\n\
                        good.test  3 d             renewed in 2 h  https://ca.test/  good\n\
                        bad.test   not issued yet  retried                           bad\n\
                        gone.test  90 s                                              Secret shop/tls\n\
                        \nbad.test: failed 2 times in a row: no\n\
                        \ngone.test: the certificate has been removed\n\
                        \ngone.test: failed once: why\n";
        assert_eq!(text(&[good, bad, gone]), expected);
    }
}
