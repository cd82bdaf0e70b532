//! The first page: who you are, and the services that you may use.

use std::collections::BTreeMap;
use std::time::SystemTime;

use http::StatusCode;
use portcullis_config::model::HostPattern;
use portcullis_config::snapshot::Snapshot;

use super::pages::{self, Service};
use super::portal_origin::Place;
use super::{Ask, Portal, Reply};
use crate::caller::{User, may_enter};

/// The most services of one page.
const MAX: usize = 1000;

// === impl Portal ===

impl Portal {
    pub(super) async fn home(&self, ask: &Ask, now: SystemTime) -> Reply {
        let visitor = self.visitor(ask, now).await;
        let page = match &visitor.session {
            Some(session) => pages::home(
                &session.user,
                &services(&self.live.snapshot.load(), &session.user, &self.place),
            ),
            None => pages::welcome(),
        };
        Reply::page(StatusCode::OK, page).with(visitor.cookies)
    }
}

/// What the user may enter, by environment and name.
fn services(snapshot: &Snapshot, user: &User, place: &Place) -> Vec<Service> {
    let mut found = BTreeMap::new();
    for host in snapshot.listeners.iter().flat_map(|listener| listener.hosts.iter()) {
        let HostPattern::Exact(name) = &host.pattern else { continue };
        let Some(route) =
            host.routes.iter().find(|route| may_enter(&route.rule.policy.access, user))
        else {
            continue;
        };
        let service = Service {
            environment: host.environment.to_string(),
            name: route.rule.service.to_string(),
            host: name.to_string(),
            url: place.url(name.as_str(), "/"),
        };
        found.insert(
            (service.environment.clone(), service.name.clone(), service.host.clone()),
            service,
        );
    }
    found.into_values().take(MAX).collect()
}
