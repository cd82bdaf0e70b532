//! Requests to one repository of one registry.
//!
//! Redirects are not followed, and credentials go to the registry and to its token server alone: a
//! registry decides neither where the builder sends requests nor who receives its password.

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Uri, header};
use portcullis_identity::outbound::{Answer, Client};
use serde::Deserialize;

use super::ImageError;
use super::challenge::Challenge;
use super::credentials::Credentials;

/// The registry's repository, and what authenticates to it.
pub(super) struct Session<'r> {
    client: Client,
    /// The registry, as in names of images.
    host: &'r str,
    /// Where tokens may come from besides the registry.
    token_server: Option<&'r str>,
    repository: &'r str,
    credentials: Option<Credentials>,
    authorization: Option<HeaderValue>,
}

/// A token server's response (<https://distribution.github.io/distribution/spec/auth/token/>).
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

// === impl Session ===

impl<'r> Session<'r> {
    pub(super) fn new(
        client: Client,
        host: &'r str,
        token_server: Option<&'r str>,
        repository: &'r str,
        credentials: Option<Credentials>,
    ) -> Self {
        Self { client, host, token_server, repository, credentials, authorization: None }
    }

    /// Reads a path of the repository, such as `manifests/1.4`. Authenticates if the registry asks
    /// for it. Returns a response with status 200.
    pub(super) async fn get(
        &mut self,
        path: &str,
        accept: &'static [&'static str],
    ) -> Result<Answer, ImageError> {
        let url = format!("https://{}/v2/{}/{path}", endpoint(self.host), self.repository);
        let mut answer = self.send(&url, accept, self.authorization.clone()).await?;
        if answer.status == StatusCode::UNAUTHORIZED && self.authorization.is_none() {
            let challenge = Challenge::read(&answer.headers).ok_or_else(|| self.unauthorized())?;
            self.authorization = Some(self.authorize(challenge).await?);
            answer = self.send(&url, accept, self.authorization.clone()).await?;
        }
        match answer.status {
            StatusCode::OK => Ok(answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.unauthorized()),
            StatusCode::NOT_FOUND => {
                Err(ImageError::NotFound(format!("{}/{}", self.host, self.repository)))
            }
            status if status.is_redirection() => {
                Err(self.unavailable("it redirects, and redirects are not followed"))
            }
            status => Err(self.unavailable(&format!("it returned status {}", status.as_u16()))),
        }
    }

    async fn send(
        &self,
        url: &str,
        accept: &'static [&'static str],
        authorization: Option<HeaderValue>,
    ) -> Result<Answer, ImageError> {
        let accept = accept.iter().map(|kind| (header::ACCEPT, HeaderValue::from_static(kind)));
        let authorization = authorization.map(|value| (header::AUTHORIZATION, value));
        let headers = accept.chain(authorization).collect();
        let answer = self.client.send(Method::GET, url, headers, Bytes::new()).await;
        answer.map_err(|error| self.unavailable(&error.to_string()))
    }

    async fn authorize(&self, challenge: Challenge) -> Result<HeaderValue, ImageError> {
        let basic = self.credentials.as_ref().and_then(Credentials::basic);
        let (realm, service) = match challenge {
            Challenge::Basic => return basic.ok_or_else(|| self.unauthorized()),
            Challenge::Bearer { realm, service } => (realm, service),
        };
        let url = self.token_url(&realm, service.as_deref())?;
        let answer = self.send(&url, &["application/json"], basic).await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.unauthorized()),
            status => {
                let status = status.as_u16();
                return Err(self.unavailable(&format!("its token server returned status {status}")));
            }
        }
        let token = serde_json::from_slice(&answer.body)
            .ok()
            .and_then(|token: Token| token.token.or(token.access_token))
            .and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
        let mut token = token.ok_or_else(|| self.unavailable("its token server sent no token"))?;
        token.set_sensitive(true);
        Ok(token)
    }

    /// The URL that a token is fetched from, if it is one of the registry or of its token server.
    fn token_url(&self, realm: &str, service: Option<&str>) -> Result<String, ImageError> {
        let realm: Uri =
            realm.parse().map_err(|_| self.unavailable("its token server has no valid URL"))?;
        let authority = realm.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        let is_known = authority == endpoint(self.host) || self.token_server == Some(authority);
        if realm.scheme_str() != Some("https") || !is_known {
            return Err(self.unavailable(&format!(
                "it refers to the token server {authority:?}, which the builder's configuration \
                 does not name as its `tokenServer`"
            )));
        }
        let mut query = form_urlencoded::Serializer::new(String::new());
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        query.append_pair("scope", &format!("repository:{}:pull", self.repository));
        let join = if realm.query().is_some() { '&' } else { '?' };
        let path = realm.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        Ok(format!("https://{authority}{path}{join}{}", query.finish()))
    }

    pub(super) fn unavailable(&self, reason: &str) -> ImageError {
        ImageError::Unavailable(self.host.to_owned(), reason.to_owned())
    }

    fn unauthorized(&self) -> ImageError {
        ImageError::Unauthorized(self.host.to_owned())
    }
}

/// Where a registry is served. That of Docker Hub has another name than in its images.
fn endpoint(host: &str) -> &str {
    if host == "docker.io" { "registry-1.docker.io" } else { host }
}
