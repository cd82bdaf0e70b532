use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::HeaderValue;
use portcullis_config::bearer_review::Unavailable;
use tokio::time::advance;

use super::verdicts::{ALLOWED, DENIED, GRACE};
use super::*;

/// A cluster that allows `good` and forbids `poor`; it may be unavailable, or slow.
#[derive(Debug, Default)]
struct Cluster {
    is_unavailable: AtomicBool,
    delay: Duration,
    reviews: AtomicUsize,
}

impl BearerReview for Cluster {
    fn review(&self, token: String) -> BoxFuture<'_, Result<Verdict, Unavailable>> {
        async move {
            self.reviews.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(self.delay).await;
            match (self.is_unavailable.load(Ordering::Relaxed), &*token) {
                (true, _) => Err(Unavailable::Late),
                (_, "good") => Ok(Verdict::Allowed),
                (_, "poor") => Ok(Verdict::Forbidden),
                _ => Ok(Verdict::Unauthenticated),
            }
        }
        .boxed()
    }
}

fn bearers(cluster: Cluster) -> (Arc<Cluster>, Bearers) {
    let cluster = Arc::new(cluster);
    let reviews = TokenReviews::new(Arc::clone(&cluster) as Arc<dyn BearerReview>);
    (cluster, Bearers::Reviewed(Box::new(reviews.unwrap_or_else(|_| panic!("randomness")))))
}

fn fields(authorization: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in authorization {
        headers.append(AUTHORIZATION, HeaderValue::from_str(value).expect("a value"));
    }
    headers
}

async fn check(bearers: &Bearers, token: &str, peer: u8) -> Result<(), Denied> {
    bearers.check(&fields(&[&format!("Bearer {token}")]), IpAddr::from([10, 0, 0, peer])).await
}

#[tokio::test(start_paused = true)]
async fn only_bearers_that_the_cluster_allows_may_read() {
    let (cluster, bearers) = bearers(Cluster::default());
    assert_eq!(check(&bearers, "good", 1).await, Ok(()));
    assert_eq!(check(&bearers, "poor", 1).await, Err(Denied::Forbidden));
    assert_eq!(check(&bearers, "junk", 1).await, Err(Denied::Unauthenticated));
    assert_eq!(cluster.reviews.load(Ordering::Relaxed), 3);
    let peer = IpAddr::from([10, 0, 0, 1]);
    for wrong in [&[][..], &["Basic good"], &["Bearer"], &["Bearer good", "Bearer good"], &["good"]]
    {
        let denied = bearers.check(&fields(wrong), peer).await;
        assert_eq!(denied, Err(Denied::Unauthenticated), "{wrong:?}");
    }
    assert_eq!(cluster.reviews.load(Ordering::Relaxed), 3, "none of these was reviewed");
}

#[tokio::test(start_paused = true)]
async fn a_verdict_is_reviewed_again_after_a_while() {
    let (cluster, bearers) = bearers(Cluster::default());
    for _ in 0..100 {
        assert_eq!(check(&bearers, "good", 1).await, Ok(()));
        assert_eq!(check(&bearers, "poor", 1).await, Err(Denied::Forbidden));
    }
    assert_eq!(cluster.reviews.load(Ordering::Relaxed), 2);
    advance(ALLOWED).await;
    assert_eq!(check(&bearers, "good", 1).await, Ok(()));
    assert_eq!(cluster.reviews.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn during_an_outage_only_bearers_allowed_before_may_read_for_a_fixed_time() {
    let (cluster, bearers) = bearers(Cluster::default());
    assert_eq!(check(&bearers, "good", 1).await, Ok(()));
    assert_eq!(check(&bearers, "poor", 1).await, Err(Denied::Forbidden));
    cluster.is_unavailable.store(true, Ordering::Relaxed);
    advance(ALLOWED.max(DENIED)).await;
    assert_eq!(check(&bearers, "good", 1).await, Ok(()));
    assert_eq!(check(&bearers, "poor", 1).await, Err(Denied::Unavailable));
    advance(GRACE).await;
    assert_eq!(check(&bearers, "good", 1).await, Err(Denied::Unavailable));
    cluster.is_unavailable.store(false, Ordering::Relaxed);
    assert_eq!(check(&bearers, "good", 1).await, Ok(()), "an outage is not a denial");
}

#[tokio::test(start_paused = true)]
async fn invalid_tokens_delay_no_other_client_and_do_not_flood_the_cluster() {
    let (cluster, bearers) =
        bearers(Cluster { delay: Duration::from_millis(10), ..Cluster::default() });
    assert_eq!(check(&bearers, "good", 1).await, Ok(()));
    let reviews = || cluster.reviews.load(Ordering::Relaxed);
    let junk: Vec<String> = (0..200).map(|number| format!("junk-{number}")).collect();
    let flood = futures::future::join_all(junk.iter().map(|token| check(&bearers, token, 66)));
    let (flood, other) = tokio::join!(flood, check(&bearers, "poor", 2));
    assert_eq!(other, Err(Denied::Forbidden));
    assert_eq!(reviews(), 3, "one of the flood at a time");
    assert_eq!(flood.iter().filter(|denied| **denied == Err(Denied::TooMany)).count(), 199);
    for token in &junk {
        let _ = check(&bearers, token, 66).await;
    }
    assert!(reviews() <= 12, "{} reviews in two seconds", reviews());
    assert_eq!(check(&bearers, "good", 66).await, Ok(()), "a cached bearer is not affected");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_request_stops_waiting() {
    let (_, bearers) = bearers(Cluster { delay: Duration::from_secs(9), ..Cluster::default() });
    for _ in 0..3 {
        let left = tokio::time::timeout(Duration::from_secs(1), check(&bearers, "junk", 1)).await;
        assert!(left.is_err());
    }
    assert_eq!(check(&bearers, "good", 1).await, Ok(()));
}

#[tokio::test]
async fn a_replaced_token_file_takes_effect_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("token");
    let bearers = Bearers::TokenFile(TokenFile::new(&path));
    assert_eq!(check(&bearers, "first", 1).await, Err(Denied::Unavailable));
    std::fs::write(&path, "first\n").expect("written");
    assert_eq!(check(&bearers, "first", 1).await, Ok(()));
    for wrong in ["firs", "first1", "FIRST", "second"] {
        assert_eq!(check(&bearers, wrong, 1).await, Err(Denied::Unauthenticated));
    }
    std::fs::write(&path, "second").expect("written");
    assert_eq!(check(&bearers, "first", 1).await, Err(Denied::Unauthenticated));
    assert_eq!(check(&bearers, "second", 1).await, Ok(()));
    std::fs::write(&path, " \n").expect("written");
    assert_eq!(check(&bearers, "second", 1).await, Err(Denied::Unavailable));
}

#[tokio::test]
async fn without_a_reviewer_every_request_is_denied() {
    assert_eq!(check(&Bearers::Closed, "good", 1).await, Err(Denied::Unavailable));
    let none = Bearers::Closed.check(&HeaderMap::new(), IpAddr::from([10, 0, 0, 1])).await;
    assert_eq!(none, Err(Denied::Unauthenticated));
}
