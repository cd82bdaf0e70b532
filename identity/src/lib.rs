//! Who is calling Portcullis.
//!
//! The synchronous part is called on the request path: plain values in and out, no waiting.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`caller`] | applications and users, and whether a rule lets them in |
//! | [`presented`] | the credentials of a request |
//! | [`authenticator`] | from the credentials of a request to its caller |
//! | [`client_keys`], [`client_certificate`], [`token`], [`logins`] | each kind of credential |
//! | [`claims`], [`keys`] | what a token claims, and the keys that verify it |
//! | [`purpose`], [`person`] | whether a token says who is calling, and whether that is a person |
//! | [`session`] | login sessions: sealed into cookies, opened, revoked |
//!
//! The background part runs on the control plane's runtime.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`issuers`] | fetch the key sets of issuers |
//! | [`introspection`] | ask issuers about opaque tokens (RFC 7662) |
//! | [`provider`] | log people in by OpenID Connect or GitHub |
//! | [`portal`] | the pages and redirects by which people log in |
//! | [`outbound`], [`tls_roots`] | the HTTP client of all of these, and the authorities that it trusts |
//! | [`fair_queue`], [`client_network`] | where requests wait for the background part, fairly by client |
//! | [`page`] | the frame and the style of all pages that people see |
//!
//! Nothing here knows a listener, a route or an upstream: the gateway's request path calls this
//! crate, and so may anything else that has to know who is calling.

pub mod authenticator;
pub mod cache;
pub mod caller;
pub mod claims;
pub mod client_certificate;
pub mod client_keys;
pub mod client_network;
pub mod fair_queue;
pub mod header_text;
pub mod introspection;
pub mod issuers;
pub mod keys;
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
