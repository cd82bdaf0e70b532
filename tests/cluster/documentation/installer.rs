//! What `portcullis install` prints, applied to a cluster without a gateway, and what `portcullis
//! doctor` says of it.

use serde_json::Value;

use super::exposures::responds;
use super::{Folder, available};
use crate::node::report;

/// Replaces the gateway by one that `portcullis install` describes.
pub(super) async fn what_install_prints_responds() {
    let folder = Folder::new();
    folder.bash("helm uninstall portcullis --namespace portcullis");
    folder.bash("kubectl delete namespace portcullis");
    available();
    // No balancer is here, and the node has the label for its own ports, which are chosen therefore.
    folder.bash("portcullis install --zone apps.example.com | kubectl apply -f -");
    responds(&folder, "what `portcullis install` prints").await;
    let findings = doctor(&folder);
    for check in ["pods", "version", "permissions", "address", "ports", "clock"] {
        assert_eq!(status(&findings, check), "ok", "{check}: {findings:#?}");
    }
    // The zone of the documentation has no record.
    assert_eq!(status(&findings, "dns"), "error", "{findings:#?}");

    folder.bash("kubectl delete clusterrolebinding portcullis:portcullis");
    assert_eq!(status(&doctor(&folder), "permissions"), "error");
    folder.bash(
        "portcullis install --zone apps.example.com --exposure load-balancer | kubectl apply -f -",
    );
    let findings = doctor(&folder);
    assert_eq!(status(&findings, "permissions"), "ok", "{findings:#?}");
    let pending = findings.iter().find(|finding| finding["check"] == "address").expect("a finding");
    assert!(pending["message"].as_str().expect("text").contains("pending"), "{pending}");
    report("`portcullis doctor` names what is wrong");
}

fn doctor(folder: &Folder) -> Vec<Value> {
    let text = folder.bash("portcullis doctor --output json || true");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn status<'f>(findings: &'f [Value], check: &str) -> &'f str {
    let finding = findings.iter().find(|finding| finding["check"] == check);
    let finding = finding.unwrap_or_else(|| panic!("no {check}: {findings:#?}"));
    finding["status"].as_str().expect("a status")
}
