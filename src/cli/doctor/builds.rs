//! Whether release builders that run in the cluster can build: as Jobs, for which they need a Namespace,
//! rights there, and the image of this version.

use std::collections::BTreeSet;

use serde_json::Value;

use super::facts::configuration;
use super::{Finding, rights};
use crate::cli::kubectl::{Kubectl, items, text_at};

/// What all findings are called.
const CHECK: &str = "builds";
/// Selects the Deployments that a builder may be in.
const DEPLOYMENTS: &str =
    "app.kubernetes.io/name=portcullis,app.kubernetes.io/component in (builder,gateway)";
/// What a builder may do in the Namespace of its builds.
const ACCESS: &str = include_str!("../../../deploy/kubernetes/builder-jobs/access.yaml");
/// The level at which the pods of builds are admitted.
const LEVEL: &str = "privileged";
/// The label that states it.
const ENFORCED: &str = "/metadata/labels/pod-security.kubernetes.io~1enforce";
/// The configuration of a builder.
const FILE: &str = "builder.yaml";
/// How to mend what is not there.
const INSTALL: &str =
    "apply deploy/kubernetes/builder-jobs, or set builder.jobs.enabled of the chart";

/// A builder that follows repositories, and builds.
#[derive(Debug)]
pub(super) struct Builder {
    /// Its Namespace.
    namespace: String,
    /// Its account.
    account: String,
    /// Its image.
    image: String,
    /// Where it builds; without it, in its own pod.
    jobs: Option<Jobs>,
}

/// Where the Jobs of a builder are.
#[derive(Debug)]
struct Jobs {
    /// Their Namespace.
    namespace: String,
    /// The image of their pods.
    image: String,
    /// The Namespace itself, or why it cannot be read.
    found: Result<Value, String>,
    /// The rights that the builder lacks there.
    denied: Result<BTreeSet<String>, String>,
}

/// Finds the builders of the cluster that build.
///
/// # Errors
/// Deployments cannot be listed.
pub(super) async fn probe(kubectl: &Kubectl) -> Result<Vec<Builder>, String> {
    let arguments = ["get", "deployments", "--all-namespaces", "--selector", DEPLOYMENTS];
    let deployments = kubectl.json(&arguments).await?;
    let mut builders = Vec::new();
    for deployment in items(&deployments) {
        if let Some(mut builder) = described(deployment) {
            let settings = configuration(kubectl, &builder.namespace, deployment, FILE).await;
            if text_at(&settings, "/builds/images").is_empty() {
                continue;
            }
            if let Some(jobs) = settings.pointer("/builds/jobs") {
                builder.jobs = Some(builder.jobs(kubectl, jobs).await);
            }
            builders.push(builder);
        }
    }
    Ok(builders)
}

/// The builder in a Deployment, if one is.
fn described(deployment: &Value) -> Option<Builder> {
    let pod = deployment.pointer("/spec/template/spec")?;
    let containers = pod.get("containers")?.as_array()?;
    let container = containers.iter().find(|one| text_at(one, "/name") == "builder")?;
    // Beside a gateway, it has the token of an account of its own.
    let volumes = pod.get("volumes").and_then(Value::as_array);
    let token = volumes.into_iter().flatten().find(|one| text_at(one, "/name") == "builder-token");
    let token = token.and_then(|one| text_at(one, "/secret/secretName").strip_suffix("-token"));
    Some(Builder {
        namespace: text_at(deployment, "/metadata/namespace").to_owned(),
        account: token.unwrap_or_else(|| text_at(pod, "/serviceAccountName")).to_owned(),
        image: text_at(container, "/image").to_owned(),
        jobs: None,
    })
}

// === impl Builder ===

impl Builder {
    async fn jobs(&self, kubectl: &Kubectl, settings: &Value) -> Jobs {
        let namespace = text_at(settings, "/namespace").to_owned();
        let found = kubectl.json(&["get", "namespace", &namespace]).await;
        let account = (self.namespace.as_str(), self.account.as_str());
        let reviews = rights::reviews_in(account, &rules(), &namespace);
        let denied = kubectl.create(&reviews).await.map(|answers| rights::denied(&answers));
        Jobs { image: text_at(settings, "/image").to_owned(), namespace, found, denied }
    }

    fn findings(&self) -> Vec<Finding> {
        let Self { namespace, account, image, jobs } = self;
        let name = format!("the builder in {namespace}");
        let Some(jobs) = jobs else {
            let message = format!("{name} builds in its own pod, which may not start sandboxes");
            let help = format!("{INSTALL}, and name the Namespace in `builds.jobs`");
            return vec![Finding::error(CHECK, message, help)];
        };
        let builds = &jobs.namespace;
        let mut findings = Vec::new();
        match &jobs.found {
            Err(error) if error.contains("NotFound") => {
                let message = format!("{name} builds in {builds}, which does not exist");
                return vec![Finding::error(CHECK, message, INSTALL)];
            }
            Err(error) => {
                findings.push(Finding::skipped(CHECK, format!("{builds} cannot be read: {error}")));
            }
            Ok(found) => findings.extend(level(builds, text_at(found, ENFORCED))),
        }
        match &jobs.denied {
            Err(error) => findings.push(Finding::skipped(
                CHECK,
                format!("you may not create SubjectAccessReviews: {error}"),
            )),
            Ok(denied) if !denied.is_empty() => {
                let denied: Vec<&str> = denied.iter().map(String::as_str).collect();
                let message = format!("{name} may not {}", denied.join(", "));
                let help = format!(
                    "{INSTALL}; its RoleBinding in {builds} names the ServiceAccount {account} of \
                     {namespace}"
                );
                findings.push(Finding::error(CHECK, message, help));
            }
            Ok(_) => {}
        }
        if jobs.image != *image {
            let message = format!("{name} runs {image}, and its builds run {}", jobs.image);
            let help = "set `builds.jobs.image` to the image of the builder: a build by another \
                        version is rejected";
            findings.push(Finding::warning(CHECK, message, help));
        }
        if findings.is_empty() {
            findings.push(Finding::ok(CHECK, format!("{name} may build in {builds}")));
        }
        findings
    }
}

/// What is wrong with the Pod Security level of a Namespace of builds.
fn level(namespace: &str, level: &str) -> Option<Finding> {
    let help = format!(
        "kubectl label namespace {namespace} pod-security.kubernetes.io/enforce={LEVEL} \
         --overwrite: docs/builds.md says why"
    );
    match level {
        LEVEL => None,
        "" => {
            let message = format!("{namespace} has no Pod Security level: the cluster's decides");
            Some(Finding::warning(CHECK, message, help))
        }
        level => {
            let message = format!("{namespace} has the level {level}, which admits no build");
            Some(Finding::error(CHECK, message, help))
        }
    }
}

/// The rules of the role of a builder in the Namespace of its builds.
fn rules() -> Vec<Value> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(ACCESS).unwrap_or_default();
    let roles = objects.into_iter().filter(|object| text_at(object, "/kind") == "Role");
    let rules = roles.filter_map(|role| role.get("rules")?.as_array().cloned());
    rules.flatten().collect()
}

/// What the builders of the cluster lack; nothing if there are none.
pub(super) fn findings(builders: &Result<Vec<Builder>, String>) -> Vec<Finding> {
    match builders {
        Ok(builders) => builders.iter().flat_map(Builder::findings).collect(),
        Err(error) => {
            vec![Finding::skipped(CHECK, format!("you may not list Deployments: {error}"))]
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::doctor::Status;

    fn builder() -> Builder {
        let labels = json!({ "pod-security.kubernetes.io/enforce": "privileged" });
        let jobs = Jobs {
            namespace: "builds".to_owned(),
            image: "r.test/portcullis-builder:1".to_owned(),
            found: Ok(json!({ "metadata": { "labels": labels } })),
            denied: Ok(BTreeSet::new()),
        };
        Builder {
            namespace: "builder".to_owned(),
            account: "portcullis-builder".to_owned(),
            image: jobs.image.clone(),
            jobs: Some(jobs),
        }
    }

    fn of(change: impl FnOnce(&mut Jobs)) -> Vec<(Status, String)> {
        let mut builder = builder();
        change(builder.jobs.as_mut().unwrap());
        let findings = findings(&Ok(vec![builder]));
        findings.into_iter().map(|finding| (finding.status, finding.message)).collect()
    }

    #[test]
    fn what_a_builder_lacks_for_its_jobs_is_said_each() {
        let error = |message: &str| vec![(Status::Error, message.to_owned())];
        let fine = "the builder in builder may build in builds".to_owned();
        assert_eq!(of(|_| {}), [(Status::Ok, fine)]);
        let absent = "Error from server (NotFound): namespaces \"builds\" not found".to_owned();
        let message = "the builder in builder builds in builds, which does not exist";
        assert_eq!(of(|jobs| jobs.found = Err(absent)), error(message));
        let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
        let restricted = Ok(json!({ "metadata": { "labels": labels } }));
        let message = "builds has the level restricted, which admits no build";
        assert_eq!(of(|jobs| jobs.found = restricted), error(message));
        assert_eq!(of(|jobs| jobs.found = Ok(json!({})))[0].0, Status::Warning);
        let denied = BTreeSet::from(["create pods in builds".to_owned()]);
        let message = "the builder in builder may not create pods in builds";
        assert_eq!(of(|jobs| jobs.denied = Ok(denied)), error(message));
        assert_eq!(of(|jobs| jobs.image = "r.test/other:2".to_owned())[0].0, Status::Warning);
        let own = findings(&Ok(vec![Builder { jobs: None, ..builder() }]));
        assert_eq!(own[0].status, Status::Error);
        assert!(findings(&Ok(Vec::new())).is_empty());
    }

    #[test]
    fn every_right_of_the_role_is_asked_for() {
        let answers = rights::reviews_in(("builder", "portcullis-builder"), &rules(), "builds");
        // Answers that say nothing deny.
        let denied = rights::denied(&answers);
        assert!(denied.contains("create pods/exec in builds"), "{denied:?}");
        assert!(denied.contains("delete jobs.batch in builds"), "{denied:?}");
        let user = text_at(&answers, "/items/0/spec/user");
        assert_eq!(user, "system:serviceaccount:builder:portcullis-builder");
    }
}
