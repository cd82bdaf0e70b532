//! Waits until every replica has applied a split.

use std::time::{Duration, Instant};

use portcullis_config::model::NamespacedName;
use portcullis_config::snapshot::split::Generation;

use super::place::Place;
use super::replicas::Replicas;
use crate::cli::output::{self, printable};
use crate::cli::problems::Failure;

/// How often replicas are asked.
const POLLED_EVERY: Duration = Duration::from_millis(250);
/// How often the written split is read again, to notice a later one.
const REREAD_EVERY: Duration = Duration::from_secs(2);
/// The longest wait for one response.
const RESPONSE: Duration = Duration::from_secs(5);

/// The outcome of a wait.
pub(super) enum Applied {
    /// By all replicas, of which there are so many.
    By(usize),
    /// Not by these, in time, with what each of them reports.
    NotBy(Vec<String>),
}

/// Waits until each of the replicas has applied the generation, and reports which have not when that
/// changes.
///
/// # Errors
/// The split was changed again meanwhile.
pub(super) async fn applied(
    place: &Place,
    service: &NamespacedName,
    generation: Generation,
    replicas: &mut Replicas,
    timeout: Duration,
) -> Result<Applied, Failure> {
    let start = Instant::now();
    replicas.refresh().await?;
    let (mut reported, mut reread) = (Vec::new(), start);
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        let found = replicas.read(Some(service), left.clamp(POLLED_EVERY, RESPONSE));
        let number = generation.to_string();
        let behind: Vec<String> =
            found.iter().filter_map(|replica| replica.behind(service, &number)).collect();
        if behind.is_empty() {
            return Ok(Applied::By(found.len()));
        }
        if start.elapsed() >= timeout {
            return Ok(Applied::NotBy(behind));
        }
        if behind != reported {
            let replicas = behind.iter().map(|replica| printable(replica)).collect::<Vec<_>>();
            let (count, all) = (behind.len(), found.len());
            output::report(&format!(
                "waiting for {count} of {all} replicas: {}\n",
                replicas.join("; ")
            ))?;
            reported = behind;
        }
        if reread.elapsed() > REREAD_EVERY {
            unchanged(place, service, generation).await?;
            replicas.refresh().await?;
            reread = Instant::now();
        }
        tokio::time::sleep(POLLED_EVERY).await;
    }
}

async fn unchanged(
    place: &Place,
    service: &NamespacedName,
    generation: Generation,
) -> Result<(), Failure> {
    let (_, view) = place.view().await?;
    let found = view.split.map(|split| split.generation());
    match found {
        Some(found) if found == generation => Ok(()),
        Some(found) => Err(Failure::new(format!(
            "the split of {service} was changed meanwhile: it has generation {found}, not {generation}"
        ))),
        None => Err(Failure::new(format!("{service} has no variants any more"))),
    }
}
