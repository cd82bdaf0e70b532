//! Services that are exposed by annotations, without a route resource, as most are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::access::NamespaceAccess;
use super::annotations::{Reader, Reading, check_keys, excerpt, is_about_annotations};
use super::endpoints::{self, endpoint_set};
use super::{cors, policy, port};
use crate::model::vocabulary::{ENVIRONMENT, EXPOSE, HOSTNAMES, PUBLIC_NAMES};
use crate::model::{HostPattern, Hostname, InvalidHostname, Origin, OriginSet, check_label};
use crate::problem::Problem;
use crate::resources::{Namespace, Resources, Service, ServicePort, Value};
use crate::settings::Settings;
use crate::settings::hostname::HostnameTemplate;
use crate::snapshot::access::{Access, Require};
use crate::snapshot::backend::{Backend, UpstreamProtocol, WeightedBackends};
use crate::snapshot::endpoints::{EndpointCells, EndpointKey};
use crate::snapshot::filter::Filter;
use crate::snapshot::host::{HostTable, VirtualHost};
use crate::snapshot::policy::Policy;
use crate::snapshot::rule::{PathPrefix, Precedence, Route, RouteMatch, Rule};

/// The variant for requests that match no other one.
const STABLE: &str = "stable";
/// The error for a hostname that the template generates for another environment.
const FOREIGN: &str = "is a name of another environment";

/// The settings of a Namespace for its Services.
struct Environment {
    /// Its name.
    name: Reading<Arc<str>>,
    /// Whether Services without the annotation are exposed.
    all: bool,
    /// Whether its hostnames may appear in public certificate logs.
    public_names: bool,
    /// Who may call its Services.
    access: NamespaceAccess,
}

/// Whether a Service is exposed.
enum Exposure {
    /// In this environment.
    In(Arc<str>),
    /// It is to be exposed, but its Namespace is not an environment, or has an invalid name.
    NoEnvironment,
    /// It is not to be exposed, or the annotation is invalid.
    No,
}

/// The settings of a Service.
struct ServiceSettings<'a> {
    /// The port for requests, and its protocol.
    backend: Option<(&'a ServicePort, UpstreamProtocol)>,
    hostnames: Vec<HostPattern>,
    policy: Policy,
    filters: Vec<Filter>,
    paths: Vec<PathPrefix>,
    /// The paths that need no credentials.
    public: Vec<PathPrefix>,
}

/// The claim of a Service to its hostnames.
struct Claim<'a> {
    service: &'a Service,
    environment: Arc<str>,
    hostnames: Vec<HostPattern>,
    routes: Vec<Route>,
}

/// The virtual hosts of all exposed Services, and the Namespaces whose hostnames may appear in
/// public certificate logs.
pub(super) fn hosts(
    settings: &Settings,
    resources: &Resources,
    cells: &mut EndpointCells,
    problems: &mut Vec<Problem>,
) -> (HostTable, BTreeSet<Arc<str>>) {
    let template = match HostnameTemplate::new(settings) {
        Ok(template) => template,
        Err(wrong) => {
            problems.extend(wrong.into_iter().map(Problem::from));
            return Default::default();
        }
    };
    let selector = &settings.environments.selector;
    let selected =
        || resources.namespaces().filter(|namespace| selector.selects(&namespace.all_labels));
    let environments: BTreeMap<&str, Environment> = selected()
        .map(|namespace| {
            let reserved = is_reserved(settings, resources, namespace.name());
            (&**namespace.name(), Environment::read(namespace, reserved, problems))
        })
        .collect();
    let public = selected().map(|namespace| namespace.name());
    let public = public
        .filter(|name| {
            environments.get(&***name).is_some_and(|environment| environment.public_names)
        })
        .cloned()
        .collect();
    let mut translator = Translator {
        settings,
        resources,
        template,
        stable: STABLE.into(),
        cors_origins: settings.cors.origins.iter().cloned().collect(),
        cells,
        problems,
    };
    let mut claims: Vec<Claim<'_>> = Vec::new();
    for service in resources.services() {
        let environment = match resources.namespace(&service.origin.namespace) {
            // Another gateway serves it, and reports its problems.
            Some(namespace) if !selector.selects(&namespace.all_labels) => continue,
            _ => environments.get(&*service.origin.namespace),
        };
        claims.extend(translator.claim(service, environment));
    }
    (resolve_conflicts(claims, problems), public)
}

/// Whether a Namespace belongs to the cluster or to the gateway. Its Services are rarely meant for
/// external clients, so each must be exposed by its own annotation.
fn is_reserved(settings: &Settings, resources: &Resources, namespace: &str) -> bool {
    matches!(namespace, "kube-system" | "kube-public" | "kube-node-lease")
        || *resources.installation().namespace == *namespace
        || settings.access.credentials_namespace.as_deref() == Some(namespace)
}

/// Assigns each hostname to the oldest Service that claims it, and reports the conflicts.
fn resolve_conflicts(mut claims: Vec<Claim<'_>>, problems: &mut Vec<Problem>) -> HostTable {
    // The sort is stable, and Services are in the order of namespace and name.
    claims.sort_by_key(|claim| claim.service.created);
    let mut hosts: BTreeMap<HostPattern, Arc<VirtualHost>> = BTreeMap::new();
    for Claim { service, environment, hostnames, routes } in claims {
        for pattern in hostnames {
            if let Some(owner) = hosts.get(&pattern) {
                if owner.origin != service.origin {
                    let message = taken(&pattern, &owner.origin, &service.origin);
                    let mut reader = Reader {
                        origin: &service.origin,
                        annotations: &service.annotations,
                        problems,
                    };
                    reader.error(
                        "HostnameTaken",
                        message,
                        "the oldest Service keeps a hostname: choose another, or ask the gateway's \
                         operator, who finds its owner with `portcullis routes`",
                    );
                }
                continue;
            }
            let host = VirtualHost {
                pattern: pattern.clone(),
                environment: environment.clone(),
                origin: service.origin.clone(),
                routes: routes.clone(),
            };
            hosts.insert(pattern, Arc::new(host));
        }
    }
    hosts.into_values().collect()
}

/// That a hostname has an owner. The problem becomes an Event on the claimant, whose readers may not
/// know objects of other Namespaces.
fn taken(pattern: &HostPattern, owner: &Origin, claimant: &Origin) -> String {
    if owner.namespace == claimant.namespace {
        format!("`{pattern}` belongs to Service {}/{}", owner.namespace, owner.name)
    } else {
        format!("`{pattern}` belongs to an older Service of another Namespace")
    }
}

// === impl Environment ===

impl Environment {
    /// Reads a Namespace; if it is `reserved`, it cannot expose all of its Services.
    fn read(namespace: &Namespace, reserved: bool, problems: &mut Vec<Problem>) -> Self {
        check_keys(&namespace.origin, &namespace.labels, &namespace.annotations, problems);
        let help = "write lower-case letters, digits and hyphens, as in a hostname; until then \
                    its Services are not exposed";
        let mut labels =
            Reader { origin: &namespace.origin, annotations: &namespace.labels, problems };
        let name = labels.read(ENVIRONMENT, help, |text| {
            check_label(text).map(|()| text.into()).map_err(|error| error.to_string())
        });
        let mut annotations =
            Reader { origin: &namespace.origin, annotations: &namespace.annotations, problems };
        let all =
            annotations.read(EXPOSE, "write all or opt-in; until then it is opt-in", |text| {
                match text {
                    "all" => Ok(true),
                    "opt-in" => Ok(false),
                    _ => Err("is invalid".to_owned()),
                }
            });
        let all = all == Reading::Good(true);
        if all && reserved {
            annotations.error(
                "ReservedNamespace",
                "its Services belong to the cluster or to the gateway, so they are never exposed \
                 all at once"
                    .to_owned(),
                "run services in a Namespace of their own, and expose one here by its own \
                 annotation",
            );
        }
        let help = "write \"true\" or \"false\"; until then no hostname that requires credentials \
                    gets a certificate of its own";
        let public_names = annotations.read_flag(PUBLIC_NAMES, help);
        Self {
            name,
            all: all && !reserved,
            public_names: public_names == Reading::Good(true),
            access: NamespaceAccess::read(&mut annotations),
        }
    }
}

/// The context for the translation of Services.
struct Translator<'a> {
    settings: &'a Settings,
    resources: &'a Resources,
    template: HostnameTemplate,
    /// [`STABLE`], allocated once.
    stable: Arc<str>,
    /// The origins of the configuration.
    cors_origins: OriginSet,
    cells: &'a mut EndpointCells,
    problems: &'a mut Vec<Problem>,
}

// === impl Translator ===

impl Translator<'_> {
    /// The claim of a Service; `None` if it is not exposed.
    fn claim<'s>(
        &mut self,
        service: &'s Service,
        environment: Option<&Environment>,
    ) -> Option<Claim<'s>> {
        check_keys(&service.origin, &service.labels, &service.annotations, self.problems);
        let mut problems = Vec::new();
        let mut reader = Reader {
            origin: &service.origin,
            annotations: &service.annotations,
            problems: &mut problems,
        };
        if service.key().is_api_server() {
            reject_api_server(service, environment, &mut reader);
            self.problems.append(&mut problems);
            return None;
        }
        let exposure = exposure(environment, &mut reader);
        if matches!(exposure, Exposure::No) && service.annotations.iter().next().is_none() {
            return None;
        }
        let name = match &exposure {
            Exposure::In(name) => Some(&**name),
            Exposure::NoEnvironment | Exposure::No => None,
        };
        // Everything is read first, so that all problems are reported at once.
        let ServiceSettings { backend, hostnames, policy, filters, paths, public } =
            self.read(service, environment, name, &mut reader);
        if matches!(exposure, Exposure::No) {
            // Invalid values are reported in any case; other problems have no effect.
            problems.retain(is_about_annotations);
        } else if let Some((port, _)) = &backend {
            let key = service.key();
            problems.extend(endpoints::problems(self.resources, &key, Some(port.port)));
        }
        self.problems.append(&mut problems);
        let (Exposure::In(environment), Some((port, protocol))) = (exposure, backend) else {
            return None;
        };
        let rule = Rule { filters, ..self.rule(service, port, protocol, policy) };
        let routes = routes(service, public, paths, rule);
        Some(Claim { service, environment, hostnames, routes })
    }

    /// The settings of a Service; `name` is the environment in which it is exposed.
    fn read<'s>(
        &self,
        service: &'s Service,
        environment: Option<&Environment>,
        name: Option<&str>,
        reader: &mut Reader<'_>,
    ) -> ServiceSettings<'s> {
        let backend = self.backend(service, reader);
        let portal =
            self.settings.access.login.as_ref().map(|login| login.hostname(&self.settings.zone));
        let mut hostnames = hostnames(&self.template, service, name, reader);
        hostnames.retain(|pattern| !is_portal(pattern, portal.as_deref(), reader));
        let before = reader.problems.len();
        let unset = NamespaceAccess::unset();
        let access = environment.map_or(&unset, |environment| &environment.access);
        let policy = policy::policy(access, reader);
        let paths = policy::paths(reader);
        let public = access.public_paths(&paths, reader);
        if environment.is_none() {
            // It is unknown what the missing Namespace allows.
            let mut found = reader.problems.split_off(before);
            found.retain(is_about_annotations);
            reader.problems.append(&mut found);
        }
        let filters = cors::filter(&self.cors_origins, reader).into_iter().collect();
        ServiceSettings { backend, hostnames, policy, filters, paths, public }
    }

    /// The port for requests and its protocol; `None` if there is none.
    fn backend<'s>(
        &self,
        service: &'s Service,
        reader: &mut Reader<'_>,
    ) -> Option<(&'s ServicePort, UpstreamProtocol)> {
        if service.external {
            let help = format!("give it pods, or the annotation `{EXPOSE}: \"false\"`");
            reader.error(
                "ExternalName",
                "an ExternalName can point anywhere, so it is not exposed".to_owned(),
                &help,
            );
            return None;
        }
        if service.ports.is_empty() {
            // If all Services are exposed, one without a port was hardly intended.
            if service.annotations.get(EXPOSE.name).is_some() {
                reader.error(
                    "NoPort",
                    "it is to be exposed, but has no TCP port".to_owned(),
                    "give it a port",
                );
            }
            return None;
        }
        let port = port::select(service, reader)?;
        let protocol = port::protocol(service, port, reader)?;
        if matches!(protocol, UpstreamProtocol::Tls { .. })
            && self.settings.upstreams.certificate_authorities.is_none()
        {
            let help = "set `upstreams.certificateAuthorities` in the gateway's configuration";
            reader.warn(
                "NoCertificateAuthorities",
                "there are no certificate authorities to verify the certificates of its pods"
                    .to_owned(),
                help,
            );
        }
        Some((port, protocol))
    }

    fn rule(
        &mut self,
        service: &Service,
        port: &ServicePort,
        protocol: UpstreamProtocol,
        policy: Policy,
    ) -> Rule {
        let key = EndpointKey {
            namespace: service.origin.namespace.clone(),
            service: service.origin.name.clone(),
            port: port.port,
        };
        let set = endpoint_set(self.resources, &key);
        let endpoints = self.cells.cell(key, set);
        let backend = Backend {
            variant: self.stable.clone(),
            weight: 1,
            protocol,
            filters: Vec::new(),
            endpoints,
        };
        Rule {
            origin: service.origin.clone(),
            service: service.origin.name.clone(),
            filters: Vec::new(),
            backends: WeightedBackends::new(vec![backend]),
            policy,
        }
    }
}

/// Reports that the Service of the API server is to be exposed, which is never done.
fn reject_api_server(
    service: &Service,
    environment: Option<&Environment>,
    reader: &mut Reader<'_>,
) {
    let message = "it is the Kubernetes API server, which is never exposed".to_owned();
    match service.annotations.get(EXPOSE.name) {
        Some(Value::Text(text)) if **text == *"false" => {}
        Some(_) => reader.error(
            "ApiServer",
            message,
            "remove the annotation: clients of the API server do not go through the gateway",
        ),
        None => {
            let is_implied = environment.is_some_and(|environment| {
                environment.all && matches!(environment.name, Reading::Good(_))
            });
            if is_implied {
                reader.warn("ApiServer", message, "run services in a Namespace of their own");
            }
        }
    }
}

/// Whether a Service is exposed, and in which environment.
fn exposure(environment: Option<&Environment>, reader: &mut Reader<'_>) -> Exposure {
    let help = "write \"true\" or \"false\"; until then it is not exposed";
    let annotation = reader.read_flag(EXPOSE, help);
    let is_wanted = match annotation {
        Reading::Absent => environment.is_some_and(|environment| environment.all),
        Reading::Good(annotation) => annotation,
        Reading::Bad => false,
    };
    match environment.map_or(&Reading::Absent, |environment| &environment.name) {
        _ if !is_wanted => Exposure::No,
        Reading::Good(name) => Exposure::In(name.clone()),
        Reading::Bad => Exposure::NoEnvironment,
        Reading::Absent if annotation == Reading::Absent => Exposure::No,
        Reading::Absent => {
            let help = format!(
                "give the Namespace the label `{ENVIRONMENT}`, with the environment's name"
            );
            reader.warn(
                "NoEnvironment",
                "it is to be exposed, but its Namespace is not an environment".to_owned(),
                &help,
            );
            Exposure::NoEnvironment
        }
    }
}

/// The hostnames that a Service claims: the one from the template, if its environment is known, and
/// those of its annotation.
fn hostnames(
    template: &HostnameTemplate,
    service: &Service,
    environment: Option<&str>,
    reader: &mut Reader<'_>,
) -> Vec<HostPattern> {
    let name = &*service.origin.name;
    let mut hostnames = BTreeSet::new();
    match environment
        .map(|environment| (environment, template_hostname(template, name, environment)))
    {
        None => {}
        Some((_, Ok(hostname))) => {
            hostnames.insert(HostPattern::Exact(hostname));
        }
        Some((environment, Err(error))) => {
            let message = format!(
                "the hostname of `{}` in environment `{environment}` {error}",
                excerpt(name)
            );
            let help = format!("give it another name, or name it by the annotation `{HOSTNAMES}`");
            reader.error("InvalidHostname", message, &help);
        }
    }
    let help = "write hostnames such as shop.example.com, separated by commas";
    let additional = reader
        .read_list(HOSTNAMES, help, |text| additional_hostname(template, environment, text))
        .good();
    hostnames.extend(additional.into_iter().flatten());
    hostnames.into_iter().collect()
}

/// Whether a Service claims the hostname of the login portal: it could steal credentials there.
fn is_portal(pattern: &HostPattern, portal: Option<&str>, reader: &mut Reader<'_>) -> bool {
    let found = matches!(pattern, HostPattern::Exact(name) if portal == Some(name.as_str()));
    if found {
        let message = format!("`{pattern}` is the hostname of the login portal");
        reader.error(
            "HostnameTaken",
            message,
            "give it another name, or set `access.login.host` in the gateway's configuration",
        );
    }
    found
}

fn template_hostname(
    template: &HostnameTemplate,
    service: &str,
    environment: &str,
) -> Result<Hostname, String> {
    let hostname = check_label(service)
        .and_then(|()| template.hostname(service, environment))
        .map_err(|error| error.to_string())?;
    // In the default environment, `a--b` would have the hostname of `a` in environment `b`.
    if template.is_foreign(&hostname, environment) { Err(FOREIGN.to_owned()) } else { Ok(hostname) }
}

fn additional_hostname(
    template: &HostnameTemplate,
    environment: Option<&str>,
    text: &str,
) -> Result<HostPattern, String> {
    let pattern: HostPattern =
        text.to_ascii_lowercase().parse().map_err(|error: InvalidHostname| error.to_string())?;
    if template.is_shadowed_by(&pattern) {
        return Err("would match names of the gateway's zone".to_owned());
    }
    let (HostPattern::Exact(name) | HostPattern::Wildcard(name)) = &pattern;
    // URL Standard, "ends in a number": browsers take such a name for an IPv4 address.
    if name
        .as_str()
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return Err("is an address, not a name".to_owned());
    }
    if environment.is_some_and(|environment| template.is_foreign(name, environment)) {
        return Err(FOREIGN.to_owned());
    }
    Ok(pattern)
}

/// One route for each path prefix, in matching order. A path in both lists is only public.
fn routes(
    service: &Service,
    public: Vec<PathPrefix>,
    mut paths: Vec<PathPrefix>,
    rule: Rule,
) -> Vec<Route> {
    paths.retain(|path| !public.contains(path));
    let mut open = rule.clone();
    open.policy.access = Access {
        require: Require::Nothing,
        pass_credentials: rule.policy.access.pass_credentials,
        ..Access::default()
    };
    let (open, rule) = (Arc::new(open), Arc::new(rule));
    let all = public
        .into_iter()
        .map(|path| (path, &open))
        .chain(paths.into_iter().map(|path| (path, &rule)));
    let route = |(position, (path, rule)): (usize, (PathPrefix, &Arc<Rule>))| {
        let matches = RouteMatch::prefix(path);
        (
            matches.precedence(service.created, service.key(), (position, 0)),
            Route { matches, rule: rule.clone() },
        )
    };
    let sorted: BTreeMap<Precedence, Route> = all.enumerate().map(route).collect();
    sorted.into_values().collect()
}
