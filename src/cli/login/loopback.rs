//! Signing in by a browser on this machine: the authorization code flow with PKCE, back to a port
//! of the loopback (RFC 8252 §7.3).

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::provider::{Provider, TokenAnswer};
use crate::cli::output;
use crate::cli::problems::Failure;

/// How long somebody may take to sign in.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a browser may take to ask for a page, and how much it may say.
const HEAD: (Duration, usize) = (Duration::from_secs(5), 16 * 1024);

pub(super) async fn sign_in(provider: &Provider<'_>, open: bool) -> Result<TokenAnswer, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(Failure::new)?;
    let redirect_uri = format!(
        "http://127.0.0.1:{}/callback",
        listener.local_addr().map_err(Failure::new)?.port()
    );
    let (state, verifier) = (random()?, random()?);
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()));
    let url = authorization(provider, &redirect_uri, &state, &challenge);
    output::tell(&format!("Sign in at\n\n  {url}\n\n"))?;
    if open {
        open_browser(&url);
    }
    let late = || {
        Failure::with_help("nobody signed in within ten minutes", "run `portcullis login` again")
    };
    let returned = timeout(PATIENCE, wait(&listener, &state)).await.map_err(|_| late())??;
    if returned.get("iss").is_some_and(|issuer| *issuer != provider.registration.issuer) {
        // RFC 9207 §2.4.
        return Err(Failure::new("another provider answered"));
    }
    let code = match (returned.get("code"), returned.get("error")) {
        (Some(code), None) => code,
        (_, error) => {
            let word: String = error
                .map_or("", String::as_str)
                .chars()
                .filter(char::is_ascii_graphic)
                .take(64)
                .collect();
            return Err(Failure::new(format!(
                "{} did not sign you in: {word}",
                provider.registration.issuer
            )));
        }
    };
    let form = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", &redirect_uri),
        ("code_verifier", &verifier),
    ];
    provider.tokens(&form).await?.map_err(|refusal| provider.refused(&refusal))
}

fn authorization(
    provider: &Provider<'_>,
    redirect_uri: &str,
    state: &str,
    challenge: &str,
) -> String {
    let registration = provider.registration;
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs([
        ("response_type", "code"),
        ("client_id", &registration.client_id),
        ("redirect_uri", redirect_uri),
        ("scope", &registration.scope),
        ("state", state),
        ("code_challenge", challenge),
        ("code_challenge_method", "S256"),
    ]);
    if registration.scope.split(' ').any(|scope| scope == "offline_access") {
        // OpenID Connect Core 1.0 §11: otherwise it is to be ignored.
        query.append_pair("prompt", "consent");
    }
    let endpoint = &provider.endpoints.authorization_endpoint;
    format!("{endpoint}{}{}", if endpoint.contains('?') { '&' } else { '?' }, query.finish())
}

/// The parameters of the request that comes back with this state; all others are turned away.
async fn wait(listener: &TcpListener, state: &str) -> Result<HashMap<String, String>, Failure> {
    loop {
        let (mut stream, _) = listener.accept().await.map_err(Failure::new)?;
        let asked = timeout(HEAD.0, read(&mut stream)).await.ok().flatten();
        let returned =
            asked.filter(|parameters| parameters.get("state").is_some_and(|found| found == state));
        let (status, text) = match &returned {
            Some(parameters) if parameters.contains_key("code") => {
                ("200 OK", "You are signed in. You can close this window.")
            }
            Some(_) => ("200 OK", "You are not signed in. You can close this window."),
            None => ("404 Not Found", "There is nothing here."),
        };
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: \
             {}\r\nCache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nConnection: \
             close\r\n\r\n{text}",
            text.len()
        );
        // Whether the browser reads it or not does not matter.
        let _ = timeout(HEAD.0, stream.write_all(answer.as_bytes())).await;
        let _ = stream.shutdown().await;
        if let Some(returned) = returned {
            return Ok(returned);
        }
    }
}

/// The parameters of a request for `/callback`.
async fn read(stream: &mut TcpStream) -> Option<HashMap<String, String>> {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if head.len() > HEAD.1 || stream.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let line = std::str::from_utf8(&head).ok()?.lines().next()?;
    let query = line.strip_prefix("GET /callback?")?.split(' ').next()?;
    Some(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
}

/// Where there is a browser, it opens; where there is none, the address was told.
fn open_browser(url: &str) {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let _ = Command::new(program)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
}

/// 256 random bits.
fn random() -> Result<String, Failure> {
    let mut octets = [0_u8; 32];
    rand::fill(&mut octets).map_err(|_| Failure::new("the system gives no random numbers"))?;
    Ok(URL_SAFE_NO_PAD.encode(octets))
}
