//! Why a release has no canary.

/// Why a release cannot run beside the stable pods.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The release has no such Service.
    #[error("the release has no Service {0}, which gets the traffic")]
    NoService(String),
    /// The Service selects no pods by labels.
    #[error("Service {0} has no selector")]
    NoSelector(String),
    /// The Service's pods are not of a Deployment.
    #[error("no Deployment of the release has the pods of Service {0}")]
    NoDeployment(String),
    /// Its pods have an identity.
    #[error("{kind} {name} has the pods of the Service: only those of a Deployment can run twice")]
    Workload {
        /// The kind.
        kind: String,
        /// The name.
        name: String,
    },
    /// A volume is for one node.
    #[error(
        "Deployment {deployment} uses PersistentVolumeClaim {claim}, which only pods of one node can \
         mount: use ReadWriteMany, or roll out without a canary"
    )]
    Volume {
        /// The Deployment.
        deployment: String,
        /// The claim.
        claim: String,
    },
    /// A port of the node is taken.
    #[error(
        "Deployment {deployment} uses ports of its node ({what}), which the stable pods have: remove \
         them, or roll out without a canary"
    )]
    NodePorts {
        /// The Deployment.
        deployment: String,
        /// `hostPort 8080`, or `hostNetwork`.
        what: String,
    },
    /// A name is too long, or taken.
    #[error("{kind} {name} cannot be created: {why}")]
    Name {
        /// The kind.
        kind: String,
        /// The name of the copy.
        name: String,
        /// Why.
        why: &'static str,
    },
    /// A selector matches both.
    #[error(
        "the selector of {kind} {name} matches the canary's pods, too: it has no label with a value \
         that could be another one"
    )]
    Selects {
        /// The kind.
        kind: String,
        /// The name.
        name: String,
    },
}
