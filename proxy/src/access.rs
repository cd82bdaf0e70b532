//! Who is calling, and may they?
//!
//! | step | module |
//! | --- | --- |
//! | which credentials does the request show? | [`shown`] |
//! | whose are they? | [`authenticator`]: [`client_keys`], [`client_certificate`], [`token`] by the keys of [`issuers`], [`introspection`] |
//! | is the token one that says who is calling? | [`purpose`] |
//! | does it speak for a person? | [`person`] |
//! | is she known from a moment ago? | [`recent`] |
//! | whose signature is checked next? | [`turns`] |
//! | may she go there? | [`caller`] |
//! | may she still, a while later? | [`review`] |
//! | what does the backend learn of her? | [`introduction`]: [`identity`], signed by [`assertion`] |

pub(crate) mod assertion;
pub(crate) mod authenticator;
pub(crate) mod cache;
mod caller;
mod claims;
mod client_certificate;
mod client_keys;
mod identity;
pub(crate) mod introduction;
mod introspection;
pub(crate) mod issuers;
mod keys;
mod logins;
pub(crate) mod person;
pub(crate) mod purpose;
pub(crate) mod recent;
pub(crate) mod review;
mod shown;
mod token;
pub(crate) mod turns;

pub(crate) use self::authenticator::{Authenticated, Authenticator};
pub(crate) use self::caller::{Caller, User, may, may_enter};
pub(crate) use self::claims::Claims;
pub(crate) use self::client_certificate::ClientCertificate;
pub(crate) use self::shown::{Fields, Shown, bearer as bearer_token, strip_set_cookies};
pub(crate) use self::token::{Parts, Rejected};
