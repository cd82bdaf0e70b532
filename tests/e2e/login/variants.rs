//! People keep their variant, whatever they sign in with.

use super::*;

/// By this salt, ann is in bucket 3726, and bob in bucket 7134.
const SALT: &str = "rollout-5";

/// The pod that answers a request with this credential.
async fn pod_of(gateway: &Gateway, credential: &str) -> String {
    let answer = gateway.curl("web--closed.apps.test", "/whoami").header(credential).run().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.text().trim().to_owned()
}

#[tokio::test]
async fn a_person_has_one_variant_on_every_device_replica_and_after_a_restart() {
    let (stable, canary) = (echo("stable").await, echo("canary").await);
    let world = world(&stable)
        .with(
            Service::new("web").environment("closed").annotation("canary-salt", SALT).pod(&stable),
        )
        .with(
            Service::new("web-canary")
                .environment("closed")
                .annotation("canary-of", "web")
                .annotation("canary-weight", "50")
                .pod(&canary),
        );
    let folder = tempfile::tempdir().unwrap();
    world.write(folder.path());
    let evidence = json!([{ "claim": "aud", "value": "portcullis-cli" }]);
    let mut site = Site::reading(
        json!({ "directory": folder.path() }),
        stable,
        json!({}),
        json!({ "userClaim": "sub", "userEvidence": evidence }),
    )
    .await;
    let mut credentials = Vec::new();
    for (name, pod) in [("ann", "canary"), ("bob", "stable")] {
        let (laptop, phone) = (tempfile::tempdir().unwrap(), site.browser());
        let (url, ended) = sign_in(&site, &laptop, "--no-browser", "http").await;
        let browser = site.browser();
        let at_provider = browser.get(&url).await;
        browser.post(at_provider.last(), &[("login", name), ("answer", "yes")], None).await;
        assert!(soon("it ends", ended).await.unwrap().0);
        credentials.push((format!("Authorization: Bearer {}", token(&laptop).await.0), pod));
        let page = phone.log_in("web--closed.apps.test", "/whoami", name).await;
        assert_eq!(page.answer.text().trim(), pod, "{name}");
        let session = phone.cookie("web--closed.apps.test", "__Host-portcullis");
        credentials.push((format!("Cookie: __Host-portcullis={session}"), pod));
        assert!(
            !phone.cookies("web--closed.apps.test").contains(&"__Host-portcullis-visitor".into()),
            "a user is no anonymous browser"
        );
    }
    let replica = site.replica().await;
    for (credential, pod) in &credentials {
        for _ in 0..5 {
            assert_eq!(pod_of(&site.gateway, credential).await, *pod);
            assert_eq!(pod_of(&replica, credential).await, *pod);
        }
    }
    // The tokens expire soon; the sessions do not.
    site.restart().await;
    for (credential, pod) in credentials.iter().filter(|(text, _)| text.starts_with("Cookie")) {
        assert_eq!(pod_of(&site.gateway, credential).await, *pod, "after a restart");
    }
}
