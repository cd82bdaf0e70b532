//! The text of an answer of our own.

use http::StatusCode;

use super::accept::Format;
use crate::portal::login_path;

/// One sentence for whoever gets the status. It says nothing about what is behind the gateway.
pub(super) fn sentence(status: StatusCode) -> &'static str {
    match status.as_u16() {
        301 | 302 | 303 | 307 | 308 => "This is to be found elsewhere.",
        400 => "The request is not well-formed.",
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

/// The body. `id` has only characters that mean nothing in HTML and JSON. `asked` is the path to
/// which somebody comes back who signs in.
pub(super) fn render(status: StatusCode, format: Format, id: &str, asked: Option<&str>) -> String {
    let (code, title, sentence) =
        (status.as_u16(), status.canonical_reason().unwrap_or("Error"), sentence(status));
    match format {
        Format::Text => format!("{code} {title}\n{sentence}\nRequest {id}\n"),
        Format::Json => format!(
            "{{\"status\":{code},\"title\":\"{title}\",\"detail\":\"{sentence}\",\"requestId\":\"\
             {id}\"}}\n"
        ),
        Format::Html => {
            // The link is percent-encoded: none of its characters means anything in HTML.
            let sign_in = asked
                .map(|asked| format!("<p><a href=\"{}\">Sign in</a></p>\n", login_path(asked)))
                .unwrap_or_default();
            format!(
                "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta \
                 name=\"viewport\" content=\"width=device-width\">\n<meta name=\"color-scheme\" \
                 content=\"light dark\">\n<title>{code} {title}</title>\n<h1>{code} \
                 {title}</h1>\n<p>{sentence}</p>\n{sign_in}<p>Request \
                 <code>{id}</code></p>\n</html>\n"
            )
        }
    }
}
