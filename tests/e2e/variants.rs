//! Variants of a service: who gets which one, and what happens if one does not answer.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::credentials::session_key_secret;
use crate::harness::{
    Answer, Echo, Gateway, Service, WEB, World, echo, eventually, is_share, without_ids,
};

const VISITOR: &str = "__Host-portcullis-visitor";
const CLOSED: &str = "web--closed.apps.test";
const NOTHING: &str = "nothing--closed.apps.test";

fn canary(weight: &str) -> Service {
    Service::new("web-canary").annotation("canary-of", "web").annotation("canary-weight", weight)
}

async fn start(world: World) -> Gateway {
    let settings = json!({
        "access": { "credentialsNamespace": "portcullis" },
        "variantHeader": true,
    });
    Gateway::of(world.with_file("key.json", &session_key_secret("key", '1').to_string()))
        .settings(settings)
        .start()
        .await
}

/// The pod that answers.
async fn pod(gateway: &Gateway, headers: &[&str]) -> String {
    let call = headers.iter().fold(gateway.curl(WEB, "/whoami"), |call, text| call.header(text));
    let answer = call.run().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.text().trim().to_owned()
}

/// The cookie that a response sets, as a request header.
fn visitor_of(answer: &Answer) -> Option<String> {
    let value = answer.header("set-cookie")?.strip_prefix(VISITOR)?.split(';').next()?;
    Some(format!("Cookie: a=b; {VISITOR}{value}"))
}

/// What a client can observe of a response.
fn observed(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| name != "date");
    (answer.status, headers, without_ids(&answer.text()))
}

async fn both() -> (Echo, Echo) {
    (echo("stable").await, echo("canary").await)
}

#[tokio::test]
async fn an_anonymous_browser_keeps_its_variant_on_replicas_and_after_a_restart() {
    let (stable, other) = both().await;
    let world = || World::web(&stable).with(canary("50").pod(&other));
    let mut gateways = [start(world()).await, start(world()).await];
    let mut visitors = Vec::new();
    for number in 0..40 {
        let call = gateways[number % 2].curl(WEB, "/whoami").header("Accept: text/html,*/*;q=0.1");
        let answer = call.run().await;
        let cookie = visitor_of(&answer).expect("a browser gets a cookie");
        visitors.push((cookie, answer.text().trim().to_owned()));
    }
    let pods: BTreeSet<&str> = visitors.iter().map(|(_, pod)| &**pod).collect();
    assert_eq!(pods.len(), 2, "40 browsers are not all of one half");
    for restarted in [false, true] {
        if restarted {
            gateways = [start(world()).await, start(world()).await];
        }
        for (cookie, expected) in &visitors {
            for gateway in &gateways {
                assert_eq!(pod(gateway, &[cookie]).await, *expected);
            }
        }
    }
    // Neither a fresh one nor one of another host is accepted, and it never reaches a pod.
    let (cookie, _) = &visitors[0];
    let answer =
        gateways[0].curl(WEB, "/echo").header(cookie).header("Accept: text/html").run().await;
    assert!(answer.header("set-cookie").is_none(), "it has one already: {answer:?}");
    let text = answer.text();
    assert!(text.contains("[\"cookie\",\"a=b\"]") && !text.contains(VISITOR), "{text}");
    let forged = format!("Cookie: {VISITOR}=forged");
    let answer = gateways[0].curl(WEB, "/").header(&forged).header("Accept: text/html").run().await;
    assert!(visitor_of(&answer).is_some(), "a forged one counts as none: {answer:?}");
}

#[tokio::test]
async fn requests_of_nobody_are_dealt_evenly_and_get_no_cookie() {
    let (stable, other) = both().await;
    let gateway = start(World::web(&stable).with(canary("25").pod(&other))).await;
    let mut count = 0;
    for _ in 0..40 {
        let answer = gateway.curl(WEB, "/whoami").run().await;
        assert!(answer.header("set-cookie").is_none(), "a program keeps no cookie: {answer:?}");
        let of = answer.text().trim().to_owned();
        let expected = if of == "canary" { "web-canary" } else { "stable" };
        assert_eq!(answer.header("x-portcullis-variant"), Some(expected));
        count += u32::from(of == "canary");
    }
    assert!(is_share(count, 25), "{count} of 40");
    gateway.has_written("\"variant\":\"web-canary\",\"assignedBy\":\"weight\"").await;
    let counted = gateway.metric("portcullis_requests_total{environment=\"staging\",service=\"web\",variant=\"web-canary\",code=\"2xx\"}").await;
    assert_eq!(counted, f64::from(count));
}

#[tokio::test]
async fn a_weight_takes_effect_at_once_and_a_variant_has_no_hostname() {
    let (stable, other) = both().await;
    let world = |weight| World::web(&stable).with(canary(weight).pod(&other));
    let gateway = start(world("0")).await;
    for _ in 0..10 {
        assert_eq!(pod(&gateway, &[]).await, "stable");
    }
    gateway.apply(&world("100"));
    eventually("all requests get the other variant", || async {
        pod(&gateway, &[]).await == "canary"
    })
    .await;
    let own = gateway.curl("web-canary--staging.apps.test", "/whoami").run().await;
    let nothing = gateway.curl("nothing--staging.apps.test", "/whoami").run().await;
    assert_eq!(observed(&own), observed(&nothing));
}

#[tokio::test]
async fn only_admitted_callers_can_ask_for_a_variant() {
    let (stable, other) = both().await;
    let forced = |service: Service| {
        service
            .annotation("canary-of", "web")
            .annotation("canary-header", "X-Variant")
            .annotation("canary-header-value", "b")
            .annotation("canary-cookie", "beta")
            .pod(&other)
    };
    let world = World::web(&stable)
        .with(forced(Service::new("web-b")))
        .with(Service::new("web").environment("closed").pod(&stable))
        .with(forced(Service::new("web-b").environment("closed")));
    let gateway = start(world).await;
    for (headers, expected) in [
        (&[][..], "stable"),
        (&["X-Variant: b"], "canary"),
        (&["X-Variant: a"], "stable"),
        (&["Cookie: beta=always"], "canary"),
        (&["X-Variant: b", "Cookie: beta=never"], "canary"),
    ] {
        assert_eq!(pod(&gateway, headers).await, expected, "{headers:?}");
    }
    for headers in [&["X-Variant: b"][..], &["Cookie: beta=always"], &["Accept: text/html"]] {
        let ask = |host: &'static str| {
            let call = gateway.curl(host, "/whoami");
            headers.iter().fold(call, |call, header| call.header(header)).run()
        };
        let (hidden, nothing) = (ask(CLOSED).await, ask(NOTHING).await);
        assert_eq!(hidden.status, 404);
        assert_eq!(observed(&hidden), observed(&nothing), "{headers:?}");
        assert!(hidden.header("set-cookie").is_none(), "{hidden:?}");
        assert!(hidden.header("x-portcullis-variant").is_none(), "{hidden:?}");
    }
}

#[tokio::test]
async fn the_stable_variant_answers_for_a_dead_canary_which_counts_as_its_failure() {
    let (stable, other) = both().await;
    let missed = "portcullis_variant_missed_requests_total{environment=\"staging\",service=\"web\",variant=\"web-canary\"}";
    let gateway = start(World::web(&stable).with(canary("100").unready_pod(&other))).await;
    let answer = gateway.curl(WEB, "/whoami").run().await;
    assert_eq!((answer.status, answer.text().trim()), (200, "stable"));
    assert_eq!(answer.header("x-portcullis-variant"), Some("stable"));
    assert_eq!(gateway.metric(missed).await, 1.0, "without a ready pod");
    gateway.has_written("\"missedVariant\":\"web-canary\"").await;

    // Bound and released: nothing listens there.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    gateway.apply(
        &World::web(&stable)
            .with(canary("100").pod(&gone))
            .with_file("key.json", &session_key_secret("key", '1').to_string()),
    );
    eventually("the other address is tried", || async {
        let answer = gateway.curl(WEB, "/whoami").args(["-X", "POST"]).run().await;
        assert_eq!((answer.status, answer.text().trim()), (200, "stable"));
        gateway.metric("portcullis_upstream_failures_total").await > 0.0
    })
    .await;
    assert!(gateway.metric(missed).await >= 2.0, "with pods that cannot be reached");

    // A canary that answers, even with an error, keeps its requests.
    gateway.apply(
        &World::web(&stable)
            .with(canary("100").pod(&other))
            .with_file("key.json", &session_key_secret("key", '1').to_string()),
    );
    eventually("the canary answers", || async { pod(&gateway, &[]).await == "canary" }).await;
    let before = gateway.metric(missed).await;
    assert_eq!(gateway.curl(WEB, "/status/503").run().await.status, 503);
    assert_eq!(gateway.metric(missed).await, before);
}

/// The problems that the gateway reports.
async fn problems(gateway: &Gateway) -> String {
    let routes: Value = gateway.admin_page("/routes").await.json();
    routes["problems"].to_string()
}

/// How many of 40 requests the canary answers.
async fn of_40(gateway: &Gateway) -> u32 {
    let mut count = 0;
    for _ in 0..40 {
        count += u32::from(pod(gateway, &[]).await == "canary");
    }
    count
}

#[tokio::test]
async fn a_weight_that_becomes_invalid_is_reported_and_the_last_valid_one_stays() {
    let (stable, other) = both().await;
    let world = |weight| World::web(&stable).with(canary(weight).pod(&other));
    let gateway = start(world("50")).await;
    for invalid in ["abc", "-1"] {
        gateway.apply(&world(invalid));
        let reported = format!("canary-weight: {invalid}` is not a percentage");
        eventually("it is reported", || async { problems(&gateway).await.contains(&reported) })
            .await;
        let reported = problems(&gateway).await;
        assert!(reported.contains("last valid value stays in effect: `50`"), "{reported}");
        let count = of_40(&gateway).await;
        assert!(is_share(count, 50), "{count} of 40 with `{invalid}`");
    }
    gateway.apply(&world("10"));
    eventually("it is mended", || async { problems(&gateway).await == "[]" }).await;
    let count = of_40(&gateway).await;
    assert!(is_share(count, 10), "{count} of 40");
    // A gateway that has seen no valid one sends everything to the stable variant.
    let fresh = start(world("abc")).await;
    assert_eq!(of_40(&fresh).await, 0);
}
