use serde_json::json;

use super::super::Status;
use super::*;

/// An installation without a fault.
fn healthy() -> Facts {
    let image = format!("registry.example.com:5000/portcullis:{}", env!("CARGO_PKG_VERSION"));
    let pod = json!({
        "metadata": { "name": "portcullis-0" },
        "spec": { "containers": [{ "name": "gateway", "image": image }] },
    });
    let target: SocketAddr = ([192, 0, 2, 1], 443).into();
    Facts {
        namespace: "portcullis".to_owned(),
        deployment: Some(json!({
            "metadata": { "name": "portcullis" },
            "spec": { "replicas": 2 },
            "status": { "readyReplicas": 2 },
        })),
        service: Some(json!({ "spec": { "type": "LoadBalancer" } })),
        pods: vec![pod.clone(), pod],
        configuration: json!({ "zone": "apps.example.com" }),
        targets: [target].into(),
        record: Some(Ok([target.ip()].into())),
        ports: vec![(target, None)],
        https: Some(Ok(())),
        clocks: Ok(vec![("node".to_owned(), -3)]),
        denied: Ok(BTreeSet::new()),
        issuers: vec![("corp".to_owned(), None)],
        registries: vec![("registry.example.com:5000".to_owned(), None)],
        builders: Ok(Vec::new()),
    }
}

/// The finding of a check after a change of a healthy installation, and that it is the only one.
fn only(check: &str, change: impl FnOnce(&mut Facts)) -> Finding {
    let mut facts = healthy();
    change(&mut facts);
    let findings = findings(&facts);
    let (own, others): (Vec<_>, Vec<_>) =
        findings.into_iter().partition(|finding| finding.check == check);
    assert!(others.iter().all(|finding| finding.status == Status::Ok), "{others:?}");
    own.into_iter().next().expect("a finding")
}

/// The same, which must be an error or a warning that says how to mend it.
fn wrong(check: &str, change: impl FnOnce(&mut Facts)) -> (Status, String, String) {
    let Finding { status, message, help, .. } = only(check, change);
    (status, message, help.expect("how to mend it"))
}

#[test]
fn an_installation_without_a_fault_is_ok() {
    let findings = findings(&healthy());
    assert!(findings.iter().all(|finding| finding.status == Status::Ok), "{findings:#?}");
    let checks: BTreeSet<&str> = findings.iter().map(|finding| finding.check).collect();
    assert_eq!(checks.len(), 10, "{checks:?}");
}

#[test]
fn a_cluster_without_a_gateway_is_an_error() {
    let facts = Facts { deployment: None, ..healthy() };
    let findings = findings(&facts);
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].status, Status::Error);
    assert!(findings[0].help.as_ref().is_some_and(|help| help.contains("portcullis install")));
}

#[test]
fn a_pod_that_waits_is_reported_with_its_reason() {
    let waits = |ready: u64, reason: &str| {
        let status =
            json!([{ "state": { "waiting": { "reason": reason, "message": "not found" } } }]);
        wrong("pods", |facts| {
            facts.pods[0]["status"] = json!({ "containerStatuses": status });
            facts.deployment.as_mut().expect("one")["status"]["readyReplicas"] = json!(ready);
        })
    };
    let (status, message, help) = waits(0, "ImagePullBackOff");
    assert_eq!((status, message.contains("ImagePullBackOff not found")), (Status::Error, true));
    assert!(help.contains("--image"), "{help}");
    let (status, _, help) = waits(2, "CrashLoopBackOff");
    assert_eq!((status, help.contains("--previous")), (Status::Warning, true), "old pods serve");
}

#[test]
fn pods_of_another_version_are_reported() {
    let set = |facts: &mut Facts, pod: usize, image: &str| {
        facts.pods[pod]["spec"]["containers"][0]["image"] = json!(image);
    };
    let (status, message, _) = wrong("version", |facts| {
        (0..2).for_each(|pod| set(facts, pod, "portcullis:9.9.9"));
    });
    assert_eq!((status, message.contains("9.9.9")), (Status::Warning, true));
    let (_, message, _) = wrong("version", |facts| set(facts, 0, "portcullis:9.9.9"));
    assert!(message.contains("different images"), "{message}");
    let digest = only("version", |facts| {
        (0..2).for_each(|pod| set(facts, pod, "portcullis@sha256:0"));
    });
    assert_eq!(digest.status, Status::Skipped);
}

#[test]
fn a_pending_load_balancer_is_reported_with_ways_out() {
    let facts = Facts {
        targets: BTreeSet::new(),
        record: Some(Err("no such name".to_owned())),
        ports: Vec::new(),
        https: None,
        ..healthy()
    };
    let findings = findings(&facts);
    let find = |check| findings.iter().find(|finding| finding.check == check).expect("a finding");
    assert!(find("address").message.contains("pending"));
    assert!(find("address").help.as_ref().is_some_and(|help| help.contains("node-port")));
    assert_eq!(find("dns").status, Status::Error);
    assert_eq!(find("ports").status, Status::Skipped);
    assert_eq!(find("certificate").status, Status::Skipped);
}

#[test]
fn a_record_must_lead_to_the_gateway() {
    let addresses =
        |list: &[[u8; 4]]| Some(Ok(list.iter().map(|one| IpAddr::from(*one)).collect()));
    let (status, message, help) =
        wrong("dns", |facts| facts.record = addresses(&[[203, 0, 113, 9]]));
    assert_eq!(status, Status::Warning);
    assert!(message.contains("203.0.113.9, and not 192.0.2.1"), "{message}");
    assert!(help.contains("create the record *.apps.example.com with 192.0.2.1"), "{help}");
    let (_, message, _) =
        wrong("dns", |facts| facts.record = addresses(&[[203, 0, 113, 9], [192, 0, 2, 1]]));
    assert!(message.ends_with("not the gateway's: 203.0.113.9"), "{message}");
    let (status, ..) = wrong("dns", |facts| facts.record = addresses(&[]));
    assert_eq!(status, Status::Error);
}

#[test]
fn what_a_client_would_meet_is_reported() {
    let refused = |facts: &mut Facts| facts.ports[0].1 = Some("connection refused".to_owned());
    assert_eq!(wrong("ports", refused).0, Status::Error);
    let untrusted = ("invalid peer certificate: UnknownIssuer".to_owned(), false);
    let (status, _, help) = wrong("certificate", |facts| facts.https = Some(Err(untrusted)));
    assert_eq!((status, help.contains("acme")), (Status::Error, true));
    let expired = ("expired".to_owned(), true);
    let (_, message, help) = wrong("certificate", |facts| facts.https = Some(Err(expired)));
    assert!(message.contains("expired") && help.contains("clock"), "{message} {help}");
}

#[test]
fn missing_rights_are_listed() {
    let (status, message, _) = wrong("permissions", |facts| {
        facts.denied = Ok(["list services".to_owned(), "watch services".to_owned()].into());
    });
    assert_eq!(status, Status::Error);
    assert!(message.ends_with("list services, watch services"), "{message}");
    let refused = only("permissions", |facts| facts.denied = Err("forbidden".to_owned()));
    assert_eq!(refused.status, Status::Skipped, "a check that cannot be made is no error");
}

#[test]
fn a_clock_may_be_late_by_a_lease_and_ahead_by_little() {
    let at =
        |seconds| only("clock", |facts| facts.clocks = Ok(vec![("node".into(), seconds)])).status;
    for seconds in [-LEASE_SECONDS, 0, AHEAD_SECONDS] {
        assert_eq!(at(seconds), Status::Ok, "{seconds}");
    }
    for seconds in [-LEASE_SECONDS - 1, AHEAD_SECONDS + 1, i64::MAX] {
        assert_eq!(at(seconds), Status::Error, "{seconds}");
    }
    assert_eq!(only("clock", |facts| facts.clocks = Err(String::new())).status, Status::Skipped);
}

#[test]
fn an_identity_provider_that_is_another_one_is_reported() {
    let (status, message, _) =
        wrong("issuer", |facts| facts.issuers[0].1 = Some("it calls itself \"x\"".to_owned()));
    assert_eq!((status, message.starts_with("corp: it calls")), (Status::Error, true));
}

#[test]
fn a_registry_that_does_not_respond_is_a_warning() {
    let refused = Some("connection refused".to_owned());
    let (status, message, help) = wrong("registry", |facts| facts.registries[0].1 = refused);
    assert_eq!(status, Status::Warning, "the nodes may reach it");
    assert!(message.starts_with("registry.example.com:5000 does not respond"), "{message}");
    assert!(help.contains("ErrImagePull"), "{help}");
}
