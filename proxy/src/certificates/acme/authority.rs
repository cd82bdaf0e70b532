//! Talking to an authority (RFC 8555): its account, and what it says beside its answers.

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

use super::chain::Received;
use super::state::Seconds;

/// The problems of an authority as a whole, by their names under `urn:ietf:params:acme:error:` (RFC
/// 8555 §6.7).
const OF_THE_AUTHORITY: [&str; 4] =
    ["serverInternal", "externalAccountRequired", "userActionRequired", "invalidProfile"];

/// An authority.
#[derive(Clone)]
pub(super) struct Authority {
    /// The URL of its directory, which is its name.
    pub(super) directory: String,
    settings: AuthoritySettings,
    client: Client,
    heard: Arc<Mutex<Heard>>,
    received: Arc<Received>,
}

/// What an authority said beside its answers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Heard {
    /// Not to be asked again before.
    pub(super) retry_after: Option<Seconds>,
    /// By how much its clock is ahead of this machine's, in seconds.
    pub(super) ahead: i64,
    /// Its own certificate is not valid by this machine's clock, so that it cannot even be asked
    /// for the time.
    pub(super) undated: bool,
}

/// Why a request came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its nonces ran out or were not taken (RFC 8555 §6.5): at once again.
    Nonce,
    /// The account is not known there any more.
    NoAccount,
    /// There were too many orders like it.
    Limited(String),
    /// The authority is away, broken or overloaded, or wants nothing of us.
    Authority(String),
    /// It does not want this order.
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
            heard: Arc::default(),
            received: Arc::default(),
        })
    }

    /// The profile that orders ask for.
    pub(super) fn profile(&self) -> Option<&str> {
        self.settings.profile.as_deref()
    }

    /// The account that is kept.
    pub(super) async fn account(&self, kept: serde_json::Value) -> Result<Account, Error> {
        let credentials: AccountCredentials = serde_json::from_value(kept)?;
        Account::builder_with_http(Box::new(self.transport())).from_credentials(credentials).await
    }

    /// A new account, and what is to be kept of it.
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

    /// Whether the account's key is the one that the authority knows: it is asked to note whom it
    /// may write to once more.
    pub(super) async fn confirm(&self, account: &Account) -> Result<(), Error> {
        let contact: Vec<&str> = self.settings.contact.iter().map(String::as_str).collect();
        account.update_contacts(&contact).await
    }

    /// Of all chains that it offers for a certificate of an account's, of which one was just given:
    /// the one that the settings prefer.
    pub(super) async fn preferred_chain(
        &self,
        account: &Account,
        given: String,
    ) -> Result<String, Error> {
        match &self.settings.preferred_chain {
            Some(root) => self.received.preferred(root, account, given).await,
            None => Ok(given),
        }
    }

    /// What it said beside its answers since the last time.
    pub(super) fn take_heard(&self) -> Heard {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        Heard { retry_after: heard.retry_after.take(), ..*heard }
    }

    fn transport(&self) -> Transport {
        Transport {
            client: self.client.clone(),
            heard: Arc::clone(&self.heard),
            received: Arc::clone(&self.received),
        }
    }
}

/// What an error of the client means.
pub(super) fn judge(error: &Error) -> Refusal {
    let Error::Api(problem) = error else { return Refusal::Authority(error.to_string()) };
    let kind = problem
        .r#type
        .as_deref()
        .unwrap_or_default()
        .trim_start_matches("urn:ietf:params:acme:error:");
    let of_authority =
        OF_THE_AUTHORITY.contains(&kind) || problem.status.is_some_and(|status| status >= 500);
    match kind {
        "badNonce" => Refusal::Nonce,
        "accountDoesNotExist" => Refusal::NoAccount,
        "rateLimited" => Refusal::Limited(problem.to_string()),
        _ if of_authority => Refusal::Authority(problem.to_string()),
        _ => Refusal::Order(problem.to_string()),
    }
}

/// HTTP as the client for ACME wants it.
struct Transport {
    client: Client,
    heard: Arc<Mutex<Heard>>,
    received: Arc<Received>,
}

// === impl Transport ===

impl HttpClient for Transport {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let (client, heard, received) =
            (self.client.clone(), Arc::clone(&self.heard), Arc::clone(&self.received));
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let Ok(body) = body.collect().await;
            let headers = head.headers.iter().filter(|(name, _)| **name != header::USER_AGENT);
            let headers = headers.map(|(name, value)| (name.clone(), value.clone())).collect();
            let url = head.uri.to_string();
            let answer = client.send(head.method, &url, headers, body.to_bytes()).await;
            let undated = answer.as_ref().is_err_and(FetchError::is_about_dates);
            heard.lock().unwrap_or_else(PoisonError::into_inner).undated = undated;
            let answer = answer
                .map_err(|error: FetchError| Error::Other(format!("{url} {error}").into()))?;
            heard.lock().unwrap_or_else(PoisonError::into_inner).hear(
                answer.status.as_u16(),
                &answer.headers,
                SystemTime::now(),
            );
            received.look(&answer.headers, &answer.body);
            let mut response = Response::new(());
            *response.status_mut() = answer.status;
            *response.headers_mut() = answer.headers;
            Ok(BytesResponse { parts: response.into_parts().0, body: Box::new(answer.body) })
        })
    }
}

// === impl Heard ===

impl Heard {
    fn hear(&mut self, status: u16, headers: &http::HeaderMap, now: SystemTime) {
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

    fn heard(status: u16, name: header::HeaderName, value: &str) -> Heard {
        let mut heard = Heard::default();
        heard.hear(
            status,
            &HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())]),
            UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        );
        heard
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_from_failures_alone() {
        assert_eq!(heard(429, header::RETRY_AFTER, "120").retry_after, Some(1_800_000_120));
        assert_eq!(
            heard(503, header::RETRY_AFTER, "Fri, 15 Jan 2027 08:01:00 GMT").retry_after,
            Some(1_800_000_060)
        );
        assert_eq!(heard(200, header::RETRY_AFTER, "120").retry_after, None);
        assert_eq!(heard(429, header::RETRY_AFTER, "soon").retry_after, None);
    }

    #[test]
    fn a_clock_that_is_wrong_is_noticed() {
        assert_eq!(heard(200, header::DATE, "Fri, 15 Jan 2027 08:01:00 GMT").ahead, 60);
        assert_eq!(heard(200, header::DATE, "Fri, 15 Jan 2027 07:59:00 GMT").ahead, -60);
    }
}
