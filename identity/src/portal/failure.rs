//! Pages for logins that failed.
//!
//! They have an address of their own, to which failed steps redirect: the URL of such a step has a
//! code or state, which must not become the URL of a document.

use http::StatusCode;

use super::destination::Destination;
use super::portal_origin::PortalOrigin;
use super::{Portal, PortalRequest, Reply, internal_error, pages};

/// The path of the pages.
pub(super) const PATH: &str = "/sign-in-failed";

/// The page of [`Failure::BegunElsewhere`].
pub(super) const BEGUN_ELSEWHERE: &str = "/sign-in-failed?why=begun_elsewhere";

/// Why a login failed, as far as the user can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// It took too long, or was started in another browser.
    BegunElsewhere,
    /// The provider, or the user there, refused.
    Refused,
    /// The provider does not identify the user.
    NotIdentified,
    ProviderUnavailable,
    LinkTooLong,
}

const ALL: [Failure; 5] = [
    Failure::BegunElsewhere,
    Failure::Refused,
    Failure::NotIdentified,
    Failure::ProviderUnavailable,
    Failure::LinkTooLong,
];

// === impl Failure ===

impl Failure {
    fn label(self) -> &'static str {
        match self {
            Self::BegunElsewhere => "begun_elsewhere",
            Self::Refused => "refused",
            Self::NotIdentified => "not_identified",
            Self::ProviderUnavailable => "provider_unavailable",
            Self::LinkTooLong => "link_too_long",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::BegunElsewhere => StatusCode::BAD_REQUEST,
            Self::Refused | Self::NotIdentified => StatusCode::FORBIDDEN,
            Self::ProviderUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::LinkTooLong => StatusCode::URI_TOO_LONG,
        }
    }

    /// The title, text and link of the page.
    fn texts(self) -> [&'static str; 3] {
        match self {
            Self::BegunElsewhere => [
                "You are not signed in",
                "This sign-in took too long, or was started in another browser.",
                "Sign in",
            ],
            Self::Refused => {
                ["You are not signed in", "The identity provider did not sign you in.", "Try again"]
            }
            Self::NotIdentified => [
                "You are not signed in",
                "The identity provider does not identify you as required here, for example by a \
                 verified e-mail address.",
                "Try again",
            ],
            Self::ProviderUnavailable => [
                "Sign-in is not available",
                "The identity provider cannot be reached. Users who are signed in stay signed in.",
                "Try again",
            ],
            Self::LinkTooLong => [
                "This link is too long",
                "The link that you opened is too long to be kept while you sign in: 4,096 \
                 characters are possible. Sign in first, and then open the link again.",
                "Sign in",
            ],
        }
    }

    /// Returns the page, with a link to a new login that leads `to` the destination.
    pub(super) fn page(self, to: Option<&Destination>, origin: &PortalOrigin) -> Reply {
        let link = match to {
            Some(to) => format!("/login?to={}", encoded(&to.url(origin))),
            None => "/login".to_owned(),
        };
        let [title, text, label] = self.texts();
        Reply::page(self.status(), pages::message(title, text, Some((&link, label))))
    }

    /// Redirects to the page.
    pub(super) fn redirect(self, to: Option<&Destination>, origin: &PortalOrigin) -> Reply {
        let to = to.map_or(String::new(), |to| format!("&to={}", encoded(&to.url(origin))));
        Reply::redirect(&origin.own(&format!("{PATH}?why={}{to}", self.label())))
            .unwrap_or_else(internal_error)
    }
}

// === impl Portal ===

impl Portal {
    /// Shows the page of a failure; `None` if there is no such failure.
    pub(super) fn sign_in_failed(&self, request: &PortalRequest) -> Option<Reply> {
        let parameters = request.parameters();
        let why = parameters.get("why")?;
        let failure = ALL.into_iter().find(|failure| failure.label() == why)?;
        let to = parameters.get("to").and_then(|to| Destination::parse(to, &self.origin).ok());
        Some(failure.page(to.as_ref(), &self.origin))
    }
}

/// Percent-encodes a parameter.
fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}
