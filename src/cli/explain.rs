//! `portcullis explain`: how a request would be routed, or why it would be rejected.

use std::process::ExitCode;

use clap::Args;
use portcullis_proxy::explain::{AssumedCaller, ExplainRequest, Explanation, Verdict, explain};

use super::gateway_access::SourceArgs;
use super::output::{self, Output};
use super::problems::Failure;
use super::table;

/// Explain how a request would be routed, or why it would be rejected
///
/// Prints the decision of each step of the request path, and the resource that determines it.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// URL of the request, such as https://shop--staging.apps.example.com/cart
    url: String,
    /// Method of the request
    #[arg(short = 'X', long = "request", value_name = "METHOD", default_value = "GET")]
    method: String,
    /// Header of the request, such as 'X-Version: 2'; can be repeated
    #[arg(short = 'H', long = "header", value_name = "HEADER", value_parser = header)]
    headers: Vec<(String, String)>,
    #[command(flatten)]
    caller: CallerArgs,
    #[command(flatten)]
    source: SourceArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Names the caller, instead of its credentials.
#[derive(Debug, Args)]
struct CallerArgs {
    /// Application to assume as the caller, instead of one that credentials identify
    #[arg(long, value_name = "NAME")]
    application: Option<String>,
    /// User to assume as the caller, by the name in grants
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Group of the assumed user; can be repeated
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write a header as NAME: VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

// === impl Explain ===

impl Explain {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let caller = self.caller.assumed();
        let request =
            ExplainRequest { url: self.url, method: self.method, headers: self.headers, caller };
        let explanation = match self.source.offline()? {
            Some(offline) => {
                explain(&offline.settings, &offline.live, &request).map_err(Failure::new)?
            }
            None => self.source.get(&target(&request))?,
        };
        match self.output {
            Output::Json => output::write_json(&explanation)?,
            Output::Text => output::write(&text(&explanation))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

// === impl CallerArgs ===

impl CallerArgs {
    fn assumed(self) -> Option<AssumedCaller> {
        let Self { application, user, groups } = self;
        let is_given = application.is_some() || user.is_some() || !groups.is_empty();
        is_given.then_some(AssumedCaller { application, user, groups })
    }
}

/// The request as a target of the admin listener.
fn target(request: &ExplainRequest) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("url", &request.url).append_pair("method", &request.method);
    for (name, value) in &request.headers {
        query.append_pair("header", &format!("{name}:{value}"));
    }
    if let Some(AssumedCaller { application, user, groups }) = &request.caller {
        query.extend_pairs(application.iter().map(|name| ("application", name)));
        query.extend_pairs(user.iter().map(|name| ("user", name)));
        query.extend_pairs(groups.iter().map(|name| ("group", name)));
    }
    format!("/explain?{}", query.finish())
}

fn text(explanation: &Explanation) -> String {
    let steps = explanation.steps.iter().map(|step| {
        let origin = step.origin.as_ref().map(|origin| format!("← {origin}"));
        vec![step.step.clone(), step.decision.clone(), origin.unwrap_or_default()]
    });
    let verdict = match &explanation.verdict {
        Verdict::Answered { status } => format!("answered by the gateway with status {status}"),
        Verdict::Forwarded { backends } => {
            let services: Vec<&str> =
                backends.iter().map(|backend| backend.service.as_str()).collect();
            format!("forwarded to {}", services.join(" or "))
        }
        Verdict::Unreachable => "no listener accepts the request".to_owned(),
    };
    format!("{}\n{verdict}\n", table::format(&steps.collect::<Vec<_>>()).trim_end())
}
