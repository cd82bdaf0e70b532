//! May the caller?

use portcullis_config::snapshot::access::{Access, Require};

use crate::normalize::Request;

/// Whether the request may go where its route leads. What it may not is answered by [`hidden`](crate::hidden), like what does
/// not exist.
///
/// There are no credentials yet that could be shown: only what demands none is open.
pub(crate) fn may(access: &Access, _request: &Request) -> bool {
    access.require == Require::Nothing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalize::tests::read;

    #[test]
    fn only_what_demands_nothing_is_open() {
        let request = read("GET / HTTP/1.1\nHost: a\nAuthorization: Bearer x").unwrap();
        for (require, open) in
            [(Require::Nothing, true), (Require::Application, false), (Require::User, false), (Require::ApplicationAndUser, false)]
        {
            assert_eq!(may(&Access { require, ..Access::default() }, &request), open, "{require:?}");
        }
    }
}
