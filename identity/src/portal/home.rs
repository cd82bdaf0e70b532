//! The first page: the user, and the services that they may use.

use std::collections::BTreeMap;
use std::time::SystemTime;

use http::StatusCode;
use portcullis_config::model::HostPattern;
use portcullis_config::snapshot::host::GrantedRoute;
use portcullis_config::snapshot::{Listener, Snapshot};

use super::pages::{self, Service};
use super::portal_origin::PortalOrigin;
use super::{Portal, PortalRequest, Reply};
use crate::caller::{User, granted_to_user, is_granted};

/// Maximum number of services on the page.
const MAX: usize = 1000;

// === impl Portal ===

impl Portal {
    pub(super) async fn home(&self, request: &PortalRequest, now: SystemTime) -> Reply {
        let visitor = self.visitor(request, now).await;
        let page = match &visitor.session {
            Some(session) => pages::home(
                &session.user,
                &services(&self.live.snapshot.load(), &session.user, &self.origin),
            ),
            None => pages::welcome(),
        };
        Reply::page(StatusCode::OK, page).with(visitor.cookies)
    }
}

/// Returns the services that grants allow the user, by environment and name.
fn services(snapshot: &Snapshot, user: &User, origin: &PortalOrigin) -> Vec<Service> {
    let mut found = BTreeMap::new();
    let granted = |listener: &Listener| granted_to_user(listener.hosts.grants(), user);
    let listeners = snapshot.listeners.iter().map(|listener| (listener, granted(listener)));
    let entries = listeners.flat_map(|(listener, granted)| {
        listener.hosts.entries().map(move |entry| (entry, granted.clone()))
    });
    for (entry, granted) in entries {
        let host = entry.host();
        let HostPattern::Exact(name) = &host.pattern else { continue };
        let Some(GrantedRoute { route, .. }) =
            entry.routes().find(|route| is_granted(*route, &granted))
        else {
            continue;
        };
        let service = Service {
            environment: host.environment.to_string(),
            name: route.rule.service.to_string(),
            host: name.to_string(),
            url: origin.url(name.as_str(), "/"),
        };
        found.insert(
            (service.environment.clone(), service.name.clone(), service.host.clone()),
            service,
        );
    }
    found.into_values().take(MAX).collect()
}
