//! What a login leaves in URLs, and whom it is good for.

use super::*;

fn begin(path: &str) -> String {
    let path: String = form_urlencoded::byte_serialize(path.as_bytes()).collect();
    format!("https://{SHOP}:8443/.well-known/portcullis/login?to={path}")
}

impl Trip {
    fn has_session_at_shop(&self) -> bool {
        self.jar.contains_key(&(SHOP.to_owned(), "__Host-portcullis".to_owned()))
    }
}

#[tokio::test]
async fn a_link_of_another_browser_leaves_nothing_that_it_can_use() {
    let mut trip = Trip::start().await;
    let mallory_way = trip.follow(&begin("/a"), "/authorize", NOW).await;
    let mut mallory = std::mem::take(&mut trip.jar);
    trip.log_in("r").await;
    // Mallory's link, with the hash of their browser added as well.
    let hash = browser::hash("mallory");
    for link in [mallory_way[1].clone(), format!("{}&browser={hash}", mallory_way[1])] {
        let way = trip.follow(&link, "/session?code=", NOW).await;
        assert!(way.last().unwrap().contains("/session?code="), "{way:?}");
        std::mem::swap(&mut trip.jar, &mut mallory);
        for url in &way {
            trip.follow(url, "/authorize", NOW).await;
            assert!(!trip.has_session_at_shop(), "{url}");
        }
        std::mem::swap(&mut trip.jar, &mut mallory);
        assert!(!trip.has_session_at_shop(), "it was not used yet");
        let taken = trip.get(way.last().unwrap(), NOW).await.unwrap();
        assert_eq!(location(&taken), format!("https://{SHOP}:8443/a"));
        assert!(trip.has_session_at_shop(), "it is good for the user's own browser");
        trip.jar.remove(&(SHOP.to_owned(), "__Host-portcullis".to_owned()));
    }
}

#[tokio::test]
async fn no_step_of_another_browser_is_accepted() {
    let mut trip = Trip::start().await;
    trip.log_in("r").await;
    let way = trip.follow(&begin("/a"), "/session?code=", NOW).await;
    let ann = std::mem::take(&mut trip.jar);
    trip.log_in("r").await;
    for url in &way[2..] {
        let way = trip.follow(url, "nowhere", NOW).await;
        let last = way.last().unwrap();
        assert!(!trip.has_session_at_shop(), "{way:?}");
        assert!(!["code=", "ticket=", "intent="].iter().any(|it| last.contains(it)), "{way:?}");
    }
    trip.jar = ann;
    assert!(trip.follow(&way[2], "nowhere", NOW).await.last().unwrap().ends_with(":8443/a"));
}

#[tokio::test]
async fn every_reply_of_a_login_keeps_its_url_from_other_pages() {
    let mut trip = Trip::start().await;
    let mut urls = trip.follow(&begin("/a"), "/authorize", NOW).await;
    urls.pop();
    trip.log_in("r").await;
    urls.extend(trip.follow(&begin("/a"), "/a$", NOW).await);
    urls.pop();
    urls.extend(
        ["/", "/login", "/logout", "/callback?code=x&state=y", "/handoff?ticket=z"].map(own),
    );
    urls.push(own("/sign-in-failed?why=refused"));
    urls.push(format!("https://{SHOP}:8443/.well-known/portcullis/session?code=x"));
    assert!(urls.len() > 12, "{urls:?}");
    for url in urls {
        let reply = trip.get(&url, NOW).await.unwrap();
        let value = |name: &str| reply.headers.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(value("referrer-policy"), Some("no-referrer"), "{url}");
        assert_eq!(value("cross-origin-opener-policy"), Some("same-origin"), "{url}");
        if url.contains("code=") || url.contains("ticket=") || url.contains("intent=") {
            assert!(reply.status.is_redirection() && reply.body.is_empty(), "{url}");
            // The values that these URLs have, which a new code may begin with.
            let to = location(&reply);
            assert!(!to.ends_with("code=x") && !to.contains("code=x&"), "{url}");
        }
    }
}

#[tokio::test]
async fn no_method_leaves_a_code_of_the_provider_in_the_url_of_a_page() {
    let mut trip = Trip::start().await;
    for method in [Method::POST, Method::HEAD, Method::PUT, Method::OPTIONS] {
        for (url, to) in [
            (own("/callback?code=x&state=y"), own(failure::BEGUN_ELSEWHERE)),
            (own("/handoff?ticket=x"), own(failure::BEGUN_ELSEWHERE)),
        ] {
            let reply = trip.call(method.clone(), &url, "", NOW).await.unwrap();
            let found = (reply.status, location(&reply), reply.body.is_empty());
            assert_eq!(found, (StatusCode::SEE_OTHER, to, true), "{method} {url}");
        }
    }
}

#[tokio::test]
async fn a_state_is_used_once_whatever_comes_of_it() {
    let mut trip = Trip::start().await;
    let sent = trip.begin(&own("/login")).await;
    trip.fake.returns_error("invalid_grant");
    for _ in 0..5 {
        trip.callback(&sent["state"], "").await;
    }
    assert_eq!(trip.fake.requests(), 1, "the provider is asked once");
    assert_eq!(trip.callback(&sent["state"], "").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_reloaded_callback_leads_a_signed_in_user_on() {
    let mut trip = Trip::start().await;
    let way = trip.follow(&begin("/deep?a=b"), "/authorize", NOW).await;
    let sent = parameters(way.last().unwrap().split_once('?').unwrap().1.as_bytes());
    trip.fake.returns("r", &json!({"nonce": sent["nonce"]}));
    let callback = own(&format!("/callback?code=c&state={}", sent["state"]));
    for _ in 0..2 {
        let way = trip.follow(&callback, "/deep", NOW).await;
        assert_eq!(way.last().unwrap(), &format!("https://{SHOP}:8443/deep?a=b"));
    }
    assert_eq!(trip.fake.requests(), 1);
    // One of another login, while the user is signed in.
    let reply = trip.get(&own("/callback?code=x&state=y"), NOW).await.unwrap();
    assert_eq!(location(&reply), own("/"));
}

#[tokio::test]
async fn deep_links_are_kept_or_the_user_learns_why_not() {
    let mut trip = Trip::start().await;
    trip.log_in("r").await;
    for length in [1023, 1024, 1025, 2000, 4096] {
        let path = format!("/{}", "\"".repeat(length - 1));
        let way = trip.follow(&begin(&path), "/\"", NOW).await;
        assert_eq!(way.last().unwrap(), &format!("https://{SHOP}:8443{path}"));
        assert!(login_path(&path).contains("to=") && revalidation_path(&path).is_some());
    }
    let long = format!("/{}", "a".repeat(4096));
    assert_eq!(revalidation_path(&long), None);
    let own_link = own(&format!("/login?to=https://{SHOP}:8443{long}"));
    for url in [begin(&long), format!("https://{SHOP}:8443{}", login_path(&long)), own_link] {
        let page = trip.settled(&url, NOW).await;
        assert_eq!(page.status, StatusCode::URI_TOO_LONG, "{url}");
        assert!(String::from_utf8_lossy(&page.body).contains("too long to be kept"), "{url}");
    }
}
