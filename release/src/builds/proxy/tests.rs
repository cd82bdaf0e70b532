//! A proxy over real sockets, with what a build could try.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::*;

const BOUNDS: Bounds = Bounds {
    connections: 8,
    connect: Duration::from_secs(5),
    idle: Duration::from_secs(20),
    bytes: 8 << 20,
};
/// What a mirror returns.
const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
/// How long a test waits for what should happen at once.
const SOON: Duration = Duration::from_secs(10);

/// A host of this machine that records what it gets, and answers each connection with the same octets.
struct Peer {
    port: u16,
    heads: Receiver<String>,
    task: JoinHandle<()>,
}

/// A proxy on this machine.
struct Running {
    port: u16,
    notes: Receiver<String>,
    task: JoinHandle<()>,
}

// === impl Peer ===

impl Peer {
    async fn start(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, heads) = mpsc::channel(100);
        let task = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let sender = sender.clone();
                tokio::spawn(async move {
                    let (mut head, mut part) = (Vec::new(), [0; 4096]);
                    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                        match stream.read(&mut part).await {
                            Ok(count @ 1..) => head.extend_from_slice(&part[..count]),
                            _ => return,
                        }
                    }
                    sender.send(String::from_utf8(head).unwrap()).await.unwrap();
                    let _ = stream.write_all(answer).await;
                });
            }
        });
        Self { port, heads, task }
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The next head, in lower case.
    async fn head(&mut self) -> String {
        timeout(SOON, self.heads.recv()).await.unwrap().unwrap().to_ascii_lowercase()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Running ===

impl Running {
    async fn start(mirrors: &[&str], bounds: Bounds) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (log, notes) = mpsc::channel(MAX_NOTES);
        let proxy = Proxy::new(listener, &hosts(mirrors), bounds, log);
        let task = tokio::spawn(async move {
            proxy.serve().await;
        });
        Self { port, notes, task }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).await.unwrap()
    }

    /// What is received for these octets until the proxy closes.
    async fn send(&self, sent: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        rest(&mut stream).await
    }

    /// The response to a request for a tunnel that gets none.
    async fn no_tunnel(&self, host: &str) -> String {
        self.send(&format!("CONNECT {host} HTTP/1.1\r\nConnection: close\r\n\r\n")).await
    }

    /// The response to a request that asks for the end of the connection.
    async fn get(&self, target: &str, fields: &str) -> String {
        self.send(&format!("GET {target} HTTP/1.1\r\nConnection: close\r\n{fields}\r\n")).await
    }

    /// A tunnel to a host.
    async fn tunnel(&self, host: &str) -> TcpStream {
        let mut stream = self.connect().await;
        let connect = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        stream.write_all(connect.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
        stream
    }

    fn noted(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.notes.try_recv().ok()).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn hosts(mirrors: &[&str]) -> Vec<MirrorHost> {
    mirrors.iter().map(|mirror| mirror.parse().unwrap()).collect()
}

/// Everything until the end or a reset of a stream.
async fn rest(stream: &mut TcpStream) -> String {
    let mut received = Vec::new();
    let mut part = [0; 4096];
    while let Ok(count @ 1..) = timeout(SOON, stream.read(&mut part)).await.expect("it is closed") {
        received.extend_from_slice(&part[..count]);
    }
    String::from_utf8_lossy(&received).into_owned()
}

#[track_caller]
fn assert_status(response: &str, status: &str) {
    assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{status}: {response}");
}

#[test]
fn the_variables_name_its_address() {
    let url = format!("http://{}", namespace::ADDRESS);
    assert!(
        ENVIRONMENT[..4]
            .iter()
            .all(|(name, value)| { name.to_lowercase().ends_with("_proxy") && *value == url })
    );
}

#[test]
fn exactly_the_listed_hosts_and_ports_are_allowed() {
    let mirrors = hosts(&["npm.mirror.test", "debian.test:80", "192.0.2.7:8080", "[2001:db8::1]"]);
    for (target, found) in [
        ("npm.mirror.test:443", 0),
        ("NPM.mirror.test:443", 0),
        ("debian.test:80", 1),
        ("192.0.2.7:8080", 2),
        ("[2001:db8:0:0::1]:443", 3),
    ] {
        assert_eq!(decide(&mirrors, target), Decision::Allowed(&mirrors[found]), "{target}");
    }
    for target in [
        "npm.mirror.test:80",
        "debian.test:443",
        "mirror.test:443",
        "x.npm.mirror.test:443",
        "npm.mirror.test.:443",
        "npm.mirror.test.evil.test:443",
        "npm.mirror.test%00.evil.test:443",
        "npm.mirror.test:443@evil.test:443",
        "evil.test:443",
        "192.0.2.7:443",
        "192.0.2.07:8080",
        "0xc0000207:8080",
        "3221225991:8080",
        "[::ffff:192.0.2.7]:8080",
        "192.0.2.8:8080",
        "127.0.0.1:443",
        "localhost:443",
        "",
    ] {
        assert_eq!(decide(&mirrors, target), Decision::Refused, "{target}");
    }
    assert_eq!(decide(&[], "npm.mirror.test:443"), Decision::Refused);
}

#[tokio::test]
async fn a_tunnel_leads_to_a_mirror_and_passes_on_both_ways() {
    let mut peer = Peer::start(OK).await;
    let mut proxy = Running::start(&[&peer.host()], BOUNDS).await;
    let mut tunnel = proxy.tunnel(&peer.host()).await;
    tunnel.write_all(b"GET / HTTP/1.1\r\nX-In: tunnel\r\n\r\n").await.unwrap();
    assert_eq!(peer.head().await, "get / http/1.1\r\nx-in: tunnel\r\n\r\n");
    assert!(rest(&mut tunnel).await.ends_with("hello"));
    // What is sent at once with the request belongs to the tunnel.
    let sent = format!("CONNECT {} HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n", peer.host());
    assert!(proxy.send(&sent).await.ends_with("hello"));
    assert_eq!(peer.head().await, "get /2 http/1.1\r\n\r\n");
    // A client that closes its side gets its response nevertheless.
    let mut stream = proxy.connect().await;
    let get = format!("GET http://{}/3 HTTP/1.1\r\n\r\n", peer.host());
    stream.write_all(get.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(rest(&mut stream).await.ends_with("hello"));
    assert!(proxy.noted().is_empty());
}

#[tokio::test]
async fn other_targets_are_refused_and_noted_once() {
    let mut peer = Peer::start(OK).await;
    let other = Peer::start(OK).await;
    let mut proxy = Running::start(&[&peer.host(), "mirror.test"], BOUNDS).await;
    let by_name = format!("localhost:{}", peer.port);
    for target in [&other.host(), &by_name, "mirror.test:80", "mirror.test.:443", "[::1]:443"] {
        for _ in 0..2 {
            let response = proxy.no_tunnel(target).await;
            assert_status(&response, "403");
            assert!(response.contains(&format!("{target} is not one of `builds.mirrors`")));
        }
    }
    let noted = proxy.noted();
    assert_eq!(noted.len(), 5, "{noted:?}");
    assert!(noted[0].starts_with(&format!("mirrors: {} is not one of", other.host())), "{noted:?}");
    let response = proxy.get(&format!("http://{}/", other.host()), "").await;
    assert_status(&response, "403");
    for number in 0..50 {
        assert_status(&proxy.get(&format!("http://{number}.test/"), "").await, "403");
    }
    assert_eq!(proxy.noted().len(), MAX_NOTES - 5);
    assert!(peer.heads.try_recv().is_err());
}

#[tokio::test]
async fn a_plain_request_is_written_afresh_with_the_host_of_its_target() {
    let answer = b"HTTP/1.1 200 OK\r\nConnection: x-hop\r\nX-Hop: 1\r\nX-End: 1\r\n\
                   Proxy-Authenticate: Basic\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n0\r\n\r\n";
    let mut peer = Peer::start(answer).await;
    let proxy = Running::start(&[&peer.host()], BOUNDS).await;
    let fields = "Host: other.test\r\nConnection: X-Named, content-length\r\nX-Named: 1\r\n\
                  Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eDp5\r\nTE: trailers\r\n\
                  Upgrade: websocket\r\nKeep-Alive: 1\r\nExpect: 100-continue\r\nX-End: 2\r\n";
    let target = format!("http://{}/a/b?c=http://other.test/", peer.host());
    let response = proxy.get(&target, fields).await.to_ascii_lowercase();
    assert!(response.starts_with("http/1.1 200 ok"), "{response}");
    assert!(response.contains("x-end: 1") && response.contains("hello"), "{response}");
    assert!(!response.contains("x-hop") && !response.contains("proxy-auth"), "{response}");
    let head = peer.head().await;
    assert!(head.starts_with("get /a/b?c=http://other.test/ http/1.1\r\n"), "{head}");
    let mut fields: Vec<&str> = head.trim().lines().skip(1).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["connection: close", &format!("host: {}", peer.host()), "x-end: 2"]);
    // A request with content, without a path, of HTTP/1.0.
    let post = format!("POST http://{} HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc", peer.host());
    assert!(proxy.send(&post).await.contains("hello"));
    let head = peer.head().await;
    assert!(head.starts_with("post / http/1.1\r\n"), "{head}");
    assert!(head.contains("content-length: 3\r\n"), "{head}");
}

#[tokio::test]
async fn what_two_could_read_differently_reaches_nobody() {
    let mut peer = Peer::start(OK).await;
    let proxy = Running::start(&[&peer.host()], BOUNDS).await;
    let host = peer.host();
    for (request, status) in [
        // The target decides, whatever the host says.
        (format!("GET http://evil.test/ HTTP/1.1\r\nHost: {host}\r\n\r\n"), "403"),
        (format!("CONNECT evil.test:443 HTTP/1.1\r\nHost: {host}\r\n\r\n"), "403"),
        (format!("CONNECT {host}@evil.test:443 HTTP/1.1\r\n\r\n"), "403"),
        (format!("GET http://x@{host}/ HTTP/1.1\r\n\r\n"), "403"),
        (format!("GET http://{host}@evil.test/ HTTP/1.1\r\n\r\n"), "403"),
        (format!("GET http://evil.test?@{host}/ HTTP/1.1\r\n\r\n"), "403"),
        (format!("GET http://{host}0/ HTTP/1.1\r\n\r\n"), "403"),
        (format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n"), "400"),
        (format!("GET https://{host}/ HTTP/1.1\r\n\r\n"), "400"),
        (format!("GET ftp://{host}/ HTTP/1.1\r\n\r\n"), "400"),
        (format!("OPTIONS * HTTP/1.1\r\nHost: {host}\r\n\r\n"), "400"),
        ("CONNECT 127.0.0.1 HTTP/1.1\r\n\r\n".to_owned(), "400"),
        (format!("CONNECT {host} HTTP/1.1\r\nContent-Length: 1\r\n\r\nx"), "400"),
        (format!("CONNECT {host} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), "400"),
        (format!("CONNECT http://{host}/ HTTP/1.1\r\n\r\n"), "400"),
        (format!("GET http://{host}/a b HTTP/1.1\r\n\r\n"), "400"),
        (format!("GET http://{host}/ HTTP/1.1\r\nA: b\r\n c\r\n\r\n"), "400"),
        (
            format!(
                "GET http://{host}/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
            ),
            "400",
        ),
        (format!("GET http://{host}/ HTTP/1.1\r\nTransfer-Encoding: chunked, x\r\n\r\n"), "400"),
        (format!("GET http://{host}/ HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(MAX_HEAD)), "431"),
        (format!("GET http://{host}/ HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(200)), "431"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), ""),
        ("\x16\x03\x01\x02\x00\x01".to_owned(), ""),
    ] {
        let mut stream = proxy.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let response = rest(&mut stream).await;
        assert!(response.starts_with("HTTP/1.1 4") || response.is_empty(), "{request}: {response}");
        assert!(
            response.get(9..12).unwrap_or_default().starts_with(status),
            "{request}: {response}"
        );
    }
    assert!(peer.heads.try_recv().is_err(), "nothing is forwarded");
}

#[tokio::test]
async fn each_request_of_a_connection_is_decided_on_its_own() {
    let mut peer = Peer::start(OK).await;
    let proxy = Running::start(&[&peer.host()], BOUNDS).await;
    let host = peer.host();
    // Of two lengths one alone is forwarded, and what follows is not read: RFC 9112 6.1.
    let sent = format!(
        "POST http://{host}/1 HTTP/1.1\r\nContent-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n\
         0\r\n\r\nGET http://evil.test/2 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    );
    let responses = proxy.send(&sent).await;
    assert_eq!(responses.matches("HTTP/1.1 ").count(), 1, "{responses}");
    let head = peer.head().await;
    assert!(head.starts_with("post /1 ") && !head.contains("content-length: 60"), "{head}");
    let sent = format!(
        "GET http://{host}/3 HTTP/1.1\r\n\r\nGET http://evil.test/4 HTTP/1.1\r\nHost: {host}\r\n\r\n\
         GET http://{host}/5 HTTP/1.1\r\nConnection: close\r\n\r\n"
    );
    let responses = proxy.send(&sent).await;
    let statuses: Vec<_> = responses.matches("HTTP/1.1 ").collect();
    assert_eq!(statuses.len(), 3, "{responses}");
    assert!(responses.contains("403 Forbidden"), "{responses}");
    assert!(peer.head().await.starts_with("get /3 "));
    assert!(peer.head().await.starts_with("get /5 "));
}

#[tokio::test]
async fn a_name_does_not_lead_to_the_machine() {
    let mut peer = Peer::start(OK).await;
    let name = format!("localhost:{}", peer.port);
    let mut proxy = Running::start(&[&name, "no-such-name.invalid"], BOUNDS).await;
    let response = proxy.get(&format!("http://{name}/"), "").await;
    assert_status(&response, "502");
    assert!(response.contains("which builds must not reach"), "{response}");
    assert_status(&proxy.no_tunnel(&name).await, "502");
    let unknown = proxy.no_tunnel("no-such-name.invalid:443").await;
    assert!(unknown.starts_with("HTTP/1.1 50"), "{unknown}");
    assert!(peer.heads.try_recv().is_err());
    assert_eq!(proxy.noted().len(), 2);
}

#[tokio::test]
async fn a_mirror_that_is_away_slow_or_switches_protocols_is_reported() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let away = listener.local_addr().unwrap().to_string();
    // Nobody accepts, and the queue is full after the first one.
    rustix::net::listen(&listener, 0).unwrap();
    let _first = TcpStream::connect(&away).await.unwrap();
    let bounds = Bounds { connect: Duration::from_millis(300), ..BOUNDS };
    let slow = Running::start(&[&away], bounds).await;
    assert_status(&slow.no_tunnel(&away).await, "504");
    drop(listener);
    let mut proxy = Running::start(&[&away], BOUNDS).await;
    assert_status(&proxy.get(&format!("http://{away}/"), "").await, "502");
    let noted = proxy.noted();
    assert!(noted[0].contains("cannot be reached"), "{noted:?}");
    let switching =
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
    let peer = Peer::start(switching).await;
    let proxy = Running::start(&[&peer.host()], BOUNDS).await;
    let fields = "Upgrade: x\r\nConnection: upgrade\r\n";
    assert_status(&proxy.get(&format!("http://{}/", peer.host()), fields).await, "502");
    let peer = Peer::start(b"no HTTP at all\r\n\r\n").await;
    let proxy = Running::start(&[&peer.host()], BOUNDS).await;
    assert_status(&proxy.get(&format!("http://{}/", peer.host()), "").await, "502");
}

#[tokio::test]
async fn an_endless_download_ends_with_what_the_build_may_transfer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let endless = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                while stream.write_all(&[b'x'; 65536]).await.is_ok() {}
            });
        }
    });
    let bounds = Bounds { bytes: 1 << 20, ..BOUNDS };
    let mut proxy = Running::start(&[&host], bounds).await;
    let received = proxy.get(&format!("http://{host}/"), "").await;
    // What was on its way when the limit was reached is less than a buffer.
    assert!((1 << 19..(1 << 20) + (1 << 19)).contains(&received.len()), "{}", received.len());
    // All connections together.
    assert!(proxy.get(&format!("http://{host}/"), "").await.is_empty());
    sleep(Duration::from_millis(50)).await;
    let noted = proxy.noted();
    assert_eq!(
        noted,
        ["mirrors: the build may transfer 1 MiB, four times `maxDisk`, and has done so"]
    );
    // The other way, through a tunnel.
    let proxy = Running::start(&[&host], Bounds { bytes: 1 << 20, ..BOUNDS }).await;
    let mut tunnel = proxy.tunnel(&host).await;
    let sent = async { while tunnel.write_all(&[b'x'; 65536]).await.is_ok() {} };
    timeout(SOON, sent).await.expect("it breaks");
    endless.abort();
}

#[tokio::test]
async fn connections_are_bounded_and_idle_ones_end() {
    let peer = Peer::start(OK).await;
    let idle = Duration::from_millis(600);
    let proxy = Running::start(&[&peer.host()], Bounds { connections: 3, idle, ..BOUNDS }).await;
    let started = std::time::Instant::now();
    // Silent, in the middle of a head, and an unused tunnel.
    let mut silent = proxy.connect().await;
    let mut slow = proxy.connect().await;
    slow.write_all(b"GET http://").await.unwrap();
    let mut tunnel = proxy.tunnel(&peer.host()).await;
    let waiting = proxy.get(&format!("http://{}/", peer.host()), "").await;
    assert!(waiting.ends_with("hello"), "{waiting}");
    assert!(started.elapsed() >= Duration::from_millis(500), "{:?}", started.elapsed());
    for stream in [&mut silent, &mut slow, &mut tunnel] {
        assert_eq!(rest(stream).await, "");
    }
    // One that a mirror never answers.
    let never = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = never.local_addr().unwrap().to_string();
    let proxy = Running::start(&[&host], Bounds { idle, ..BOUNDS }).await;
    assert_eq!(proxy.get(&format!("http://{host}/"), "").await, "");
}

#[tokio::test]
async fn everything_ends_with_the_proxy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let proxy = Running::start(&[&host], BOUNDS).await;
    let mut tunnel = proxy.tunnel(&host).await;
    let (mut tunnelled, _) = listener.accept().await.unwrap();
    let mut plain = proxy.connect().await;
    plain.write_all(format!("GET http://{host}/ HTTP/1.1\r\n\r\n").as_bytes()).await.unwrap();
    let (mut requested, _) = listener.accept().await.unwrap();
    let mut part = [0; 10];
    requested.read_exact(&mut part).await.unwrap();
    let port = proxy.port;
    drop(proxy);
    for stream in [&mut tunnel, &mut tunnelled, &mut plain] {
        assert_eq!(rest(stream).await, "");
    }
    rest(&mut requested).await;
    assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());
}
