//! Selects the port of a Service, and its protocol.

use std::sync::Arc;

use super::annotations::{Reader, Reading, excerpt};
use crate::model::vocabulary::PORT;
use crate::resources::{Service, ServicePort};
use crate::snapshot::backend::UpstreamProtocol;

/// Port names that indicate HTTP, the most likely first; a name with a suffix, such as `http-api`,
/// counts as `http`.
const NAMES: [&str; 6] = ["http", "web", "https", "h2c", "http2", "grpc"];

/// Selects the port for requests: the one of the annotation, else the only one, else the one whose
/// name indicates HTTP, else the one whose `appProtocol` does. Reports a problem if that leaves
/// none or several.
pub(super) fn select<'a>(service: &'a Service, reader: &mut Reader<'_>) -> Option<&'a ServicePort> {
    let find = |text: &str| {
        let found =
            service.ports.iter().find(|port| *port.name == *text || port.port.to_string() == text);
        found.ok_or_else(|| "is not a TCP port of this Service".to_owned())
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
        let message =
            format!("it has {} ports, and none is selected for requests", service.ports.len());
        reader.error(
            "AmbiguousPort",
            message,
            &format!("name it in the annotation `{PORT}`, or name the port `http`"),
        );
    }
    found
}

/// The only port with the most likely name.
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

/// The protocol of a port: by its `appProtocol`, else by its name, else HTTP/1.1. An unsupported
/// `appProtocol` is reported: a guess could send requests to a server that does not speak HTTP.
pub(super) fn protocol(
    service: &Service,
    port: &ServicePort,
    reader: &mut Reader<'_>,
) -> Option<UpstreamProtocol> {
    let protocol = match &port.app_protocol {
        Some(name) => protocol_of(name),
        None => Some(protocol_by_name(port)),
    };
    let Some(protocol) = protocol else {
        let name = excerpt(port.app_protocol.as_deref().unwrap_or_default());
        let message = format!("`appProtocol: {name}` of port {} is not supported", port.port);
        reader.error(
            "UnknownProtocol",
            message,
            "write one of http, https, grpc, kubernetes.io/h2c, kubernetes.io/ws, \
             kubernetes.io/wss",
        );
        return None;
    };
    Some(match protocol {
        PortProtocol::Http1 => UpstreamProtocol::Http1,
        PortProtocol::H2c => UpstreamProtocol::H2c,
        PortProtocol::Tls => UpstreamProtocol::Tls { server_name: server_name(service) },
    })
}

/// The protocol that a name indicates.
#[derive(Clone, Copy)]
enum PortProtocol {
    Http1,
    H2c,
    Tls,
}

/// IANA service names are case-insensitive (RFC 6335 §5.1); Kubernetes' own are as in KEP-3726.
fn protocol_of(app_protocol: &str) -> Option<PortProtocol> {
    match app_protocol.to_ascii_lowercase().as_str() {
        "http" | "ws" | "kubernetes.io/ws" => Some(PortProtocol::Http1),
        "h2c" | "http2" | "grpc" | "kubernetes.io/h2c" => Some(PortProtocol::H2c),
        "https" | "wss" | "kubernetes.io/wss" => Some(PortProtocol::Tls),
        _ => None,
    }
}

fn protocol_by_name(port: &ServicePort) -> PortProtocol {
    if ["grpc", "h2c", "http2"].iter().any(|name| is_named(port, name)) {
        PortProtocol::H2c
    } else if is_named(port, "https") {
        PortProtocol::Tls
    } else {
        PortProtocol::Http1
    }
}

/// The name in the certificates of a Service's pods: the shortest that is unique in the cluster,
/// regardless of the cluster domain.
fn server_name(service: &Service) -> Arc<str> {
    format!("{}.{}.svc", service.origin.name, service.origin.namespace).into()
}
