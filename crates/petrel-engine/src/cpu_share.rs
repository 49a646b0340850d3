//! How is an executor held to its share of the CPU and to its memory?
//!
//! Where a control-group hierarchy (version 1 or 2) is writable, each executor gets a group with a quota, and the kernel
//! enforces it. Elsewhere an executor paces its own threads with a [`Pacer`]: after each task a thread sleeps until the
//! CPU time it used is within its share of the wall time.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Quota period: short, so that a small share is many short stops rather than few long ones.
const PERIOD_US: u64 = 20_000;
/// The kernel refuses smaller quotas.
const MIN_QUOTA_US: u64 = 1_000;
const GROUP_PREFIX: &str = "petrel-";

/// What holds an executor to its CPU share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enforcement {
    /// Nothing: executors share the machine freely.
    Unlimited,
    /// A quota of the kernel, control groups version 1.
    CgroupV1,
    /// A quota of the kernel, control groups version 2.
    CgroupV2,
    /// The executor sleeps between tasks.
    Pacing,
}

impl fmt::Display for Enforcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Enforcement::Unlimited => "no CPU limit",
            Enforcement::CgroupV1 => "cgroup v1 quota",
            Enforcement::CgroupV2 => "cgroup v2 quota",
            Enforcement::Pacing => "pacing by CPU time",
        })
    }
}

/// Limits of one executor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExecutorLimits {
    /// Cores, for example 0.25; `None` for no limit.
    pub cpu_cores: Option<f64>,
    /// Memory of the process, bytes.
    pub memory_bytes: u64,
}

/// The groups below which executors get theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupParent {
    version: Enforcement,
    cpu_dir: PathBuf,
    /// Version 1 keeps memory in a hierarchy of its own; absent where it is not writable.
    memory_dir: Option<PathBuf>,
}

impl CgroupParent {
    /// Finds the driver's own groups and tries whether a group can be made there; `None` when not.
    pub fn discover() -> Option<Self> {
        let own_groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        Self::candidates(&own_groups, &mounts).into_iter().find_map(Self::usable)
    }

    /// Where groups could be made, best first, from the texts of `/proc/self/cgroup` and `/proc/self/mountinfo`.
    fn candidates(own_groups: &str, mounts: &str) -> Vec<Self> {
        let v1_dir = |controller: &str| {
            let own_path = own_groups.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let controllers = fields.next()?;
                controllers.split(',').any(|name| name == controller).then(|| fields.next())?
            })?;
            mounts.lines().find_map(|line| {
                let mount = Mount::parse(line)?;
                let matches = mount.kind == "cgroup" && mount.options.split(',').any(|option| option == controller);
                matches.then(|| mount.resolve(own_path))?
            })
        };
        let v2_dir = || {
            let own_path = own_groups.lines().find_map(|line| line.strip_prefix("0::"))?;
            mounts.lines().find_map(|line| {
                let mount = Mount::parse(line)?;
                (mount.kind == "cgroup2").then(|| mount.resolve(own_path))?
            })
        };
        let v1 =
            v1_dir("cpu").map(|cpu_dir| Self { version: Enforcement::CgroupV1, cpu_dir, memory_dir: v1_dir("memory") });
        let v2 =
            v2_dir().map(|dir| Self { version: Enforcement::CgroupV2, memory_dir: Some(dir.clone()), cpu_dir: dir });
        [v1, v2].into_iter().flatten().collect()
    }

    /// Makes and removes a group as a trial.
    fn usable(mut self) -> Option<Self> {
        if self.version == Enforcement::CgroupV2 {
            // Refused where the group has processes of its own and is not the root: then executors pace themselves.
            let _ = fs::write(self.cpu_dir.join("cgroup.subtree_control"), "+cpu");
            let _ = fs::write(self.cpu_dir.join("cgroup.subtree_control"), "+memory");
        }
        let name = format!("{GROUP_PREFIX}{}-trial", std::process::id());
        let trial = self.cpu_dir.join(&name);
        fs::create_dir(&trial).ok()?;
        let quota_written = write_quota(self.version, &trial, 1.0);
        let removed = fs::remove_dir(&trial);
        if quota_written.is_err() || removed.is_err() {
            return None;
        }
        if let Some(memory_dir) = self.memory_dir.take_if(|_| self.version == Enforcement::CgroupV1) {
            let trial = memory_dir.join(&name);
            if fs::create_dir(&trial).is_ok() && fs::remove_dir(&trial).is_ok() {
                self.memory_dir = Some(memory_dir);
            }
        }
        Some(self)
    }

    /// Which version of control groups this is.
    pub fn enforcement(&self) -> Enforcement {
        self.version
    }

    /// Removes groups of drivers that are gone.
    pub fn sweep_leftovers(&self) {
        for parent in [Some(&self.cpu_dir), self.memory_dir.as_ref()].into_iter().flatten() {
            for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let owner = name.to_str().and_then(|name| name.strip_prefix(GROUP_PREFIX)?.split('-').next());
                let Some(owner) = owner.and_then(|pid| pid.parse::<u32>().ok()) else { continue };
                if !Path::new("/proc").join(owner.to_string()).exists() {
                    // Fails while a process is left in it; a later start tries again.
                    let _ = fs::remove_dir(entry.path());
                }
            }
        }
    }

    /// Makes the group of one executor.
    ///
    /// # Errors
    /// When the folder or a limit cannot be written.
    pub fn create(&self, executor: u64, limits: ExecutorLimits) -> io::Result<ExecutorGroup> {
        let name = format!("{GROUP_PREFIX}{}-{executor}", std::process::id());
        let mut group = ExecutorGroup { dirs: Vec::new() };
        let cpu_dir = self.cpu_dir.join(&name);
        fs::create_dir(&cpu_dir)?;
        group.dirs.push(cpu_dir.clone());
        if let Some(cores) = limits.cpu_cores {
            write_quota(self.version, &cpu_dir, cores)?;
        }
        match (self.version, &self.memory_dir) {
            (Enforcement::CgroupV1, Some(memory_dir)) => {
                let memory_dir = memory_dir.join(&name);
                fs::create_dir(&memory_dir)?;
                group.dirs.push(memory_dir.clone());
                fs::write(memory_dir.join("memory.limit_in_bytes"), limits.memory_bytes.to_string())?;
            }
            (Enforcement::CgroupV2, Some(_)) => {
                // The memory controller may not be delegated; the quota alone is still worth having.
                let _ = fs::write(cpu_dir.join("memory.max"), limits.memory_bytes.to_string());
            }
            _ => {}
        }
        Ok(group)
    }
}

/// Quota in microseconds of CPU per period for `cores`.
fn quota_us(cores: f64) -> u64 {
    ((cores * PERIOD_US as f64).round() as u64).max(MIN_QUOTA_US)
}

fn write_quota(version: Enforcement, dir: &Path, cores: f64) -> io::Result<()> {
    let quota_us = quota_us(cores);
    if version == Enforcement::CgroupV2 {
        return fs::write(dir.join("cpu.max"), format!("{quota_us} {PERIOD_US}"));
    }
    fs::write(dir.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
    fs::write(dir.join("cpu.cfs_quota_us"), quota_us.to_string())
}

/// A line of mountinfo.
struct Mount<'a> {
    root: &'a str,
    point: &'a str,
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(3);
        let (root, point) = (before.next()?, before.next()?);
        let mut after = after.split(' ');
        let kind = after.next()?;
        let options = after.nth(1)?;
        Some(Self { root, point, kind, options })
    }

    /// Folder of the group `own_path` under this mount. In a container the mount may show only a part of the tree.
    fn resolve(&self, own_path: &str) -> Option<PathBuf> {
        let below = if self.root == "/" { own_path } else { own_path.strip_prefix(self.root).unwrap_or("/") };
        let dir = Path::new(self.point).join(below.trim_start_matches('/'));
        dir.is_dir().then_some(dir).or_else(|| Path::new(self.point).is_dir().then(|| PathBuf::from(self.point)))
    }
}

/// The group of one executor; removed when dropped, by which time the process must have ended.
#[derive(Debug)]
pub struct ExecutorGroup {
    dirs: Vec<PathBuf>,
}

impl ExecutorGroup {
    /// Moves a process with all its threads into the group.
    ///
    /// # Errors
    /// When the process is gone or the kernel refuses.
    pub fn add(&self, pid: u32) -> io::Result<()> {
        self.dirs.iter().try_for_each(|dir| fs::write(dir.join("cgroup.procs"), pid.to_string()))
    }

    /// Folders of the group.
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }
}

impl Drop for ExecutorGroup {
    fn drop(&mut self) {
        for dir in &self.dirs {
            if let Err(error) = fs::remove_dir(dir) {
                tracing::warn!(dir = %dir.display(), %error, "executor group not removed, the next driver sweeps it");
            }
        }
    }
}

/// Keeps a thread within a share of one core by sleeping.
#[derive(Debug)]
pub struct Pacer {
    share: f64,
    cpu_before: Duration,
    wall_before: Instant,
}

impl Pacer {
    /// Begins to measure the calling thread. `share` is in cores, at most 1 has an effect.
    pub fn start(share: f64) -> Self {
        Self { share, cpu_before: thread_cpu_time(), wall_before: Instant::now() }
    }

    /// Sleeps until the CPU time since [`Pacer::start`] is within the share.
    pub fn pace(&self) {
        let cpu = thread_cpu_time().saturating_sub(self.cpu_before);
        std::thread::sleep(pause_needed(cpu, self.wall_before.elapsed(), self.share));
    }
}

/// How long a thread that used `cpu` within `wall` must sleep so that `cpu` is at most `share` of the wall time. Time
/// before the measurement gives no credit, so an idle executor does not save up for a burst.
pub fn pause_needed(cpu: Duration, wall: Duration, share: f64) -> Duration {
    if !(share > 0.0 && share < 1.0) {
        return Duration::ZERO;
    }
    cpu.div_f64(share).saturating_sub(wall)
}

/// CPU time of the calling thread.
pub fn thread_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.max(0) as u64, time.tv_nsec.clamp(0, 999_999_999) as u32)
}

/// CPU time that a process has used, from `/proc/<pid>/stat`; `None` when it is gone.
pub fn process_cpu_time(pid: u32) -> Option<Duration> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(stat: &str) -> Option<Duration> {
    // The kernel shows clock ticks of 1/100 s to user space on every architecture, whatever its own tick is.
    const TICK_MS: u64 = 10;
    // The second field is the command in brackets and may hold spaces and brackets itself.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let user_ticks: u64 = fields.nth(11)?.parse().ok()?;
    let system_ticks: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user_ticks + system_ticks) * TICK_MS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_pause_brings_the_thread_exactly_to_its_share(cpu_us in 0u64..5_000_000, wall_us in 0u64..5_000_000, share in 0.01f64..0.99) {
            let (cpu, wall) = (Duration::from_micros(cpu_us), Duration::from_micros(wall_us));
            let pause = pause_needed(cpu, wall, share);
            let used = cpu.as_secs_f64() / (wall + pause).as_secs_f64().max(1e-9);
            if pause > Duration::ZERO { prop_assert!((used - share).abs() < 0.001 + 1e-6 / cpu.as_secs_f64()); }
            else { prop_assert!(cpu.as_secs_f64() <= share * wall.as_secs_f64() + 1e-6); }
        }
    }

    #[test]
    fn no_share_or_a_whole_core_needs_no_pause() {
        let second = Duration::from_secs(1);
        for share in [0.0, 1.0, 2.0, f64::NAN] {
            assert_eq!(pause_needed(second, Duration::ZERO, share), Duration::ZERO);
        }
        assert_eq!(pause_needed(second, second, 0.25), Duration::from_secs(3));
    }

    #[test]
    fn own_groups_are_found_in_the_texts_of_the_kernel() {
        let mounts = "31 23 0:28 / /sys rw shared:1 - tmpfs tmpfs rw,mode=755\n\
                      32 31 0:29 / /proc rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                      35 31 0:32 /docker/abc /tmp rw,relatime - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /proc rw,relatime - cgroup2 cgroup2 rw\n";
        let groups = "4:memory:/docker/abc\n2:cpu,cpuacct:/self\n0::/self\n";
        let found = CgroupParent::candidates(groups, mounts);
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].version, found[0].cpu_dir.as_path()), (Enforcement::CgroupV1, Path::new("/proc/self")));
        assert_eq!(found[0].memory_dir.as_deref(), Some(Path::new("/tmp/")));
        assert_eq!((found[1].version, found[1].cpu_dir.as_path()), (Enforcement::CgroupV2, Path::new("/proc/self")));
        assert!(CgroupParent::candidates("garbage", "more garbage").is_empty());
    }

    #[test]
    fn a_group_holds_the_quota_and_goes_with_its_owner() {
        let root = tempfile::tempdir().unwrap();
        for version in [Enforcement::CgroupV1, Enforcement::CgroupV2] {
            let dir = root.path().join(version.to_string());
            fs::create_dir(&dir).unwrap();
            let parent = CgroupParent { version, cpu_dir: dir.clone(), memory_dir: None };
            let group = parent.create(7, ExecutorLimits { cpu_cores: Some(0.25), memory_bytes: 1 << 30 }).unwrap();
            let read = |name: &str| fs::read_to_string(group.dirs()[0].join(name)).unwrap_or_default();
            if version == Enforcement::CgroupV2 {
                assert_eq!(read("cpu.max"), "5000 20000");
            } else {
                assert_eq!((read("cpu.cfs_period_us"), read("cpu.cfs_quota_us")), ("20000".into(), "5000".into()));
            }
        }
        assert_eq!(quota_us(0.001), MIN_QUOTA_US);
        assert_eq!(quota_us(2.0), 40_000);
    }

    /// On a machine with a writable hierarchy the kernel must show the quota that was asked for.
    #[test]
    fn the_kernel_accepts_the_quota_where_groups_are_writable() {
        let Some(parent) = CgroupParent::discover() else { return };
        parent.sweep_leftovers();
        let limits = ExecutorLimits { cpu_cores: Some(0.25), memory_bytes: 512 << 20 };
        let group = parent.create(u64::MAX, limits).unwrap();
        let dirs = group.dirs().to_vec();
        let text = match parent.enforcement() {
            Enforcement::CgroupV2 => fs::read_to_string(dirs[0].join("cpu.max")).unwrap(),
            _ => fs::read_to_string(dirs[0].join("cpu.cfs_quota_us")).unwrap(),
        };
        assert!(text.trim().starts_with("5000"), "{text}");
        drop(group);
        assert!(dirs.iter().all(|dir| !dir.exists()));
    }

    #[test]
    fn stat_lines_with_brackets_in_the_name_are_read() {
        let stat = "42 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 120 30 0 0 20 0";
        assert_eq!(parse_stat(stat), Some(Duration::from_millis(1_500)));
        assert_eq!(parse_stat("42 (cut"), None);
        assert!(process_cpu_time(std::process::id()).is_some());
    }
}
