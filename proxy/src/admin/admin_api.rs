//! The admin listener: the live table, explanations, the traffic feed, and commands. It listens on this machine alone
//! and needs no credentials: everyone who can run a program here, as by `kubectl exec`, has access.
//! Web pages in a browser here have none.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use portcullis_identity::connections::Capacity;
use serde::Serialize;

use super::Admin;
use super::browser::{self, Hosts};
use super::certificates::NotRenewed;
use super::reply::{Renderer, Reply, foreign, json, not_allowed, text};
use super::server::Handler;
use super::traffic;
use crate::explain::ExplainRequest;

/// All clients have the same address.
pub(super) const CAPACITY: Capacity = Capacity { connections: 64, per_peer: 64 };
/// The longest lifetime of a connection.
pub(super) const LIFETIME: Duration = Duration::from_secs(60);

/// The pages and commands.
pub(super) struct AdminApi {
    admin: Arc<Admin>,
    renderer: Renderer,
}

// === impl AdminApi ===

impl AdminApi {
    pub(super) fn new(admin: Arc<Admin>) -> Self {
        Self { admin, renderer: Renderer::new() }
    }

    /// Runs the command of a POST.
    async fn command(&self, request: &Request<Incoming>) -> Reply {
        let query = request.uri().query().unwrap_or_default();
        match request.uri().path() {
            "/certificates/renew" => renew(query, &self.admin).await,
            "/certificates/rollover" => outcome(self.admin.roll_over().await.map(|()| "asked")),
            "/sessions/rotate" => rotate(query, &self.admin).await,
            _ => not_allowed("GET, HEAD"),
        }
    }

    /// Renders the page of a GET.
    async fn page(&self, request: &Request<Incoming>) -> Reply {
        let admin = Arc::clone(&self.admin);
        match request.uri().path() {
            "/certificates" => self.renderer.render(move || json(&admin.certificate_list())).await,
            "/routes" => self.renderer.render(move || json(&admin.table())).await,
            traffic::PATH => {
                let query = request.uri().query().unwrap_or_default();
                traffic::feed(&self.renderer, admin, query).await
            }
            "/explain" => {
                let explain = explain_request(request.uri().query().unwrap_or_default());
                self.renderer
                    .render(move || match admin.explain(&explain) {
                        Ok(explanation) => json(&explanation),
                        Err(invalid) => text(StatusCode::BAD_REQUEST, format!("{invalid}\n")),
                    })
                    .await
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "/certificates\n/routes\n/explain?url=URL&method=GET&header=NAME:VALUE\n\
                 /explain?url=URL&application=NAME&user=NAME&group=NAME\n\
                 /v1/traffic?namespace=NAME&service=NAME&windows=false&from=SECONDS\n",
            ),
        }
    }
}

impl Handler for AdminApi {
    async fn handle(&self, request: &Request<Incoming>, _: IpAddr) -> Reply {
        if let Err(why) = browser::check(request, Hosts::Loopback) {
            return foreign(why, "`localhost` or a loopback address");
        }
        match *request.method() {
            Method::GET | Method::HEAD => self.page(request).await,
            Method::POST => self.command(request).await,
            _ => not_allowed("GET, HEAD, POST"),
        }
    }
}

/// Requests renewal of the certificate `name=…`: its own name, or a DNS name.
async fn renew(query: &str, admin: &Admin) -> Reply {
    let name = form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == "name")
        .map(|(_, name)| name.into_owned());
    outcome(admin.renew(&name.unwrap_or_default()).await)
}

/// Rotates session keys; with `end=true`, revokes everything sealed by earlier keys.
async fn rotate(query: &str, admin: &Admin) -> Reply {
    let end = form_urlencoded::parse(query.as_bytes())
        .any(|(key, value)| key == "end" && value == "true");
    match admin.rotate_sessions(end).await {
        Ok(rotated) => json(&rotated),
        Err(error) if error.is_temporary() => {
            text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))
        }
        Err(error) => text(StatusCode::CONFLICT, format!("{error}\n")),
    }
}

fn outcome(outcome: Result<impl Serialize, NotRenewed>) -> Reply {
    match outcome {
        Ok(value) => json(&value),
        Err(NotRenewed::Unknown) => {
            text(StatusCode::NOT_FOUND, "no ordered certificate has this name\n")
        }
        Err(NotRenewed::Store(error)) => {
            text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))
        }
    }
}

/// Reads `url=…&method=…&header=name:value&…`, the values percent-encoded. With `application=…`,
/// `user=…` or `group=…&…`, that caller is assumed.
fn explain_request(query: &str) -> ExplainRequest {
    let mut request = ExplainRequest {
        url: String::new(),
        method: "GET".to_owned(),
        headers: Vec::new(),
        caller: None,
    };
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let value = value.into_owned();
        match &*name {
            "url" => request.url = value,
            "method" => request.method = value,
            "header" => {
                let (name, value) = value.split_once(':').unwrap_or((&value, ""));
                request.headers.push((name.trim().to_owned(), value.trim().to_owned()));
            }
            "application" => request.caller.get_or_insert_default().application = Some(value),
            "user" => request.caller.get_or_insert_default().user = Some(value),
            "group" => request.caller.get_or_insert_default().groups.push(value),
            _ => {}
        }
    }
    request
}
