//! What a process has used, as the kernel counts it.

use std::time::Duration;

use anyhow::Context as _;

/// Hundredths of a second: the unit of `/proc` on Linux, whatever the kernel's own clock.
const TICK: Duration = Duration::from_millis(10);

/// Processor time of a process and of its living children.
///
/// # Errors
/// It does not run.
pub fn processor(pid: u32) -> anyhow::Result<Duration> {
    let mut ticks = stat(pid).with_context(|| format!("no process {pid}"))?.ticks;
    for entry in std::fs::read_dir("/proc")? {
        let child = entry?.file_name().to_string_lossy().parse::<u32>().ok().and_then(stat);
        ticks += child.filter(|child| child.parent == pid).map_or(0, |child| child.ticks);
    }
    Ok(TICK * ticks)
}

/// Resident memory of a process, in bytes.
///
/// # Errors
/// It does not run.
pub fn resident(pid: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("no process {pid}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

struct Stat {
    parent: u32,
    ticks: u32,
}

/// Processes come and go: nothing for one that is gone.
fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    let number = |at: usize| fields.get(at)?.parse::<u32>().ok();
    Some(Stat { parent: number(1)?, ticks: number(11)? + number(12)? })
}

#[cfg(test)]
mod tests {
    use super::{processor, resident};

    #[test]
    fn this_process_uses_something_and_no_process_nothing() {
        let own = std::process::id();
        assert!(resident(own).unwrap() > 100_000);
        let before = processor(own).unwrap();
        let mut sum = 0_u64;
        while processor(own).unwrap() < before + super::TICK * 2 {
            sum = (0..100_000).fold(sum, u64::wrapping_add);
        }
        assert!(sum > 0);
        assert!(processor(u32::MAX).is_err() && resident(u32::MAX).is_err());
    }
}
