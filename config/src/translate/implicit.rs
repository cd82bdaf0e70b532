//! Services that are exposed by annotations, without a route resource, as most are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::access::NamespaceAccess;
use super::annotations::{Reader, Reading, check_keys, is_about_annotations};
use super::endpoints::{self, endpoint_set};
use super::hostnames::{Claim, Hostnames, resolve_conflicts};
use super::variants::{self, STABLE, SplitSettings, Variant, Variants};
use super::{cors, health_check, policy, port, rate_limit};
use crate::model::vocabulary::{ENVIRONMENT, EXPOSE, PUBLIC_NAMES};
use crate::model::{NamespacedName, OriginSet, check_label};
use crate::problem::Problem;
use crate::resources::{Namespace, Resources, Service, ServicePort, Value};
use crate::settings::hostname::HostnameTemplate;
use crate::settings::{Settings, SourceSettings};
use crate::snapshot::access::{Access, Require};
use crate::snapshot::backend::{Backend, UpstreamProtocol, WeightedBackends};
use crate::snapshot::endpoints::{EndpointCells, EndpointKey};
use crate::snapshot::filter::Filter;
use crate::snapshot::host::HostTable;
use crate::snapshot::policy::Policy;
use crate::snapshot::rate_limit::RateLimit;
use crate::snapshot::rule::{PathPrefix, Precedence, Route, RouteMatch, Rule};

/// The most routes of a Service, over all of its hostnames: some work is done for each of them.
const MAX_ROUTES: usize = 10_000;

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
    /// How often they may be called.
    limits: Vec<RateLimit>,
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
    hostnames: Hostnames,
    policy: Policy,
    split: SplitSettings,
    filters: Vec<Filter>,
    paths: BTreeSet<PathPrefix>,
    /// The paths that need no credentials.
    public: BTreeSet<PathPrefix>,
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
    let is_folder = matches!(settings.source, SourceSettings::Directory(_));
    let mut translator = Translator {
        settings,
        resources,
        replicas_unknown: is_folder && resources.replicas().is_none(),
        template,
        stable: STABLE.into(),
        cors_origins: settings.cors.origins.iter().cloned().collect(),
        cells,
        problems,
    };
    // Another gateway serves the others, and reports their problems.
    let services = resources.services().filter(|service| {
        let namespace = resources.namespace(&service.origin.namespace);
        namespace.is_none_or(|namespace| selector.selects(&namespace.all_labels))
    });
    let (variants, services): (Vec<_>, Vec<_>) = services
        .partition(|service| variants::is_variant(service) && !service.key().is_api_server());
    let variants = translator.variants(&variants);
    let mut claims: Vec<Claim<'_>> = Vec::new();
    for service in services {
        let environment = environments.get(&*service.origin.namespace);
        let variants = variants.get(&service.key()).map_or(&[][..], Vec::as_slice);
        claims.extend(translator.claim(service, environment, variants));
    }
    (resolve_conflicts(claims, problems), public)
}

/// Whether a Namespace belongs to the cluster or to the gateway. Its Services are rarely meant for
/// external clients, so each must be exposed by its own annotation.
pub(super) fn is_reserved(settings: &Settings, resources: &Resources, namespace: &str) -> bool {
    matches!(namespace, "kube-system" | "kube-public" | "kube-node-lease")
        || *resources.installation().namespace == *namespace
        || settings.access.credentials_namespace.as_deref() == Some(namespace)
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
            limits: rate_limit::read(&mut annotations),
        }
    }
}

/// The context for the translation of Services.
struct Translator<'a> {
    settings: &'a Settings,
    resources: &'a Resources,
    /// Whether it is unknown how many replicas there are, and will be: a folder does not tell.
    replicas_unknown: bool,
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
    /// The variants of each Service.
    fn variants<'s>(&mut self, services: &[&'s Service]) -> Variants<'s> {
        let mut variants = Variants::new();
        for service in services {
            check_keys(&service.origin, &service.labels, &service.annotations, self.problems);
            let mut problems = Vec::new();
            let mut reader = Reader::of(service, &mut problems);
            let backend = self.backend(service, &mut reader);
            let read = variants::read(service, backend, self.resources, &mut reader);
            self.problems.append(&mut problems);
            if let Some((target, variant)) = read {
                variants.entry(target).or_default().push(variant);
            }
        }
        // The sort is stable, and Services are in the order of namespace and name.
        variants.values_mut().for_each(|all| all.sort_by_key(|variant| variant.service.created));
        variants
    }

    /// The claim of a Service with these variants; `None` if it is not exposed.
    fn claim<'s>(
        &mut self,
        service: &'s Service,
        environment: Option<&Environment>,
        variants: &[Variant<'_>],
    ) -> Option<Claim<'s>> {
        check_keys(&service.origin, &service.labels, &service.annotations, self.problems);
        let mut problems = Vec::new();
        let mut reader = Reader::of(service, &mut problems);
        if service.key().is_api_server() {
            reject_api_server(service, environment, &mut reader);
            variants::report_unused(service, variants, reader.problems);
            self.problems.append(&mut problems);
            return None;
        }
        let exposure = exposure(environment, &mut reader);
        if matches!(exposure, Exposure::No) && service.annotations.iter().next().is_none() {
            variants::report_unused(service, variants, self.problems);
            return None;
        }
        variants::check_stable(service, &mut reader);
        let name = match &exposure {
            Exposure::In(name) => Some(&**name),
            Exposure::NoEnvironment | Exposure::No => None,
        };
        // Everything is read first, so that all problems are reported at once.
        let ServiceSettings { backend, mut hostnames, policy, split, filters, paths, public } =
            self.read(service, environment, name, &mut reader);
        let paths = paths.difference(&public).cloned().collect::<BTreeSet<_>>();
        let most = MAX_ROUTES / (paths.len() + public.len()).max(1);
        hostnames.limit(most.max(1), &mut reader);
        if matches!(exposure, Exposure::No) {
            // Invalid values are reported in any case; other problems have no effect.
            problems.retain(is_about_annotations);
        } else if let Some((port, _)) = &backend {
            let key = service.key();
            problems.extend(endpoints::problems(self.resources, &key, Some(port.port)));
        }
        self.problems.append(&mut problems);
        let (Exposure::In(environment), Some(backend)) = (exposure, backend) else {
            variants::report_unused(service, variants, self.problems);
            return None;
        };
        let mut rule = self.rule(service, backend, policy, (&split, variants));
        rule.filters.extend(filters);
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
        let hostnames = Hostnames::read(&self.template, service, name, portal.as_deref(), reader);
        let before = reader.problems.len();
        let unset = NamespaceAccess::unset();
        let access = environment.map_or(&unset, |environment| &environment.access);
        let limits = environment.map_or(&[][..], |environment| &environment.limits);
        let mut policy = policy::policy(access, limits, reader);
        let protocol = backend.as_ref().map(|(_, protocol)| protocol);
        policy.health_check =
            health_check::check_protocol(policy.health_check.take(), protocol, reader);
        rate_limit::check_divided(&policy.rate_limits, self.replicas_unknown, reader);
        let paths = policy::paths(reader);
        let public = access.public_paths(&paths, reader);
        if environment.is_none() {
            // It is unknown what the missing Namespace allows.
            let mut found = reader.problems.split_off(before);
            found.retain(is_about_annotations);
            reader.problems.append(&mut found);
        }
        let filters = cors::filter(&self.cors_origins, reader).into_iter().collect();
        let split = SplitSettings::read(reader);
        ServiceSettings { backend, hostnames, policy, split, filters, paths, public }
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
        backend: (&ServicePort, UpstreamProtocol),
        policy: Policy,
        (settings, variants): (&SplitSettings, &[Variant<'_>]),
    ) -> Rule {
        for (variant, (port, _)) in
            variants.iter().filter_map(|variant| variant.backend.as_ref().map(|to| (variant, to)))
        {
            let key = variant.service.key();
            self.problems.extend(endpoints::problems(self.resources, &key, Some(port.port)));
        }
        let mirrors = variants::mirroring(variants, self.problems);
        let mut variants = variants::answering(variants);
        let split = variants::assemble(service, settings, &mut variants, self.problems);
        let weight = |position| split.as_ref().map_or(1, |split| split.weight(position));
        let stable = self.variant_backend(self.stable.clone(), service, backend, weight(0));
        let mut backends = vec![stable];
        for (position, variant) in (1..).zip(variants) {
            backends.extend(self.backend_of(variant, weight(position)));
        }
        let mirrors = mirrors
            .into_iter()
            .filter_map(|(variant, settings)| Some(settings.filter(self.backend_of(variant, 0)?)));
        Rule {
            origin: service.origin.clone(),
            service: service.origin.name.clone(),
            filters: mirrors.collect(),
            backends: WeightedBackends::new(backends),
            split: split.map(Arc::new),
            policy,
        }
    }

    /// The backend of a variant; `None` if it has no port for requests.
    fn backend_of(&mut self, variant: &Variant<'_>, weight: u32) -> Option<Backend> {
        let backend = variant.backend.clone()?;
        let name = variant.service.origin.name.clone();
        Some(self.variant_backend(name, variant.service, backend, weight))
    }

    /// The backend of a variant, whose pods are those of `service`.
    fn variant_backend(
        &mut self,
        variant: Arc<str>,
        service: &Service,
        (port, protocol): (&ServicePort, UpstreamProtocol),
        weight: u32,
    ) -> Backend {
        let NamespacedName { namespace, name } = service.key();
        let key = EndpointKey { namespace, service: name, port: port.port };
        let set = endpoint_set(self.resources, &key);
        let endpoints = self.cells.cell(key, set);
        Backend { variant, weight, protocol, filters: Vec::new(), endpoints }
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

/// One route for each path prefix, in matching order.
fn routes(
    service: &Service,
    public: BTreeSet<PathPrefix>,
    paths: BTreeSet<PathPrefix>,
    rule: Rule,
) -> Arc<[Route]> {
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
