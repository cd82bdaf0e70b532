//! Who is calling, and may they? What belongs to a request; what belongs to credentials is in the
//! crate `portcullis_identity`.
//!
//! | step | module |
//! | --- | --- |
//! | which credentials does the request show? | [`shown`] |
//! | is the caller known from a moment ago? | [`recent`] |
//! | whose signature is checked next? | [`turns`] |
//! | may they still, a while later? | [`review`] |
//! | what does the backend learn of them? | [`introduction`]: [`identity`], signed by [`assertion`] |

pub(crate) mod assertion;
pub(crate) mod caller_cache;
mod identity;
pub(crate) mod identity_headers;
mod presented;
pub(crate) mod reauthorization;
pub(crate) mod verification_queue;

pub(crate) use self::presented::{Fields, Shown, bearer as bearer_token, strip_set_cookies};
