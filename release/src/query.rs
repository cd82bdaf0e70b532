//! The service's own query as a further sensor of its rollouts: one number from Prometheus.
//!
//! [`Queries`] is what the runner knows; [`Prometheus`] is the real one. Whatever is not exactly one
//! number of now is an error with a sentence, which holds a rollout and never decides it.

mod answer;

use std::path::PathBuf;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, Method, header};
use portcullis_identity::outbound::{Client, FetchError};
use portcullis_identity::tls_roots::AuthoritiesError;

use crate::feed::Service;
use crate::model::{EnvironmentName, Time};
use crate::settings::PrometheusSettings;

/// Where a query is evaluated: what its names stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The Services of both variants, and their Namespace.
    pub service: Service,
    /// The environment.
    pub environment: EnvironmentName,
}

/// Evaluates queries.
pub trait Queries: Send + Sync {
    /// The number that a query of a service has now.
    fn value<'a>(&'a self, expr: &'a str, scope: &'a Scope) -> BoxFuture<'a, Result<f64, NoValue>>;
}

/// Why a query has no number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoValue {
    /// There is no response.
    #[error("Prometheus {0}")]
    Away(String),
    /// It refused the query.
    #[error("Prometheus refused the query: {0}")]
    Refused(String),
    /// It sent something else.
    #[error("Prometheus sent no result of a query")]
    Invalid,
    /// The result is empty.
    #[error("the query returned nothing: there are no samples of the last minutes")]
    Nothing,
    /// There are several series.
    #[error(
        "the query returned {0} series, and one is needed: write an aggregation such as `sum(…)`"
    )]
    Several(usize),
    /// The result has a range of time, or is a text.
    #[error("the query returned a {0}, and not one number")]
    Kind(String),
    /// It is no number.
    #[error("the query returned {0}, which is no number, such as 0 / 0 without traffic")]
    NotANumber(String),
    /// It is of another time.
    #[error("Prometheus is {0} s away from the builder's clock")]
    Apart(u64),
}

/// The Prometheus of a cluster.
pub struct Prometheus {
    client: Client,
    settings: PrometheusSettings,
}

// === impl Scope ===

impl Scope {
    /// A query in which `$canary`, `$stable`, `$namespace` and `$environment` stand for names.
    fn written(&self, expr: &str) -> String {
        let Service { namespace, name, canary } = &self.service;
        [
            ("$canary", canary.as_str()),
            ("$stable", name),
            ("$namespace", namespace),
            ("$environment", self.environment.as_str()),
        ]
        .iter()
        .fold(expr.to_owned(), |expr, (word, name)| expr.replace(word, name))
    }

    /// The URL of a Prometheus, which may be another one for each Namespace.
    fn url(&self, base: &str) -> String {
        let base = base.replace("{namespace}", &self.service.namespace);
        let base = base.replace("{environment}", self.environment.as_str());
        format!("{}/api/v1/query", base.trim_end_matches('/'))
    }
}

// === impl Prometheus ===

impl Prometheus {
    /// Sends no request.
    ///
    /// # Errors
    /// The file of authorities cannot be used.
    pub fn new(settings: PrometheusSettings) -> Result<Self, AuthoritiesError> {
        let client = Client::new(settings.certificate_authorities.as_deref())?.with_plain_http();
        Ok(Self { client, settings })
    }

    async fn evaluate(&self, expr: &str, scope: &Scope) -> Result<f64, NoValue> {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("query", &scope.written(expr))
            .append_pair("timeout", "5s")
            .finish();
        let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        let mut headers = vec![(header::CONTENT_TYPE, form_type)];
        if let Some(token) = &self.settings.token_file {
            headers.push((header::AUTHORIZATION, bearer(token)?));
        }
        let url = scope.url(&self.settings.url);
        let sent = self.client.send(Method::POST, &url, headers, Bytes::from(form)).await;
        let answer = sent.map_err(|error: FetchError| NoValue::Away(error.to_string()))?;
        answer::read(answer.status, &answer.body, Time::now())
    }
}

impl Queries for Prometheus {
    fn value<'a>(&'a self, expr: &'a str, scope: &'a Scope) -> BoxFuture<'a, Result<f64, NoValue>> {
        Box::pin(self.evaluate(expr, scope))
    }
}

/// The token in a file, which may have been replaced.
fn bearer(path: &PathBuf) -> Result<HeaderValue, NoValue> {
    let invalid = |why: String| NoValue::Away(format!("cannot be asked: its token: {why}"));
    let token = std::fs::read_to_string(path).map_err(|error| invalid(error.to_string()))?;
    let value = HeaderValue::from_str(&format!("Bearer {}", token.trim()));
    let mut value = value.map_err(|_| invalid("it has control characters".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::post;
    use http::HeaderMap;
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;

    fn scope() -> Scope {
        let [namespace, name, canary] = ["shop", "web", "web-canary"].map(str::to_owned);
        let service = Service { namespace, name, canary };
        Scope { service, environment: "production".parse().unwrap() }
    }

    #[test]
    fn names_stand_for_both_variants_and_for_where_they_are() {
        let expr = r#"sum(rate(x{service="$canary",namespace="$namespace"}[1m])) / sum(y{service="$stable"})"#;
        assert_eq!(
            scope().written(expr),
            r#"sum(rate(x{service="web-canary",namespace="shop"}[1m])) / sum(y{service="web"})"#
        );
        let url = scope().url("http://proxy.test/{environment}/{namespace}/");
        assert_eq!(url, "http://proxy.test/production/shop/api/v1/query");
    }

    #[tokio::test]
    async fn a_query_is_sent_with_its_token_and_has_one_number() {
        let respond = async |headers: HeaderMap, body: String| {
            let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
            let is_it = token == Some("Bearer secret")
                && body == "query=up%7Bservice%3D%22web-canary%22%7D&timeout=5s";
            let now = Time::now().0 / 1000;
            let value = if is_it { "0.25" } else { "NaN" };
            let result = json!([{ "metric": {}, "value": [now, value] }]);
            let data = json!({ "resultType": "vector", "result": result });
            json!({ "status": "success", "data": data }).to_string()
        };
        let router = Router::new().route("/shop/api/v1/query", post(respond));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "secret\n").unwrap();
        let settings = PrometheusSettings {
            url: format!("http://{address}/{{namespace}}"),
            token_file: Some(token.clone()),
            certificate_authorities: None,
        };
        let prometheus = Prometheus::new(settings).unwrap();
        let expr = r#"up{service="$canary"}"#;
        assert_eq!(prometheus.value(expr, &scope()).await, Ok(0.25));
        std::fs::write(&token, "another").unwrap();
        let refused = prometheus.value(expr, &scope()).await;
        assert_eq!(refused, Err(NoValue::NotANumber("NaN".to_owned())), "it is read each time");
        std::fs::remove_file(&token).unwrap();
        let away = prometheus.value(expr, &scope()).await.unwrap_err().to_string();
        assert!(away.starts_with("Prometheus cannot be asked: its token: "), "{away}");
    }

    #[tokio::test]
    async fn one_that_is_away_is_no_value() {
        // Nothing listens on port 1.
        let settings = PrometheusSettings {
            url: "http://127.0.0.1:1".to_owned(),
            token_file: None,
            certificate_authorities: None,
        };
        let away = Prometheus::new(settings).unwrap().value("up", &scope()).await.unwrap_err();
        assert!(away.to_string().starts_with("Prometheus cannot be reached: "), "{away}");
    }
}
