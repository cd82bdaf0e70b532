//! What a login leaves in URLs, and what it costs the provider.

use super::*;

const SESSION: &str = "/.well-known/portcullis/session";

/// The URL without its query, and its parameters.
fn query(url: &str) -> Vec<(String, String)> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

impl Browser<'_> {
    /// Begins a login at a host, up to the provider.
    async fn begin(&self, host: &str, path: &str) -> Page {
        let to: String = form_urlencoded::byte_serialize(path.as_bytes()).collect();
        let url = self.site.url(host, &format!("/.well-known/portcullis/login?to={to}"));
        self.follow(self.call(&url), &url, Some(&self.site.provider.issuer())).await
    }

    async fn until(&self, url: &str, stop: &str) -> Page {
        self.follow(self.call(url), url, Some(stop)).await
    }

    fn is_signed_in_at(&self, host: &str) -> bool {
        self.cookies(host).iter().any(|name| name == "__Host-portcullis")
    }
}

#[tokio::test]
async fn a_login_that_another_browser_began_leaves_it_no_code() {
    let site = Site::start().await;
    let (mallory, ann) = (site.browser(), site.browser());
    ann.log_in(OPS, "/whoami", "ann").await;
    let begun = mallory.begin(SALES, "/whoami").await;
    let hash = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    for link in [begun.way[1].clone(), format!("{}&browser={hash}", begun.way[1])] {
        let way = ann.until(&link, &format!("{SESSION}?code=")).await.way;
        let code = way.last().unwrap();
        assert!(code.contains("?code=") && !ann.is_signed_in_at(SALES), "{way:?}");
        for url in &way {
            let page = mallory.until(url, &site.provider.issuer()).await;
            assert!(!mallory.is_signed_in_at(SALES), "{url}: {:?}", page.way);
        }
        // In a browser that it is not for, it does not stay in the URL of the page either.
        let page = site.browser().get(code).await;
        assert_eq!((page.answer.status, page.last()), (404, &*site.url(SALES, SESSION)));
        for (name, value) in
            [("referrer-policy", "no-referrer"), ("cross-origin-opener-policy", "same-origin")]
        {
            assert_eq!(page.answer.header(name), Some(value), "on the hidden page");
        }
    }
}

#[tokio::test]
async fn one_state_costs_the_provider_one_request() {
    let site = Site::start().await;
    let mallory = site.browser();
    let begun = mallory.begin(OPS, "/whoami").await;
    let parameters = query(begun.last());
    let state = &parameters.iter().find(|(name, _)| name == "state").expect("a state").1;
    let cookie = mallory.cookie(PORTAL, "__Host-portcullis-browser");
    let issuer = site.provider.issuer();
    let mut replays = tokio::task::JoinSet::new();
    for number in 0..80 {
        let path = format!("/callback?code=junk{number}&state={state}&iss={issuer}");
        let url = site.url(PORTAL, &path);
        let call = site.browser().call(&url);
        let call = call.header(&format!("Cookie: __Host-portcullis-browser={cookie}"));
        replays.spawn(async move { call.run().await });
    }
    for _ in 0..3 {
        let others = site.browser();
        let page = others.begin(OPS, "/whoami").await;
        assert!(page.last().starts_with(&site.provider.issuer()), "{:?}", page.answer);
    }
    while let Some(answer) = replays.join_next().await {
        assert_eq!(answer.unwrap().status, 303);
    }
    let asked = site.provider.log.borrow().matches("POST /token").count();
    assert_eq!(asked, 1, "{}", *site.provider.log.borrow());
    assert!(site.gateway.log().matches("failed to complete a login").count() <= 10);
}

#[tokio::test]
async fn a_reloaded_callback_leads_on_and_its_url_is_no_page_s() {
    let site = Site::start().await;
    let ann = site.browser();
    let way = ann.log_in_until(OPS, "/echo/deep", "ann", Some("/callback?")).await.way;
    for _ in 0..2 {
        let page = ann.get(way.last().unwrap()).await;
        assert_eq!((page.answer.status, page.last()), (200, &*site.url(OPS, "/echo/deep")));
    }
    let page = site.browser().get(way.last().unwrap()).await;
    assert_eq!(page.answer.status, 400);
    assert!(!page.last().contains("code=") && !page.last().contains("state="), "{:?}", page.way);
}

#[tokio::test]
async fn long_links_are_kept_or_the_user_learns_why_not() {
    let site = Site::start().await;
    for length in [1025, 4096] {
        let path = format!("/echo/{}", "a".repeat(length - "/echo/".len()));
        let page = site.browser().log_in(OPS, &path, "ann").await;
        assert_eq!((page.answer.status, page.last()), (200, &*site.url(OPS, &path)), "{length}");
    }
    let path = format!("/echo/{}", "a".repeat(5000));
    for host in [OPS, NOTHING] {
        let ann = site.browser();
        let hidden = ann.get(&site.url(host, &path)).await;
        let page = ann.get(&site.url(host, &hidden.link("Sign in"))).await;
        assert_eq!(page.answer.status, 414, "{:?}", page.answer);
        assert!(page.answer.text().contains("too long to be kept"), "{:?}", page.answer);
        let at_provider = ann.get(&site.url(PORTAL, &page.link("Sign in"))).await;
        assert!(at_provider.last().starts_with(&site.provider.issuer()));
    }
}
