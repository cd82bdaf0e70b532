//! Reads the feed of all replicas over the pod network, from their telemetry listeners.
//!
//! Each reading is bounded in time and size, and replicas are read beside each other: a silent one
//! delays none.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::look::Service;
use super::watch::Reading;
use super::wire::Feed;
use crate::causes::causes;

/// The longest wait for one replica, from connecting to the last octet.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The largest feed of one service: twice what its windows may take in text.
const MAX_BODY: usize = 2 * 1024 * 1024;
/// How many replicas are read at once.
const AT_ONCE: usize = 16;
/// The most replicas of a gateway.
const MAX_REPLICAS: usize = 100;

/// A replica of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// The name of its pod.
    pub name: String,
    /// The address of its telemetry listener.
    pub address: SocketAddr,
}

/// Why a feed cannot be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("it did not respond within {} s", TIMEOUT.as_secs())]
    Late,
    #[error("failed to connect: {0}")]
    Connect(#[from] std::io::Error),
    #[error("it sent an invalid response: {0}")]
    Http(#[from] hyper::Error),
    #[error("failed to read its response: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("it returned status {}", .0.as_u16())]
    Status(StatusCode),
    #[error("it sent no traffic feed: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the gateway has more than {MAX_REPLICAS} replicas")]
    Many,
}

/// Reads what each replica has counted of one service, with the windows that start at `from` or
/// later, in seconds since 1970. `token` authenticates to those that ask for it: only replicas get it,
/// by addresses that come from the cluster.
pub async fn read(
    replicas: &[Replica],
    service: &Service,
    from: u64,
    token: Option<&HeaderValue>,
) -> Vec<Reading> {
    let target = target(service, from);
    let readings = replicas.iter().enumerate();
    let readings = readings.map(|(index, replica)| read_one(index, replica, &target, token));
    let readings: Vec<BoxFuture<'_, Reading>> = readings.collect();
    stream::iter(readings).buffered(AT_ONCE).collect().await
}

fn read_one<'a>(
    index: usize,
    replica: &'a Replica,
    target: &'a str,
    token: Option<&'a HeaderValue>,
) -> BoxFuture<'a, Reading> {
    Box::pin(async move {
        let feed = match index {
            0..MAX_REPLICAS => tokio::time::timeout(TIMEOUT, get(replica, target, token))
                .await
                .unwrap_or(Err(ReadError::Late)),
            _ => Err(ReadError::Many),
        };
        let feed = feed.map_err(|error| causes(&error));
        Reading { replica: replica.name.clone(), feed }
    })
}

/// The path of one service's feed. Names of Kubernetes need no escapes.
fn target(service: &Service, from: u64) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("namespace", &service.namespace).append_pair("service", &service.name);
    query.append_pair("from", &from.to_string());
    format!("/v1/traffic?{}", query.finish())
}

async fn get(
    replica: &Replica,
    target: &str,
    token: Option<&HeaderValue>,
) -> Result<Feed, ReadError> {
    let connection = TcpStream::connect(replica.address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(connection)).await?;
    // Dropped with this call, so that a reading that is late leaves nothing behind.
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = target.parse().unwrap_or_default();
    let host = HeaderValue::from_str(&replica.address.to_string());
    let headers = request.headers_mut();
    headers.extend(host.ok().map(|host| (header::HOST, host)));
    headers.extend(token.map(|token| (header::AUTHORIZATION, token.clone())));
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        return Err(ReadError::Status(response.status()));
    }
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
    Ok(serde_json::from_slice(&body.map_err(ReadError::Body)?.to_bytes())?)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const FEED: &str = r#"{"version": 1, "start": "s", "startedAt": 1, "now": 2, "services": []}"#;

    fn service() -> Service {
        Service { namespace: "shop".into(), name: "web".into(), canary: "web-canary".into() }
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    /// A replica that sends this, and what it was asked.
    async fn replica(name: &str, response: String) -> (Replica, JoinSet<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let replica = Replica { name: name.to_owned(), address: listener.local_addr().unwrap() };
        let mut asked = JoinSet::new();
        asked.spawn(async move {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let length = connection.read(&mut head).await.unwrap();
            // A reader that has enough closes the connection.
            let _ = connection.write_all(response.as_bytes()).await;
            if response.is_empty() {
                std::future::pending::<()>().await;
            }
            String::from_utf8_lossy(&head[..length]).to_lowercase()
        });
        (replica, asked)
    }

    #[tokio::test]
    async fn a_replica_is_asked_for_the_last_windows_of_one_service_with_the_token() {
        let (replica, mut asked) = replica("a", ok(FEED)).await;
        let token = HeaderValue::from_static("Bearer t");
        let readings = read(&[replica], &service(), 1_795_957_200, Some(&token)).await;
        assert!(readings[0].feed.is_ok(), "{readings:?}");
        let head = asked.join_next().await.unwrap().unwrap();
        assert!(
            head.starts_with(
                "get /v1/traffic?namespace=shop&service=web&from=1795957200 http/1.1\r\n"
            ),
            "{head}"
        );
        assert!(head.contains("authorization: bearer t\r\n"), "{head}");
    }

    #[tokio::test]
    async fn what_is_wrong_with_one_replica_is_said_and_delays_no_other() {
        let large = format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(MAX_BODY + 1));
        let cases = [
            ("good", ok(FEED), ""),
            ("denied", "HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n".to_owned(), "status 401"),
            ("silent", String::new(), "did not respond within 2 s"),
            ("other", ok("<html>"), "no traffic feed"),
            ("large", large, "length limit exceeded"),
            ("again", ok(FEED), ""),
        ];
        let (mut replicas, mut running) = (Vec::new(), Vec::new());
        for (name, response, _) in &cases {
            let (replica, asked) = replica(name, response.clone()).await;
            replicas.push(replica);
            running.push(asked);
        }
        let readings = read(&replicas, &service(), 0, None).await;
        for ((name, _, expected), reading) in cases.iter().zip(&readings) {
            assert_eq!(reading.replica, *name);
            match &reading.feed {
                Ok(_) => assert_eq!(*expected, "", "{name}"),
                Err(why) => {
                    assert!(!expected.is_empty() && why.contains(expected), "{name}: {why}")
                }
            }
        }
    }

    #[tokio::test]
    async fn more_replicas_than_there_may_be_make_it_blind() {
        let nowhere = Replica { name: "a".to_owned(), address: ([127, 0, 0, 1], 1).into() };
        let readings = read(&vec![nowhere; MAX_REPLICAS + 1], &service(), 0, None).await;
        assert!(readings[MAX_REPLICAS].feed.as_ref().unwrap_err().contains("more than 100"));
        assert!(readings[0].feed.as_ref().unwrap_err().contains("failed to connect"));
    }
}
