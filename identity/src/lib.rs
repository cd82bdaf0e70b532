//! Authentication of callers: client keys, tokens, sessions, providers and the login portal.
//!
//! The synchronous part runs on the request path: plain values in and out, no waiting.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`caller`] | applications and users, and whether a rule allows them |
//! | [`presented`] | the credentials of a request |
//! | [`authenticator`] | authenticates the credentials of a request |
//! | [`client_keys`], [`client_certificate`], [`token`], `session_authenticator` | each kind of credential |
//! | [`claims`], [`keys`] | the claims of a token, and the keys that verify it |
//! | [`purpose`], [`person`] | whether a token identifies its caller, and whether that is a person |
//! | [`session`] | login sessions: sealed into cookies, opened, revoked |
//! | [`visitor`] | anonymous browsers, which keep their variants by a cookie |
//!
//! The background part runs on the control plane's runtime.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`issuers`] | fetch the key sets of issuers |
//! | [`introspection`] | introspect opaque tokens (RFC 7662) |
//! | [`provider`] | log users in by OpenID Connect or GitHub |
//! | [`portal`] | the pages and redirects of the login portal |
//! | [`outbound`], [`tls_roots`] | the HTTP client, and the authorities that it trusts |
//! | [`fair_queue`], [`client_network`] | queues for the background part, fair between clients |
//! | [`connections`] | the connections of listeners beside the request path, fair between peers |
//! | [`page`] | the frame and style of all HTML pages |
//!
//! This crate does not depend on listeners, routes or upstreams; the gateway's request path calls
//! it.

pub mod authenticator;
pub mod cache;
pub mod caller;
pub mod claims;
pub mod client_certificate;
pub mod client_keys;
pub mod client_network;
pub mod connections;
pub mod fair_queue;
pub mod header_text;
pub mod introspection;
pub mod issuers;
pub mod keys;
mod log_limiter;
pub mod outbound;
pub mod page;
pub mod person;
pub mod portal;
pub mod presented;
pub mod provider;
pub mod purpose;
pub mod rejected;
pub mod round_robin;
pub mod session;
mod session_authenticator;
pub mod tls_roots;
pub mod token;
pub mod visitor;
