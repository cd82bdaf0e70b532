//! Whether a token identifies a person, and which.
//!
//! Programs also get tokens, which look like those of people: most have a `sub`, many a user name
//! and groups. A token therefore identifies a user only with positive evidence, and a mark of a
//! program's token overrides any evidence.
//!
//! | origin of the token | evidence |
//! | --- | --- |
//! | from the provider, in a login that the gateway itself ran | that login |
//! | from a client | the issuer's `userEvidence`; without it, a verified e-mail address |

use std::fmt;

use portcullis_config::settings::access::{IssuerSettings, UserEvidence};
use serde_json::Value;

use super::caller::{MAX_GROUPS, User};
use super::claims::Claims;

/// Why a valid token identifies no user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoUser {
    /// Its user claim or `sub` is missing.
    Unnamed,
    /// This claim marks it as a program's token.
    Program(&'static str),
    /// It has no evidence of a person.
    NoEvidence,
    /// Its name begins with the prefix of another issuer.
    Foreign,
}

/// Maximum number of groups that are read at a login, of which those that matter most are kept.
const MAX_LOGIN_GROUPS: usize = 8 * 1024;

/// Claims with the client that a token was issued to.
const CLIENTS: [&str; 6] = ["azp", "client_id", "clientId", "cid", "appid", "app_id"];

/// Claims that only programs' tokens have.
const ONLY_PROGRAMS: [&str; 12] = [
    // Keycloak: where a service account called from.
    "clientHost",
    "clientAddress",
    // Kubernetes: a ServiceAccount's token, and the older kind in a Secret.
    "kubernetes.io",
    "kubernetes.io/serviceaccount/namespace",
    // Azure: the resource that a managed identity belongs to.
    "xms_mirid",
    // GitHub Actions.
    "job_workflow_ref",
    "workflow_ref",
    "runner_environment",
    // GitLab CI.
    "job_id",
    "pipeline_id",
    "ci_config_ref_uri",
    // Bitbucket Pipelines.
    "pipelineUuid",
];

/// Claims with the grant type of a token (Auth0, Cloud Foundry UAA and others).
const GRANTS: [&str; 3] = ["gty", "grant_type", "grantType"];

/// Claims with the kind of subject, and their value for programs.
const KINDS: [(&str, &str); 2] = [("sub_type", "client"), ("aut", "APPLICATION")];

/// Prefixes and suffixes of names that only programs have.
const PROGRAM_NAMES: [(&str, &str); 11] = [
    // Keycloak.
    ("service-account-", ""),
    // authentik.
    ("ak-", "-client_credentials"),
    // Auth0.
    ("", "@clients"),
    // Google.
    ("", "@gserviceaccount.com"),
    ("", ".gserviceaccount.com"),
    // ForgeRock.
    ("(age!", ")"),
    // The gateway's own name of a program, in the assertion for backends.
    ("application:", ""),
    ("client:", ""),
    // Kubernetes, SPIFFE.
    ("system:serviceaccount:", ""),
    ("system:node:", ""),
    ("spiffe://", ""),
];

/// Returns the user that a bearer token identifies.
///
/// # Errors
/// It identifies no person, or lacks a name.
pub(super) fn of_bearer(claims: &Claims, issuer: &IssuerSettings) -> Result<User, NoUser> {
    let user = user(claims, issuer, MAX_GROUPS)?;
    if has_evidence(claims, issuer.user_evidence.as_deref()) {
        Ok(user)
    } else {
        Err(NoUser::NoEvidence)
    }
}

/// Returns the user of a login that the gateway itself ran, which is evidence of a person.
///
/// # Errors
/// It is a program's token, or lacks a name.
pub fn of_login(claims: &Claims, issuer: &IssuerSettings) -> Result<User, NoUser> {
    user(claims, issuer, MAX_LOGIN_GROUPS)
}

fn user(claims: &Claims, issuer: &IssuerSettings, max_groups: usize) -> Result<User, NoUser> {
    let subject = claims.text("sub").ok_or(NoUser::Unnamed)?;
    let email = verified_email(claims);
    let name = match issuer.user_claim.as_str() {
        "email" => email,
        claim => claims.text(claim),
    };
    let name = name.ok_or(NoUser::Unnamed)?;
    if let Some(mark) = program_mark(claims, issuer, [subject, name]) {
        return Err(NoUser::Program(mark));
    }
    let prefixed = |name: &str| format!("{}{name}", issuer.prefix).into_boxed_str();
    Ok(User {
        name: prefixed(name),
        prefix: issuer.prefix.len(),
        email: email.map(Into::into),
        preferred_username: claims.text("preferred_username").map(Into::into),
        groups: claims.texts(&issuer.group_claim).take(max_groups).map(prefixed).collect(),
        issuer: issuer.name.as_str().into(),
        subject: subject.into(),
    })
}

/// Returns the e-mail address, if the issuer verified it (OpenID Connect Core 1.0 §5.1).
fn verified_email(claims: &Claims) -> Option<&str> {
    claims.text("email").filter(|_| claims.get("email_verified") == Some(&Value::Bool(true)))
}

fn has_evidence(claims: &Claims, evidence: Option<&[UserEvidence]>) -> bool {
    match evidence {
        None => verified_email(claims).is_some(),
        Some(any) => any.iter().any(|evidence| is_matched(evidence, claims)),
    }
}

fn is_matched(UserEvidence { claim, value }: &UserEvidence, claims: &Claims) -> bool {
    if claim == "email" && verified_email(claims).is_none() {
        return false;
    }
    match value {
        Some(pattern) => claims.texts(claim).any(|text| pattern.matches(text)),
        None => claims.get(claim).is_some_and(is_truthy),
    }
}

fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is_so) => *is_so,
        Value::Number(number) => number.as_f64().is_some_and(|number| number != 0.0),
        Value::String(text) => !text.is_empty() && !text.eq_ignore_ascii_case("false"),
        Value::Array(list) => list.iter().any(is_truthy),
        Value::Object(members) => !members.is_empty(),
    }
}

/// Returns the claim that marks a program's token. `names` are the names of the would-be user.
fn program_mark(
    claims: &Claims,
    issuer: &IssuerSettings,
    names: [&str; 2],
) -> Option<&'static str> {
    let has = |name: &&&'static str| claims.get(name).is_some();
    let has_value =
        |name: &str, word: &str| claims.texts(name).any(|text| text.eq_ignore_ascii_case(word));
    if let Some(name) = ONLY_PROGRAMS.iter().find(has) {
        return Some(name);
    }
    if let Some(name) = GRANTS.iter().find(|name| claims.texts(name).any(is_client_credentials)) {
        return Some(name);
    }
    if let Some((name, _)) = KINDS.iter().find(|(name, word)| has_value(name, word)) {
        return Some(name);
    }
    if claims.get("idtyp").is_some() && !has_value("idtyp", "user") {
        return Some("idtyp");
    }
    if is_app_only(claims) {
        return Some("scp");
    }
    let called = ["email", "preferred_username", "username", "upn"];
    if let Some(name) = called.iter().find(|name| claims.text(name).is_some_and(is_program_name)) {
        return Some(name);
    }
    // RFC 9068 §2.2: `sub` of a client's own token is the client. Some issuers set only `aud`.
    let is_client = |name: &str| {
        let applications = issuer.application_claims.iter().map(String::as_str);
        let mut clients = CLIENTS.into_iter().chain(["aud"]).chain(applications);
        clients.any(|claim| has_value(claim, name) || is_number(claims.get(claim), name))
    };
    names.into_iter().any(|name| is_program_name(name) || is_client(name)).then_some("sub")
}

/// Whether a claim is a number with these digits, as some issuers write identifiers.
fn is_number(value: Option<&Value>, digits: &str) -> bool {
    matches!(value, Some(Value::Number(number)) if number.to_string() == digits)
}

fn is_client_credentials(grant: &str) -> bool {
    ["client-credentials", "client_credentials"].iter().any(|own| grant.eq_ignore_ascii_case(own))
}

/// Whether it is an access token of Entra ID without a delegated scope, which only applications
/// have: `appidacr` and `azpacr` are only in access tokens, and applications have `oid` as `sub`.
fn is_app_only(claims: &Claims) -> bool {
    let has_any = |names: [&str; 2]| names.into_iter().any(|name| claims.get(name).is_some());
    let is_access_token = has_any(["appidacr", "azpacr"]);
    let is_own_object = claims.text("oid").is_some_and(|object| claims.text("sub") == Some(object))
        && has_any(["appid", "azp"]);
    (is_access_token || is_own_object) && claims.texts("scp").next().is_none()
}

fn is_program_name(name: &str) -> bool {
    let name = name.as_bytes();
    PROGRAM_NAMES.iter().any(|(start, end)| {
        let begins =
            name.get(..start.len()).is_some_and(|own| own.eq_ignore_ascii_case(start.as_bytes()));
        let ends = name.len().checked_sub(end.len()).and_then(|from| name.get(from..));
        begins && ends.is_some_and(|own| own.eq_ignore_ascii_case(end.as_bytes()))
    })
}

// === impl NoUser ===

impl fmt::Display for NoUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unnamed => f.write_str("its user claim or `sub` is missing or empty"),
            Self::Program(claim) => write!(f, "it is a program's own, as its `{claim}` shows"),
            Self::NoEvidence => {
                f.write_str("nothing in it shows a person: see `userEvidence` of its issuer")
            }
            Self::Foreign => f.write_str("its name begins with the `prefix` of another issuer"),
        }
    }
}

#[cfg(test)]
#[path = "person_tests.rs"]
mod tests;
