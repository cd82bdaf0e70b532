//! Builds that fetch from a mirror of packages, and one that looks for more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::Shop;

/// A host of the builder's machine that answers each request with one line.
struct Mirror {
    host: String,
    requests: Arc<AtomicUsize>,
}

// === impl Mirror ===

impl Mirror {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let host = listener.local_addr().expect("an address").to_string();
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npackage\r\n";
                let _ = stream.write_all(answer).await;
            }
        });
        Self { host, requests }
    }
}

#[tokio::test]
async fn a_build_fetches_from_the_mirrors_alone() {
    let (mirror, other) = (Mirror::start().await, Mirror::start().await);
    let shop = Shop::start(&json!({ "mirrors": [mirror.host] })).await;
    let api = shop.builder.url().trim_start_matches("https://").to_owned();
    let api = api.trim_end_matches('/');
    let (listed, unlisted) = (&mirror.host, &other.host);
    shop.write_script(&format!(
        "wget -O /package http://{listed}/package && cat /package\n\
         wget -O /other http://{unlisted}/ && echo reached\n\
         tunnel() {{ printf \"CONNECT $1 HTTP/1.1\\r\\nConnection: close\\r\\n\\r\\n\" \
         | nc 127.0.0.1 3128; }}\n\
         tunnel {api}; tunnel 169.254.169.254:80; tunnel localhost:80\n\
         nc -w 2 {} < /dev/null && echo reached\n\
         nc -w 2 169.254.169.254 80 < /dev/null && echo reached\n\
         true",
        listed.replace(':', " ")
    ));
    shop.push().await;
    shop.state_is(2, "succeeded").await;
    let log = shop.log(2).await;
    assert!(log.contains("package") && !log.contains("reached"), "{log}");
    for refused in [unlisted.as_str(), api, "169.254.169.254:80", "localhost:80"] {
        let note = format!("--- mirrors: {refused} is not one of `builds.mirrors`");
        assert_eq!(log.matches(&note).count(), 1, "{refused}: {log}");
    }
    assert_eq!(mirror.requests.load(Ordering::SeqCst), 1);
    assert_eq!(other.requests.load(Ordering::SeqCst), 0);
    shop.runs("web.1").await;
}

#[tokio::test]
async fn without_mirrors_a_build_has_no_network() {
    let mirror = Mirror::start().await;
    let shop = Shop::start(&json!({ "mirrors": [] })).await;
    shop.write_script(&format!(
        "env | grep -i proxy && echo proxied\nnc -w 2 127.0.0.1 3128 < /dev/null && echo proxied\n\
         wget -O /package http://{}/package",
        mirror.host
    ));
    shop.push().await;
    shop.state_is(2, "failed").await;
    let log = shop.log(2).await;
    assert!(!log.contains("proxied"), "{log}");
    assert_eq!(mirror.requests.load(Ordering::SeqCst), 0);
    let build: Value = shop.build(2).await;
    assert!(build["reason"].as_str().is_some_and(|reason| reason.contains("web")), "{build}");
}
