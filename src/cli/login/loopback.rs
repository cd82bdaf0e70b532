//! Sign-in with a browser on this machine: the authorization code flow with PKCE and a loopback
//! redirect (RFC 8252 §7.3).

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

use super::provider::{OFFLINE, Provider, TokenResponse};
use crate::cli::output;
use crate::cli::problems::Failure;

/// Timeout for the user to sign in.
const SIGN_IN_TIMEOUT: Duration = Duration::from_secs(600);
/// Timeout for reading a request head, and for writing a response.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum size of a request head, in octets.
const MAX_HEAD: usize = 16 * 1024;

pub(super) async fn sign_in(provider: &Provider<'_>, open: bool) -> Result<TokenResponse, Failure> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(Failure::new)?;
    let redirect_uri = format!(
        "http://127.0.0.1:{}/callback",
        listener.local_addr().map_err(Failure::new)?.port()
    );
    let (state, verifier) = (random()?, random()?);
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()));
    let url = authorization_url(provider, &redirect_uri, &state, &challenge);
    output::report(&format!("Sign in at\n\n  {url}\n\n"))?;
    if open {
        open_browser(&url);
    }
    let timed_out =
        || Failure::with_help("no sign-in within ten minutes", "run `portcullis login` again");
    let redirect = wait_for_redirect(&listener, &state);
    let returned = timeout(SIGN_IN_TIMEOUT, redirect).await.map_err(|_| timed_out())??;
    if !provider.is_issuer(returned.get("iss").map(String::as_str)) {
        return Err(Failure::new("the redirect came from another issuer"));
    }
    let code = match (returned.get("code"), returned.get("error")) {
        (Some(code), None) => code,
        (_, error) => {
            let error: String = error
                .map_or("", String::as_str)
                .chars()
                .filter(char::is_ascii_graphic)
                .take(64)
                .collect();
            return Err(Failure::new(format!(
                "{} rejected the sign-in: {error}",
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
    provider.tokens(&form).await?.map_err(|error| provider.rejected(&error))
}

fn authorization_url(
    provider: &Provider<'_>,
    redirect_uri: &str,
    state: &str,
    challenge: &str,
) -> String {
    let (registration, scope) = (provider.registration, provider.scope());
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs([
        ("response_type", "code"),
        ("client_id", &registration.client_id),
        ("redirect_uri", redirect_uri),
        ("scope", &scope),
        ("state", state),
        ("code_challenge", challenge),
        ("code_challenge_method", "S256"),
    ]);
    if scope.split(' ').any(|scope| scope == OFFLINE) {
        // OpenID Connect Core 1.0 §11: without it, the provider ignores `offline_access`.
        query.append_pair("prompt", "consent");
    }
    let endpoint = &provider.endpoints.authorization_endpoint;
    format!("{endpoint}{}{}", if endpoint.contains('?') { '&' } else { '?' }, query.finish())
}

/// Waits for the redirect with this `state` and returns its parameters; answers others with 404.
async fn wait_for_redirect(
    listener: &TcpListener,
    state: &str,
) -> Result<HashMap<String, String>, Failure> {
    loop {
        let (mut stream, _) = listener.accept().await.map_err(Failure::new)?;
        let parameters = timeout(REQUEST_TIMEOUT, read(&mut stream)).await.ok().flatten();
        let returned = parameters
            .filter(|parameters| parameters.get("state").is_some_and(|found| found == state));
        let (status, text) = match &returned {
            Some(parameters) if parameters.contains_key("code") => {
                ("200 OK", "You are signed in. You can close this window.")
            }
            Some(_) => ("200 OK", "You are not signed in. You can close this window."),
            None => ("404 Not Found", "There is nothing here."),
        };
        let response = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: \
             {}\r\nCache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nConnection: \
             close\r\n\r\n{text}",
            text.len()
        );
        // The sign-in does not depend on whether the browser reads the page.
        let _ = timeout(REQUEST_TIMEOUT, stream.write_all(response.as_bytes())).await;
        let _ = stream.shutdown().await;
        if let Some(returned) = returned {
            return Ok(returned);
        }
    }
}

/// Reads a request for `/callback` and returns its parameters.
async fn read(stream: &mut TcpStream) -> Option<HashMap<String, String>> {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if head.len() > MAX_HEAD || stream.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    let line = std::str::from_utf8(&head).ok()?.lines().next()?;
    let query = line.strip_prefix("GET /callback?")?.split(' ').next()?;
    Some(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
}

/// Tries to open a browser; if there is none, the user opens the printed URL.
fn open_browser(url: &str) {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let _ = Command::new(program)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
}

/// Returns 256 random bits, encoded.
fn random() -> Result<String, Failure> {
    let mut octets = [0_u8; 32];
    rand::fill(&mut octets).map_err(|_| Failure::new("the system returned no random numbers"))?;
    Ok(URL_SAFE_NO_PAD.encode(octets))
}
