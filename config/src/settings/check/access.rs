//! What types cannot say about how callers are known.

use std::time::Duration;

use http::Uri;

use super::{CERTIFICATE, Complain, contains, secret};
use crate::model::{Hostname, Origin, check_label};
use crate::problem::{Problem, Severity};
use crate::proxies::is_loopback;
use crate::settings::Settings;
use crate::settings::access::{GITHUB, IssuerSettings, LoginSettings, UserEvidence};

/// The longest name of an issuer, in bytes: it is a label of metrics.
const MAX_NAME: usize = 63;

/// The shortest time for which a session key may seal.
const SHORTEST_ROTATION: Duration = Duration::from_secs(3600);
/// The most session keys of the gateway's own that are in use at a time, but for the one that
/// seals.
const MAX_KEYS: u32 = 16;

/// The user claim that shows a person by itself.
const VERIFIED_BY_ITSELF: &str = "email";
/// Claims that say nothing about who the subject is: every token may have them (RFC 7519 §4.1,
/// RFC 9068 §2.2, RFC 7662 §2.2).
const EVERY_TOKEN: [&str; 16] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "azp",
    "client_id",
    "cid",
    "appid",
    "scope",
    "typ",
    "token_type",
    "active",
    "acr",
];

/// Checks all that needs no look at other files.
pub(super) fn meaning(settings: &Settings, complain: &mut Complain<'_>) {
    let access = &settings.access;
    if let Some(Err(error)) = access.credentials_namespace.as_deref().map(check_label) {
        let message = format!("no Namespace can have this name: it {error}");
        complain(
            &["access", "credentialsNamespace"],
            message,
            "write the name of a Namespace".to_owned(),
        );
    }
    if access.key_rotation < SHORTEST_ROTATION
        || access.key_rotation < access.sessions_last() / MAX_KEYS
    {
        let message = "there would be more session keys than can be looked through for each \
                       session"
            .to_owned();
        let help = "write at least an hour, and a sixteenth of `login.absolute`".to_owned();
        complain(&["access", "keyRotation"], message, help);
    }
    for (index, issuer) in access.issuers.iter().enumerate() {
        let before = access.issuers.get(..index).unwrap_or_default();
        let position = index.to_string();
        let mut complain = |keys: &[&str], message: String, help: &str| {
            complain(&[&["access", "issuers", &position], keys].concat(), message, help.to_owned());
        };
        of_issuer(issuer, &mut complain);
        among_issuers(issuer, before, &mut complain);
    }
    if let Some(login) = &access.login {
        let mut complain = |keys: &[&str], message: String, help: &str| {
            complain(&[&["access", "login"], keys].concat(), message, help.to_owned());
        };
        of_login(login, settings, &mut complain);
    }
}

/// Takes keys below a place, a message and its help.
type ComplainHere<'a> = dyn FnMut(&[&str], String, &str) + 'a;

fn of_issuer(issuer: &IssuerSettings, complain: &mut ComplainHere<'_>) {
    let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !(1..=MAX_NAME).contains(&issuer.name.len()) || !issuer.name.bytes().all(named) {
        complain(
            &["name"],
            format!("it is not of 1 to {MAX_NAME} letters, digits, `-` and `_`"),
            "write a short name",
        );
    }
    url(&issuer.issuer, &["issuer"], complain);
    if issuer.issuer.contains(['?', '#']) {
        complain(
            &["issuer"],
            "it has a query or a fragment, which no issuer has".to_owned(),
            "write it exactly as the tokens' `iss` has it",
        );
    }
    if let Some(uri) = &issuer.jwks_uri {
        url(uri, &["jwksUri"], complain);
    }
    let introspection = issuer.introspection.as_ref();
    if let Some(uri) = introspection.and_then(|introspection| introspection.endpoint.as_ref()) {
        url(uri, &["introspection", "endpoint"], complain);
    }
    if introspection.is_some_and(|introspection| introspection.client_id.is_empty()) {
        complain(
            &["introspection", "clientId"],
            "it is empty".to_owned(),
            "write the gateway's own client identifier there",
        );
    }
    if issuer.audiences.is_empty() || issuer.audiences.iter().any(String::is_empty) {
        let message =
            "without an audience, tokens for everybody else would be accepted too".to_owned();
        complain(&["audiences"], message, "write what the `aud` of tokens for these services has");
    }
    if issuer.algorithms.is_empty() {
        complain(
            &["algorithms"],
            "without an algorithm no token is accepted".to_owned(),
            "write some, such as ES256, or leave the key out",
        );
    }
    of_user_evidence(issuer.user_evidence.as_deref().unwrap_or_default(), complain);
    for (keys, claim) in [("userClaim", &issuer.user_claim), ("groupClaim", &issuer.group_claim)] {
        if claim.is_empty() {
            complain(
                &[keys],
                "it is empty".to_owned(),
                "write the name of a claim, or leave the key out",
            );
        }
    }
}

/// What shows a person has to be something that an application cannot have as well.
fn of_user_evidence(evidence: &[UserEvidence], complain: &mut ComplainHere<'_>) {
    for (index, evidence) in evidence.iter().enumerate() {
        let keys = ["userEvidence", &index.to_string(), "claim"];
        let (message, help) = match (evidence.claim.as_str(), &evidence.value) {
            ("", _) => ("it is empty", "write the name of a claim that only people's tokens have"),
            ("email_verified", _) => (
                "it says nothing without the address",
                "write `email`, of which only a verified one counts",
            ),
            (claim, None) if EVERY_TOKEN.contains(&claim) => (
                "applications' tokens have this claim as well",
                "add a `value` that only people's have",
            ),
            _ => continue,
        };
        complain(&keys, message.to_owned(), help);
    }
}

/// What is in effect, but is probably not what was meant.
pub(super) fn warnings(settings: &Settings) -> impl Iterator<Item = Problem> {
    let issuers = settings.access.issuers.iter().enumerate();
    // Of an `email`, only a verified one names a user: it is the evidence already.
    let doubtful = issuers.filter(|(_, issuer)| {
        issuer.user_evidence.is_none() && issuer.user_claim != VERIFIED_BY_ITSELF
    });
    doubtful.map(|(index, issuer)| Problem {
        severity: Severity::Warning,
        reason: "NoUserEvidence",
        origin: Origin::default(),
        message: format!(
            "`access.issuers[{index}].userEvidence`: it is not written, so bearer tokens of `{}` \
             that have no verified `email` are not a user's, although users are named by `{}`",
            issuer.name, issuer.user_claim
        ),
        help: "write which claim only people's tokens have: docs/access.md has a table of \
               providers; `[{claim: email}]` if it is the verified address, `[]` if all tokens are \
               applications'"
            .to_owned(),
    })
}

/// Whether callers of different issuers can be told apart.
fn among_issuers(
    issuer: &IssuerSettings,
    before: &[IssuerSettings],
    complain: &mut ComplainHere<'_>,
) {
    if issuer.name == GITHUB {
        complain(
            &["name"],
            format!("`{GITHUB}` means GitHub itself in `access.login.issuer`"),
            "write another name",
        );
    }
    if before.iter().any(|other| other.name == issuer.name) {
        complain(
            &["name"],
            format!("another issuer has the name `{}`", issuer.name),
            "give each a name of its own",
        );
    }
    if before.iter().any(|other| other.issuer == issuer.issuer) {
        let help =
            "write all audiences into one entry: which one a token belonged to would not be clear";
        complain(&["issuer"], format!("another entry is of `{}` too", issuer.issuer), help);
    }
    let mistaken = |other: &&IssuerSettings| match (other.prefix.as_str(), issuer.prefix.as_str()) {
        ("", own) => own.is_empty(),
        (_, "") => false,
        (other, own) => other.starts_with(own) || own.starts_with(other),
    };
    if let Some(other) = before.iter().find(mistaken) {
        let message = format!(
            "callers of it could be mistaken for callers of `{}`, whose prefix is `{}`",
            other.name, other.prefix
        );
        complain(
            &["prefix"],
            message,
            "write a prefix such as `partner:` that no other begins with; one issuer may have none",
        );
    }
}

fn of_login(login: &LoginSettings, settings: &Settings, complain: &mut ComplainHere<'_>) {
    let host = login.host.as_deref().map(|host| (host, host.parse::<Hostname>()));
    match host {
        Some((host, Err(error))) => {
            complain(
                &["host"],
                format!("`{host}` is no hostname: it {error}"),
                "write a name such as `login.apps.example.com`",
            );
        }
        Some((host, Ok(_)))
            if !host.strip_suffix(&settings.zone).is_some_and(|before| before.ends_with('.')) =>
        {
            let help = format!("write a name such as `login.{}`", settings.zone);
            complain(
                &["host"],
                format!("`{host}` is not inside of the zone `{}`", settings.zone),
                &help,
            );
        }
        _ => {}
    }
    let names = || settings.access.issuers.iter().map(|issuer| issuer.name.as_str());
    if login.issuer != GITHUB && !names().any(|name| name == login.issuer) {
        let help = format!("write `{GITHUB}`, or the `name` of one of `access.issuers`");
        complain(&["issuer"], format!("`{}` is none of the issuers", login.issuer), &help);
    }
    if login.client_id.is_empty() {
        complain(
            &["clientId"],
            "it is empty".to_owned(),
            "write the gateway's client identifier there",
        );
    }
    if login.issuer != GITHUB && !login.scopes.iter().any(|scope| scope == "openid") {
        // OpenID Connect Core 1.0 §3.1.2.1: without it there is no ID token.
        complain(
            &["scopes"],
            "`openid` is not among them".to_owned(),
            "add `openid`, or leave the key out",
        );
    }
    if login.port == 0 {
        complain(
            &["port"],
            "0 is no port".to_owned(),
            "write the port of HTTPS as browsers see it",
        );
    }
    if login.idle.is_zero() || login.absolute < login.idle {
        complain(
            &["absolute"],
            "a session would end before it may be idle".to_owned(),
            "write at least as much as `idle`, which is above zero",
        );
    }
    url(&login.github.url, &["github", "url"], complain);
    url(&login.github.api_url, &["github", "apiUrl"], complain);
}

/// Keys and secrets come and go by it: only HTTPS, but for what is on this machine.
fn url(text: &str, keys: &[&str], complain: &mut ComplainHere<'_>) {
    let wrong = match text.parse::<Uri>() {
        Err(_) => "is no URL",
        Ok(uri) => match (uri.scheme_str(), uri.host()) {
            _ if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) => {
                "has a user's name in it"
            }
            (Some("https"), Some(_)) => return,
            (Some("http"), Some(host)) if is_loopback(host) => return,
            _ => "is no `https://` URL",
        },
    };
    complain(
        keys,
        format!("`{text}` {wrong}"),
        "write a URL such as `https://id.example.com`; `http://` is for `localhost` alone",
    );
}

/// Checks the files that the settings name.
pub(super) fn files(settings: &Settings, complain: &mut Complain<'_>) {
    let access = &settings.access;
    let mut authorities = |path: &Option<std::path::PathBuf>, keys: &[&str]| {
        if let Some(path) = path {
            contains(path, CERTIFICATE, keys, complain);
        }
    };
    authorities(
        &access.client_certificate_authorities,
        &["access", "clientCertificateAuthorities"],
    );
    for (index, issuer) in access.issuers.iter().enumerate() {
        authorities(
            &issuer.certificate_authorities,
            &["access", "issuers", &index.to_string(), "certificateAuthorities"],
        );
    }
    if let Some(login) = &access.login {
        authorities(
            &login.github.certificate_authorities,
            &["access", "login", "github", "certificateAuthorities"],
        );
    }
    for (index, issuer) in access.issuers.iter().enumerate() {
        if let Some(introspection) = &issuer.introspection {
            let keys =
                ["access", "issuers", &index.to_string(), "introspection", "clientSecretFile"];
            secret(&introspection.client_secret_file, &keys, complain);
        }
    }
    if let Some(path) = access.login.as_ref().and_then(|login| login.client_secret_file.as_deref())
    {
        secret(path, &["access", "login", "clientSecretFile"], complain);
    }
}
