//! Tags that follow what runs.

use serde_json::json;

use super::api_server::ApiServer;
use super::builder::Builder;
use super::registry::{self, Registry};
use crate::harness::eventually;

#[tokio::test]
async fn a_tag_follows_what_runs_and_no_deployment_waits_for_it() {
    let registry = Registry::start().await;
    let server = ApiServer::start().await;
    let repository = format!("{}/{{service}}", registry.host());
    let further = json!({
        "tags": [{ "environment": "staging", "tag": "on-staging", "repository": repository }],
    });
    let builder = Builder::start_with(&registry, Some(&server.kubeconfig()), &further).await;
    let template = json!([{
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "web" },
        "data": { "image": "{{image}}" },
    }]);
    let mut digests = Vec::new();
    for tag in ["1", "2"] {
        digests.push(registry.push("web", tag).await);
        let image = registry.image("web", tag);
        let request = json!({ "service": "web", "template": template, "image": image });
        assert_eq!(builder.post("ci", "/api/v1/releases", &request).await.status, 201);
    }
    let deploy = async |number: usize, environment: &str| {
        let order = json!({ "release": format!("web.{number}"), "environment": environment });
        let made = builder.post("ci", "/api/v1/deployments", &order).await.json();
        let path = format!("/api/v1/deployments/{}", made["id"].as_str().unwrap());
        eventually("it is ready", || async {
            builder.get("ci", &path).await.json()["state"] == "ready"
        })
        .await;
    };
    deploy(1, "staging").await;
    let follows = async |digest: &String| {
        eventually("the tag follows", || async {
            registry.digest("web", "on-staging").await.as_ref() == Some(digest)
        })
        .await;
    };
    follows(&digests[0]).await;
    // A registry that rejects the builder delays the tag, not the deployment.
    builder.write_credentials("another");
    deploy(2, "staging").await;
    deploy(2, "production").await;
    assert_eq!(registry.digest("web", "on-staging").await.as_ref(), Some(&digests[0]));
    builder.write_credentials(registry::PASSWORD);
    follows(&digests[1]).await;
    // What each deployment changed is known.
    let diff =
        async |id: &str| builder.get("ci", &format!("/api/v1/deployments/{id}/diff")).await.json();
    assert_eq!(diff("web.staging.1").await["objects"][0]["change"], "added");
    let changed = diff("web.staging.2").await;
    assert_eq!((&changed["from"], &changed["to"]), (&json!("web.1"), &json!("web.2")));
    assert_eq!(changed["objects"][0]["fields"][0]["path"], "data.image");
    assert_eq!(registry.digest("web", "production").await, None);
    eventually("it is recorded", || async {
        let audit = builder.get("admin", "/api/v1/audit").await.json();
        let entries = audit["items"].as_array().unwrap().iter();
        entries.filter(|entry| entry["action"] == "image.tag").count() == 2
    })
    .await;
}
