//! `portcullis traffic set`: new weights, in one write.

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use portcullis_config::snapshot::split::Weight;
use portcullis_config::traffic::{Change, Outcome, Plan};
use serde::Serialize;
use tokio::runtime::Builder;

use super::place::PlaceArgs;
use super::replicas::ReplicaArgs;
use super::wait::{self, Applied};
use crate::cli::format::Format;
use crate::cli::output::{self, printable};
use crate::cli::problems::{Failure, print_failure};
use crate::cli::{table, timeout};

/// Set the weights of a service's variants
///
/// Writes all of them at once, as ranges of the service's callers: those who have a variant keep it
/// as far as the new weights allow. The stable variant gets the rest.
#[derive(Debug, Args)]
pub(super) struct Set {
    /// Service that has variants
    service: String,
    /// Variants with their weights in percent, such as canary=5 or web-canary=0.25; others keep
    /// theirs
    #[arg(value_name = "VARIANT=WEIGHT", required_unless_present = "previous", value_parser = weight)]
    weights: Vec<(String, Weight)>,
    /// Restore the weights before the last change; twice, and the last change is in effect again
    #[arg(long, conflicts_with = "weights")]
    previous: bool,
    /// Change nothing unless the split has this generation
    #[arg(long, value_name = "NUMBER")]
    if_generation: Option<u64>,
    /// Take the weights over from whoever set them, such as Helm, and drop those of variants that
    /// are missing; with --previous, restore a split that is not the last one
    #[arg(long)]
    force: bool,
    /// Wait until every replica of the gateway has applied the weights
    #[arg(long)]
    wait: bool,
    /// Longest wait, such as 30s or 5m; after it the exit code is 3
    #[arg(long, value_name = "DURATION", default_value = "60s", requires = "wait", value_parser = timeout::parse)]
    timeout: Duration,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    replicas: ReplicaArgs,
}

/// The exit code if weights were written, and a replica has not applied them in time.
const NOT_APPLIED: u8 = 3;

/// The result, for programs.
#[derive(Serialize)]
struct Report {
    namespace: String,
    service: String,
    generation: String,
    changed: bool,
    variants: Vec<VariantReport>,
}

#[derive(Serialize)]
struct VariantReport {
    name: String,
    weight: f64,
    before: f64,
}

fn weight(text: &str) -> Result<(String, Weight), String> {
    let (name, weight) = text.split_once('=').ok_or("write VARIANT=WEIGHT, such as canary=5")?;
    let weight = weight.strip_suffix('%').unwrap_or(weight);
    Ok((name.to_owned(), weight.parse().map_err(|error| format!("{error}"))?))
}

// === impl Set ===

impl Set {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
        runtime.block_on(self.change())
    }

    async fn change(self) -> Result<ExitCode, Failure> {
        let change = match self.previous {
            true => Change::Previous,
            false => Change::Weights(self.weights),
        };
        let mut replicas = self.replicas.open(self.place.context());
        let place = self.place.open(self.service).await?;
        let outcome = place.set(&change, self.if_generation, self.force).await?;
        let report = Report::new(&outcome);
        let names = |report: &Report| vec![format!("{}/{}", report.namespace, report.service)];
        output::write(&self.output.render(&report, names, |_| text(&outcome))?)?;
        if !self.wait {
            return Ok(ExitCode::SUCCESS);
        }
        let generation = outcome.plan.after.generation;
        match wait::applied(&place, &outcome.service, generation, &mut replicas, self.timeout)
            .await?
        {
            Applied::By(count) => {
                output::report(&format!("applied by all replicas: {count}\n"))?;
                Ok(ExitCode::SUCCESS)
            }
            Applied::NotBy(behind) => {
                let message = format!(
                    "the weights are set, and not applied by {}",
                    printable(&behind.join("; "))
                );
                let help = "set --gateway to the gateway's Namespace, or --admin to the addresses of \
                            its replicas; --previous restores the weights before";
                print_failure(&Failure::with_help(message, help));
                Ok(ExitCode::from(NOT_APPLIED))
            }
        }
    }
}

// === impl Report ===

impl Report {
    fn new(outcome: &Outcome) -> Self {
        let Outcome { service, plan: Plan { before, after, edit } } = outcome;
        let percent = |weight: Weight| f64::from(weight.buckets()) / 100.0;
        let variants =
            after.weights.iter().zip(&before.weights).map(|((name, after), (_, before))| {
                VariantReport {
                    name: name.to_string(),
                    weight: percent(*after),
                    before: percent(*before),
                }
            });
        Self {
            namespace: service.namespace.to_string(),
            service: service.name.to_string(),
            generation: after.generation.to_string(),
            changed: edit.is_some(),
            variants: variants.collect(),
        }
    }
}

/// The weights as a table, and the generation.
fn text(outcome: &Outcome) -> String {
    let Outcome { service, plan: Plan { before, after, edit } } = outcome;
    let mut rows = vec![["VARIANT", "WEIGHT", "BEFORE"].map(str::to_owned).to_vec()];
    rows.extend(after.weights.iter().zip(&before.weights).map(|((name, after), (_, before))| {
        vec![name.to_string(), format!("{after} %"), format!("{before} %")]
    }));
    let what = if edit.is_some() { "now has" } else { "is unchanged, with" };
    let generation = after.generation;
    format!("{}{service} {what} generation {generation}\n", table::format(&rows))
}
