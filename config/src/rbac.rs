//! What the API server refuses for lack of a permission, and the rule of RBAC that grants it.

use std::fmt;

use kube::core::Status;

/// The rule that a refused request lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MissingRule<'s> {
    account: &'s str,
    verb: &'s str,
    group: &'s str,
    resource: &'s str,
    /// The Namespace; `None` at the scope of the cluster.
    namespace: Option<&'s str>,
    /// The object, if the request was for one.
    name: Option<&'s str>,
}

/// The message of an error, and the rule that the request lacks, if that is the cause.
pub(crate) fn reason(error: &kube::Error) -> String {
    match (error, missing_rule(error)) {
        (kube::Error::Api(status), Some(rule)) => format!("{}; {rule}", status.message),
        (kube::Error::Api(status), None) => status.message.clone(),
        (error, _) => error.to_string(),
    }
}

/// The rule that a request lacks, if that is the cause of the error.
pub(crate) fn missing_rule(error: &kube::Error) -> Option<MissingRule<'_>> {
    match error {
        kube::Error::Api(status) => MissingRule::of(status),
        _ => None,
    }
}

// === impl MissingRule ===

impl<'s> MissingRule<'s> {
    /// Reads the response of the API server; `None` if something else is wrong.
    ///
    /// Only the message names the verb: `secrets "tls" is forbidden: User "U" cannot list resource
    /// "secrets" in API group "" in the namespace "N"`.
    pub(crate) fn of(status: &'s Status) -> Option<Self> {
        if status.code != 403 {
            return None;
        }
        let (_, rest) = status.message.split_once(" is forbidden: User \"")?;
        let (account, rest) = rest.split_once("\" cannot ")?;
        let (verb, rest) = rest.split_once(" resource \"")?;
        let (resource, rest) = rest.split_once("\" in API group \"")?;
        let (group, rest) = rest.split_once('"')?;
        let namespace = rest.strip_prefix(" in the namespace \"");
        let namespace = namespace.and_then(|rest| rest.split_once('"')).map(|(name, _)| name);
        // A rule for one name cannot grant creation: the API server does not know the name yet.
        let name = status.details.as_ref().map(|details| details.name.as_str());
        let name = name.filter(|name| !name.is_empty() && verb != "create");
        Some(Self { account, verb, group, resource, namespace, name })
    }

    /// The rule as YAML.
    fn rule(&self) -> String {
        let Self { group, resource, .. } = self;
        let names = self.name.map(|name| format!("resourceNames: [{name}], ")).unwrap_or_default();
        // Either is of no use without the other.
        let verbs = match self.verb {
            "list" | "watch" => "list, watch",
            verb => verb,
        };
        format!(r#"{{apiGroups: ["{group}"], resources: [{resource}], {names}verbs: [{verbs}]}}"#)
    }
}

impl fmt::Display for MissingRule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace {
            Some(namespace) => write!(f, "add to a Role of the Namespace `{namespace}`")?,
            None => f.write_str("add to a ClusterRole")?,
        }
        write!(f, " that is bound to `{}`: {}", self.account, self.rule())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(code: u16, message: &str, name: &str) -> Status {
        let status = json!({ "code": code, "message": message, "details": { "name": name } });
        serde_json::from_value(status).expect("a status")
    }

    #[test]
    fn a_refusal_names_the_rule_to_add() {
        let user = "User \"system:serviceaccount:edge:portcullis\"";
        for (refusal, name, expected) in [
            (
                format!(
                    "secrets \"tls\" is forbidden: {user} cannot watch resource \"secrets\" in API \
                     group \"\" in the namespace \"shop\""
                ),
                "tls",
                "add to a Role of the Namespace `shop` that is bound to \
                 `system:serviceaccount:edge:portcullis`: {apiGroups: [\"\"], resources: [secrets], \
                 resourceNames: [tls], verbs: [list, watch]}",
            ),
            (
                format!(
                    "endpointslices.discovery.k8s.io is forbidden: {user} cannot list resource \
                     \"endpointslices\" in API group \"discovery.k8s.io\" at the cluster scope: \
                     RBAC: clusterrole.rbac.authorization.k8s.io \"x\" not found"
                ),
                "",
                "add to a ClusterRole that is bound to `system:serviceaccount:edge:portcullis`: \
                 {apiGroups: [\"discovery.k8s.io\"], resources: [endpointslices], verbs: [list, \
                 watch]}",
            ),
            (
                format!(
                    "events.events.k8s.io \"web.1\" is forbidden: {user} cannot create resource \
                     \"events\" in API group \"events.k8s.io\" in the namespace \"shop\""
                ),
                "web.1",
                "add to a Role of the Namespace `shop` that is bound to \
                 `system:serviceaccount:edge:portcullis`: {apiGroups: [\"events.k8s.io\"], \
                 resources: [events], verbs: [create]}",
            ),
        ] {
            let status = status(403, &refusal, name);
            let rule = MissingRule::of(&status).expect("a rule").to_string();
            assert_eq!(rule, expected);
            let rule = rule.split_once("`: ").expect("a rule").1;
            let rule: serde_json::Value = serde_saphyr::from_str(rule).expect("YAML");
            assert!(rule["verbs"].is_array(), "{rule}");
            let reason = reason(&kube::Error::Api(Box::new(status)));
            assert_eq!(reason, format!("{refusal}; {expected}"));
        }
    }

    #[test]
    fn other_errors_name_no_rule() {
        let quota = "pods \"x\" is forbidden: exceeded quota: small";
        let refusal = "User \"u\" cannot list resource \"secrets\" in API group \"\"";
        for (code, message) in [(403, quota), (404, refusal), (403, ""), (401, "Unauthorized")] {
            let status = status(code, message, "x");
            assert_eq!(MissingRule::of(&status), None);
            assert_eq!(reason(&kube::Error::Api(Box::new(status))), message);
        }
    }
}
