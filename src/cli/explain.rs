//! `portcullis explain`: why a request would go where it goes, or be refused.

use std::process::ExitCode;

use clap::Args;
use portcullis_proxy::explain::{Explanation, Question, Verdict, explain};

use super::gateway_access::Place;
use super::output::{self, Output};
use super::problems::Failure;
use super::table;

/// Says why a request would go where it goes, or be refused: what each step of the request path
/// decides, and which resource made it so.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The URL, such as https://shop--staging.apps.example.com/cart
    url: String,
    /// The method
    #[arg(short = 'X', long = "request", value_name = "METHOD", default_value = "GET")]
    method: String,
    /// A header, such as 'X-Version: 2'
    #[arg(short = 'H', long = "header", value_name = "HEADER", value_parser = header)]
    headers: Vec<(String, String)>,
    #[command(flatten)]
    place: Place,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("a header is a name, a colon and a value")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

// === impl Explain ===

impl Explain {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let question = Question { url: self.url, method: self.method, headers: self.headers };
        let explanation = match self.place.known()? {
            Some(known) => explain(&known.settings, &known.live.snapshot.load(), &question)
                .map_err(Failure::new)?,
            None => self.place.ask(&target(&question))?,
        };
        match self.output {
            Output::Json => output::write_json(&explanation)?,
            Output::Text => output::write(&text(&explanation))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The question as the admin listener reads it.
fn target(question: &Question) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("url", &question.url).append_pair("method", &question.method);
    for (name, value) in &question.headers {
        query.append_pair("header", &format!("{name}:{value}"));
    }
    format!("/explain?{}", query.finish())
}

fn text(explanation: &Explanation) -> String {
    let steps = explanation.steps.iter().map(|step| {
        let origin = step.origin.as_ref().map(|origin| format!("← {origin}"));
        vec![step.step.clone(), step.decision.clone(), origin.unwrap_or_default()]
    });
    let verdict = match &explanation.verdict {
        Verdict::Answered { status } => format!("the gateway itself answers {status}"),
        Verdict::Forwarded { backends } => {
            let services: Vec<&str> =
                backends.iter().map(|backend| backend.service.as_str()).collect();
            format!("goes to {}", services.join(" or "))
        }
        Verdict::Unreachable => "no answer at all".to_owned(),
    };
    format!("{}\n{verdict}\n", table::format(&steps.collect::<Vec<_>>()).trim_end())
}
