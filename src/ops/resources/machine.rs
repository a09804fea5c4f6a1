//! What the kernel says of the machine: memory, processors, and how long nothing got on.
//!
//! The files of /proc and /sys are found below a root, so that a test can bring its own. Invariant: a file that is
//! not there, or says something else, is a number that is not told, never zero. Blocking, and quick: a few small
//! files.

use std::fs::read_to_string;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use crate::engine::pressure::Machine;

/// Over which the use of the processors is smoothed.
const SMOOTHED_OVER_SECONDS: f64 = 10.0;

/// Where the browsers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Browsers {
    /// In this process's control group: as children of it.
    Here,
    /// In the group of a service that stands beside ours.
    Beside(&'static str),
    /// Nobody knows in which: only the groups around ours may hold both.
    Elsewhere,
}

/// Ticks of all processors since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    busy: u64,
    all: u64,
}

/// Looks at one machine again and again.
pub struct Gauge {
    root: PathBuf,
    browsers: Browsers,
    before: Option<Ticks>,
    cpu_percent: Option<f64>,
}

impl Gauge {
    #[must_use]
    pub fn new(root: PathBuf, browsers: Browsers) -> Self {
        Self { root, browsers, before: None, cpu_percent: None }
    }

    /// `elapsed`: since the last look.
    pub fn look(&mut self, elapsed: Duration) -> Machine {
        let ticks = ticks(&read(&self.root, "proc/stat"));
        let used = self.before.zip(ticks).and_then(|(before, now)| percent(before, now));
        self.before = ticks;
        self.cpu_percent = used.map(|used| smoothed(self.cpu_percent, used, elapsed));
        let free = available(&read(&self.root, "proc/meminfo"));
        let allowed = group_available(&self.root, self.browsers);
        Machine {
            available_bytes: free.into_iter().chain(allowed).min(),
            cpu_percent: self.cpu_percent,
            stall_percent: stall(&read(&self.root, "proc/pressure/memory")),
        }
    }
}

/// What cannot be read says nothing.
fn read(root: &Path, path: &str) -> String {
    read_to_string(root.join(path)).unwrap_or_default()
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// `full avg10=1.25 avg60=..`: nothing at all got on.
fn stall(pressure: &str) -> Option<f64> {
    let line = pressure.lines().find_map(|line| line.strip_prefix("full "))?;
    let average = line.split_ascii_whitespace().find_map(|word| word.strip_prefix("avg10="))?;
    average.parse().ok().filter(|percent: &f64| percent.is_finite())
}

/// `cpu  user nice system idle iowait irq softirq steal ..`; what guests use is in user already.
fn ticks(stat: &str) -> Option<Ticks> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let numbers: Vec<u64> = line.split_ascii_whitespace().take(8).map(str::parse).collect::<Result<_, _>>().ok()?;
    let idle = numbers.get(3)?.saturating_add(numbers.get(4).copied().unwrap_or(0));
    let all = numbers.iter().fold(0_u64, |sum, number| sum.saturating_add(*number));
    Some(Ticks { busy: all.saturating_sub(idle), all })
}

/// None where no time has passed.
#[expect(clippy::cast_precision_loss, reason = "ticks of a few seconds")]
fn percent(before: Ticks, now: Ticks) -> Option<f64> {
    let all = now.all.checked_sub(before.all).filter(|all| *all > 0)?;
    // The kernel's waiting for input and output may run backwards.
    let busy = now.busy.saturating_sub(before.busy).min(all);
    Some(busy as f64 / all as f64 * 100.0)
}

/// A short burst moves it little, a lasting load within some ten seconds.
fn smoothed(before: Option<f64>, now: f64, elapsed: Duration) -> f64 {
    let Some(before) = before else { return now };
    let weight = 1.0 - (-elapsed.as_secs_f64() / SMOOTHED_OVER_SECONDS).exp();
    before + (now - before) * weight
}

/// What the limits of the control groups (version 2) leave: the least of our own, or the one around it, up to the
/// root that we see. None: there is no limit.
fn group_available(root: &Path, browsers: Browsers) -> Option<u64> {
    let groups = read(root, "proc/self/cgroup");
    let own = Path::new(groups.lines().find_map(|line| line.strip_prefix("0::/"))?);
    // A group outside the namespace that we see is not below its root.
    if !own.components().all(|part| matches!(part, Component::Normal(_))) {
        return None;
    }
    // At the root that we see stands the limit of a whole container.
    let around = own.parent().unwrap_or(own);
    let innermost = match browsers {
        Browsers::Here => own.to_owned(),
        Browsers::Beside(service) => around.join(service),
        Browsers::Elsewhere => around.to_owned(),
    };
    let mount = root.join("sys/fs/cgroup");
    innermost.ancestors().filter_map(|group| left_in(&mount.join(group))).min()
}

/// The page cache that the group can give back counts as left, as it does for the machine.
fn left_in(group: &Path) -> Option<u64> {
    let number = |name: &str| read(group, name).trim().parse::<u64>().ok();
    // Above `high` everything in the group is slowed down.
    let most = number("memory.max").into_iter().chain(number("memory.high")).min()?;
    let used = number("memory.current")?;
    let stat = read(group, "memory.stat");
    let cache = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse().ok()).unwrap_or(0);
    Some(most.saturating_sub(used.saturating_sub(cache)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn gauge(root: &Path) -> Gauge {
        Gauge::new(root.to_owned(), Browsers::Here)
    }

    #[test]
    fn a_machine_is_read_from_its_files() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), "proc/meminfo", "MemTotal:  9 kB\nMemFree:  1 kB\nMemAvailable:    2048 kB\n");
        write(
            root.path(),
            "proc/pressure/memory",
            "some avg10=50.00 avg60=1 total=9\nfull avg10=1.25 avg60=9 total=7\n",
        );
        write(root.path(), "proc/stat", "cpu  100 0 100 700 100 0 0 0 50 0\ncpu0 1 1 1 1\n");
        let mut gauge = gauge(root.path());
        let expected = Machine { available_bytes: Some(2_048 * 1024), cpu_percent: None, stall_percent: Some(1.25) };
        assert_eq!(gauge.look(SECOND), expected, "the first look knows no rate");
        write(root.path(), "proc/stat", "cpu  160 0 130 705 105 0 0 0 99 0\n");
        assert_eq!(gauge.look(SECOND).cpu_percent, Some(90.0));
    }

    #[test]
    fn what_is_not_there_or_is_something_else_is_not_told() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(gauge(root.path()).look(SECOND), Machine::default());
        for path in ["proc/meminfo", "proc/pressure/memory", "proc/stat", "proc/self/cgroup"] {
            write(root.path(), path, "MemAvailable: many\nfull avg10=NaN\ncpu  a b\n0::\n");
        }
        let mut gauge = gauge(root.path());
        assert_eq!((gauge.look(SECOND), gauge.look(SECOND)), (Machine::default(), Machine::default()));
    }

    #[test]
    fn this_machine_tells_its_memory_and_its_processors() {
        let mut gauge = Gauge::new(PathBuf::from("/"), Browsers::Here);
        assert!(gauge.look(SECOND).available_bytes.is_some_and(|bytes| bytes > 0));
        assert!(gauge.before.is_some_and(|ticks| ticks.busy > 0 && ticks.busy < ticks.all));
    }

    #[test]
    fn processors_are_smoothed_over_some_ten_seconds() {
        let mut cpu = Some(0.0);
        for _ in 0..5 {
            cpu = Some(smoothed(cpu, 100.0, Duration::from_secs(2)));
        }
        assert!(cpu.is_some_and(|cpu| (60.0..70.0).contains(&cpu)), "{cpu:?}");
        assert!(smoothed(Some(0.0), 100.0, Duration::from_secs(2)) < 20.0, "one burst");
        assert!((smoothed(None, 40.0, SECOND) - 40.0).abs() < f64::EPSILON);
        let ticks = |busy, all| Ticks { busy, all };
        assert_eq!(percent(ticks(5, 100), ticks(9, 100)), None, "no time has passed");
        assert_eq!(percent(ticks(9, 100), ticks(5, 200)), Some(0.0), "it ran backwards");
    }

    #[test]
    fn the_least_of_the_groups_around_us_counts_and_its_cache_is_left() {
        let root = tempfile::tempdir().unwrap();
        let group = |name: &str, max: &str, current: &str, cache: &str| {
            let folder = format!("sys/fs/cgroup/{name}");
            write(root.path(), &format!("{folder}/memory.max"), max);
            write(root.path(), &format!("{folder}/memory.current"), current);
            write(root.path(), &format!("{folder}/memory.stat"), &format!("anon 1\ninactive_file {cache}\n"));
        };
        write(root.path(), "proc/self/cgroup", "1:cpu:/other\n0::/system.slice/cove.service\n");
        let left = |browsers| group_available(root.path(), browsers);
        assert_eq!(left(Browsers::Here), None, "there are no limits");
        group("system.slice", "9000\n", "2000\n", "500\n");
        assert_eq!(left(Browsers::Here), Some(7_500));
        group("system.slice/cove.service", "1000\n", "900\n", "300\n");
        assert_eq!((left(Browsers::Here), left(Browsers::Elsewhere)), (Some(400), Some(7_500)));
        group("system.slice/cove.service", "max\n", "900\n", "300\n");
        group("system.slice", "100\n", "2000\n", "0\n");
        assert_eq!(left(Browsers::Here), Some(0), "more is used than allowed");

        group("system.slice/cove-browser.service", "800\n", "500\n", "100\n");
        let beside = Browsers::Beside("cove-browser.service");
        assert_eq!((left(beside), left(Browsers::Beside("other.service"))), (Some(0), Some(0)), "the group around it");
        group("system.slice", "max\n", "2000\n", "0\n");
        assert_eq!((left(beside), left(Browsers::Beside("other.service"))), (Some(400), None));
        write(root.path(), "sys/fs/cgroup/system.slice/cove-browser.service/memory.high", "700\n");
        assert_eq!((left(beside), left(Browsers::Here)), (Some(300), None));

        // In a container's own namespace its limits stand at the root.
        write(root.path(), "proc/self/cgroup", "0::/\n");
        write(root.path(), "sys/fs/cgroup/memory.max", "5000\n");
        write(root.path(), "sys/fs/cgroup/memory.current", "1000\n");
        assert_eq!((left(Browsers::Here), left(Browsers::Elsewhere)), (Some(4_000), Some(4_000)));
        assert_eq!(left(beside), Some(4_000));
        write(root.path(), "proc/meminfo", "MemAvailable:    2 kB\n");
        assert_eq!(gauge(root.path()).look(SECOND).available_bytes, Some(2_048), "the machine has less");
        write(root.path(), "proc/self/cgroup", "0::/../other\n");
        assert_eq!(left(Browsers::Here), None);
    }
}
