//! Authentication of requests, and authorization while they last. Credentials themselves are
//! checked by the crate `portcullis_identity`.
//!
//! | step | module |
//! | --- | --- |
//! | read the credentials that the request presents | [`presented`] |
//! | remove them from requests to backends | [`credential_filter`] |
//! | find the caller among those authenticated recently | [`caller_cache`] |
//! | schedule signature checks | [`verification_queue`] |
//! | reauthorize requests that last | [`reauthorization`] |
//! | send the caller's identity to backends | [`identity_headers`]: [`identity`], [`assertion`] |

pub(crate) mod assertion;
pub(crate) mod caller_cache;
mod credential_filter;
mod identity;
pub(crate) mod identity_headers;
mod presented;
pub(crate) mod reauthorization;
pub(crate) mod verification_queue;

pub(crate) use self::credential_filter::strip_set_cookies;
#[cfg(test)]
pub(crate) use self::presented::MAX_CREDENTIAL;
pub(crate) use self::presented::{Fields, PresentedCredentials, bearer as bearer_token};
