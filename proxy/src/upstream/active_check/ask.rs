//! One active check: a request of the gateway's own, on a connection of its own.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::Poll;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use portcullis_config::snapshot::backend::UpstreamProtocol;
use portcullis_config::snapshot::health_check::{HealthCheck, HealthProbe};

use super::super::connect::Connector;
use super::super::exchange::{AddedFields, Head, Message, RequestSink, ResponseSource};
use super::super::http1::Http1Exchange;
use super::super::http2::{ClientSettings, Http2Client};
use crate::exchange::grpc_status::grpc_status;
use crate::exchange::{BodyLength, Frame, PathAndQuery, ResponseHead, Sink, Source};
use crate::http1::head::{HeadLimits, MAX_RESPONSE_FIELDS};

const GRPC_METHOD: &[u8] = b"/grpc.health.v1.Health/Check";
/// The bytes of a response's head that are read.
const MAX_HEAD: u32 = 16 * 1024;
/// The bytes of a response's body that are read, of gRPC alone.
const MAX_BODY: usize = 1024;
/// The bytes of a body that HTTP/2 lets a pod send ahead.
const WINDOW: u32 = 16 * 1024;
/// The interim responses that are skipped.
const MAX_INTERIM: usize = 8;

/// The request of a check.
struct Question {
    method: Method,
    target: PathAndQuery,
    headers: HeaderMap,
    body: Option<Bytes>,
}

/// Whether an endpoint passes a check in time.
pub(super) async fn passes(
    connector: &Connector,
    address: SocketAddr,
    protocol: &UpstreamProtocol,
    check: &HealthCheck,
) -> bool {
    let asking = ask(connector, address, protocol, check);
    tokio::time::timeout(check.timeout, asking).await.ok().flatten() == Some(true)
}

/// Returns whether the response is a good one; `None` if there is no response.
async fn ask(
    connector: &Connector,
    address: SocketAddr,
    protocol: &UpstreamProtocol,
    check: &HealthCheck,
) -> Option<bool> {
    let transport = connector.connect(address, protocol, check.timeout).await.ok()?;
    let is_http2 = *protocol == UpstreamProtocol::H2c || transport.is_http2();
    let Question { method, target, headers, body } = Question::of(&check.probe)?;
    let host = HeaderValue::try_from(address.to_string()).ok()?;
    let message = Message {
        method: &method,
        host: &host,
        target: &target,
        headers: &headers,
        added: AddedFields::default(),
        body: body.as_ref().map_or(BodyLength::None, |body| BodyLength::Exact(body.len() as u64)),
        expects_continue: false,
        connect_timeout: check.timeout,
        call_deadline: None,
        is_copy: false,
    };
    if is_http2 {
        let is_tls = !transport.is_plain();
        let client = Http2Client::connect(transport, &settings(connector));
        let mut exchange = client.send(&message, is_tls).ok()?;
        let sink = RequestSink::Http2(&mut exchange.request);
        converse(sink, ResponseSource::Http2(&mut exchange.response), body, &check.probe).await
    } else {
        let limits = HeadLimits { bytes: MAX_HEAD as usize, headers: MAX_RESPONSE_FIELDS };
        let mut exchange = Http1Exchange::on_new(transport, &message, limits);
        let sink = RequestSink::Http1(&mut exchange.request);
        converse(sink, ResponseSource::Http1(&mut exchange.response), body, &check.probe).await
    }
}

fn settings(connector: &Connector) -> ClientSettings {
    ClientSettings {
        stream_window: WINDOW,
        spare_window: 0,
        head_bytes: MAX_HEAD,
        ..ClientSettings::new(&connector.settings)
    }
}

/// Sends the request's body, and judges the response.
async fn converse(
    mut sink: RequestSink<'_>,
    mut source: ResponseSource<'_>,
    body: Option<Bytes>,
    probe: &HealthProbe,
) -> Option<bool> {
    if let Some(body) = body {
        poll_fn(|cx| sink.poll_ready(cx)).await.ok()?;
        sink.push(Frame::Data(body));
        sink.finish();
    }
    let head = head(&mut sink, &mut source).await?;
    match probe {
        HealthProbe::Http(_) => Some((200..400).contains(&head.status.as_u16())),
        // With its status in the head, a response has no message.
        HealthProbe::Grpc(_)
            if head.status != StatusCode::OK || grpc_status(&head.headers).is_some() =>
        {
            Some(false)
        }
        HealthProbe::Grpc(_) => serves(&mut source).await,
    }
}

/// The final head, after a few interim ones.
async fn head(sink: &mut RequestSink<'_>, source: &mut ResponseSource<'_>) -> Option<ResponseHead> {
    for _ in 0..=MAX_INTERIM {
        let head = poll_fn(|cx| match sink.poll_flush(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            _ => source.poll_head(cx).map(Result::ok),
        });
        if let Head::Final(head, _) = head.await? {
            return Some(head);
        }
    }
    None
}

/// Whether the message and the status of a gRPC response say that the service serves.
async fn serves(source: &mut ResponseSource<'_>) -> Option<bool> {
    let (mut octets, mut is_ok) = (BytesMut::new(), false);
    while let Some(frame) = poll_fn(|cx| source.poll_frame(cx)).await {
        match frame.ok()? {
            Frame::Data(data) if octets.len() + data.len() > MAX_BODY => return Some(false),
            Frame::Data(data) => octets.extend_from_slice(&data),
            Frame::Trailers(trailers) => {
                is_ok = grpc_status(&trailers) == Some(0);
            }
        }
    }
    Some(is_ok && is_serving(&octets))
}

/// Whether this is a `HealthCheckResponse`, not compressed, with the status SERVING: field 1 is 1.
fn is_serving(octets: &[u8]) -> bool {
    let message = octets.split_at_checked(5);
    message.is_some_and(|(prefix, message)| prefix.first() == Some(&0) && message == [0x08, 0x01])
}

// === impl Question ===

impl Question {
    fn of(probe: &HealthProbe) -> Option<Self> {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static("portcullis-health-check"));
        match probe {
            HealthProbe::Http(path) => {
                let target = PathAndQuery::new(path.as_bytes().to_vec())?;
                Some(Self { method: Method::GET, target, headers, body: None })
            }
            HealthProbe::Grpc(service) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                headers.insert(TE, HeaderValue::from_static("trailers"));
                let target = PathAndQuery::new(GRPC_METHOD)?;
                let body = Some(grpc_request(service)?);
                Some(Self { method: Method::POST, target, headers, body })
            }
        }
    }
}

/// A `HealthCheckRequest`: field 1 is the name of the service, which is left out if it is empty.
fn grpc_request(service: &str) -> Option<Bytes> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(u8::try_from(length & 0x7f).ok()? | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).ok()?);
        message.extend_from_slice(service.as_bytes());
    }
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).ok()?);
    body.put_slice(&message);
    Some(body.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_grpc_names_its_service() {
        assert_eq!(&*grpc_request("").unwrap(), b"\0\0\0\0\0");
        assert_eq!(&*grpc_request("shop").unwrap(), b"\0\0\0\0\x06\x0a\x04shop");
        let long = grpc_request(&"a".repeat(200)).unwrap();
        assert_eq!(long.get(..8), Some(&b"\0\0\0\0\xcb\x0a\xc8\x01"[..]));
    }

    #[test]
    fn only_serving_is_good() {
        assert!(is_serving(b"\0\0\0\0\x02\x08\x01"));
        for octets in [&b""[..], b"\0\0\0\0\0", b"\0\0\0\0\x02\x08\x02", b"\x01\0\0\0\x02\x08\x01"]
        {
            assert!(!is_serving(octets), "{octets:?}");
        }
    }
}
