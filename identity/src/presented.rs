//! The credentials that a request presents, as plain values.

use portcullis_config::client_key;

use crate::client_certificate::ClientCertificate;
use crate::rejected::Rejected;

/// The credentials of one request, none of them verified.
#[derive(Clone, Copy, Default)]
pub struct Presented<'a> {
    /// What follows `Bearer` in `Authorization`.
    pub bearer: Option<Bearer<'a>>,
    /// The client key of `X-Api-Key`.
    pub api_key: Option<&'a str>,
    /// The sealed value of the session cookie.
    pub session: Option<&'a str>,
    /// The certificate of the TLS connection.
    pub certificate: Option<&'a ClientCertificate>,
    /// Why another credential could not be read.
    pub unreadable: Option<Rejected>,
}

/// A bearer credential, classified by its form alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bearer<'a> {
    /// It has the prefix of client keys.
    ClientKey(&'a str),
    /// Everything else.
    Token(&'a str),
}

// === impl Presented ===

impl Presented<'_> {
    /// Whether the request has no credentials.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bearer.is_none()
            && self.api_key.is_none()
            && self.session.is_none()
            && self.certificate.is_none()
    }
}

// === impl Bearer ===

impl<'a> Bearer<'a> {
    /// Classifies a bearer credential by its prefix.
    #[must_use]
    pub fn of(text: &'a str) -> Self {
        if is_client_key(text) { Self::ClientKey(text) } else { Self::Token(text) }
    }
}

/// Whether a text has the prefix of a client key.
#[must_use]
pub fn is_client_key(text: &str) -> bool {
    text.starts_with(client_key::PREFIX)
}
