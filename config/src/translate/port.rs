//! Which port of a Service is meant, and what is spoken on it.

use std::sync::Arc;

use super::annotations::{Reader, Reading, excerpt};
use crate::model::vocabulary::PORT;
use crate::resources::{Service, ServicePort};
use crate::snapshot::backend::UpstreamProtocol;

/// Names of ports that say that HTTP is spoken there, the likeliest first; `http-` and more counts
/// like `http`.
const NAMES: [&str; 6] = ["http", "web", "https", "h2c", "http2", "grpc"];

/// Chooses the port that requests go to: the one that the annotation names, else the only one, else
/// the one whose name says that it is for the web, else the one whose `appProtocol` does. Where
/// that leaves none or several, that is told.
pub(super) fn choose<'a>(service: &'a Service, reader: &mut Reader<'_>) -> Option<&'a ServicePort> {
    let find = |text: &str| {
        let found =
            service.ports.iter().find(|port| *port.name == *text || port.port.to_string() == text);
        found.ok_or_else(|| "is no TCP port of this Service".to_owned())
    };
    match reader.read(PORT, "write the name or the number of one of the Service's ports", find) {
        Reading::Good(port) => return Some(port),
        Reading::Bad => return None,
        Reading::Absent => {}
    }
    let found = match service.ports.as_slice() {
        [only] => Some(only),
        ports => by_name(ports).or_else(|| {
            only(
                ports
                    .iter()
                    .filter(|port| port.app_protocol.as_deref().and_then(protocol_of).is_some()),
            )
        }),
    };
    if found.is_none() {
        let message = format!(
            "it has {} ports, and nothing says which one requests go to",
            service.ports.len()
        );
        reader.error(
            "AmbiguousPort",
            message,
            &format!("name it in the annotation `{PORT}`, or name the port `http`"),
        );
    }
    found
}

/// The only port of the likeliest name.
fn by_name(ports: &[ServicePort]) -> Option<&ServicePort> {
    let named =
        |name: &'static str| ports.iter().filter(move |port| is_named(port, name)).peekable();
    NAMES.iter().find_map(|name| named(name).peek().is_some().then(|| only(named(name)))).flatten()
}

fn only<'a>(mut ports: impl Iterator<Item = &'a ServicePort>) -> Option<&'a ServicePort> {
    ports.next().filter(|_| ports.next().is_none())
}

/// Whether a port has this name, or this name with a suffix (`grpc-web` is a `grpc`).
fn is_named(port: &ServicePort, name: &str) -> bool {
    port.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// What is spoken to the pods of a port: what its `appProtocol` says, else what its name says, else
/// HTTP/1.1. An `appProtocol` that is not understood is told: a guess could send requests to what
/// is no HTTP server.
pub(super) fn protocol(
    service: &Service,
    port: &ServicePort,
    reader: &mut Reader<'_>,
) -> Option<UpstreamProtocol> {
    let spoken = match &port.app_protocol {
        Some(name) => protocol_of(name),
        None => Some(protocol_by_name(port)),
    };
    let Some(spoken) = spoken else {
        let name = excerpt(port.app_protocol.as_deref().unwrap_or_default());
        let message = format!("`appProtocol: {name}` of port {} is not understood", port.port);
        reader.error(
            "UnknownProtocol",
            message,
            "write one of http, https, grpc, kubernetes.io/h2c, kubernetes.io/ws, \
             kubernetes.io/wss",
        );
        return None;
    };
    Some(match spoken {
        Spoken::Http1 => UpstreamProtocol::Http1,
        Spoken::H2c => UpstreamProtocol::H2c,
        Spoken::Tls => UpstreamProtocol::Tls { server_name: server_name(service) },
    })
}

/// What is spoken to pods, as names tell it.
#[derive(Clone, Copy)]
enum Spoken {
    Http1,
    H2c,
    Tls,
}

/// IANA service names are the same in capitals (RFC 6335 §5.1); Kubernetes' own are as KEP-3726
/// writes them.
fn protocol_of(app_protocol: &str) -> Option<Spoken> {
    match app_protocol.to_ascii_lowercase().as_str() {
        "http" | "ws" | "kubernetes.io/ws" => Some(Spoken::Http1),
        "h2c" | "http2" | "grpc" | "kubernetes.io/h2c" => Some(Spoken::H2c),
        "https" | "wss" | "kubernetes.io/wss" => Some(Spoken::Tls),
        _ => None,
    }
}

fn protocol_by_name(port: &ServicePort) -> Spoken {
    if ["grpc", "h2c", "http2"].iter().any(|name| is_named(port, name)) {
        Spoken::H2c
    } else if is_named(port, "https") {
        Spoken::Tls
    } else {
        Spoken::Http1
    }
}

/// The name that a Service's pods have certificates for: the shortest that is unique in the
/// cluster, whatever the cluster's domain.
fn server_name(service: &Service) -> Arc<str> {
    format!("{}.{}.svc", service.origin.name, service.origin.namespace).into()
}
