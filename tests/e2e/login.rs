//! Login by a browser, with a real OpenID provider.

mod codes;
mod replicas;
mod revalidation;
mod variants;

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpSocket;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::harness::credentials::session_key_secret;
use crate::harness::{
    Answer, Curl, Echo, Gateway, Service, World, ZONE, echo, eventually, soon, without_ids,
};

/// The hostname of the login portal.
const PORTAL: &str = "login.apps.test";
/// A service for ops, one for sales, one for every authenticated user, and a name that was never
/// configured.
const OPS: &str = "crm--closed.apps.test";
const SALES: &str = "biz--closed.apps.test";
const NOTHING: &str = "xyz--closed.apps.test";
/// The headers of a page request of a browser.
const HTML: &str = "Accept: text/html";

/// An OpenID provider: npm's `oidc-provider`.
struct Provider {
    port: u16,
    log: Arc<watch::Sender<String>>,
    child: Child,
}

#[tokio::test]
async fn a_client_that_waits_to_send_a_form_is_told_to_continue() {
    let (pod, secret) = (echo("pod-1").await, tempfile::NamedTempFile::new().unwrap());
    std::fs::write(secret.path(), "secret").unwrap();
    // The provider is not needed to read a form.
    let issuer =
        json!({ "name": "corp", "issuer": "http://127.0.0.1:1", "audiences": ["portcullis"] });
    let access = json!({
        "credentialsNamespace": "portcullis",
        "issuers": [issuer],
        "login": { "issuer": "corp", "clientId": "portcullis", "clientSecretFile": secret.path() },
    });
    let settings = json!({ "source": { "directory": "manifests" }, "access": access });
    let gateway = start(&pod, settings).await;
    for (version, line) in [("--http1.1", "HTTP/1.1 100 Continue"), ("--http2", "HTTP/2 100")] {
        let curl = gateway.curl(PORTAL, "/logout").arg(version);
        let answer = curl
            .args(["--data", "token=x", "--header", "Expect: 100-continue"])
            .args(["--expect100-timeout", "60"])
            .run()
            .await;
        assert_eq!(answer.status_lines.first().map(|line| line.trim()), Some(line));
        assert_eq!(answer.status, 200);
    }
}

/// A gateway with login, and its provider.
struct Site {
    gateway: Gateway,
    provider: Provider,
    pod: Echo,
    _port: TcpSocket,
    _secret: tempfile::NamedTempFile,
}

/// A browser: curl with a cookie jar, which follows redirects one by one and records them.
struct Browser<'s> {
    site: &'s Site,
    folder: TempDir,
}

/// A page, and the redirects to it.
struct Page {
    /// The URLs from the requested one to the final one.
    way: Vec<String>,
    answer: Answer,
}

/// The services of the users, and a session key.
fn world(pod: &Echo) -> World {
    services(pod)
        .with_file("session-key-1.json", &session_key_secret("session-key-1", '1').to_string())
}

/// The services of the users.
fn services(pod: &Echo) -> World {
    let closed = |name: &str, grant: &str, whom: &str| {
        Service::new(name)
            .environment("closed")
            .annotation("require", "user")
            .annotation(grant, whom)
            .pod(pod)
    };
    World::empty()
        .with(closed("crm", "allow-groups", "ops"))
        .with(closed("biz", "allow-groups", "sales"))
        .with(closed("cli", "allow-users", "ann"))
        .with(Service::new("web").pod(pod))
        .annotation("closed", "require", "user")
        .annotation("closed", "allow-users", "*")
}

/// A gateway with these settings, which include the source of resources.
async fn start(pod: &Echo, settings: Value) -> Gateway {
    Gateway::of(world(pod)).settings(json!({ "source": null })).settings(settings).start().await
}

/// Kills a gateway as in a crash.
async fn kill(gateway: &mut Gateway) {
    let mut kill = std::process::Command::new("kill");
    assert!(kill.args(["-KILL", &gateway.id().to_string()]).status().expect("kill runs").success());
    gateway.ended().await;
}

/// The folder in which `tests/openid/build` installs the node modules.
pub(crate) async fn modules() -> PathBuf {
    let build = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/openid/build");
    let output =
        Command::new(build).arg("--print-dir").output().await.expect("tests/openid/build runs");
    let modules = PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim());
    assert!(modules.exists(), "the OpenID provider is not there: run tests/openid/build");
    modules
}

// === impl Provider ===

impl Provider {
    async fn start(gateway_port: u16) -> Self {
        let mut command = Command::new("node");
        command
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/openid/provider.mjs"))
            .arg(modules().await)
            .arg(gateway_port.to_string());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut child = command.spawn().expect("node runs");
        let mut lines = BufReader::new(child.stdout.take().expect("its standard output")).lines();
        let port = soon("the provider listens", lines.next_line())
            .await
            .expect("its output")
            .expect("its port")
            .parse()
            .expect("a number");
        let log = Arc::new(watch::Sender::new(String::new()));
        let gathered = Arc::clone(&log);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                gathered.send_modify(|log| log.extend([&line, "\n"]));
            }
        });
        Self { port, log, child }
    }

    fn issuer(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

// === impl Site ===

impl Site {
    async fn start() -> Self {
        Self::with(json!({}), json!({})).await
    }

    /// A site with changed settings of the login and of the issuer.
    async fn with(login: Value, issuer: Value) -> Self {
        Self::reading(json!({ "directory": "manifests" }), echo("pod-1").await, login, issuer).await
    }

    /// A site whose resources come from `source`.
    async fn reading(source: Value, pod: Echo, login: Value, issuer: Value) -> Self {
        // Bound, but not listening: reserves the port, which the gateway shares.
        let reserved = TcpSocket::new_v4().unwrap();
        reserved.set_reuseaddr(true).unwrap();
        reserved.set_reuseport(true).unwrap();
        reserved.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = reserved.local_addr().unwrap().port();
        let provider = Provider::start(port).await;
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(secret.path(), "a secret: of the client\n").unwrap();
        let mut settings = json!({
            "source": source,
            // Workers share their port, and this test's reservation with them.
            "workers": 2,
            "listeners": { "https": { "address": format!("127.0.0.1:{port}") } },
            "access": {
                "credentialsNamespace": "portcullis",
                "issuers": [{ "name": "corp", "issuer": provider.issuer(), "audiences": ["portcullis", "portcullis-cli"] }],
                "login": { "issuer": "corp", "clientId": "portcullis", "clientSecretFile": secret.path(), "port": port },
            },
        });
        for (name, value) in login.as_object().unwrap() {
            settings["access"]["login"][name] = value.clone();
        }
        for (name, value) in issuer.as_object().unwrap() {
            settings["access"]["issuers"][0][name] = value.clone();
        }
        let gateway = start(&pod, settings).await;
        Self { gateway, provider, pod, _port: reserved, _secret: secret }
    }

    /// Another replica with the same settings except for the port.
    async fn replica(&self) -> Gateway {
        let mut settings = self.settings();
        settings["listeners"]["https"]["address"] = json!("127.0.0.1:0");
        start(&self.pod, settings).await
    }

    /// Kills the gateway as in a crash, and starts it again.
    async fn restart(&mut self) {
        let settings = self.settings();
        kill(&mut self.gateway).await;
        self.gateway = start(&self.pod, settings).await;
    }

    fn settings(&self) -> Value {
        let text = std::fs::read(self.gateway.folder().join("portcullis.yaml")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    fn url(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{}{path}", self.gateway.https().port())
    }

    fn browser(&self) -> Browser<'_> {
        Browser { site: self, folder: tempfile::tempdir().unwrap() }
    }
}

// === impl Browser ===

impl Browser<'_> {
    /// One request, without following redirects.
    fn call(&self, url: &str) -> Curl {
        let jar = self.folder.path().join("jar").to_string_lossy().into_owned();
        let port = self.site.gateway.https().port();
        let everything = format!("*:{port}:127.0.0.1");
        let ca = self.site.gateway.ca().to_string_lossy().into_owned();
        Curl::new(url)
            .args([
                "--cookie",
                &jar,
                "--cookie-jar",
                &jar,
                "--resolve",
                &everything,
                "--cacert",
                &ca,
            ])
            .header(HTML)
    }

    /// Follows redirects up to a URL that contains `stop`, which is not requested.
    async fn follow(&self, first: Curl, url: &str, stop: Option<&str>) -> Page {
        let mut page = Page { way: vec![url.to_owned()], answer: first.run().await };
        while let Some(location) = page.answer.header("location") {
            let last = page.way.last().unwrap();
            let next = if location.starts_with('/') {
                format!("{}{location}", origin(last))
            } else {
                location.to_owned()
            };
            assert!(page.way.len() < 20, "no end of redirects: {:?}", page.way);
            page.way.push(next.clone());
            if stop.is_some_and(|stop| next.contains(stop)) {
                break;
            }
            page.answer = self.call(&next).run().await;
        }
        page
    }

    async fn get(&self, url: &str) -> Page {
        self.follow(self.call(url), url, None).await
    }

    async fn post(&self, url: &str, fields: &[(&str, &str)], stop: Option<&str>) -> Page {
        let mut call = self.call(url);
        for (name, value) in fields {
            call = call.args(["--data-urlencode", &format!("{name}={value}")]);
        }
        self.follow(call, url, stop).await
    }

    /// Follows the login link of the hidden page, and logs in at the provider.
    async fn log_in(&self, host: &str, path: &str, name: &str) -> Page {
        self.log_in_until(host, path, name, None).await
    }

    async fn log_in_until(&self, host: &str, path: &str, name: &str, stop: Option<&str>) -> Page {
        let hidden = self.get(&self.site.url(host, path)).await;
        assert_eq!(hidden.answer.status, 404, "{:?}", hidden.answer);
        let at_provider = self.get(&self.site.url(host, &hidden.link("Sign in"))).await;
        assert!(
            at_provider.last().starts_with(&self.site.provider.issuer()),
            "{:?}",
            at_provider.way
        );
        self.post(at_provider.last(), &[("login", name), ("answer", "yes")], stop).await
    }

    /// The value of a cookie.
    fn cookie(&self, host: &str, name: &str) -> String {
        let jar = std::fs::read_to_string(self.folder.path().join("jar")).unwrap();
        let line = jar
            .lines()
            .find(|line| line.contains(host) && line.split('\t').nth(5) == Some(name))
            .expect("the cookie");
        line.split('\t').nth(6).unwrap().to_owned()
    }

    /// The names of the cookies for a host.
    fn cookies(&self, host: &str) -> Vec<String> {
        let jar = std::fs::read_to_string(self.folder.path().join("jar")).unwrap_or_default();
        let lines = jar
            .lines()
            .filter_map(|line| line.strip_prefix("#HttpOnly_").unwrap_or(line).strip_prefix(host));
        let mut names: Vec<String> =
            lines.filter_map(|line| Some(line.split('\t').nth(5)?.to_owned())).collect();
        names.sort();
        names
    }
}

// === impl Page ===

impl Page {
    fn last(&self) -> &str {
        self.way.last().unwrap()
    }

    /// The target of the link with that text.
    fn link(&self, text: &str) -> String {
        let html = self.answer.text();
        let (before, _) = html
            .split_once(&format!("\">{text}<"))
            .unwrap_or_else(|| panic!("no link {text:?} in {html}"));
        before.rsplit_once("href=\"").unwrap().1.replace("&amp;", "&")
    }

    /// The value of a form field.
    fn field(&self, name: &str) -> String {
        let html = self.answer.text();
        let (_, after) = html
            .split_once(&format!("name=\"{name}\" value=\""))
            .unwrap_or_else(|| panic!("no field {name:?} in {html}"));
        after.split_once('"').unwrap().0.to_owned()
    }
}

/// The properties of a response that a client can observe.
fn reported(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let headers = answer.headers.iter().filter(|(name, _)| name != "date").cloned().collect();
    (answer.status, headers, without_ids(&answer.text()))
}

fn origin(url: &str) -> &str {
    let end = url.match_indices('/').nth(2).map_or(url.len(), |(place, _)| place);
    &url[..end]
}

#[tokio::test]
async fn a_login_returns_to_the_requested_page() {
    let site = Site::start().await;
    let ann = site.browser();
    let page = ann.log_in(OPS, "/echo/deep?a=b%20c", "ann").await;
    assert_eq!(page.answer.status, 200, "{:?} {:?}", page.way, page.answer);
    assert_eq!(page.last(), site.url(OPS, "/echo/deep?a=b%20c"), "{:?}", page.way);
    let reported = page.answer.text();
    for [name, value] in
        [["x-auth-request-user", "ann@example.com"], ["x-auth-request-groups", "ops,dev"]]
    {
        assert!(reported.contains(&format!("[\"{name}\",\"{value}\"]")), "{reported}");
    }
    assert!(!reported.contains("__Host-"), "no cookie of the gateway's goes on: {reported}");
    assert_eq!(ann.cookies(OPS), ["__Host-portcullis", "__Host-portcullis-browser"]);
    for outcome in ["begun", "logged_in", "handed_over"] {
        assert_eq!(
            site.gateway.metric(&format!("portcullis_logins_total{{outcome=\"{outcome}\"}}")).await,
            1.0,
            "{outcome}"
        );
    }
    let again = ann.get(&site.url(OPS, "/whoami")).await;
    assert_eq!((again.answer.status, again.way.len()), (200, 1));
}

#[tokio::test]
async fn of_many_groups_those_that_grants_name_are_kept() {
    let site = Site::start().await;
    let many = site.browser();
    let page = many.log_in(OPS, "/echo", "many").await;
    assert_eq!(page.answer.status, 200, "the last of 201 groups is granted: {:?}", page.way);
    let text = page.answer.text();
    assert!(text.contains("[\"x-auth-request-groups\",\"ops,department-0-"), "{text}");
    let log = site.gateway.log();
    assert!(log.contains("left out groups") && log.contains("\"given\":201"), "{log}");
}

#[tokio::test]
async fn an_unknown_host_is_indistinguishable_from_a_denied_one() {
    let site = Site::start().await;
    for (host, name) in [(OPS, "bob"), (NOTHING, "bob")] {
        let browser = site.browser();
        let page = browser.log_in(host, "/whoami", name).await;
        assert_eq!(page.answer.status, 404, "{host}: {:?}", page.way);
        assert_eq!(
            browser.cookies(host),
            ["__Host-portcullis", "__Host-portcullis-browser"],
            "the session is there, but not the service"
        );
    }
    let (hidden, nothing) = (site.browser(), site.browser());
    let ways = [
        hidden.log_in(OPS, "/whoami", "bob").await,
        nothing.log_in(NOTHING, "/whoami", "bob").await,
    ];
    let [one, other] = ways.map(|page| (page.way.len(), reported(&page.answer)));
    assert_eq!(one, other);
    assert!(one.1.2.contains("Sign in"));
    let before = [
        site.browser().get(&site.url(OPS, "/a")).await,
        site.browser().get(&site.url(NOTHING, "/a")).await,
    ];
    let [one, other] = before.map(|page| reported(&page.answer));
    assert_eq!(one, other);
}

#[tokio::test]
async fn a_code_is_valid_once_for_one_host_and_one_browser() {
    let site = Site::start().await;
    let ann = site.browser();
    let way =
        ann.log_in_until(OPS, "/whoami", "ann", Some("/.well-known/portcullis/session?")).await.way;
    let code = way.last().unwrap();
    let hidden = reported(
        &site.browser().get(&site.url(OPS, "/.well-known/portcullis/session?code=x")).await.answer,
    );
    assert_eq!(hidden.0, 404);

    let mallory = site.browser();
    assert_eq!(reported(&mallory.get(code).await.answer), hidden, "in another browser");
    assert!(mallory.cookies(OPS).is_empty());
    // Nor in a browser with a pending login.
    mallory.get(&site.url(OPS, "/.well-known/portcullis/login?to=/")).await;
    assert_eq!(
        reported(&mallory.get(code).await.answer),
        hidden,
        "in another browser that logs in"
    );
    let elsewhere = code.replace(OPS, NOTHING);
    assert_eq!(reported(&ann.get(&elsewhere).await.answer), hidden, "on another host");
    let posted = ann.call(code).args(["--data", ""]).run().await;
    assert_eq!(posted.status, 404, "by another method");

    let page = ann.get(code).await;
    assert_eq!(
        (page.answer.status, page.last()),
        (200, &*site.url(OPS, "/whoami")),
        "{:?}",
        page.answer
    );
    assert_eq!(reported(&ann.get(code).await.answer), hidden, "a second time");
    assert_eq!(
        ann.get(&site.url(OPS, "/whoami")).await.answer.status,
        200,
        "the user stays signed in"
    );
}

#[tokio::test]
async fn a_link_of_another_user_logs_no_user_in() {
    let site = Site::start().await;
    let (mallory, ann) = (site.browser(), site.browser());
    let way = mallory.log_in_until(OPS, "/whoami", "bob", Some("/callback?")).await.way;
    let callback = way.last().unwrap();
    for url in
        [callback, &site.url(PORTAL, "/callback?code=x&state=y"), &site.url(PORTAL, "/callback")]
    {
        let page = ann.get(url).await;
        assert_eq!(page.answer.status, 400, "{url}: {:?}", page.answer);
        assert!(ann.cookies(PORTAL).is_empty());
    }
    // Nor while the user has a pending login.
    let at_provider = ann.get(&site.url(PORTAL, "/login")).await;
    assert_eq!(ann.get(callback).await.answer.status, 400);
    assert_eq!(ann.cookies(PORTAL), ["__Host-portcullis-browser"]);
    let page = ann.post(at_provider.last(), &[("login", "ann"), ("answer", "yes")], None).await;
    assert!(page.answer.text().contains("Signed in as ann"), "{:?}", page.answer);
}

#[tokio::test]
async fn two_tabs_can_log_in_concurrently() {
    let site = Site::start().await;
    let ann = site.browser();
    let first = ann.get(&site.url(OPS, "/.well-known/portcullis/login?to=/echo/first")).await;
    let second = ann.get(&site.url(OPS, "/.well-known/portcullis/login?to=/echo/second")).await;
    let yes = [("login", "ann"), ("answer", "yes")];
    assert_eq!(ann.post(first.last(), &yes, None).await.last(), site.url(OPS, "/echo/first"));
    assert_eq!(ann.post(second.last(), &yes, None).await.last(), site.url(OPS, "/echo/second"));
}

#[tokio::test]
async fn redirects_stay_within_the_zone() {
    let site = Site::start().await;
    let ann = site.browser();
    ann.log_in(OPS, "/whoami", "ann").await;
    let (home, port) = (site.url(PORTAL, "/"), site.gateway.https().port());
    for to in [
        "https://evil.test/".to_owned(),
        format!("https://evil.test:{port}/"),
        format!("https://evil{ZONE}:{port}/"),
        format!("https://{OPS}.evil.test:{port}/"),
        format!("https://{OPS}:{port}@evil.test/"),
        format!("https://{OPS}/"),
        format!("http://{OPS}:{port}/"),
        "//evil.test/".to_owned(),
        "/\\evil.test".to_owned(),
        "javascript:alert(1)".to_owned(),
        format!("https://{PORTAL}:{port}/logout"),
    ] {
        let query: String = form_urlencoded::byte_serialize(to.as_bytes()).collect();
        let page = ann.get(&site.url(PORTAL, &format!("/login?to={query}"))).await;
        assert_eq!((page.answer.status, page.last()), (200, &*home), "{to}: {:?}", page.way);
    }
    for path in ["//evil.test/", "/\\evil.test", "https://evil.test/", "", "evil"] {
        let query: String = form_urlencoded::byte_serialize(path.as_bytes()).collect();
        let page =
            ann.get(&site.url(OPS, &format!("/.well-known/portcullis/login?to={query}"))).await;
        assert!(page.last().starts_with(&site.url(OPS, "/")), "{path}: {:?}", page.way);
    }
}

#[tokio::test]
async fn a_cookie_is_invalid_on_another_host() {
    let site = Site::start().await;
    let bob = site.browser();
    assert_eq!(bob.log_in(SALES, "/whoami", "bob").await.answer.status, 200);
    let session = bob.cookie(SALES, "__Host-portcullis");
    let asked = |host: &str, value: &str| {
        site.browser()
            .call(&site.url(host, "/whoami"))
            .header(&format!("Cookie: __Host-portcullis={value}"))
    };
    assert_eq!(asked(SALES, &session).run().await.status, 200);
    let without = reported(&site.browser().get(&site.url(SALES, "/whoami")).await.answer);
    let twice = format!("{session}; __Host-portcullis={session}");
    let portal = bob.cookie(PORTAL, "__Host-portcullis-portal");
    for (host, value) in [
        ("shop--closed.apps.test", &*session),
        (SALES, &portal),
        (SALES, &session[1..]),
        (SALES, &twice),
        (SALES, ""),
    ] {
        assert_eq!(reported(&asked(host, value).run().await), without, "{host} {value}");
    }
}

#[tokio::test]
async fn every_replica_accepts_a_session_while_its_key_exists() {
    let site = Site::start().await;
    let replica = site.replica().await;
    let ann = site.browser();
    ann.log_in(OPS, "/whoami", "ann").await;
    let cookie = format!("Cookie: __Host-portcullis={}", ann.cookie(OPS, "__Host-portcullis"));
    let status = async || replica.curl(OPS, "/whoami").header(&cookie).run().await.status;
    assert_eq!(status().await, 200);
    // Rotated: another key seals, and the old one still opens.
    let rotated = world(&site.pod)
        .with_file("session-key-2.json", &session_key_secret("session-key-2", '2').to_string());
    let before = replica.metric("portcullis_snapshots_total").await;
    replica.apply(&rotated);
    eventually("the new key is known", || async {
        replica.metric("portcullis_snapshots_total").await > before
    })
    .await;
    assert_eq!(status().await, 200);
    // Without the old key, sessions sealed with it are invalid.
    replica.apply(
        &rotated
            .with_file("session-key-1.json", &session_key_secret("session-key-1", '3').to_string()),
    );
    eventually("the session ends", || async { status().await == 404 }).await;
    assert_eq!(
        ann.get(&site.url(OPS, "/whoami")).await.answer.status,
        200,
        "the other replica was not reported yet"
    );
}

#[tokio::test]
async fn signing_out_ends_the_session_on_every_host() {
    let site = Site::start().await;
    let ann = site.browser();
    ann.log_in(OPS, "/whoami", "ann").await;
    let jar = std::fs::read_to_string(ann.folder.path().join("jar")).unwrap();
    let confirm = ann.get(&site.url(PORTAL, "/logout")).await;
    assert_eq!(
        ann.get(&site.url(OPS, "/whoami")).await.answer.status,
        200,
        "asking signs nobody out"
    );
    for fields in [&[][..], &[("token", "x")], &[("token", "")]] {
        assert_eq!(
            ann.post(&site.url(PORTAL, "/logout"), fields, None).await.answer.status,
            if fields.is_empty() { 200 } else { 403 }
        );
        assert_eq!(ann.get(&site.url(OPS, "/whoami")).await.answer.status, 200, "{fields:?}");
    }
    let page =
        ann.post(&site.url(PORTAL, "/logout"), &[("token", &confirm.field("token"))], None).await;
    assert!(page.answer.text().contains("You are signed out"), "{:?}", page.answer);
    assert!(
        page.link("sign out there too")
            .starts_with(&format!("{}/session/end?", site.provider.issuer()))
    );
    assert_eq!(ann.get(&site.url(OPS, "/whoami")).await.answer.status, 404);
    // Earlier cookies of the user are rejected too.
    std::fs::write(ann.folder.path().join("jar"), jar).unwrap();
    assert_eq!(ann.get(&site.url(OPS, "/whoami")).await.answer.status, 404);
    assert!(ann.get(&site.url(PORTAL, "/")).await.answer.text().contains("Sign in to see"));
}

#[tokio::test]
async fn signing_out_ends_open_streams() {
    let site = Site::start().await;
    let ann = site.browser();
    ann.log_in(OPS, "/whoami", "ann").await;
    let confirm = ann.get(&site.url(PORTAL, "/logout")).await;
    let before = site.pod.counts().borrow().started;
    let stream = tokio::spawn(ann.call(&site.url(OPS, "/stream/100000?interval=20ms")).run());
    site.pod.counts().wait_for(|counts| counts.started > before).await.expect("the pod counts");
    ann.post(&site.url(PORTAL, "/logout"), &[("token", &confirm.field("token"))], None).await;
    let signed_out = std::time::Instant::now();
    let answer = soon("the stream ends", stream).await.unwrap();
    assert!(answer.exit != 0 && !answer.body.is_empty(), "it was broken off: {}", answer.complaint);
    assert!(signed_out.elapsed() < Duration::from_secs(30), "{:?}", signed_out.elapsed());
}

#[tokio::test]
async fn the_provider_can_revoke_sessions() {
    let site = Site::start().await;
    let (ann, bob) = (site.browser(), site.browser());
    ann.log_in(OPS, "/whoami", "ann").await;
    bob.log_in(SALES, "/whoami", "bob").await;
    let page =
        ann.get(&format!("{}/session/end?client_id=portcullis", site.provider.issuer())).await;
    let confirm = format!("{}/session/end/confirm", site.provider.issuer());
    ann.post(&confirm, &[("xsrf", &page.field("xsrf")), ("logout", "yes")], None).await;
    let log = site.provider.log.borrow().clone();
    eventually("the session ends", || async {
        ann.get(&site.url(OPS, "/whoami")).await.answer.status == 404
    })
    .await;
    assert_eq!(bob.get(&site.url(SALES, "/whoami")).await.answer.status, 200, "{log}");
    for token in ["", "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
        let answer = bob
            .post(&site.url(PORTAL, "/backchannel-logout"), &[("logout_token", token)], None)
            .await
            .answer;
        assert_eq!(answer.status, 400, "{token}");
    }
}

#[tokio::test]
async fn an_unused_session_expires() {
    let idle = Duration::from_secs(5);
    let site = Site::with(json!({ "idle": "5s" }), json!({})).await;
    let ann = site.browser();
    assert_eq!(ann.log_in(OPS, "/whoami", "ann").await.answer.status, 200);
    eventually("it ends", || async {
        tokio::time::sleep(idle + Duration::from_millis(100)).await;
        ann.get(&site.url(OPS, "/whoami")).await.answer.status == 404
    })
    .await;
}

#[tokio::test]
async fn a_used_session_is_extended() {
    // Renewed after a second, but valid long enough for a slow machine.
    let site = Site::with(json!({ "idle": "10s" }), json!({})).await;
    let ann = site.browser();
    ann.log_in(OPS, "/whoami", "ann").await;
    eventually("it is renewed", || async {
        let answer = ann.get(&site.url(OPS, "/whoami")).await.answer;
        assert_eq!(answer.status, 200);
        answer.header("set-cookie").is_some_and(|cookie| cookie.starts_with("__Host-portcullis="))
    })
    .await;
    let answer = ann.get(&site.url(OPS, "/whoami")).await.answer;
    assert_eq!((answer.status, answer.header("set-cookie")), (200, None), "once is enough");
}

#[tokio::test]
async fn the_home_page_lists_the_services_of_the_user() {
    let site = Site::start().await;
    let nobody = site.browser().get(&site.url(PORTAL, "/")).await;
    assert!(
        nobody.answer.text().contains("Sign in to see") && !nobody.answer.text().contains("crm"),
        "{:?}",
        nobody.answer
    );
    for (name, may, may_not) in [("ann", "crm", "biz--"), ("bob", "biz", "crm--")] {
        let browser = site.browser();
        let at_provider = browser.get(&site.url(PORTAL, &nobody.link("Sign in"))).await;
        let home =
            browser.post(at_provider.last(), &[("login", name), ("answer", "yes")], None).await;
        assert_eq!(home.last(), site.url(PORTAL, "/"));
        let html = home.answer.text();
        assert!(
            html.contains(&format!("Signed in as {name}")) && !html.contains(may_not),
            "{html}"
        );
        let policy = home.answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        let link = home.link(&format!("<strong>{may}"));
        let page = browser.get(&site.url(PORTAL, &link)).await;
        assert_eq!(
            (page.answer.status, page.last()),
            (200, &*site.url(&format!("{may}--closed.apps.test"), "/")),
            "{:?}",
            page.way
        );
    }
}

#[tokio::test]
async fn a_login_that_the_provider_rejects_is_reported_to_the_user() {
    let site = Site::start().await;
    let browser = site.browser();
    let at_provider = browser.get(&site.url(OPS, "/.well-known/portcullis/login?to=/")).await;
    let page = browser.post(at_provider.last(), &[("answer", "no")], None).await;
    assert_eq!(page.answer.status, 403, "{:?}", page.answer);
    assert!(page.answer.text().contains("did not sign you in"));
    let again = browser.get(&site.url(PORTAL, &page.link("Try again"))).await;
    let page = browser.post(again.last(), &[("login", "mallory"), ("answer", "yes")], None).await;
    assert_eq!(
        page.answer.status, 403,
        "an address that nobody verified is none: {:?}",
        page.answer
    );
    assert_eq!(browser.cookies(PORTAL), ["__Host-portcullis-browser"]);
}

#[tokio::test]
async fn a_session_stays_valid_while_the_provider_is_down() {
    let mut site = Site::start().await;
    let ann = site.browser();
    ann.log_in(OPS, "/whoami", "ann").await;
    let jar = ann.folder;
    site.provider.child.kill().await.unwrap();
    let ann = Browser { site: &site, folder: jar };
    assert_eq!(ann.get(&site.url(OPS, "/whoami")).await.answer.status, 200);
    let page = site.browser().get(&site.url(PORTAL, "/login")).await;
    assert!(
        page.last().starts_with(&site.provider.issuer()),
        "where it is stays known: {:?}",
        page.way
    );
}

#[tokio::test]
async fn an_unreachable_provider_is_reported_to_the_user() {
    let mut site = Site::start().await;
    site.provider.child.kill().await.unwrap();
    // A gateway that has never reached the provider: the first one may know it already.
    site.restart().await;
    let page = site.browser().get(&site.url(OPS, "/.well-known/portcullis/login?to=/")).await;
    assert_eq!(page.answer.status, 503, "{:?}", page.answer);
    assert!(page.answer.text().contains("cannot be reached"));
}

#[tokio::test]
async fn nothing_secret_is_logged() {
    let site = Site::start().await;
    let ann = site.browser();
    let page = ann.log_in(OPS, "/whoami", "ann").await;
    let confirm = ann.get(&site.url(PORTAL, "/logout")).await;
    let jar = std::fs::read_to_string(ann.folder.path().join("jar")).unwrap();
    let mut secrets: Vec<String> =
        jar.lines().filter_map(|line| line.split('\t').nth(6)).map(str::to_owned).collect();
    secrets.extend(
        page.way
            .iter()
            .filter_map(|url| url.split_once("code="))
            .map(|(_, code)| code.split('&').next().unwrap().to_owned()),
    );
    secrets.extend([confirm.field("token"), "a secret".to_owned(), "a+secret".to_owned()]);
    assert!(secrets.len() >= 6, "{secrets:?}");
    let (log, routes, metrics) = (
        site.gateway.log(),
        site.gateway.admin_page("/routes").await.text(),
        site.gateway.admin_page("/metrics").await.text(),
    );
    assert!(log.contains("logged in"), "{log}");
    for secret in secrets.iter().filter(|secret| secret.len() > 7) {
        for text in [&log, &routes, &metrics] {
            assert!(!text.contains(secret.as_str()), "{secret} in {text}");
        }
    }
}

/// Runs a journey in Chromium. The screenshots are stored with the other test output.
async fn travel(site: &Site, journey: &str) {
    let pictures = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("login");
    std::fs::create_dir_all(&pictures).unwrap();
    let mut command = Command::new("node");
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/openid/browser.mjs"))
        .arg(modules().await)
        .arg("/usr/bin/chromium");
    command.arg(site.gateway.https().port().to_string()).arg(&pictures).arg(journey);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(300), command.output())
        .await
        .expect("Chromium ends")
        .expect("node runs");
    let reported = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{reported} (pictures: {})", pictures.display());
}

#[tokio::test]
async fn chromium_logs_in_and_out_with_accessible_pages() {
    travel(&Site::start().await, "whole").await;
}

#[tokio::test]
async fn chromium_logs_in_again_after_a_session_expired() {
    travel(&Site::with(json!({ "idle": "5s" }), json!({})).await, "expiry").await;
}

/// `portcullis` for a user with a separate configuration folder.
fn portcullis(folder: &TempDir, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(arguments).env("XDG_CONFIG_HOME", folder.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// The standard output and standard error of `portcullis token`.
async fn token(folder: &TempDir) -> (String, String) {
    let output =
        soon("a token", portcullis(folder, &["token"]).output()).await.expect("portcullis runs");
    let reported = |octets: &[u8]| String::from_utf8_lossy(octets).trim().to_owned();
    (reported(&output.stdout), reported(&output.stderr))
}

/// Runs `portcullis login` until it prints the login URL; returns that line and the process.
async fn sign_in(
    site: &Site,
    folder: &TempDir,
    further: &str,
    begins: &str,
) -> (String, tokio::task::JoinHandle<(bool, String)>) {
    let issuer = site.provider.issuer();
    let mut child = portcullis(
        folder,
        &["login", "--issuer", &issuer, "--client-id", "portcullis-cli", further],
    )
    .spawn()
    .expect("it runs");
    let mut lines = BufReader::new(child.stderr.take().expect("its standard error")).lines();
    let line = loop {
        let line = soon("it says where to sign in", lines.next_line())
            .await
            .expect("its output")
            .expect("a line more");
        if line.trim().starts_with(begins) {
            break line.trim().to_owned();
        }
    };
    let ended = tokio::spawn(async move {
        let mut rest = String::new();
        while let Ok(Some(line)) = lines.next_line().await {
            rest.push_str(&line);
        }
        (child.wait().await.expect("it ends").success(), rest)
    });
    (line, ended)
}

#[tokio::test]
async fn the_command_line_logs_in_by_a_browser_on_this_machine() {
    // A public client issues tokens to people only.
    let evidence = json!([{ "claim": "aud", "value": "portcullis-cli" }]);
    let site = Site::with(json!({}), json!({ "userClaim": "sub", "userEvidence": evidence })).await;
    let folder = tempfile::tempdir().unwrap();
    let (nothing, complaint) = token(&folder).await;
    assert!(nothing.is_empty() && complaint.contains("you are not signed in"), "{complaint}");

    let (url, ended) = sign_in(&site, &folder, "--no-browser", "http").await;
    let browser = site.browser();
    let callback = url.split_once("redirect_uri=").unwrap().1.split('&').next().unwrap();
    let callback =
        form_urlencoded::parse(format!("a={callback}").as_bytes()).next().unwrap().1.into_owned();
    let stray = browser.get(&format!("{callback}?code=x&state=y")).await;
    assert_eq!(stray.answer.status, 404, "what it did not ask for is not taken");
    let at_provider = browser.get(&url).await;
    let page = browser.post(at_provider.last(), &[("login", "ann"), ("answer", "yes")], None).await;
    assert!(page.answer.text().contains("You are signed in"), "{:?} {:?}", page.way, page.answer);
    let (success, reported) = soon("it ends", ended).await.unwrap();
    assert!(success && reported.contains("Signed in as ann"), "{reported}");

    let file = folder.path().join("portcullis/tokens.json");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    // The token of this client expires at once, so each is a new one, for which a refresh token was
    // used up.
    for _ in 0..2 {
        let before = std::fs::read(&file).unwrap();
        let (token, complaint) = token(&folder).await;
        assert_eq!(token.split('.').count(), 3, "{complaint}");
        assert_ne!(std::fs::read(&file).unwrap(), before);
        let call = site
            .gateway
            .curl("cli--closed.apps.test", "/echo")
            .header(&format!("Authorization: Bearer {token}"));
        let answer = call.run().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(answer.text().contains("[\"x-auth-request-user\",\"ann\"]"), "{answer:?}");
    }
    Curl::new(&format!("{}/tests/forget", site.provider.issuer())).args(["--data", ""]).run().await;
    let (nothing, complaint) = token(&folder).await;
    assert!(nothing.is_empty() && complaint.contains("no longer signed in"), "{complaint}");
}

#[tokio::test]
async fn the_command_line_logs_in_by_a_browser_on_another_machine() {
    let site = Site::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (line, ended) = sign_in(&site, &folder, "--device", "Open").await;
    let url = line.split_once("(or open ").unwrap().1.trim_end_matches(')');
    let code = line.split_once("the code ").unwrap().1.split(' ').next().unwrap();
    let browser = site.browser();
    let device = format!("{}/device", site.provider.issuer());
    let page = browser.get(url).await;
    let fields = [("xsrf", &*page.field("xsrf")), ("user_code", code)];
    let page = browser.post(&device, &fields, None).await;
    let page = browser
        .post(
            &device,
            &[("xsrf", &page.field("xsrf")), ("user_code", code), ("confirm", "yes")],
            None,
        )
        .await;
    let page = browser.post(page.last(), &[("login", "ann"), ("answer", "yes")], None).await;
    assert_eq!(page.answer.status, 200, "{:?}", page.answer);
    let (success, reported) = soon("it ends", ended).await.unwrap();
    assert!(success && reported.contains("Signed in as ann"), "{reported}");
    assert!(!token(&folder).await.0.is_empty());
}

#[tokio::test]
async fn the_command_line_reports_what_it_cannot_do() {
    let site = Site::start().await;
    let folder = tempfile::tempdir().unwrap();
    let issuer = site.provider.issuer();
    let other = issuer.replace("127.0.0.1", "localhost");
    for (arguments, reported) in [
        (&["login"][..], "you are not signed in"),
        (&["login", "--issuer", &issuer], "--client-id"),
        (&["login", "--issuer", &other, "--client-id", "portcullis-cli"], "another issuer"),
        (&["login", "--issuer", "http://example.com", "--client-id", "a"], "is not an https URL"),
        (
            &["login", "--issuer", &format!("{issuer}/nothing"), "--client-id", "a"],
            "without a discovery document",
        ),
        (&["login", "--issuer", &issuer, "--client-id", "unknown", "--device"], "invalid_client"),
    ] {
        let output = soon("it ends", portcullis(&folder, arguments).output()).await.unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && complaint.contains(reported),
            "{arguments:?}: {complaint}"
        );
    }
}
