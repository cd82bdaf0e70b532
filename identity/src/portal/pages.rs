//! The portal's pages.

use std::fmt::Write;

use crate::caller::User;
use crate::page::{document, escaped};

/// A service that the user may use.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) environment: String,
    pub(super) name: String,
    pub(super) host: String,
    pub(super) url: String,
}

/// The page for users who are not signed in.
pub(super) fn welcome() -> String {
    message("Sign in", "Sign in to see the services that you may use.", Some(("/login", "Sign in")))
}

/// The list of services, in the order of their environments.
pub(super) fn home(user: &User, services: &[Service]) -> String {
    let mut html = format!(
        "<main>\n<header><div><h1>Your services</h1><span class=\"dim\">Signed in as \
         {}</span></div><a href=\"/logout\">Sign out</a></header>\n",
        escaped(&user.name)
    );
    if services.is_empty() {
        html.push_str("<p class=\"card\">There is no service that you may use.</p>\n");
    }
    for group in services.chunk_by(|one, other| one.environment == other.environment) {
        let environment = group.first().map_or("", |service| &service.environment);
        let _ = write!(
            html,
            "<h2>{}</h2>\n<ul>\n",
            escaped(if environment.is_empty() { "Other" } else { environment })
        );
        for service in group {
            let to: String = form_urlencoded::byte_serialize(service.url.as_bytes()).collect();
            let (name, host) = (escaped(&service.name), escaped(&service.host));
            let _ = writeln!(
                html,
                "<li><a href=\"/login?to={to}\"><strong>{name}</strong><span \
                 class=\"dim\">{host}</span></a></li>"
            );
        }
        html.push_str("</ul>\n");
    }
    document("Your services", &format!("{html}</main>"))
}

/// The page that asks for confirmation of a sign-out.
pub(super) fn sign_out(name: &str, token: &str) -> String {
    let html = format!(
        "<main class=\"narrow\"><div class=\"card\">\n<h1>Sign out?</h1>\n<p>You are signed in as \
         {}. Signing out ends this session for all services.</p>\n<form method=\"post\" \
         action=\"/logout\"><input type=\"hidden\" name=\"token\" value=\"{}\"><button>Sign \
         out</button><button class=\"second\" name=\"everywhere\" value=\"yes\">Sign out on all \
         devices</button></form>\n</div></main>",
        escaped(name),
        escaped(token)
    );
    document("Sign out?", &html)
}

/// The page after sign-out; `provider` is the provider's logout URL.
pub(super) fn signed_out(provider: Option<&str>) -> String {
    let at_provider = provider.map_or(String::new(), |url| {
        format!(
            "<p class=\"dim\">You may be signed in at the identity provider: <a href=\"{}\">sign \
             out there too</a>.</p>\n",
            escaped(url)
        )
    });
    let html = format!(
        "<main class=\"narrow\"><div class=\"card\">\n<h1>You are signed \
         out</h1>\n{at_provider}<p><a class=\"button\" href=\"/login\">Sign \
         in</a></p>\n</div></main>"
    );
    document("You are signed out", &html)
}

/// A short message with a link.
pub(super) fn message(title: &str, text: &str, link: Option<(&str, &str)>) -> String {
    let link = link.map_or(String::new(), |(url, label)| {
        format!("<a class=\"button\" href=\"{}\">{}</a>\n", escaped(url), escaped(label))
    });
    let html = format!(
        "<main class=\"narrow\"><div class=\"card\">\n<h1>{}</h1>\n<p>{}</p>\n{link}</div></main>",
        escaped(title),
        escaped(text)
    );
    document(title, &html)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::testing::user;

    #[test]
    fn external_text_is_escaped() {
        let ann = user("<script>alert(1)</script>");
        let service = |name: &str| Service {
            environment: "\"><img src=x>".to_owned(),
            name: name.to_owned(),
            host: "'<b>".to_owned(),
            url: "https://a/?\"<".to_owned(),
        };
        let html = home(&ann, &[service("<i>")]);
        for raw in ["<script", "<img", "<i>", "<b>", "?\"<"] {
            assert!(!html.contains(raw), "{raw} in {html}");
        }
        assert!(home(&user("Ann & Bob"), &[]).contains("Signed in as Ann &amp; Bob<"));
        assert!(
            message("a", "b", Some(("/login?to=\"onclick=\"", "c")))
                .contains("href=\"/login?to=&quot;onclick=&quot;\"")
        );
        assert!(signed_out(Some("https://a/?b&\"")).contains("href=\"https://a/?b&amp;&quot;\""));
    }

    #[test]
    fn services_are_listed_by_environment() {
        let service = |environment: &str, name: &str| Service {
            environment: environment.to_owned(),
            name: name.to_owned(),
            host: format!("{name}--{environment}.example.com"),
            url: format!("https://{name}--{environment}.example.com/"),
        };
        let html = home(
            &user("ann"),
            &[service("dev", "crm"), service("dev", "shop"), service("production", "shop")],
        );
        let order: Vec<&str> =
            ["<h2>dev</h2>", "crm--dev", "shop--dev", "<h2>production</h2>", "shop--production"]
                .into();
        let positions: Vec<usize> = order
            .iter()
            .map(|text| html.find(text).unwrap_or_else(|| panic!("{text} in {html}")))
            .collect();
        assert!(positions.is_sorted(), "{html}");
        assert!(html.contains("href=\"/login?to=https%3A%2F%2Fcrm--dev.example.com%2F\""));
    }
}
