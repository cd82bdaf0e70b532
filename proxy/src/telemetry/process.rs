//! What the operating system says of this process (Linux' `/proc`); nothing where there is none.

use std::fs;

/// Ticks of a second in `/proc/self/stat`: `USER_HZ`, which is 100 on all architectures that
/// Kubernetes runs on.
const TICKS: f64 = 100.0;

/// The process' use of the machine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: u64,
    pub(super) open_files: usize,
    pub(super) max_files: Option<u64>,
    pub(super) threads: u64,
}

/// The use of the machine as it is now.
pub(super) fn usage() -> Option<Usage> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    // The second field is the program's name in parentheses, which may hold anything (proc(5)).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = |place: usize| fields.get(place).and_then(|field| field.parse::<u64>().ok());
    Some(Usage {
        cpu_seconds: (ticks(11)? + ticks(12)?) as f64 / TICKS,
        resident_bytes: number(&status, "VmRSS:")? * 1024,
        open_files: fs::read_dir("/proc/self/fd").ok()?.count(),
        max_files: number(&limits, "Max open files"),
        threads: number(&status, "Threads:")?,
    })
}

fn number(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}
