//! A counted number of exchanges, as fast as they are answered.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use tokio::task::JoinSet;

use crate::Failure;
use crate::exchange::{self, Exchanger, Target};

/// Makes `requests` exchanges, and prints how long they took, without the opening of connections.
pub(crate) async fn run(target: &Target, requests: u64) -> Result<(), Failure> {
    let exchangers = exchange::open(target).await?;
    let left = Rc::new(Cell::new(requests));
    let begin = Instant::now();
    let mut tasks = JoinSet::new();
    for exchanger in exchangers {
        tasks.spawn_local(exchange_while(exchanger, Rc::clone(&left)));
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    println!("{}", serde_json::json!({ "seconds": begin.elapsed().as_secs_f64() }));
    Ok(())
}

async fn exchange_while(mut exchanger: Exchanger, left: Rc<Cell<u64>>) -> Result<(), Failure> {
    while let Some(fewer) = left.get().checked_sub(1) {
        left.set(fewer);
        exchanger.exchange().await?;
    }
    exchanger.end().await
}
