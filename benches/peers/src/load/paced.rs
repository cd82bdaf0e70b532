//! Exchanges that are due at given times, whether earlier ones are answered or not.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::Failure;
use crate::exchange::{self, Exchanger, Target};
use crate::ticker::Ticker;

const LEAD: Duration = Duration::from_millis(20);

/// The times at which exchanges are due. Each counts in `ready` until an exchanger takes it.
struct Due {
    times: RefCell<VecDeque<Instant>>,
    ready: Semaphore,
}

/// Makes `a_second` exchanges a second in bursts of `burst`, and prints percentiles of their times
/// in microseconds.
///
/// The time of an exchange counts from when it was due, so that no delay hides in one that was sent
/// late. Whoever has waited longest takes the next one: they go round all connections.
pub(crate) async fn run(
    target: &Target,
    a_second: u64,
    seconds: u64,
    burst: u64,
) -> Result<(), Failure> {
    let due = Rc::new(Due { times: RefCell::default(), ready: Semaphore::new(0) });
    let mut tasks = JoinSet::new();
    for exchanger in exchange::open(target).await? {
        tasks.spawn_local(exchange_when_due(exchanger, Rc::clone(&due)));
    }
    tokio::task::yield_now().await;
    let ticker = Ticker::new()?;
    let begin = Instant::now() + LEAD;
    for number in 0..a_second * seconds / burst {
        let time = begin + Duration::from_secs_f64((number * burst) as f64 / a_second as f64);
        ticker.wait_until(time).await?;
        due.times.borrow_mut().extend((0..burst).map(|_| time));
        due.ready.add_permits(usize::try_from(burst)?);
    }
    // The rest is answered, and then there is nothing to wait for.
    due.ready.close();
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    times.sort_unstable();
    let at = |per_mille| percentile(&times, per_mille);
    println!(
        "{}",
        serde_json::json!({ "count": times.len(), "p50": at(500), "p99": at(990), "p99.9": at(999) })
    );
    Ok(())
}

async fn exchange_when_due(mut exchanger: Exchanger, due: Rc<Due>) -> Result<Vec<u64>, Failure> {
    let mut times = Vec::new();
    loop {
        if let Ok(ready) = due.ready.acquire().await {
            ready.forget();
        }
        let Some(time) = due.times.borrow_mut().pop_front() else { break };
        exchanger.exchange().await?;
        times.push(u64::try_from(time.elapsed().as_micros())?);
    }
    exchanger.end().await?;
    Ok(times)
}

fn percentile(sorted: &[u64], per_mille: usize) -> u64 {
    let last = sorted.len().saturating_sub(1);
    sorted
        .get(sorted.len() * per_mille / 1000)
        .or_else(|| sorted.get(last))
        .copied()
        .unwrap_or_default()
}
