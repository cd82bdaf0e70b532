//! The client of an ACME authority (RFC 8555): its account, and hints in its response headers.

use std::fs;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::BodyExt;
use instant_acme::{
    Account, AccountCredentials, BodyWrapper, BytesResponse, Error, ExternalAccountKey, HttpClient,
    NewAccount,
};
use portcullis_config::settings::acme::AuthoritySettings;
use portcullis_config::unix_time::seconds;
use portcullis_identity::outbound::{Client, FetchError};
use portcullis_identity::tls_roots::AuthoritiesError;

use super::chain::LastChain;
use super::state::Seconds;

/// The errors that concern an authority as a whole, under `urn:ietf:params:acme:error:` (RFC 8555
/// §6.7).
const AUTHORITY_ERRORS: [&str; 4] =
    ["serverInternal", "externalAccountRequired", "userActionRequired", "invalidProfile"];

/// A client of one authority.
#[derive(Clone)]
pub(super) struct Authority {
    /// The URL of its directory, which identifies it.
    pub(super) directory: String,
    settings: AuthoritySettings,
    client: Client,
    hints: Arc<Mutex<Hints>>,
    last_chain: Arc<LastChain>,
}

/// Hints of an authority beside its responses.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hints {
    /// The earliest time for another request.
    pub(super) retry_after: Option<Seconds>,
    /// How far its clock is ahead of this machine's, in seconds.
    pub(super) ahead: i64,
    /// Whether its own certificate is not valid by this machine's clock; then its time cannot be
    /// read either.
    pub(super) invalid_dates: bool,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rejection {
    /// There was no nonce, or it was rejected (RFC 8555 §6.5): retry at once.
    Nonce,
    /// The account no longer exists.
    NoAccount,
    /// The rate limit is exceeded.
    RateLimited(String),
    /// The authority is unavailable, or rejects every order.
    Authority(String),
    /// The authority rejects this order.
    Order(String),
}

// === impl Authority ===

impl Authority {
    pub(super) fn new(
        settings: &AuthoritySettings,
        directory: &str,
    ) -> Result<Self, AuthoritiesError> {
        let client = Client::new(settings.root_file.as_deref())?;
        Ok(Self {
            directory: directory.to_owned(),
            settings: settings.clone(),
            client,
            hints: Arc::default(),
            last_chain: Arc::default(),
        })
    }

    /// The same authority for one order: its hints are those of the order's own requests.
    pub(super) fn for_order(&self) -> Self {
        Self { hints: Arc::default(), last_chain: Arc::default(), ..self.clone() }
    }

    /// The profile that orders ask for.
    pub(super) fn profile(&self) -> Option<&str> {
        self.settings.profile.as_deref()
    }

    /// The account with stored credentials.
    pub(super) async fn account(&self, stored: serde_json::Value) -> Result<Account, Error> {
        let credentials: AccountCredentials = serde_json::from_value(stored)?;
        Account::builder_with_http(Box::new(self.transport())).from_credentials(credentials).await
    }

    /// Creates an account. Returns it and the credentials to store.
    pub(super) async fn new_account(&self) -> Result<(Account, serde_json::Value), Error> {
        let contact: Vec<&str> = self.settings.contact.iter().map(String::as_str).collect();
        let new = NewAccount {
            contact: &contact,
            terms_of_service_agreed: true,
            only_return_existing: false,
        };
        let external = self.settings.external_account.as_ref().map(|external| {
            let text = fs::read_to_string(&external.key_file)
                .map_err(|error| Error::Other(error.into()))?;
            let key = URL_SAFE_NO_PAD
                .decode(text.trim().trim_end_matches('='))
                .map_err(|_| Error::KeyRejected)?;
            Ok::<_, Error>(ExternalAccountKey::new(external.key_id.clone(), &key))
        });
        let external = external.transpose()?;
        let builder = Account::builder_with_http(Box::new(self.transport()));
        let (account, credentials) =
            builder.create(&new, self.directory.clone(), external.as_ref()).await?;
        Ok((account, serde_json::to_value(&credentials)?))
    }

    /// Checks that the authority accepts the account's key, by updating the contacts.
    pub(super) async fn confirm(&self, account: &Account) -> Result<(), Error> {
        let contact: Vec<&str> = self.settings.contact.iter().map(String::as_str).collect();
        account.update_contacts(&contact).await
    }

    /// Of all chains that it offers for the issued certificate, the one that the settings prefer.
    pub(super) async fn preferred_chain(
        &self,
        account: &Account,
        default: String,
    ) -> Result<String, Error> {
        match &self.settings.preferred_chain {
            Some(root) => self.last_chain.preferred(root, account, default).await,
            None => Ok(default),
        }
    }

    /// Returns the current hints, and clears `retry_after`.
    pub(super) fn take_hints(&self) -> Hints {
        let mut hints = self.hints.lock().unwrap_or_else(PoisonError::into_inner);
        Hints { retry_after: hints.retry_after.take(), ..*hints }
    }

    fn transport(&self) -> Transport {
        Transport {
            client: self.client.clone(),
            hints: Arc::clone(&self.hints),
            last_chain: Arc::clone(&self.last_chain),
        }
    }
}

/// Classifies an error of the client.
pub(super) fn classify(error: &Error) -> Rejection {
    let Error::Api(problem) = error else { return Rejection::Authority(error.to_string()) };
    let kind = problem
        .r#type
        .as_deref()
        .unwrap_or_default()
        .trim_start_matches("urn:ietf:params:acme:error:");
    let of_authority =
        AUTHORITY_ERRORS.contains(&kind) || problem.status.is_some_and(|status| status >= 500);
    match kind {
        "badNonce" => Rejection::Nonce,
        "accountDoesNotExist" => Rejection::NoAccount,
        "rateLimited" => Rejection::RateLimited(problem.to_string()),
        _ if of_authority => Rejection::Authority(problem.to_string()),
        _ => Rejection::Order(problem.to_string()),
    }
}

/// The HTTP transport of the ACME client.
struct Transport {
    client: Client,
    hints: Arc<Mutex<Hints>>,
    last_chain: Arc<LastChain>,
}

// === impl Transport ===

impl HttpClient for Transport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (client, hints, last_chain) =
            (self.client.clone(), Arc::clone(&self.hints), Arc::clone(&self.last_chain));
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let Ok(body) = body.collect().await;
            let headers = head.headers.iter().filter(|(name, _)| **name != header::USER_AGENT);
            let headers = headers.map(|(name, value)| (name.clone(), value.clone())).collect();
            let url = head.uri.to_string();
            let response = client.send(head.method, &url, headers, body.to_bytes()).await;
            let invalid_dates = response.as_ref().is_err_and(FetchError::is_about_dates);
            hints.lock().unwrap_or_else(PoisonError::into_inner).invalid_dates = invalid_dates;
            let received = response
                .map_err(|error: FetchError| Error::Other(format!("{url} {error}").into()))?;
            hints.lock().unwrap_or_else(PoisonError::into_inner).update(
                received.status.as_u16(),
                &received.headers,
                SystemTime::now(),
            );
            last_chain.observe(&received.headers, &received.body);
            let mut response = Response::new(());
            *response.status_mut() = received.status;
            *response.headers_mut() = received.headers;
            Ok(BytesResponse { parts: response.into_parts().0, body: Box::new(received.body) })
        })
    }
}

// === impl Hints ===

impl Hints {
    fn update(&mut self, status: u16, headers: &http::HeaderMap, now: SystemTime) {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(date) = text(header::DATE).and_then(|date| httpdate::parse_http_date(date).ok())
        {
            let signed = |time| i64::try_from(seconds(time)).unwrap_or(i64::MAX);
            self.ahead = signed(date).saturating_sub(signed(now));
        }
        if matches!(status, 429 | 500..) {
            self.retry_after = text(header::RETRY_AFTER).and_then(|value| {
                let value = value.trim();
                let date = || httpdate::parse_http_date(value).ok().map(seconds);
                value
                    .parse::<u64>()
                    .ok()
                    .map(|wait| seconds(now).saturating_add(wait))
                    .or_else(date)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use http::{HeaderMap, HeaderValue};

    use super::*;

    fn hints(status: u16, name: header::HeaderName, value: &str) -> Hints {
        let mut hints = Hints::default();
        hints.update(
            status,
            &HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())]),
            UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        );
        hints
    }

    #[test]
    fn retry_after_is_read_in_both_forms_from_failures_only() {
        assert_eq!(hints(429, header::RETRY_AFTER, "120").retry_after, Some(1_800_000_120));
        assert_eq!(
            hints(503, header::RETRY_AFTER, "Fri, 15 Jan 2027 08:01:00 GMT").retry_after,
            Some(1_800_000_060)
        );
        assert_eq!(hints(200, header::RETRY_AFTER, "120").retry_after, None);
        assert_eq!(hints(429, header::RETRY_AFTER, "soon").retry_after, None);
    }

    #[test]
    fn a_clock_difference_is_measured() {
        assert_eq!(hints(200, header::DATE, "Fri, 15 Jan 2027 08:01:00 GMT").ahead, 60);
        assert_eq!(hints(200, header::DATE, "Fri, 15 Jan 2027 07:59:00 GMT").ahead, -60);
    }
}
