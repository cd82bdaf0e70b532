//! What operators learn of a denied request: nobody else does.

use serde_json::Value;

use super::{ABSENT, CLOSED, MACHINES, Stage, api_key, portcullis};

/// The line of the access log for a path.
async fn line(stage: &Stage, path: &str) -> Value {
    stage.gateway.has_written(&format!("\"path\":\"{path}\"")).await;
    let log = stage.gateway.log();
    let line = log.lines().find(|line| line.contains(&format!("\"path\":\"{path}\"")));
    serde_json::from_str(line.expect("a line")).expect("JSON")
}

#[tokio::test]
async fn the_log_has_the_caller_of_a_denied_request_and_the_reason() {
    let stage = Stage::start().await;
    let (crm, shop) = (api_key(&stage.crm), api_key(&stage.shop));
    for (path, host, headers, application, reason) in [
        ("/a", CLOSED, vec![crm.as_str()], "crm", "not_granted"),
        ("/b", CLOSED, vec![&shop], "shop", "not_identified"),
        ("/c", MACHINES, vec![&shop], "shop", "not_granted"),
        ("/d", CLOSED, vec![], "", "not_identified"),
        ("/e", ABSENT, vec![&crm], "crm", "no_route"),
    ] {
        assert_eq!(stage.call(host, path, &headers).run().await.status, 404, "{path}");
        let line = line(&stage, path).await;
        assert_eq!(line["denied"], reason, "{line}");
        assert_eq!(line["application"].as_str().unwrap_or_default(), application, "{line}");
        assert!(line.get("environment").is_none() && line.get("service").is_none(), "{line}");
    }
    assert_eq!(stage.call(CLOSED, "/echo", &[&stage.ann()]).run().await.status, 200);
    let line = line(&stage, "/echo").await;
    assert_eq!((&line["user"], &line["denied"]), (&"ann@example.com".into(), &Value::Null));
}

#[tokio::test]
async fn explain_assumes_a_caller_without_a_secret() {
    let stage = Stage::start().await;
    let admin = stage.gateway.admin().to_string();
    let url = format!("https://{CLOSED}/");
    for (caller, words) in [
        (&["--application", "shop", "--user", "ann@example.com"][..], "forwarded to"),
        (&["--application", "crm", "--user", "ann@example.com"], "denied (`not_granted`)"),
        (&["--application", "shop"], "denied (`not_identified`)"),
        (&["--application", "shop", "--user", "bob", "--group", "ops"], "of the groups ops"),
    ] {
        let explained = portcullis(&[&["explain", "--admin", &admin, &url], caller].concat()).await;
        assert!(explained.contains(words), "{caller:?}: {explained}");
    }
    let jwks = format!("https://{ABSENT}/.well-known/portcullis/jwks.json");
    let explained = portcullis(&["explain", "--admin", &admin, &jwks]).await;
    assert!(explained.contains("status 200"), "{explained}");
    assert_eq!(
        stage.call(ABSENT, "/.well-known/portcullis/jwks.json", &[]).run().await.status,
        200
    );
}
