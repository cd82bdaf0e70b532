//! Requests to one repository of one registry.
//!
//! Redirects are not followed, and credentials go to the registry and to its token server alone: a
//! registry decides neither where the builder sends requests nor who receives its password.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
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
    access: Access,
    credentials: Option<Credentials>,
    authorization: Option<HeaderValue>,
}

/// What is done with a repository.
#[derive(Debug, Clone, Copy)]
pub(super) enum Access {
    /// Images are read.
    Pull,
    /// Tags are written, too.
    Push,
}

type Headers = Vec<(HeaderName, HeaderValue)>;

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
        access: Access,
        credentials: Option<Credentials>,
    ) -> Self {
        Self { client, host, token_server, repository, access, credentials, authorization: None }
    }

    /// Reads a path of the repository, such as `manifests/1.4`. Authenticates if the registry asks
    /// for it. Returns a response with status 200.
    pub(super) async fn get(
        &mut self,
        path: &str,
        accept: &'static [&'static str],
    ) -> Result<Answer, ImageError> {
        let answer = self.exchange(Method::GET, path, accepting(accept), Bytes::new()).await?;
        match answer.status {
            StatusCode::OK => Ok(answer),
            status => Err(self.failed(status)),
        }
    }

    /// Writes a path of the repository.
    pub(super) async fn put(
        &mut self,
        path: &str,
        content_type: HeaderValue,
        body: Bytes,
    ) -> Result<(), ImageError> {
        let headers = vec![(header::CONTENT_TYPE, content_type)];
        let answer = self.exchange(Method::PUT, path, headers, body).await?;
        match answer.status {
            StatusCode::OK | StatusCode::CREATED | StatusCode::ACCEPTED => Ok(()),
            status => Err(self.failed(status)),
        }
    }

    /// Sends a request, and authenticates if the registry asks for it.
    async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        headers: Headers,
        body: Bytes,
    ) -> Result<Answer, ImageError> {
        let url = format!("https://{}/v2/{}/{path}", endpoint(self.host), self.repository);
        self.exchange_at(method, &url, headers, body).await
    }

    /// Sends a request to a URL of the registry.
    async fn exchange_at(
        &mut self,
        method: Method,
        url: &str,
        headers: Headers,
        body: Bytes,
    ) -> Result<Answer, ImageError> {
        let authorization = self.authorization.clone();
        let first = self.send(&method, url, headers.clone(), authorization, body.clone()).await?;
        // A token may expire during a long upload; a password does not.
        let is_final = |value: &HeaderValue| !value.as_bytes().starts_with(b"Bearer ");
        if first.status != StatusCode::UNAUTHORIZED
            || self.authorization.as_ref().is_some_and(is_final)
        {
            return Ok(first);
        }
        let challenge = Challenge::read(&first.headers).ok_or_else(|| self.unauthorized())?;
        self.authorization = Some(self.authorize(challenge).await?);
        self.send(&method, url, headers, self.authorization.clone(), body).await
    }

    /// Whether the repository has a blob.
    pub(super) async fn has_blob(&mut self, digest: &str) -> Result<bool, ImageError> {
        let path = format!("blobs/{digest}");
        let answer = self.exchange(Method::HEAD, &path, Vec::new(), Bytes::new()).await?;
        match answer.status {
            StatusCode::OK => Ok(true),
            // Some have nothing of a repository before the first upload to it.
            StatusCode::NOT_FOUND => Ok(false),
            status => Err(self.failed(status)),
        }
    }

    /// Starts the upload of a blob. Returns the URL of its first part.
    pub(super) async fn start_upload(&mut self) -> Result<String, ImageError> {
        let answer =
            self.exchange(Method::POST, "blobs/uploads/", Vec::new(), Bytes::new()).await?;
        match answer.status {
            StatusCode::ACCEPTED => self.location(&answer),
            status => Err(self.failed(status)),
        }
    }

    /// Uploads a part of a blob that begins at `offset`. Returns the URL of the next part.
    pub(super) async fn upload_part(
        &mut self,
        url: &str,
        offset: u64,
        part: Bytes,
    ) -> Result<String, ImageError> {
        let last = offset.saturating_add(part.len() as u64).saturating_sub(1);
        let range = HeaderValue::from_str(&format!("{offset}-{last}"));
        let range = range.map_err(|_| self.unavailable("the blob is too large"))?;
        let headers = vec![
            (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
            (header::CONTENT_RANGE, range),
        ];
        let answer = self.exchange_at(Method::PATCH, url, headers, part).await?;
        match answer.status {
            StatusCode::ACCEPTED => self.location(&answer),
            status => Err(self.failed(status)),
        }
    }

    /// Ends the upload of a blob, which the registry compares with its digest.
    pub(super) async fn end_upload(&mut self, url: &str, digest: &str) -> Result<(), ImageError> {
        let join = if url.contains('?') { '&' } else { '?' };
        let url = format!("{url}{join}digest={digest}");
        let answer = self.exchange_at(Method::PUT, &url, Vec::new(), Bytes::new()).await?;
        match answer.status {
            StatusCode::CREATED => Ok(()),
            status => Err(self.failed(status)),
        }
    }

    /// Where an upload continues, if that is at the registry: no other host gets its credentials.
    fn location(&self, answer: &Answer) -> Result<String, ImageError> {
        let location = answer.headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location =
            location.ok_or_else(|| self.unavailable("it named no place to upload to"))?;
        let own = format!("https://{}/", endpoint(self.host));
        if location.starts_with('/') && !location.starts_with("//") {
            return Ok(format!("{own}{}", location.trim_start_matches('/')));
        }
        let is_own = location.starts_with(&own);
        is_own.then(|| location.to_owned()).ok_or_else(|| {
            self.unavailable("it redirects uploads to another host, which is not followed")
        })
    }

    /// The error of a response with another status than expected.
    fn failed(&self, status: StatusCode) -> ImageError {
        match status {
            StatusCode::UNAUTHORIZED => self.unauthorized(),
            StatusCode::NOT_FOUND => {
                ImageError::NotFound(format!("{}/{}", self.host, self.repository))
            }
            status if status.is_redirection() => {
                self.unavailable("it redirects, and redirects are not followed")
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                self.unavailable(&format!("it returned status {}", status.as_u16()))
            }
            status if status.is_client_error() => {
                ImageError::Rejected(self.host.to_owned(), status.as_u16())
            }
            status => self.unavailable(&format!("it returned status {}", status.as_u16())),
        }
    }

    async fn send(
        &self,
        method: &Method,
        url: &str,
        mut headers: Headers,
        authorization: Option<HeaderValue>,
        body: Bytes,
    ) -> Result<Answer, ImageError> {
        headers.extend(authorization.map(|value| (header::AUTHORIZATION, value)));
        let answer = self.client.send(method.clone(), url, headers, body).await;
        answer.map_err(|error| self.unavailable(&error.to_string()))
    }

    async fn authorize(&self, challenge: Challenge) -> Result<HeaderValue, ImageError> {
        let basic = self.credentials.as_ref().and_then(Credentials::basic);
        let (realm, service) = match challenge {
            Challenge::Basic => return basic.ok_or_else(|| self.unauthorized()),
            Challenge::Bearer { realm, service } => (realm, service),
        };
        let url = self.token_url(&realm, service.as_deref())?;
        let headers = accepting(&["application/json"]);
        let answer = self.send(&Method::GET, &url, headers, basic, Bytes::new()).await?;
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
        let actions = self.access.actions();
        query.append_pair("scope", &format!("repository:{}:{actions}", self.repository));
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

// === impl Access ===

impl Access {
    /// The actions of a token's scope.
    fn actions(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
        }
    }
}

fn accepting(kinds: &'static [&'static str]) -> Headers {
    kinds.iter().map(|kind| (header::ACCEPT, HeaderValue::from_static(kind))).collect()
}

/// Where a registry is served. That of Docker Hub has another name than in its images.
fn endpoint(host: &str) -> &str {
    if host == "docker.io" { "registry-1.docker.io" } else { host }
}
