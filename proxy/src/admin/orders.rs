//! The admin listener: the live table, explanations, and orders. It is on this machine alone, and
//! asks for no credential: whoever may run a program here, as by `kubectl exec`, may use it. Web
//! pages in a browser here may not.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;

use super::Admin;
use super::browser::{self, Hosts};
use super::certificates::NotRenewed;
use super::connections::Capacity;
use super::reply::{Press, Reply, foreign, json, not_allowed, text};
use super::server::Answer;
use crate::explain::Question;

/// All that use it come from the same address.
pub(super) const CAPACITY: Capacity = Capacity { connections: 64, per_peer: 64 };
/// How long a connection may last.
pub(super) const LIFETIME: Duration = Duration::from_secs(60);

/// The pages and orders.
pub(super) struct Orders {
    admin: Arc<Admin>,
    press: Press,
}

// === impl Orders ===

impl Orders {
    pub(super) fn new(admin: Arc<Admin>) -> Self {
        Self { admin, press: Press::new() }
    }

    /// Does what a POST asks for.
    async fn order(&self, request: &Request<Incoming>) -> Reply {
        let query = request.uri().query().unwrap_or_default();
        match request.uri().path() {
            "/certificates/renew" => renew(query, &self.admin).await,
            "/certificates/rollover" => done(self.admin.roll_over().await.map(|()| "asked")),
            "/sessions/rotate" => rotate(query, &self.admin).await,
            _ => not_allowed("GET, HEAD"),
        }
    }

    async fn show(&self, request: &Request<Incoming>) -> Reply {
        let admin = Arc::clone(&self.admin);
        match request.uri().path() {
            "/certificates" => self.press.make(move || json(&admin.certificate_list())).await,
            "/routes" => self.press.make(move || json(&admin.table())).await,
            "/explain" => {
                let question = question(request.uri().query().unwrap_or_default());
                self.press
                    .make(move || match admin.explain(&question) {
                        Ok(explanation) => json(&explanation),
                        Err(invalid) => text(StatusCode::BAD_REQUEST, format!("{invalid}\n")),
                    })
                    .await
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "/certificates\n/routes\n/explain?url=URL&method=GET&header=NAME:VALUE\n",
            ),
        }
    }
}

impl Answer for Orders {
    async fn answer(&self, request: &Request<Incoming>, _: IpAddr) -> Reply {
        if let Err(why) = browser::check(request, Hosts::Loopback) {
            return foreign(why, "`localhost` or a loopback address");
        }
        match *request.method() {
            Method::GET | Method::HEAD => self.show(request).await,
            Method::POST => self.order(request).await,
            _ => not_allowed("GET, HEAD, POST"),
        }
    }
}

/// Has the certificate renewed that `name=…` names, by its own name or by a name that it is for.
async fn renew(query: &str, admin: &Admin) -> Reply {
    let name = form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == "name")
        .map(|(_, name)| name.into_owned());
    done(admin.renew(&name.unwrap_or_default()).await)
}

/// Makes another session key; with `end=true` all that others have sealed ends.
async fn rotate(query: &str, admin: &Admin) -> Reply {
    let end = form_urlencoded::parse(query.as_bytes())
        .any(|(key, value)| key == "end" && value == "true");
    match admin.rotate_sessions(end).await {
        Ok(rotated) => json(&rotated),
        Err(error) if error.is_passing() => {
            text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))
        }
        Err(error) => text(StatusCode::CONFLICT, format!("{error}\n")),
    }
}

fn done(outcome: Result<impl Serialize, NotRenewed>) -> Reply {
    match outcome {
        Ok(answer) => json(&answer),
        Err(NotRenewed::Unknown) => {
            text(StatusCode::NOT_FOUND, "the gateway orders no such certificate\n")
        }
        Err(NotRenewed::Store(error)) => {
            text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))
        }
    }
}

/// Reads `url=…&method=…&header=name:value&…`, the values percent-encoded.
fn question(query: &str) -> Question {
    let mut question =
        Question { url: String::new(), method: "GET".to_owned(), headers: Vec::new() };
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "url" => question.url = value.into_owned(),
            "method" => question.method = value.into_owned(),
            "header" => {
                let (name, value) = value.split_once(':').unwrap_or((&value, ""));
                question.headers.push((name.trim().to_owned(), value.trim().to_owned()));
            }
            _ => {}
        }
    }
    question
}
