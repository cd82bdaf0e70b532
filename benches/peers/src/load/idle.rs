//! Connections that have served a request, and wait for the next one.

use tokio::io::{AsyncReadExt, stdin};

use crate::Failure;
use crate::connection::Connector;
use crate::exchange::{Target, open_connection};

/// Opens the connections one after the other, each with one exchange, prints `{}`, and holds them
/// open until the standard input ends.
pub(crate) async fn run(target: &Target) -> Result<(), Failure> {
    let connector = Connector::new(target)?;
    let mut held = Vec::new();
    for _ in 0..target.connections {
        let mut exchangers = open_connection(&connector, target).await?;
        for exchanger in &mut exchangers {
            exchanger.exchange().await?;
        }
        held.extend(exchangers);
    }
    println!("{{}}");
    stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}
