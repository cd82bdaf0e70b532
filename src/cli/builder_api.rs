//! The API of a release builder, for the commands that call it.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::Args;
use http::{HeaderValue, Method, StatusCode, header};
use portcullis_identity::outbound::{Answer, Client};
use portcullis_release::api::{DeploymentDetails, Page, Problem};
use portcullis_release::model::{DeploymentId, Time};
use portcullis_release::store::Deployment;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Builder;

use super::output::printable_lines;
use super::problems::Failure;

/// How often a deployment is looked at by `--wait`.
const POLLED_EVERY: Duration = Duration::from_millis(500);

/// How often a request is sent again for which the builder had no place.
const RETRIES: u32 = 10;
/// The longest time that the builder may let a command wait before each of them.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Selects a builder and the key for it.
#[derive(Args)]
pub(super) struct BuilderApi {
    /// URL of the builder
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:8470",
        env = "PORTCULLIS_SERVER"
    )]
    server: String,
    /// Key for the builder; the environment variable keeps it out of lists of processes
    #[arg(long, value_name = "KEY", env = "PORTCULLIS_TOKEN", hide_env_values = true)]
    token: String,
    /// Authorities of the builder's certificate in PEM, instead of those of the system
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_AUTHORITIES")]
    certificate_authorities: Option<PathBuf>,
}

impl fmt::Debug for BuilderApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BuilderApi").field("server", &self.server).finish_non_exhaustive()
    }
}

// === impl BuilderApi ===

impl BuilderApi {
    /// Reads a resource.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.block_on(self.exchange(Method::GET, path, Bytes::new()))
    }

    /// Sends a value and returns what was created.
    pub(super) fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        value: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(value).map_err(Failure::new)?;
        self.block_on(self.exchange(Method::POST, path, body.into()))
    }

    /// Reads the items of a page.
    pub(super) fn page<T: DeserializeOwned>(&self, path: &str) -> Result<Vec<T>, Failure> {
        Ok(self.get::<Page<T>>(path)?.items)
    }

    /// Sends a change that has no result.
    pub(super) fn change(
        &self,
        method: Method,
        path: &str,
        value: &impl Serialize,
    ) -> Result<(), Failure> {
        let body = serde_json::to_vec(value).map_err(Failure::new)?;
        self.block_on(async { self.bytes(method, path, body.into()).await.map(drop) })
    }

    /// Reports each state of a deployment to `report` until it is closed.
    pub(super) fn wait(
        &self,
        id: &DeploymentId,
        mut report: impl FnMut(&Deployment) -> Result<(), Failure>,
    ) -> Result<Deployment, Failure> {
        let mut version = None;
        self.poll(&format!("/api/v1/deployments/{id}"), |details: DeploymentDetails| {
            let deployment = details.deployment;
            if version.replace(deployment.version) != Some(deployment.version) {
                report(&deployment)?;
            }
            Ok((!deployment.state.is_open()).then_some(deployment))
        })
    }

    /// Reads it again and again until `done` returns something.
    pub(super) fn poll<T: DeserializeOwned, U>(
        &self,
        path: &str,
        mut done: impl FnMut(T) -> Result<Option<U>, Failure>,
    ) -> Result<U, Failure> {
        loop {
            if let Some(found) = done(self.get(path)?)? {
                return Ok(found);
            }
            self.block_on(async {
                tokio::time::sleep(POLLED_EVERY).await;
                Ok(())
            })?;
        }
    }

    fn block_on<T>(&self, call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
        runtime.block_on(call)
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, Failure> {
        let bytes = self.bytes(method, path, body).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Failure::new(format!("failed to parse the response of {}: {error}", self.server))
        })
    }

    /// The body of a successful response. A request for which the builder has no place yet is sent
    /// again after the time that it names.
    async fn bytes(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Failure> {
        let mut tries = 0;
        let answer = loop {
            let answer = self.send(method.clone(), path, body.clone()).await?;
            let pause = retry_after(&answer).filter(|_| tries < RETRIES);
            let Some(pause) = pause else { break answer };
            tries += 1;
            tokio::time::sleep(pause).await;
        };
        if answer.status.is_success() {
            return Ok(answer.body);
        }
        Err(match serde_json::from_slice::<Problem>(&answer.body) {
            Ok(problem) => failure(&problem),
            Err(_) => Failure::new(format!("{} returned status {}", self.server, answer.status)),
        })
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Answer, Failure> {
        let authorities = self.certificate_authorities.as_deref();
        let client = Client::new(authorities).map_err(Failure::new)?;
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", self.token))
            .map_err(|_| Failure::new("the key has characters that a header cannot carry"))?;
        bearer.set_sensitive(true);
        let headers = vec![
            (header::AUTHORIZATION, bearer),
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        ];
        let url = format!("{}{path}", self.server.trim_end_matches('/'));
        client.send(method, &url, headers, body).await.map_err(|error| {
            Failure::with_help(
                format!("{}: {error}", self.server),
                "set --server to the URL of the builder",
            )
        })
    }
}

/// After what time a request is to be sent again that was not processed (RFC 6585 §4).
fn retry_after(answer: &Answer) -> Option<Duration> {
    if answer.status != StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    let seconds = answer.headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_PAUSE))
}

/// A problem with all its parts, one a line.
fn failure(problem: &Problem) -> Failure {
    let mut message = printable_lines(&problem.detail);
    for part in &problem.problems {
        message.push_str(&format!("\n  {}", printable_lines(&part.to_string())));
    }
    match problem.status {
        401 => Failure::with_help(message, "set PORTCULLIS_TOKEN to a key of the builder"),
        _ => Failure::new(message),
    }
}

/// The time since `time`, in its largest unit: `5m`.
pub(super) fn age(time: Time) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = now.saturating_sub(time.0 / 1000);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A command for a builder that answers with these heads and bodies, one a connection.
    fn answered(answers: &'static [&'static str]) -> Result<Vec<u32>, Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                lines.map(Result::unwrap).take_while(|line| !line.is_empty()).for_each(drop);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let api = BuilderApi {
            server: format!("http://{address}"),
            token: "key".to_owned(),
            certificate_authorities: None,
        };
        let items = api.get("/api/v1/images");
        server.join().unwrap();
        items
    }

    const LATER: &str = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\n\
                         Connection: close\r\nContent-Length: 0\r\n\r\n";
    const FULL: &str = "HTTP/1.1 429 Too Many Requests\r\n\
                        Connection: close\r\nContent-Length: 0\r\n\r\n";
    const ITEMS: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\n[1,2]";

    #[test]
    fn a_request_without_a_place_is_sent_again_when_the_builder_says() {
        assert_eq!(answered(&[LATER, LATER, ITEMS]).ok(), Some(vec![1, 2]));
    }

    #[test]
    fn a_request_is_not_sent_again_without_a_word_of_when() {
        assert!(answered(&[FULL]).is_err());
    }
}
