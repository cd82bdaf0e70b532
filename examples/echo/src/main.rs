//! The sample service as a program, configured by its environment
//! ([`Options::from_environment`]).

use std::error::Error;
use std::process::ExitCode;

use portcullis_echo::{Echo, Options};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let echo = Echo::start(Options::from_environment()?).await?;
    log(&format!("{} listens on {}", echo.name(), echo.address()));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    echo.stop().await;
    Ok(())
}

#[expect(clippy::print_stderr, reason = "a pod's standard error is its log")]
fn log(line: &str) {
    eprintln!("portcullis-echo: {line}");
}
