//! curl, as a process.

use std::process::Stdio;

use tokio::process::Command;

use super::soon;

/// One call of curl.
#[derive(Debug, Clone)]
pub(crate) struct Curl {
    arguments: Vec<String>,
}

/// The result of a call.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// The exit code of curl: 0 if the transfer was complete.
    pub(crate) exit: i32,
    /// The status of the last response; 0 if there was none.
    pub(crate) status: u16,
    /// `1.0`, `1.1` or `2`.
    pub(crate) version: String,
    /// The status lines of all responses, including interim ones.
    pub(crate) status_lines: Vec<String>,
    /// The headers of the last response, in order, with lower-case names. Trailers of HTTP/1.1
    /// follow them.
    pub(crate) headers: Vec<(String, String)>,
    /// The body.
    pub(crate) body: Vec<u8>,
    /// The error output of curl.
    pub(crate) complaint: String,
}

// === impl Curl ===

impl Curl {
    /// A call of `url`.
    pub(crate) fn new(url: &str) -> Self {
        Self {
            arguments: vec![
                "--silent".to_owned(),
                "--show-error".to_owned(),
                "--max-time".to_owned(),
                "60".to_owned(),
                url.to_owned(),
            ],
        }
    }

    /// Adds an argument.
    pub(crate) fn arg(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    /// Adds arguments.
    pub(crate) fn args<const N: usize>(mut self, arguments: [&str; N]) -> Self {
        self.arguments.extend(arguments.map(str::to_owned));
        self
    }

    /// Adds a header.
    pub(crate) fn header(self, header: &str) -> Self {
        self.args(["--header", header])
    }

    /// The process, for tests that read while it runs.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("curl");
        command.args(&self.arguments);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs curl.
    pub(crate) async fn run(self) -> Answer {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let head = folder.path().join("head");
        let curl = self.args([
            "--write-out",
            "%{stderr}\n%{http_code} %{http_version}",
            "--dump-header",
            &head.to_string_lossy(),
        ]);
        let output = soon("curl ends", curl.command().output()).await.expect("curl runs");
        let head = std::fs::read_to_string(&head).unwrap_or_default();
        let reported = String::from_utf8_lossy(&output.stderr).into_owned();
        let (complaint, facts) = reported.rsplit_once('\n').unwrap_or(("", &reported));
        let mut facts = facts.split(' ');
        let (status_lines, headers) = read_heads(&head);
        Answer {
            exit: output.status.code().unwrap_or(-1),
            status: facts.next().and_then(|code| code.parse().ok()).unwrap_or(0),
            version: facts.next().unwrap_or_default().to_owned(),
            status_lines,
            headers,
            body: output.stdout,
            complaint: complaint.to_owned(),
        }
    }
}

fn read_heads(text: &str) -> (Vec<String>, Vec<(String, String)>) {
    let mut status_lines = Vec::new();
    let mut headers = Vec::new();
    for line in text.lines() {
        if line.starts_with("HTTP/") {
            status_lines.push(line.to_owned());
            headers.clear();
        } else if let Some((name, value)) = line.split_once(':') {
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    (status_lines, headers)
}

// === impl Answer ===

impl Answer {
    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The first header of that name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}
