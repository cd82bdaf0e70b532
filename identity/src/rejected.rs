//! Why a credential is rejected.

use std::fmt;

/// Why a credential is not believed: a word for the log and a bounded counter, never for the
/// client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// It is no token, or no key, at all.
    Malformed,
    /// Nobody who may issue tokens is named in it.
    UnknownIssuer,
    /// It is a token of another type, such as one to log out.
    Type,
    /// It is bound to a key, and whoever shows it has not proven to have that.
    SenderConstrained,
    /// It must not be accepted without understanding what is not understood (RFC 7515 §4.1.11).
    Critical,
    /// It is signed by an algorithm that the issuer is not pinned to.
    Algorithm,
    /// The issuer has no such key.
    UnknownKey,
    /// The signature is wrong.
    Signature,
    /// A claim is missing, or of the wrong type.
    Claims,
    /// It has ended.
    Expired,
    /// It is from the future.
    NotYetValid,
    /// It is for somebody else.
    Audience,
    /// No such client key is known.
    UnknownClientKey,
    /// The session cannot be opened, or has ended.
    Session,
    /// Its issuer did not say what it is worth.
    Unanswered,
}

// === impl Rejected ===

impl Rejected {
    /// One word, for metrics and logs.
    pub fn word(self) -> &'static str {
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
            Self::Unanswered => "unanswered",
        }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
