//! The body of a local reply.

use http::StatusCode;
use portcullis_identity::page::document;
use portcullis_identity::portal::login_path;

use super::accept::Format;

/// Returns a sentence that explains the status. It reveals nothing about backends.
pub(super) fn sentence(status: StatusCode) -> &'static str {
    match status.as_u16() {
        301 | 302 | 303 | 307 | 308 => "This page is at another address.",
        400 => "The request is not well-formed.",
        403 => "You are not allowed to do this.",
        404 => "There is nothing here.",
        408 => "The request took too long to arrive.",
        413 => "The request's body is too large.",
        414 => "The request's path is too long.",
        417 => "The request expects what is not supported.",
        421 => "This connection does not serve that host.",
        429 => "There were too many requests.",
        431 => "The request's headers are too large.",
        501 => "The request's method is not supported.",
        502 => "The service did not answer properly.",
        503 => "The service is not available at the moment.",
        504 => "The service did not answer in time.",
        505 => "The request's version of HTTP is not supported.",
        _ => "The request failed.",
    }
}

fn reason(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Error")
}

/// Returns what the user can do next.
fn advice(status: StatusCode, can_sign_in: bool) -> &'static str {
    match status.as_u16() {
        301 | 302 | 303 | 307 | 308 => "Your browser opens it for you.",
        403 => "If you need access, ask the people who run this service, and quote the request ID.",
        404 if can_sign_in => {
            "Check the address for mistakes. Some pages are shown only to people who are signed in \
             and have access."
        }
        404 => "Check the address for mistakes, or ask the person who gave it to you.",
        408 => "Check your connection to the network and try again.",
        413 => "Try again with less data, for example with a smaller file.",
        429 => "Wait a moment and try again.",
        431 => "Delete the cookies of this site and try again.",
        502..=504 => {
            "Try again in a moment. If this keeps happening, report it to the people who run this \
             service, and quote the request ID."
        }
        _ => {
            "Go back and try again. If this keeps happening, report it to the people who run this \
             service, and quote the request ID."
        }
    }
}

/// Renders the body. `id` needs no escaping in HTML and JSON. `return_to` is the path to redirect
/// to after signing in.
pub(super) fn render(
    status: StatusCode,
    format: Format,
    id: &str,
    return_to: Option<&str>,
) -> String {
    let (code, title, sentence) = (status.as_u16(), reason(status), sentence(status));
    match format {
        Format::Text => format!("{code} {title}\n{sentence}\nRequest {id}\n"),
        Format::Json => format!(
            "{{\"status\":{code},\"title\":\"{title}\",\"detail\":\"{sentence}\",\"requestId\":\"\
             {id}\"}}\n"
        ),
        Format::Html => html(status, id, return_to),
    }
}

fn html(status: StatusCode, id: &str, return_to: Option<&str>) -> String {
    let title = format!("{} {}", status.as_u16(), reason(status));
    let heading = sentence(status).trim_end_matches('.');
    // The link is percent-encoded: it needs no escaping in HTML.
    let sign_in = return_to.map_or(String::new(), |return_to| {
        format!("<p><a class=\"button\" href=\"{}\">Sign in</a></p>\n", login_path(return_to))
    });
    let html = format!(
        "<main class=\"narrow\"><div class=\"card\">\n<p class=\"dim\">{title}</p>\n<h1>{heading}</h1>\n\
         <p>{}</p>\n{sign_in}<p class=\"dim foot\">Request ID<br><code>{id}</code></p>\n</div></main>",
        advice(status, return_to.is_some())
    );
    document(&title, &html)
}
