//! A program or an HTTPS service that creates and removes records, for all other DNS services.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use portcullis_config::settings::acme::WebhookSettings;
use portcullis_identity::outbound::Client;
use serde_json::json;
use tokio::process::Command;
use tokio::time::timeout;

use super::DnsError;

/// How long a program may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The most octets of a program's error output that are reported.
const MAX_STDERR: usize = 300;

/// The program or service to call.
pub(super) enum Call {
    Exec(Vec<String>),
    Webhook { url: String, client: Client, authorization: Option<HeaderValue> },
}

// === impl Call ===

impl Call {
    pub(super) fn exec(command: &[String]) -> Self {
        Self::Exec(command.to_vec())
    }

    pub(super) fn webhook(settings: &WebhookSettings) -> Result<Self, DnsError> {
        let unusable = |error: String| {
            DnsError::Unusable(format!("the webhook for DNS records is not usable: {error}"))
        };
        let client = Client::new(settings.root_file.as_deref())
            .map_err(|error| unusable(error.to_string()))?;
        let authorization = settings.authorization_file.as_deref().map(|file| {
            let text = fs::read_to_string(file)
                .map_err(|error| unusable(format!("{}: {error}", file.display())))?;
            let mut value = HeaderValue::from_str(text.trim())
                .map_err(|_| unusable(format!("{} is not a valid header value", file.display())))?;
            value.set_sensitive(true);
            Ok(value)
        });
        Ok(Self::Webhook {
            url: settings.url.trim_end_matches('/').to_owned(),
            client,
            authorization: authorization.transpose()?,
        })
    }

    /// Runs `action`, `present` or `cleanup`. Either may be repeated for the same record.
    pub(super) async fn run(
        &self,
        action: &str,
        record: &str,
        value: &str,
    ) -> Result<(), DnsError> {
        match self {
            Self::Exec(command) => exec(command, action, record, value).await,
            Self::Webhook { url, client, authorization } => {
                let url = format!("{url}/{action}");
                let mut headers =
                    vec![(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
                headers.extend(authorization.clone().map(|value| (header::AUTHORIZATION, value)));
                let body = Bytes::from(json!({ "fqdn": record, "value": value }).to_string());
                let answer = client
                    .send(Method::POST, &url, headers, body)
                    .await
                    .map_err(|error| DnsError::Call(format!("{url} {error}")))?;
                if answer.status.is_success() {
                    Ok(())
                } else {
                    Err(DnsError::Call(format!("{url} returned {}", answer.status)))
                }
            }
        }
    }
}

async fn exec(command: &[String], action: &str, record: &str, value: &str) -> Result<(), DnsError> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(DnsError::Call("the command is empty".to_owned()));
    };
    let mut child = Command::new(program);
    child.args(arguments).args([action, record, value]);
    child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = timeout(TIMEOUT, child.output()).await;
    let output = output.map_err(|_| {
        DnsError::Call(format!("{program} did not finish within {} s", TIMEOUT.as_secs()))
    })?;
    let output =
        output.map_err(|error| DnsError::Call(format!("{program} cannot be run: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let mut stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    stderr.truncate(stderr.floor_char_boundary(MAX_STDERR));
    Err(DnsError::Call(format!("{program} {action} failed ({}): {stderr}", output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_gets_the_record_and_its_failure_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("arguments").display().to_string();
        let shell = |script: &str| {
            Call::exec(&["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned(), file.clone()])
        };
        shell(r#"echo "$@" > "$0""#)
            .run("present", "_acme-challenge.a.test.", "value")
            .await
            .unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "present _acme-challenge.a.test. value\n");
        let failure = shell("echo no such zone >&2; exit 3")
            .run("cleanup", "a.", "v")
            .await
            .unwrap_err()
            .to_string();
        assert!(failure.contains("no such zone") && failure.contains('3'), "{failure}");
    }

    #[tokio::test]
    async fn a_missing_program_is_reported() {
        assert!(
            Call::exec(&["/no/such/program".to_owned()]).run("present", "a.", "v").await.is_err()
        );
    }
}
