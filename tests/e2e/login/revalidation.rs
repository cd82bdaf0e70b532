//! How long the provider's word about a user is good for.

use super::*;

impl Browser<'_> {
    /// Opens a page as browsers do, and follows redirects.
    async fn navigate(&self, url: &str, stop: Option<&str>) -> Page {
        let call = self.call(url).header("Sec-Fetch-Mode: navigate");
        self.follow(call.header("Sec-Fetch-Dest: document"), url, stop).await
    }

    /// A request of a script or program.
    async fn status(&self, url: &str) -> u16 {
        self.call(url).run().await.status
    }
}

#[tokio::test]
async fn a_session_is_rejected_when_the_provider_has_not_confirmed_it_in_time() {
    let site = Site::with(json!({ "revalidateWithin": "8s" }), json!({})).await;
    let ann = site.browser();
    let page = site.url(OPS, "/whoami");
    assert_eq!(ann.log_in(OPS, "/whoami", "ann").await.answer.status, 200);
    let before = site.pod.counts().borrow().started;
    let stream = tokio::spawn(ann.call(&site.url(OPS, "/stream/100000?interval=20ms")).run());
    site.pod.counts().wait_for(|counts| counts.started > before).await.expect("the pod counts");

    // Neither requests of scripts nor the open stream extend it.
    eventually("requests of scripts are rejected", async || ann.status(&page).await == 404).await;
    let answer = soon("the stream ends", stream).await.unwrap();
    assert!(answer.exit != 0 && !answer.body.is_empty(), "it was closed: {}", answer.complaint);

    // A navigation asks the provider, and the session goes on.
    let revalidated = ann.navigate(&page, None).await;
    assert_eq!((revalidated.answer.status, revalidated.last()), (200, &*page));
    assert!(revalidated.way.iter().all(|url| !url.starts_with(&site.provider.issuer())));
    assert_eq!(ann.status(&page).await, 200);

    // Removed at the provider: not after another while.
    Curl::new(&format!("{}/tests/forget", site.provider.issuer())).args(["--data", ""]).run().await;
    eventually("requests of scripts are rejected", async || ann.status(&page).await == 404).await;
    let issuer = site.provider.issuer();
    let denied = ann.navigate(&page, Some(&issuer)).await;
    assert!(denied.last().starts_with(&issuer), "a new login is needed: {:?}", denied.way);
    let log = site.gateway.log();
    assert!(log.contains("revoked a session"), "{log}");
    let home = ann.get(&site.url(PORTAL, "/")).await;
    assert!(home.answer.text().contains("Sign in to see"), "{:?}", home.answer);
}

#[tokio::test]
async fn a_session_outlives_the_provider_s_outage_for_a_stated_time() {
    let login = json!({ "revalidateWithin": "4s", "staleIfError": "1h" });
    let mut site = Site::with(login, json!({})).await;
    let ann = site.browser();
    ann.log_in(OPS, "/whoami", "ann").await;
    let jar = ann.folder;
    site.provider.child.kill().await.unwrap();
    let ann = Browser { site: &site, folder: jar };
    let page = site.url(OPS, "/whoami");
    eventually("its word is too old", async || ann.status(&page).await == 404).await;
    let excused = ann.navigate(&page, None).await;
    assert_eq!((excused.answer.status, excused.last()), (200, &*page), "{:?}", excused.way);
}
