use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::HeaderValue;
use portcullis_config::bearer_review::Unavailable;
use tokio::time::advance;

use super::verdicts::{ALLOWED, OUTLIVES, REFUSED};
use super::*;

/// A cluster that knows `good`, and `poor` without a right; it may be away, or slow.
#[derive(Debug, Default)]
struct Cluster {
    is_away: AtomicBool,
    takes: Duration,
    asked: AtomicUsize,
}

impl BearerReview for Cluster {
    fn review(&self, token: String) -> BoxFuture<'_, Result<Verdict, Unavailable>> {
        async move {
            self.asked.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(self.takes).await;
            match (self.is_away.load(Ordering::Relaxed), &*token) {
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
    let reviews = Reviews::new(Arc::clone(&cluster) as Arc<dyn BearerReview>);
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
async fn only_bearers_whom_the_cluster_admits_may_read() {
    let (cluster, bearers) = bearers(Cluster::default());
    assert_eq!(check(&bearers, "good", 1).await, Ok(()));
    assert_eq!(check(&bearers, "poor", 1).await, Err(Denied::Forbidden));
    assert_eq!(check(&bearers, "junk", 1).await, Err(Denied::Unauthenticated));
    assert_eq!(cluster.asked.load(Ordering::Relaxed), 3);
    let peer = IpAddr::from([10, 0, 0, 1]);
    for wrong in [&[][..], &["Basic good"], &["Bearer"], &["Bearer good", "Bearer good"], &["good"]]
    {
        let denied = bearers.check(&fields(wrong), peer).await;
        assert_eq!(denied, Err(Denied::Unauthenticated), "{wrong:?}");
    }
    assert_eq!(cluster.asked.load(Ordering::Relaxed), 3, "nothing of that was asked about");
}

#[tokio::test(start_paused = true)]
async fn a_verdict_is_asked_for_again_after_a_while() {
    let (cluster, bearers) = bearers(Cluster::default());
    for _ in 0..100 {
        assert_eq!(check(&bearers, "good", 1).await, Ok(()));
        assert_eq!(check(&bearers, "poor", 1).await, Err(Denied::Forbidden));
    }
    assert_eq!(cluster.asked.load(Ordering::Relaxed), 2);
    advance(ALLOWED).await;
    assert_eq!(check(&bearers, "good", 1).await, Ok(()));
    assert_eq!(cluster.asked.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn admitted_bearers_outlive_the_api_server_for_a_stated_time_and_nobody_else_gets_in() {
    let (cluster, bearers) = bearers(Cluster::default());
    assert_eq!(check(&bearers, "good", 1).await, Ok(()));
    assert_eq!(check(&bearers, "poor", 1).await, Err(Denied::Forbidden));
    cluster.is_away.store(true, Ordering::Relaxed);
    advance(ALLOWED.max(REFUSED)).await;
    assert_eq!(check(&bearers, "good", 1).await, Ok(()));
    assert_eq!(check(&bearers, "poor", 1).await, Err(Denied::Unavailable));
    advance(OUTLIVES).await;
    assert_eq!(check(&bearers, "good", 1).await, Err(Denied::Unavailable));
    cluster.is_away.store(false, Ordering::Relaxed);
    assert_eq!(check(&bearers, "good", 1).await, Ok(()), "an outage is no refusal");
}

#[tokio::test(start_paused = true)]
async fn tokens_of_nobody_keep_no_one_else_waiting_and_do_not_flood_the_cluster() {
    let (cluster, bearers) =
        bearers(Cluster { takes: Duration::from_millis(10), ..Cluster::default() });
    assert_eq!(check(&bearers, "good", 1).await, Ok(()));
    let asked = || cluster.asked.load(Ordering::Relaxed);
    let junk: Vec<String> = (0..200).map(|number| format!("junk-{number}")).collect();
    let flood = futures::future::join_all(junk.iter().map(|token| check(&bearers, token, 66)));
    let (flood, other) = tokio::join!(flood, check(&bearers, "poor", 2));
    assert_eq!(other, Err(Denied::Forbidden));
    assert_eq!(asked(), 3, "one of the flood at a time");
    assert_eq!(flood.iter().filter(|denied| **denied == Err(Denied::TooMany)).count(), 199);
    for token in &junk {
        let _ = check(&bearers, token, 66).await;
    }
    assert!(asked() <= 12, "{} questions in two seconds", asked());
    assert_eq!(check(&bearers, "good", 66).await, Ok(()), "who is known is not concerned");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_gives_its_place_back() {
    let (_, bearers) = bearers(Cluster { takes: Duration::from_secs(9), ..Cluster::default() });
    for _ in 0..3 {
        let left = tokio::time::timeout(Duration::from_secs(1), check(&bearers, "junk", 1)).await;
        assert!(left.is_err());
    }
    assert_eq!(check(&bearers, "good", 1).await, Ok(()));
}

#[tokio::test]
async fn the_token_of_a_file_is_the_one_that_is_there_now() {
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
async fn without_anybody_to_decide_nobody_may_read() {
    assert_eq!(check(&Bearers::Closed, "good", 1).await, Err(Denied::Unavailable));
    let none = Bearers::Closed.check(&HeaderMap::new(), IpAddr::from([10, 0, 0, 1])).await;
    assert_eq!(none, Err(Denied::Unauthenticated));
}
