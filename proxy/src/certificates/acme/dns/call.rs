//! All other DNS services: a program, or an HTTPS service, is told what to make and what to remove.

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
const WITHIN: Duration = Duration::from_secs(60);
/// How much is told of what a program says.
const MAX_TOLD: usize = 300;

/// Who is told.
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
            DnsError::Unusable(format!("the webhook for DNS records cannot be used: {error}"))
        };
        let client = Client::new(settings.root_file.as_deref())
            .map_err(|error| unusable(error.to_string()))?;
        let authorization = settings.authorization_file.as_deref().map(|file| {
            let text = fs::read_to_string(file)
                .map_err(|error| unusable(format!("{}: {error}", file.display())))?;
            let mut value = HeaderValue::from_str(text.trim())
                .map_err(|_| unusable(format!("{} is no header", file.display())))?;
            value.set_sensitive(true);
            Ok(value)
        });
        Ok(Self::Webhook {
            url: settings.url.trim_end_matches('/').to_owned(),
            client,
            authorization: authorization.transpose()?,
        })
    }

    /// `action` is `present` or `cleanup`. Both may come twice for the same record.
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
                    Err(DnsError::Call(format!("{url} answered {}", answer.status)))
                }
            }
        }
    }
}

async fn exec(command: &[String], action: &str, record: &str, value: &str) -> Result<(), DnsError> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(DnsError::Call("there is no program".to_owned()));
    };
    let mut child = Command::new(program);
    child.args(arguments).args([action, record, value]);
    child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = timeout(WITHIN, child.output()).await;
    let output = output.map_err(|_| {
        DnsError::Call(format!("{program} did not end within {} s", WITHIN.as_secs()))
    })?;
    let output =
        output.map_err(|error| DnsError::Call(format!("{program} cannot be run: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let mut told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    told.truncate(told.floor_char_boundary(MAX_TOLD));
    Err(DnsError::Call(format!("{program} {action} failed ({}): {told}", output.status)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_is_told_what_to_make_and_its_failure_is_told() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("told").display().to_string();
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
    async fn a_program_that_is_not_there_is_told() {
        assert!(
            Call::exec(&["/no/such/program".to_owned()]).run("present", "a.", "v").await.is_err()
        );
    }
}
