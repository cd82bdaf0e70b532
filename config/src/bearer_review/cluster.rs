//! Reviews by the API server, as in kube-rbac-proxy: a TokenReview authenticates the token, a
//! SubjectAccessReview authorizes its account.

use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::time::timeout;

use super::{BearerReview, PATH, Unavailable, Verdict};
use crate::settings::KubernetesSettings;
use crate::source::SourceError;
use crate::source::kubernetes::client;

/// Timeout of both requests together.
const REVIEW: Duration = Duration::from_secs(5);

/// A cluster that reviews bearers.
pub(super) struct Cluster {
    client: Client,
}

// === impl Cluster ===

impl Cluster {
    /// Finds the API server and the credentials for it; sends no request.
    ///
    /// # Errors
    /// There is no kubeconfig, or none that can be used.
    pub(super) async fn new(settings: &KubernetesSettings) -> Result<Self, SourceError> {
        Ok(Self { client: client(settings).await? })
    }

    async fn decide(&self, token: String) -> Result<Verdict, kube::Error> {
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let reviewed = reviews.create(&PostParams::default(), &token_review(token)).await?;
        let Some(user) = account(reviewed) else { return Ok(Verdict::Unauthenticated) };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let reviewed = reviews.create(&PostParams::default(), &access_review(user)).await?;
        Ok(match is_allowed(&reviewed) {
            true => Verdict::Allowed,
            false => Verdict::Forbidden,
        })
    }
}

impl BearerReview for Cluster {
    fn review(&self, token: String) -> BoxFuture<'_, Result<Verdict, Unavailable>> {
        Box::pin(async move {
            match timeout(REVIEW, self.decide(token)).await {
                Ok(Ok(verdict)) => Ok(verdict),
                Ok(Err(error)) => Err(Unavailable::Cluster(Box::new(error))),
                Err(_) => Err(Unavailable::Late),
            }
        })
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}

/// Asks whose the token is. Without audiences, it must be one for the API server itself.
fn token_review(token: String) -> TokenReview {
    let spec = TokenReviewSpec { token, audiences: None };
    TokenReview { spec, ..TokenReview::default() }
}

/// The account of the token; `None` unless the API server authenticated it.
fn account(review: TokenReview) -> Option<UserInfo> {
    let status = review.status.filter(|status| status.authenticated == Some(true))?;
    status.user.filter(|user| user.username.as_ref().is_some_and(|name| !name.is_empty()))
}

/// Asks whether the account may read telemetry.
fn access_review(user: UserInfo) -> SubjectAccessReview {
    let url = NonResourceAttributes { path: Some(PATH.to_owned()), verb: Some("get".to_owned()) };
    let spec = SubjectAccessReviewSpec {
        user: user.username,
        uid: user.uid,
        groups: user.groups,
        extra: user.extra,
        non_resource_attributes: Some(url),
        resource_attributes: None,
    };
    SubjectAccessReview { spec, ..SubjectAccessReview::default() }
}

fn is_allowed(review: &SubjectAccessReview) -> bool {
    review.status.as_ref().is_some_and(|status| status.allowed && status.denied != Some(true))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn named(status: &Value) -> Option<UserInfo> {
        let review = json!({ "spec": {}, "status": status });
        account(serde_json::from_value(review).expect("a review"))
    }

    #[test]
    fn only_an_authenticated_account_is_used() {
        let user = json!({ "username": "prometheus", "groups": ["monitors"], "uid": "7" });
        let found = named(&json!({ "authenticated": true, "user": user })).expect("an account");
        assert_eq!(found.username.as_deref(), Some("prometheus"));
        for status in [
            json!({ "authenticated": false, "user": user }),
            json!({ "user": user }),
            json!({ "authenticated": true }),
            json!({ "authenticated": true, "user": { "username": "" } }),
            json!({ "error": "the token has expired" }),
            json!(null),
        ] {
            assert_eq!(named(&status), None, "{status}");
        }
    }

    #[test]
    fn the_access_review_carries_every_attribute_of_the_account() {
        let user = json!({
            "username": "prometheus", "groups": ["monitors"], "uid": "7",
            "extra": { "pod": ["prometheus-0"] },
        });
        let review =
            access_review(named(&json!({ "authenticated": true, "user": user })).expect("one"));
        assert_eq!(
            serde_json::to_value(&review.spec).expect("JSON"),
            json!({
                "user": "prometheus", "groups": ["monitors"], "uid": "7",
                "extra": { "pod": ["prometheus-0"] },
                "nonResourceAttributes": { "path": "/metrics", "verb": "get" },
            })
        );
    }

    #[test]
    fn only_an_allowed_status_that_is_not_denied_allows() {
        let allowed = |status: Value| {
            let review = json!({ "spec": {}, "status": status });
            is_allowed(&serde_json::from_value(review).expect("a review"))
        };
        assert!(allowed(json!({ "allowed": true })));
        assert!(!allowed(json!({ "allowed": false })));
        assert!(!allowed(json!({ "allowed": true, "denied": true })));
        assert!(!allowed(json!(null)));
    }
}
