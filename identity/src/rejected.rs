//! Why a credential is rejected.

use std::fmt;

/// Why a credential is rejected: a label for logs and metrics, never sent to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// It is not a token or key.
    Malformed,
    /// Its issuer is not configured.
    UnknownIssuer,
    /// It is a token of another type, such as a logout token.
    Type,
    /// It is bound to a key whose possession the caller has not proven.
    SenderConstrained,
    /// It has critical headers that are not supported (RFC 7515 §4.1.11).
    Critical,
    /// Its algorithm is not configured for the issuer.
    Algorithm,
    /// The issuer has no such key.
    UnknownKey,
    /// The signature is wrong.
    Signature,
    /// A claim is missing, or of the wrong type.
    Claims,
    /// It has expired.
    Expired,
    /// It is from the future.
    NotYetValid,
    /// It is for another audience.
    Audience,
    /// The client key is unknown.
    UnknownClientKey,
    /// The session cannot be opened, has expired, or was revoked.
    Session,
    /// The provider has not confirmed the session's user recently enough.
    SessionUnconfirmed,
    /// It is presented more than once.
    Repeated,
    /// It is longer than any credential.
    TooLong,
    /// Its issuer did not answer.
    Unanswered,
}

// === impl Rejected ===

impl Rejected {
    /// The reason as a label, for metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Type => "type",
            Self::SenderConstrained => "sender_constrained",
            Self::Critical => "critical",
            Self::Algorithm => "algorithm",
            Self::UnknownKey => "unknown_key",
            Self::Signature => "signature",
            Self::Claims => "claims",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Audience => "audience",
            Self::UnknownClientKey => "unknown_client_key",
            Self::Session => "session",
            Self::SessionUnconfirmed => "session_unconfirmed",
            Self::Repeated => "repeated",
            Self::TooLong => "too_long",
            Self::Unanswered => "unanswered",
        }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}
