//! `portcullis traffic`: the variants of services, as all replicas report them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use portcullis_proxy::telemetry::traffic::feed::Service;
use serde::Serialize;
use tokio::runtime::Builder;

use super::replicas::{Replica, ReplicaArgs};
use crate::cli::format::FormatArgs;
use crate::cli::output::{self, printable};
use crate::cli::problems::Failure;
use crate::cli::table;

/// The longest wait for one response.
const RESPONSE: Duration = Duration::from_secs(10);

/// List variants, their weights and their requests, as the replicas of a gateway report them
#[derive(Debug, Args)]
pub(super) struct List {
    /// Service to list, instead of all that have variants
    service: Option<String>,
    /// Namespace of the Services
    #[arg(short, long)]
    namespace: Option<String>,
    /// Environment of the Services
    #[arg(short, long)]
    environment: Option<String>,
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    replicas: ReplicaArgs,
    /// Context of the kubeconfig for --gateway, instead of the current one
    #[arg(long, requires = "gateway")]
    context: Option<String>,
}

/// A service, summed over replicas.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    environment: String,
    namespace: String,
    service: String,
    /// The generation that most replicas have applied, the latest of these.
    generation: String,
    /// How many have applied it, of so many.
    applied: usize,
    replicas: usize,
    variants: Vec<Variant>,
}

/// A variant of it, with the requests since the start of each replica.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Variant {
    name: String,
    weight: f64,
    requests: u64,
    errors: u64,
}

// === impl List ===

impl List {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
        let replicas = RefCell::new(self.replicas.open(self.context.as_deref()));
        let read = || {
            let mut replicas = replicas.borrow_mut();
            runtime.block_on(replicas.refresh())?;
            let replicas = replicas.read(None, RESPONSE);
            for replica in &replicas {
                if let Err(failure) = &replica.feed {
                    output::report(&format!(
                        "{}: {}\n",
                        replica.name,
                        printable(&failure.to_string())
                    ))?;
                }
            }
            if replicas.iter().all(|replica| replica.feed.is_err()) {
                let help = "set --admin to the addresses of its `admin` listeners";
                return Err(Failure::with_help("no replica of the gateway responds", help));
            }
            Ok(rows(&replicas, |service| self.is_listed(service)))
        };
        let names = |rows: &Vec<Row>| {
            rows.iter().map(|row| format!("{}/{}", row.namespace, row.service)).collect()
        };
        self.format.show(read, names, |rows| text(rows))?;
        Ok(ExitCode::SUCCESS)
    }

    fn is_listed(&self, service: &Service) -> bool {
        let is = |wanted: &Option<String>, found: &str| {
            wanted.as_ref().is_none_or(|wanted| *wanted == *found)
        };
        service.generation.is_some()
            && is(&self.service, &service.service)
            && is(&self.namespace, &service.namespace)
            && is(&self.environment, &service.environment)
    }
}

/// Sums what replicas report, by service.
fn rows(replicas: &[Replica], is_listed: impl Fn(&Service) -> bool) -> Vec<Row> {
    let feeds = replicas.iter().filter_map(|replica| replica.feed.as_ref().ok());
    let mut found: BTreeMap<(&str, &str, &str), Vec<&Service>> = BTreeMap::new();
    for service in feeds.flat_map(|feed| &feed.services).filter(|service| is_listed(service)) {
        let key = (&*service.environment, &*service.namespace, &*service.service);
        found.entry(key).or_default().push(service);
    }
    found.into_iter().map(|(key, reports)| row(key, &reports, replicas.len())).collect()
}

fn row(
    (environment, namespace, service): (&str, &str, &str),
    reports: &[&Service],
    replicas: usize,
) -> Row {
    let generation = |report: &&Service| report.generation.clone().unwrap_or_default();
    let count = |wanted: &str| reports.iter().filter(|report| generation(report) == wanted).count();
    let latest = reports.iter().map(generation).max_by_key(|generation| {
        (count(generation), generation.parse::<u64>().unwrap_or_default())
    });
    let latest = latest.unwrap_or_default();
    let mut variants: Vec<Variant> = Vec::new();
    for report in reports {
        for variant in &report.variants {
            let position = variants.iter().position(|known| known.name == variant.label);
            let known = match position.and_then(|position| variants.get_mut(position)) {
                Some(known) => known,
                None => {
                    let name = variant.label.clone();
                    variants.push(Variant { name, weight: variant.weight, requests: 0, errors: 0 });
                    let Some(known) = variants.last_mut() else { continue };
                    known
                }
            };
            if generation(report) == latest {
                known.weight = variant.weight;
            }
            known.requests += variant.requests;
            known.errors += variant.errors;
        }
    }
    Row {
        environment: environment.to_owned(),
        namespace: namespace.to_owned(),
        service: service.to_owned(),
        applied: count(&latest),
        generation: latest,
        replicas,
        variants,
    }
}

fn text(rows: &[Row]) -> String {
    let heading = [
        "ENVIRONMENT",
        "SERVICE",
        "VARIANT",
        "WEIGHT",
        "REQUESTS",
        "ERRORS",
        "GENERATION",
        "APPLIED",
    ];
    let mut lines = vec![heading.map(str::to_owned).to_vec()];
    for row in rows {
        lines.extend(row.variants.iter().map(|variant| {
            vec![
                row.environment.clone(),
                row.service.clone(),
                variant.name.clone(),
                format!("{} %", variant.weight),
                variant.requests.to_string(),
                variant.errors.to_string(),
                row.generation.clone(),
                format!("{}/{}", row.applied, row.replicas),
            ]
        }));
    }
    table::format(&lines)
}
