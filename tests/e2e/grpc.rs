//! gRPC from end to end, with a tonic client and a tonic server.

use std::time::Duration;

use futures::StreamExt;
use portcullis_echo::grpc::{Client, EchoRequest};
use serde_json::json;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::harness::{
    Echo, Gateway, Recording, Service, Step, World, client, echo, eventually, soon,
};

const HOST: &str = "calls--staging.apps.test";

fn world(pod: &Echo) -> World {
    World::empty().with(Service::new("calls").port_name("grpc").pod(pod))
}

async fn start() -> (Echo, Gateway, Client<Channel>) {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(world(&pod)).await;
    let client = Client::new(client::grpc(&gateway, HOST).await);
    (pod, gateway, client)
}

#[tokio::test]
async fn a_unary_call_is_answered() {
    let (_pod, _gateway, mut client) = start().await;
    let answer = client.unary(Request::new(EchoRequest::new("hello"))).await.unwrap().into_inner();
    assert_eq!((answer.message.as_str(), answer.pod.as_str()), ("hello", "pod-1"));
}

#[tokio::test]
async fn a_large_message_is_forwarded_completely() {
    let (_pod, _gateway, mut client) = start().await;
    let message = "x".repeat(3_000_000);
    let answer =
        client.unary(Request::new(EchoRequest::new(message.clone()))).await.unwrap().into_inner();
    assert!(answer.message == message, "{} octets came back", answer.message.len());
}

#[tokio::test]
async fn the_server_streams() {
    let (_pod, _gateway, mut client) = start().await;
    let request = EchoRequest { repeat: 100, ..EchoRequest::new("again") };
    let answers = client.server_stream(Request::new(request)).await.unwrap().into_inner();
    let sequence: Vec<u32> = answers.map(|answer| answer.unwrap().sequence).collect().await;
    assert_eq!(sequence, (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_client_streams() {
    let (_pod, _gateway, mut client) = start().await;
    let requests =
        futures::stream::iter((0..100).map(|number| EchoRequest::new(number.to_string())));
    let answer = client.client_stream(requests).await.unwrap().into_inner();
    assert_eq!(answer.sequence, 100);
    assert!(
        answer.message.starts_with("0 1 2 ") && answer.message.ends_with(" 99"),
        "{}",
        answer.message
    );
}

#[tokio::test]
async fn bidirectional_streams_forward_each_message_immediately() {
    let (_pod, _gateway, mut client) = start().await;
    let (sender, requests) = tokio::sync::mpsc::channel(1);
    let mut answers = client.bidi_stream(ReceiverStream::new(requests)).await.unwrap().into_inner();
    for number in 0..10 {
        sender.send(EchoRequest::new(number.to_string())).await.unwrap();
        let answer = soon("each message is answered before the next is sent", answers.next())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(answer.message, number.to_string());
    }
    drop(sender);
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn an_error_is_forwarded_with_its_message() {
    let (_pod, _gateway, mut client) = start().await;
    for code in [Code::NotFound, Code::PermissionDenied, Code::Internal] {
        let request = EchoRequest { status: code as i32, ..EchoRequest::new("not this: ä%") };
        let status = client.unary(Request::new(request)).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (code, "not this: ä%"));
    }
}

#[tokio::test]
async fn an_error_after_messages_is_forwarded_after_them() {
    let (_pod, _gateway, mut client) = start().await;
    let request =
        EchoRequest { repeat: 2, status: Code::Aborted as i32, ..EchoRequest::new("then not") };
    let answers: Vec<_> =
        client.server_stream(Request::new(request)).await.unwrap().into_inner().collect().await;
    let codes: Vec<Code> = answers
        .iter()
        .map(|answer| answer.as_ref().map_or_else(tonic::Status::code, |_| Code::Ok))
        .collect();
    assert_eq!(codes, [Code::Ok, Code::Ok, Code::Aborted]);
}

#[tokio::test]
async fn a_call_that_the_client_cancels_is_cancelled_at_the_pod() {
    let (pod, _gateway, mut client) = start().await;
    let mut counts = pod.counts();
    let call = tokio::spawn(async move {
        let request = EchoRequest { delay_ms: 90_000, ..EchoRequest::new("never") };
        client.unary(Request::new(request)).await
    });
    soon("the call arrives", counts.wait_for(|counts| counts.started == 1)).await.unwrap();
    call.abort();
    // Before its message has come, the pod ends the call by an error; after that, its work is
    // cancelled. By itself it would take longer than a test waits.
    soon("the pod notices", counts.wait_for(|counts| counts.cancelled + counts.finished == 1))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_stream_that_the_client_cancels_is_cancelled_at_the_pod() {
    let (pod, _gateway, mut client) = start().await;
    let mut counts = pod.counts();
    let request = EchoRequest { repeat: 100_000, delay_ms: 20, ..EchoRequest::new("on and on") };
    let mut answers = client.server_stream(Request::new(request)).await.unwrap().into_inner();
    answers.next().await.unwrap().unwrap();
    drop(answers);
    soon("the pod notices", counts.wait_for(|counts| counts.cancelled == 1)).await.unwrap();
}

#[tokio::test]
async fn a_stream_that_the_pod_resets_is_reset_at_the_client() {
    let pod = Recording::script(vec![
        Step::Until(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        Step::Octets(9),
        Step::Reset,
    ])
    .await
    .unwrap();
    let gateway =
        Gateway::start(World::empty().with(Service::new("calls").port_name("grpc").pod(&pod)))
            .await;
    let mut client = Client::new(client::grpc(&gateway, HOST).await);
    let status = client.unary(Request::new(EchoRequest::new("hello"))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[tokio::test]
async fn the_deadline_is_forwarded_and_enforced() {
    let (_pod, gateway, mut client) = start().await;
    let mut request = Request::new(EchoRequest::new("in time"));
    request.set_timeout(Duration::from_secs(50));
    let answer = client.unary(request).await.unwrap().into_inner();
    assert!(!answer.timeout.is_empty(), "the pod got no grpc-timeout");

    // Without tonic, which would end the call itself: only the gateway enforces the deadline.
    let mut http2 = client::http2(&gateway, HOST).await;
    let request = http::Request::post(format!("https://{HOST}/portcullis.echo.v1.Echo/Unary"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "200m")
        .body(())
        .unwrap();
    let (response, mut body) = http2.send_request(request, false).unwrap();
    // A message that requests a response after a minute: field 4 (delay_ms) is 60000.
    body.send_data(vec![0, 0, 0, 0, 4, 0x20, 0xe0, 0xd4, 0x03].into(), true).unwrap();
    let response = soon("the call ends by its deadline", response).await.unwrap();
    assert_eq!(
        response.headers()["grpc-status"],
        (Code::DeadlineExceeded as i32).to_string(),
        "{response:?}"
    );
    // A caller can make its calls expire, so that is no failure of the service.
    let feed = gateway.admin_page("/v1/traffic").await.json();
    let variant = &feed["services"][0]["variants"][0];
    assert_eq!((&variant["requests"], &variant["errors"]), (&json!(1), &json!(0)), "{variant}");
    let left = variant["leftOut"]["clientsLeft"].as_object().expect("a histogram");
    assert_eq!(left.values().collect::<Vec<_>>(), [&json!(1)]);
}

#[tokio::test]
async fn no_ready_pod_is_unavailable() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(
        World::empty().with(Service::new("calls").port_name("grpc").unready_pod(&pod)),
    )
    .await;
    let mut client = Client::new(client::grpc(&gateway, HOST).await);
    let status = client.unary(Request::new(EchoRequest::new("hello"))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(pod.counts().borrow().started, 0);
}

#[tokio::test]
async fn a_refused_connection_is_unavailable() {
    let pod = Recording::start().await.unwrap();
    let address = pod.address();
    drop(pod);
    let gateway =
        Gateway::start(World::empty().with(Service::new("calls").port_name("grpc").pod(&address)))
            .await;
    let mut client = Client::new(client::grpc(&gateway, HOST).await);
    let status = client.unary(Request::new(EchoRequest::new("hello"))).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[tokio::test]
async fn a_denied_call_is_unimplemented_like_an_unknown_one() {
    let pod = echo("pod-1").await;
    let world =
        world(&pod).with(Service::new("calls").environment("closed").port_name("grpc").pod(&pod));
    let gateway = Gateway::start(world).await;
    let mut seen = Vec::new();
    for host in ["calls--closed.apps.test", "calls--nowhere.apps.test"] {
        let mut http2 = client::http2(&gateway, host).await;
        let request = http::Request::post(format!("https://{host}/portcullis.echo.v1.Echo/Unary"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (response, _) = http2.send_request(request, true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 404, "{response:?}");
        assert_eq!(response.headers()["grpc-status"], "12", "{response:?}");
        assert!(response.body().is_end_stream(), "one header frame, no trailers");
        seen.push(response.headers().keys().map(ToString::to_string).collect::<Vec<_>>());
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(pod.counts().borrow().started, 0);
}

#[tokio::test]
async fn grpc_web_is_forwarded() {
    let (_pod, gateway, _client) = start().await;
    let answer = gateway
        .curl(HOST, "/status/200")
        .header("Content-Type: application/grpc-web+proto")
        .args(["--data-binary", "abc"])
        .run()
        .await;
    // The sample service takes every kind of gRPC for gRPC, so what counts is that it was asked at
    // all.
    assert!(
        answer.header("content-type").is_some_and(|kind| kind.starts_with("application/grpc")),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_channel_survives_a_change_of_pods() {
    let (first, second) = (echo("pod-1").await, echo("pod-2").await);
    let gateway = Gateway::start(world(&first)).await;
    let client = Client::new(client::grpc(&gateway, HOST).await);
    gateway.apply(&world(&second));
    eventually("calls go to the new pod", || {
        let mut client = client.clone();
        async move {
            client.unary(Request::new(EchoRequest::new("hello"))).await.unwrap().into_inner().pod
                == "pod-2"
        }
    })
    .await;
    first.stop().await;
}
