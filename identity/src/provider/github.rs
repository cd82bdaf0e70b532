//! Login at GitHub, which speaks OAuth 2 but not OpenID Connect.
//!
//! The user, organizations and teams are read by its REST API.

use std::collections::BTreeMap;

use portcullis_config::settings::access::{GITHUB, GITHUB_PREFIX, LoginSettings};
use serde::Deserialize;

use super::{
    AuthorizationRequest, AuthorizationResponse, Person, ProviderError, Registration, Tokens,
    UnusableProvider, authorization_url, json,
};
use crate::caller::User;
use crate::outbound::Client;
use crate::person::NoUser;

const SCOPES: &str = "read:org user:email";
const MEDIA_TYPE: &str = "application/vnd.github+json";
/// Entries per page, and the maximum number of pages.
const PAGE: (usize, usize) = (100, 5);

/// GitHub, or a GitHub Enterprise server.
pub struct Github {
    url: String,
    api_url: String,
    client: Client,
    registration: Registration,
    parameters: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Account {
    id: u64,
    login: String,
    /// `User` for a person; older servers may omit it.
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Email {
    email: String,
    primary: bool,
    verified: bool,
}

#[derive(Deserialize)]
struct Organisation {
    login: String,
}

#[derive(Deserialize)]
struct Team {
    slug: String,
    organization: Organisation,
}

// === impl Github ===

impl Github {
    pub(super) fn new(
        login: &LoginSettings,
        registration: Registration,
    ) -> Result<Self, UnusableProvider> {
        let settings = &login.github;
        let client = Client::new(settings.certificate_authorities.as_deref())?;
        let plain = |url: &str| url.trim_end_matches('/').to_owned();
        Ok(Self {
            url: plain(&settings.url),
            api_url: plain(&settings.api_url),
            client,
            registration,
            parameters: login.authorization_parameters.clone(),
        })
    }

    pub(super) fn begin(&self, request: &AuthorizationRequest<'_>) -> String {
        authorization_url(
            &format!("{}/login/oauth/authorize", self.url),
            &[
                ("client_id", &self.registration.id),
                ("redirect_uri", request.redirect_uri),
                ("scope", SCOPES),
                ("state", request.state),
                ("code_challenge", request.challenge),
                ("code_challenge_method", "S256"),
            ],
            &self.parameters,
        )
    }

    pub(super) async fn is_unavailable(&self) -> bool {
        match self.client.get(&self.api_url, MEDIA_TYPE).await {
            Ok(answer) => answer.status.is_server_error(),
            Err(_) => true,
        }
    }

    pub(super) async fn finish(
        &self,
        response: &AuthorizationResponse<'_>,
    ) -> Result<Person, ProviderError> {
        let secret = self.registration.secret().await?.unwrap_or_default();
        let form = [
            ("client_id", self.registration.id.as_str()),
            ("client_secret", &secret),
            ("code", response.code),
            ("redirect_uri", response.redirect_uri),
            ("code_verifier", response.verifier),
        ];
        let answer = self
            .client
            .post_form(&format!("{}/login/oauth/access_token", self.url), &form, None)
            .await?;
        let token =
            Tokens::read(&answer)?.access_token.ok_or(ProviderError::Missing("access_token"))?;
        let account: Account = self.ask("/user", &token).await?;
        if account.kind.as_deref().is_some_and(|kind| kind != "User") {
            return Err(ProviderError::NoUser(NoUser::Program("type")));
        }
        let emails: Vec<Email> = self.ask("/user/emails", &token).await?;
        let email = emails
            .into_iter()
            .find(|email| email.primary && email.verified)
            .map(|email| email.email.into());
        let organisations: Vec<Organisation> = self.list("/user/orgs", &token).await?;
        let teams: Vec<Team> = self.list("/user/teams", &token).await?;
        Ok(Person {
            user: user(account, email, &organisations, &teams),
            session: None,
            refresh_token: None,
        })
    }

    async fn list<T: for<'de> Deserialize<'de>>(
        &self,
        path: &str,
        token: &str,
    ) -> Result<Vec<T>, ProviderError> {
        let mut all = Vec::new();
        for page in 1..=PAGE.1 {
            let mut some: Vec<T> =
                self.ask(&format!("{path}?per_page={}&page={page}", PAGE.0), token).await?;
            let last = some.len() < PAGE.0;
            all.append(&mut some);
            if last {
                break;
            }
        }
        Ok(all)
    }

    async fn ask<T: for<'de> Deserialize<'de>>(
        &self,
        path: &str,
        token: &str,
    ) -> Result<T, ProviderError> {
        json(
            &self.client.get_as(&format!("{}{path}", self.api_url), MEDIA_TYPE, token).await?,
            "API response",
        )
    }
}

/// Builds the user. GitHub compares names without case and grants do not: all are in lower case.
fn user(
    account: Account,
    email: Option<Box<str>>,
    organisations: &[Organisation],
    teams: &[Team],
) -> User {
    let named =
        |name: &str| format!("{GITHUB_PREFIX}{}", name.to_ascii_lowercase()).into_boxed_str();
    let organisations = organisations.iter().map(|organisation| named(&organisation.login));
    let teams =
        teams.iter().map(|team| named(&format!("{}/{}", team.organization.login, team.slug)));
    User {
        name: named(&account.login),
        prefix: GITHUB_PREFIX.len(),
        email,
        preferred_username: Some(account.login.into()),
        groups: organisations.chain(teams).collect(),
        issuer: GITHUB.into(),
        subject: account.id.to_string().into(),
    }
}

#[cfg(test)]
mod tests;
