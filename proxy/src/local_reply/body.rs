//! The text of an answer of our own.

use http::StatusCode;
use portcullis_identity::page::document;
use portcullis_identity::portal::login_path;

use super::accept::Format;

/// One sentence for whoever gets the status. It says nothing about what is behind the gateway.
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

/// What a person can do next.
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

/// The body. `id` has only characters that mean nothing in HTML and JSON. `asked` is the path to
/// which somebody comes back who signs in.
pub(super) fn render(status: StatusCode, format: Format, id: &str, asked: Option<&str>) -> String {
    let (code, title, sentence) = (status.as_u16(), reason(status), sentence(status));
    match format {
        Format::Text => format!("{code} {title}\n{sentence}\nRequest {id}\n"),
        Format::Json => format!(
            "{{\"status\":{code},\"title\":\"{title}\",\"detail\":\"{sentence}\",\"requestId\":\"\
             {id}\"}}\n"
        ),
        Format::Html => html(status, id, asked),
    }
}

fn html(status: StatusCode, id: &str, asked: Option<&str>) -> String {
    let title = format!("{} {}", status.as_u16(), reason(status));
    let heading = sentence(status).trim_end_matches('.');
    // The link is percent-encoded: none of its characters means anything in HTML.
    let sign_in = asked.map_or(String::new(), |asked| {
        format!("<p><a class=\"button\" href=\"{}\">Sign in</a></p>\n", login_path(asked))
    });
    let html = format!(
        "<main class=\"narrow\"><div class=\"card\">\n<p class=\"dim\">{title}</p>\n<h1>{heading}</h1>\n\
         <p>{}</p>\n{sign_in}<p class=\"dim foot\">Request ID<br><code>{id}</code></p>\n</div></main>",
        advice(status, asked.is_some())
    );
    document(&title, &html)
}
