//! `portcullis build-in-pod`: what a builder runs in the pod of a build.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;

use clap::Args;
use portcullis_release::builds::jobs::pod;
use tokio::fs::File;
use tokio::runtime::Builder;

use super::problems::Failure;

/// Build what a release builder sends
///
/// It is the first process of the pod of a build.
#[derive(Debug, Args)]
pub(super) struct BuildInPod {
    /// Connect standard input and output to the first process
    #[arg(long)]
    connect: bool,
}

// === impl BuildInPod ===

impl BuildInPod {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
        let outcome = if self.connect {
            let input = file(io::stdin().as_fd()).map_err(Failure::new)?;
            let output = file(io::stdout().as_fd()).map_err(Failure::new)?;
            runtime.block_on(pod::connect(input, output)).map_err(Failure::new)
        } else {
            runtime.block_on(pod::build()).map_err(Failure::new)
        };
        // A read of standard input may be under way.
        runtime.shutdown_background();
        outcome?;
        Ok(ExitCode::SUCCESS)
    }
}

fn file(descriptor: BorrowedFd<'_>) -> io::Result<File> {
    Ok(File::from_std(fs::File::from(descriptor.try_clone_to_owned()?)))
}
