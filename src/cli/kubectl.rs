//! kubectl, by which commands read a cluster with the rights of their user.

use std::process::{Output, Stdio};
use std::time::Duration;

use portcullis_config::model::check_label;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Selects the objects of gateways, as all ways to install them label these.
pub(super) const GATEWAYS: &str =
    "app.kubernetes.io/name=portcullis,app.kubernetes.io/component=gateway";
/// The longest wait for one call.
const TIMEOUT: Duration = Duration::from_secs(15);

/// A cluster, as kubectl finds it.
#[derive(Debug, Clone, Default)]
pub(super) struct Kubectl {
    context: Option<String>,
}

// === impl Kubectl ===

impl Kubectl {
    /// The cluster of this context of the kubeconfig, else of the current one.
    pub(super) fn new(context: Option<&str>) -> Self {
        Self { context: context.map(str::to_owned) }
    }

    /// A call, which ends when it is dropped.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(self.context.iter().flat_map(|context| ["--context", context]));
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// The output of a call, as text.
    ///
    /// # Errors
    /// Why it failed, as kubectl says it.
    pub(super) async fn text(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.command(arguments).output();
        finished(tokio::time::timeout(TIMEOUT, output).await)
    }

    /// The output of a call, as JSON: `--output=json` is appended.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub(super) async fn json(&self, arguments: &[&str]) -> Result<Value, String> {
        let text = self.text(&[arguments, &["--output=json"]].concat()).await?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// Creates what `object` describes, and returns what the API server makes of it.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub(super) async fn create(&self, object: &Value) -> Result<Value, String> {
        let mut command = self.command(&["create", "--filename=-", "--output=json"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let input = child.stdin.take();
        let exchange = async move {
            if let Some(mut input) = input {
                input.write_all(object.to_string().as_bytes()).await?;
            }
            child.wait_with_output().await
        };
        let text = finished(tokio::time::timeout(TIMEOUT, exchange).await)?;
        // Of several objects, kubectl prints one after the other, and no list.
        let created: serde_json::Result<Vec<Value>> =
            serde_json::Deserializer::from_str(&text).into_iter().collect();
        let mut created = created.map_err(|error| error.to_string())?;
        Ok(if created.len() == 1 { created.remove(0) } else { json!({ "items": created }) })
    }
}

/// Parses the name of a Namespace, for the command line.
pub(super) fn namespace(text: &str) -> Result<String, String> {
    check_label(text)
        .map(|()| text.to_owned())
        .map_err(|error| format!("not a valid Namespace name: it {error}"))
}

/// The items of a list.
pub(super) fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.get("items").and_then(Value::as_array).into_iter().flatten()
}

/// The text at a pointer of an object; empty if there is none.
pub(super) fn text_at<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn finished(
    output: Result<std::io::Result<Output>, tokio::time::error::Elapsed>,
) -> Result<String, String> {
    let output = output.map_err(|_| format!("it took more than {} s", TIMEOUT.as_secs()))?;
    let output = output.map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    String::from_utf8(output.stdout).map_err(|error| error.to_string())
}
