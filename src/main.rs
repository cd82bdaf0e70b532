//! The command line.

mod cli;

use std::process::ExitCode;

/// Its threads in the background return unused memory to the kernel. Without them, a thread does that only when it allocates again:
/// an idle gateway kept all that its start had needed.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    cli::run()
}
