//! The metrics of the process: its version, access log and resource usage (from `/proc`; none
//! without it).

use std::fs;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::metric::{descriptions, metrics};
use super::writer::AccessLog;

metrics! {
    LOG_DROPPED: Counter "portcullis_access_log_dropped_total" [] "Access log lines dropped because they could not be written, or not fast enough.";
    BUILD: Gauge "portcullis_build_info" ["version"] "Constant 1, labeled by the version of the gateway.";
    PROCESS_START: Gauge "process_start_time_seconds" [] "Start time of the process, in seconds since the Unix epoch.";
    PROCESS_CPU: Counter "process_cpu_seconds_total" [] "User and system CPU time spent, in seconds.";
    PROCESS_RESIDENT: Gauge "process_resident_memory_bytes" [] "Resident memory size, in bytes.";
    PROCESS_FILES: Gauge "process_open_fds" [] "Open file descriptors.";
    PROCESS_MAX_FILES: Gauge "process_max_fds" [] "Maximum number of open file descriptors.";
    PROCESS_THREADS: Gauge "process_threads" [] "Operating system threads in the process.";
}

/// Ticks per second in `/proc/self/stat`: `USER_HZ`, which is 100 on all architectures that
/// Kubernetes supports.
const TICKS_PER_SECOND: f64 = 100.0;

/// The resource usage of the process.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Usage {
    cpu_seconds: f64,
    resident_bytes: u64,
    open_files: usize,
    max_files: Option<u64>,
    threads: u64,
}

/// Collects the metrics of the process.
pub(super) struct ProcessCollector {
    descriptions: Vec<Desc>,
    started: SystemTime,
    log: Option<Arc<AccessLog>>,
}

// === impl ProcessCollector ===

impl ProcessCollector {
    pub(super) fn new(
        started: SystemTime,
        log: Option<Arc<AccessLog>>,
    ) -> prometheus::Result<Self> {
        Ok(Self { descriptions: descriptions(METRICS)?, started, log })
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let dropped = self.log.as_ref().map_or(0, |log| log.dropped());
        let mut families = vec![
            LOG_DROPPED.value(dropped as f64),
            BUILD.values([(env!("CARGO_PKG_VERSION"), 1)]),
            PROCESS_START.value(started.as_secs() as f64),
        ];
        if let Some(usage) = usage() {
            families.extend([
                PROCESS_CPU.value(usage.cpu_seconds),
                PROCESS_RESIDENT.value(usage.resident_bytes as f64),
                PROCESS_FILES.value(usage.open_files as f64),
                PROCESS_THREADS.value(usage.threads as f64),
            ]);
            families.extend(usage.max_files.map(|max| PROCESS_MAX_FILES.value(max as f64)));
        }
        families
    }
}

/// Reads the current resource usage.
fn usage() -> Option<Usage> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    // The second field is the program's name in parentheses, which may contain anything (proc(5)).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
    Some(Usage {
        cpu_seconds: (ticks(11)? + ticks(12)?) as f64 / TICKS_PER_SECOND,
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
