//! Validation of authentication settings.

use std::time::Duration;

use http::Uri;

use super::{CERTIFICATE, ErrorSink, contains, secret};
use crate::model::{Hostname, Origin, check_label};
use crate::problem::{Problem, Severity};
use crate::proxies::is_loopback;
use crate::settings::Settings;
use crate::settings::access::{
    AccessSettings, GITHUB, GITHUB_PREFIX, IssuerSettings, LoginSettings, UserEvidence,
};

/// The longest name of an issuer, in bytes: it is a label of metrics.
const MAX_NAME: usize = 63;

/// The shortest period of key rotation.
const SHORTEST_ROTATION: Duration = Duration::from_secs(3600);
/// The most generated session keys in use at a time, besides the one that seals.
const MAX_KEYS: u32 = 16;

/// The user claim that is evidence of a user by itself.
const VERIFIED_BY_ITSELF: &str = "email";
/// Claims that tokens of users and of applications have alike (RFC 7519 §4.1, RFC 9068 §2.2, RFC
/// 7662 §2.2).
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

/// Parameters of the authorization request that protect the login, or select how it returns.
const OWN_PARAMETERS: [&str; 13] = [
    "response_type",
    "response_mode",
    "client_id",
    "redirect_uri",
    "scope",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
    "request",
    "request_uri",
    "registration",
    "dpop_jkt",
];

/// Validates everything that does not depend on other files.
pub(super) fn validate(settings: &Settings, report: &mut ErrorSink<'_>) {
    let access = &settings.access;
    if let Some(Err(error)) = access.credentials_namespace.as_deref().map(check_label) {
        let message = format!("no Namespace can have this name: it {error}");
        report(
            &["access", "credentialsNamespace"],
            message,
            "write the name of a Namespace".to_owned(),
        );
    }
    if access.key_rotation < SHORTEST_ROTATION
        || access.key_rotation < access.session_lifetime() / MAX_KEYS
    {
        let message = "there would be too many session keys: each may have to be tried to open a \
                       session"
            .to_owned();
        let help = "write at least an hour, and a sixteenth of `login.absolute`".to_owned();
        report(&["access", "keyRotation"], message, help);
    }
    validate_issuers(access, &mut |keys, message, help| {
        report(&[&["access"], keys].concat(), message, help.to_owned());
    });
    if let Some(login) = &access.login {
        let mut report = |keys: &[&str], message: String, help: &str| {
            report(&[&["access", "login"], keys].concat(), message, help.to_owned());
        };
        validate_login(login, settings, &mut report);
    }
}

/// The problems of issuers, each with the key of the list, the message and its help, for other
/// configurations that have such a list.
#[must_use]
pub fn issuer_problems(access: &AccessSettings) -> Vec<(String, String, String)> {
    let mut problems = Vec::new();
    validate_issuers(access, &mut |keys, message, help| {
        problems.push((keys.join("."), message, help.to_owned()));
    });
    problems
}

fn validate_issuers(access: &AccessSettings, report: &mut SectionErrorSink<'_>) {
    for (index, issuer) in access.issuers.iter().enumerate() {
        let before = access.issuers.get(..index).unwrap_or_default();
        let position = index.to_string();
        let mut report = |keys: &[&str], message: String, help: &str| {
            report(&[&["issuers", &position], keys].concat(), message, help);
        };
        validate_issuer(issuer, &mut report);
        validate_unique(issuer, before, &mut report);
        validate_beside_github(issuer, access, &mut report);
    }
}

/// Receives keys relative to a section, a message and its help.
type SectionErrorSink<'a> = dyn FnMut(&[&str], String, &str) + 'a;

fn validate_issuer(issuer: &IssuerSettings, report: &mut SectionErrorSink<'_>) {
    let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !(1..=MAX_NAME).contains(&issuer.name.len()) || !issuer.name.bytes().all(named) {
        report(
            &["name"],
            format!("it is not of 1 to {MAX_NAME} letters, digits, `-` and `_`"),
            "write a short name",
        );
    }
    url(&issuer.issuer, &["issuer"], report);
    if issuer.issuer.contains(['?', '#']) {
        report(
            &["issuer"],
            "it has a query or a fragment, which is not allowed".to_owned(),
            "write it exactly as in the `iss` claim of tokens",
        );
    }
    if let Some(uri) = &issuer.jwks_uri {
        url(uri, &["jwksUri"], report);
    }
    let introspection = issuer.introspection.as_ref();
    if let Some(uri) = introspection.and_then(|introspection| introspection.endpoint.as_ref()) {
        url(uri, &["introspection", "endpoint"], report);
    }
    if introspection.is_some_and(|introspection| introspection.client_id.is_empty()) {
        report(
            &["introspection", "clientId"],
            "it is empty".to_owned(),
            "write the gateway's client identifier at the endpoint",
        );
    }
    if issuer.audiences.is_empty() || issuer.audiences.iter().any(String::is_empty) {
        let message =
            "without an audience, tokens for other recipients would be accepted".to_owned();
        report(&["audiences"], message, "write the `aud` claim of tokens for these services");
    }
    if issuer.algorithms.is_empty() {
        report(
            &["algorithms"],
            "without an algorithm no token is accepted".to_owned(),
            "write an algorithm such as ES256, or leave the key out",
        );
    }
    validate_user_evidence(issuer.user_evidence.as_deref().unwrap_or_default(), report);
    for (keys, claim) in [("userClaim", &issuer.user_claim), ("groupClaim", &issuer.group_claim)] {
        if claim.is_empty() {
            report(
                &[keys],
                "it is empty".to_owned(),
                "write the name of a claim, or leave the key out",
            );
        }
    }
}

/// Evidence of a user must be a claim that tokens of applications cannot have.
fn validate_user_evidence(evidence: &[UserEvidence], report: &mut SectionErrorSink<'_>) {
    for (index, evidence) in evidence.iter().enumerate() {
        let keys = ["userEvidence", &index.to_string(), "claim"];
        let (message, help) = match (evidence.claim.as_str(), &evidence.value) {
            ("", _) => ("it is empty", "write the name of a claim that only tokens of users have"),
            ("email_verified", _) => (
                "it has no meaning without the address",
                "write `email`: it counts only if verified",
            ),
            (claim, None) if EVERY_TOKEN.contains(&claim) => (
                "tokens of applications have this claim too",
                "add a `value` that only tokens of users have",
            ),
            _ => continue,
        };
        report(&keys, message.to_owned(), help);
    }
}

/// Settings that are valid, but are probably not what was intended.
pub(super) fn warnings(settings: &Settings) -> impl Iterator<Item = Problem> {
    let issuers = settings.access.issuers.iter().enumerate();
    // `email` names a user only if verified: then it is the evidence already.
    let without_evidence = issuers.filter(|(_, issuer)| {
        issuer.user_evidence.is_none() && issuer.user_claim != VERIFIED_BY_ITSELF
    });
    without_evidence.map(|(index, issuer)| Problem {
        severity: Severity::Warning,
        reason: "NoUserEvidence",
        origin: Origin::default(),
        message: format!(
            "`access.issuers[{index}].userEvidence`: it is not set, so bearer tokens of `{}` \
             without a verified `email` do not represent users, although users are named by `{}`",
            issuer.name, issuer.user_claim
        ),
        help: "write a claim that only tokens of users have: docs/access.md has a table of \
               providers; `[{claim: email}]` if it is the verified address, `[]` if all tokens are \
               of applications"
            .to_owned(),
    })
}

/// Checks that callers of different issuers can be distinguished.
fn validate_unique(
    issuer: &IssuerSettings,
    before: &[IssuerSettings],
    report: &mut SectionErrorSink<'_>,
) {
    if issuer.name == GITHUB {
        report(
            &["name"],
            format!("`{GITHUB}` means GitHub itself in `access.login.issuer`"),
            "write another name",
        );
    }
    if before.iter().any(|other| other.name == issuer.name) {
        report(
            &["name"],
            format!("another issuer has the name `{}`", issuer.name),
            "give each issuer its own name",
        );
    }
    if before.iter().any(|other| other.issuer == issuer.issuer) {
        let help = "write all audiences into one entry: a token would match both";
        report(&["issuer"], format!("another entry has the issuer `{}` too", issuer.issuer), help);
    }
    let is_ambiguous =
        |other: &&IssuerSettings| match (other.prefix.as_str(), issuer.prefix.as_str()) {
            ("", own) => own.is_empty(),
            (_, "") => false,
            (other, own) => other.starts_with(own) || own.starts_with(other),
        };
    if let Some(other) = before.iter().find(is_ambiguous) {
        let message = format!(
            "its callers could be confused with those of `{}`, whose prefix is `{}`",
            other.name, other.prefix
        );
        report(
            &["prefix"],
            message,
            "write a prefix such as `partner:` that no other starts with; one issuer may have none",
        );
    }
}

/// Checks that callers of an issuer can be distinguished from users who log in at GitHub.
fn validate_beside_github(
    issuer: &IssuerSettings,
    access: &AccessSettings,
    report: &mut SectionErrorSink<'_>,
) {
    let prefix = issuer.prefix.as_str();
    let is_ambiguous = GITHUB_PREFIX.starts_with(prefix) || prefix.starts_with(GITHUB_PREFIX);
    let logs_in_there = access.login.as_ref().is_some_and(|login| login.issuer == GITHUB);
    if logs_in_there && !prefix.is_empty() && is_ambiguous {
        report(
            &["prefix"],
            format!("its callers could be confused with users of GitHub, `{GITHUB_PREFIX}…`"),
            "write another prefix, such as `partner:`",
        );
    }
}

fn validate_login(login: &LoginSettings, settings: &Settings, report: &mut SectionErrorSink<'_>) {
    let host = login.host.as_deref().map(|host| (host, host.parse::<Hostname>()));
    match host {
        Some((host, Err(error))) => {
            report(
                &["host"],
                format!("`{host}` is not a hostname: it {error}"),
                "write a name such as `login.apps.example.com`",
            );
        }
        Some((host, Ok(_)))
            if !host.strip_suffix(&settings.zone).is_some_and(|before| before.ends_with('.')) =>
        {
            let help = format!("write a name such as `login.{}`", settings.zone);
            report(&["host"], format!("`{host}` is not in the zone `{}`", settings.zone), &help);
        }
        _ => {}
    }
    let names = || settings.access.issuers.iter().map(|issuer| issuer.name.as_str());
    if login.issuer != GITHUB && !names().any(|name| name == login.issuer) {
        let help = format!("write `{GITHUB}`, or the `name` of one of `access.issuers`");
        report(&["issuer"], format!("`{}` is not an issuer", login.issuer), &help);
    }
    if login.client_id.is_empty() {
        report(
            &["clientId"],
            "it is empty".to_owned(),
            "write the gateway's client identifier at the provider",
        );
    }
    if login.issuer != GITHUB && !login.scopes.iter().any(|scope| scope == "openid") {
        // OpenID Connect Core 1.0 §3.1.2.1: without it there is no ID token.
        report(
            &["scopes"],
            "`openid` is not among them".to_owned(),
            "add `openid`, or leave the key out",
        );
    }
    if login.port == 0 {
        report(&["port"], "0 is not a port".to_owned(), "write the public port of HTTPS");
    }
    if login.idle.is_zero() || login.absolute < login.idle {
        report(
            &["absolute"],
            "a session would expire before it may be idle".to_owned(),
            "write at least `idle`, which must be longer than zero",
        );
    }
    if login.revalidate_within.is_zero() {
        report(
            &["revalidateWithin"],
            "every session would be rejected at once".to_owned(),
            "write a time such as `1h`, or leave the key out",
        );
    }
    for name in login.authorization_parameters.keys() {
        if name.is_empty() || OWN_PARAMETERS.contains(&name.as_str()) {
            report(
                &["authorizationParameters", name],
                format!("`{name}` cannot be set: logins depend on it"),
                "remove it; `scope` is set by `scopes`",
            );
        }
    }
    url(&login.github.url, &["github", "url"], report);
    url(&login.github.api_url, &["github", "apiUrl"], report);
}

/// Checks a URL that transfers keys or secrets: it must be HTTPS, except for loopback.
fn url(text: &str, keys: &[&str], report: &mut SectionErrorSink<'_>) {
    let wrong = match text.parse::<Uri>() {
        Err(_) => "is not a URL",
        Ok(uri) => match (uri.scheme_str(), uri.host()) {
            _ if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) => {
                "has a user name in it"
            }
            (Some("https"), Some(_)) => return,
            (Some("http"), Some(host)) if is_loopback(host) => return,
            _ => "is not an `https://` URL",
        },
    };
    report(
        keys,
        format!("`{text}` {wrong}"),
        "write a URL such as `https://id.example.com`; `http://` is for loopback only",
    );
}

/// Validates the files that the settings refer to.
pub(super) fn files(settings: &Settings, report: &mut ErrorSink<'_>) {
    let access = &settings.access;
    let mut authorities = |path: &Option<std::path::PathBuf>, keys: &[&str]| {
        if let Some(path) = path {
            contains(path, CERTIFICATE, keys, report);
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
            secret(&introspection.client_secret_file, &keys, report);
        }
    }
    if let Some(path) = access.login.as_ref().and_then(|login| login.client_secret_file.as_deref())
    {
        secret(path, &["access", "login", "clientSecretFile"], report);
    }
}
