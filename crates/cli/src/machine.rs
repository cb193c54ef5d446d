//! What this machine is, as far as the operating system says without unsafe calls.

use std::path::Path;

/// Facts that appear in plans, benchmarks and `verve doctor`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Machine {
    /// Processor name.
    pub cpu: String,
    /// Cores this process may use.
    pub cores: usize,
    /// Physical memory, bytes; 0 if unknown.
    pub memory: u64,
    /// Memory that can be had now without swapping, bytes; `u64::MAX` if unknown.
    pub available: u64,
    /// Operating system and architecture.
    pub system: String,
}

impl Machine {
    /// Reads the facts now.
    pub fn detect() -> Self {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo
            .lines()
            .find_map(|l| l.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned()))
            .unwrap_or_else(|| std::env::consts::ARCH.to_owned());
        let available = kib(&meminfo, "MemAvailable:").unwrap_or(u64::MAX);
        Self {
            cpu,
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory: kib(&meminfo, "MemTotal:").unwrap_or(0),
            available: container_limit().map_or(available, |limit| available.min(limit)),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        }
    }
}

/// Room left under a control group's memory limit, if there is one.
fn container_limit() -> Option<u64> {
    let read = |name: &str| std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(name)).ok();
    let limit: u64 = read("memory.max")?.trim().parse().ok()?;
    let used: u64 = read("memory.current")?.trim().parse().ok()?;
    Some(limit.saturating_sub(used))
}

/// A `Name:   123 kB` line in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find(|l| l.starts_with(name))?;
    let value: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(value * 1024)
}

/// Memory this process holds for itself now, bytes, if the system tells. Mapped files are left out: the system takes
/// their pages back when it needs them.
pub fn memory_in_use() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    Some(kib(&status, "RssAnon:")? + kib(&status, "RssShmem:").unwrap_or(0))
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_kibibytes() {
        assert_eq!(super::kib("MemTotal:  24 kB\nMemAvailable: 12 kB\n", "MemAvailable:"), Some(12 * 1024));
        assert_eq!(super::kib("", "MemAvailable:"), None);
    }
}
