//! The machine: memory, shared memory, open files, the address, and who else is on it.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use super::line::{Line, counted};
use crate::browser::processes::{self, Listener};

/// One browser at work, in MiB: measured on an idle one are 380.
const BROWSER_MB: u64 = 512;
/// Of the daemon and the system beside it.
const BASE_MB: u64 = 512;
/// Chromium wants this in /dev/shm; the browser host sends it elsewhere below that.
const SHARED_MB: u64 = 512;
/// Descriptors of one running attempt, and of everything else.
const ATTEMPT_FILES: u64 = 16;
const BASE_FILES: u64 = 256;
/// People's user numbers; below are services, above are those of containers.
const PEOPLE: std::ops::RangeInclusive<u32> = 1_000..=59_999;
const MIB: u64 = 1024 * 1024;

/// Total and available, in MiB.
pub fn memory_mb() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kilobytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some((kilobytes("MemTotal")? / 1024, kilobytes("MemAvailable")? / 1024))
}

pub fn memory(found: Option<(u64, u64)>, slots: u32) -> Line {
    const NAME: &str = "memory";
    let Some((total, available)) = found else {
        return Line::warning(NAME, "/proc/meminfo cannot be read", "mount /proc");
    };
    let wanted = u64::from(slots) * BROWSER_MB + BASE_MB;
    let told = format!(
        "{available} of {total} MiB are available; {} may take {wanted} MiB",
        counted(slots as usize, "browser")
    );
    let fit = total.saturating_sub(BASE_MB) / BROWSER_MB;
    if total < BASE_MB + BROWSER_MB {
        Line::error(NAME, told, "a machine for cove needs a gigabyte at least")
    } else if total < wanted {
        Line::warning(NAME, told, format!("lower [engine] slots to {fit}, or add memory"))
    } else if available < BROWSER_MB {
        Line::warning(NAME, told, "not even one browser fits now: see what takes it, `ps aux --sort=-rss | head`")
    } else {
        Line::ok(NAME, told)
    }
}

/// In MiB; None where there is none.
pub fn shared_memory_mb() -> Option<u64> {
    let found = rustix::fs::statvfs("/dev/shm").ok()?;
    Some(found.f_blocks.saturating_mul(found.f_frsize) / MIB)
}

pub fn shared_memory(found: Option<u64>) -> Line {
    const NAME: &str = "shared_memory";
    match found {
        Some(megabytes) if megabytes >= SHARED_MB => Line::ok(NAME, format!("/dev/shm has {megabytes} MiB")),
        found => Line::warning(
            NAME,
            format!(
                "/dev/shm has {} MiB, and a browser wants {SHARED_MB}: pages may crash or be slow",
                found.unwrap_or(0)
            ),
            "enlarge it: `mount -o remount,size=1g /dev/shm`, or `--shm-size=1g` for a container",
        ),
    }
}

/// The soft limit of open files of a process (of ours: None). None: without limit, or not readable.
pub fn open_files(pid: Option<u32>) -> Option<u64> {
    let who = pid.map_or("self".to_owned(), |pid| pid.to_string());
    let limits = std::fs::read_to_string(format!("/proc/{who}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

pub fn descriptors(limit: Option<u64>, of_daemon: bool, slots: u32, connections: u32) -> Line {
    const NAME: &str = "descriptors";
    let wanted = u64::from(slots) * ATTEMPT_FILES + u64::from(connections) + BASE_FILES;
    let whose = if of_daemon { "of the daemon" } else { "of this shell" };
    match limit {
        None => Line::ok(NAME, format!("no limit of open files {whose}")),
        Some(limit) if limit < wanted => Line::warning(
            NAME,
            format!(
                "the limit of open files {whose} is {limit}; {slots} slots and {connections} connections may need {wanted}"
            ),
            "LimitNOFILE=65536 in the unit (`systemctl edit cove`), or `ulimit -n 65536` before `cove serve`",
        ),
        Some(limit) => Line::ok(NAME, format!("{limit} open files {whose}, {wanted} may be needed")),
    }
}

/// What holds the address that the daemon would listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    Free,
    Ours,
    Taken { by: String },
    Failed(String),
}

/// `at`: where a daemon that answers says that it listens; `daemon`: its process. Blocks.
pub fn look_at_port(address: SocketAddr, at: Option<SocketAddr>, daemon: Option<u32>) -> Port {
    if at.is_some_and(|at| address.port() == 0 || at == address) {
        return Port::Ours;
    }
    let holder = |listener: Listener| listener.process().map(|process| process.pid);
    match TcpListener::bind(address) {
        Ok(_) => Port::Free,
        Err(error) if error.kind() == ErrorKind::AddrInUse => match processes::listener(address.port()) {
            Some(found) if daemon.is_some() && holder(found) == daemon => Port::Ours,
            found => Port::Taken { by: found.map_or("something".to_owned(), |found| told(&found)) },
        },
        Err(error) => Port::Failed(error.to_string()),
    }
}

/// Who listens, for a message.
pub fn told(listener: &Listener) -> String {
    let Some(process) = listener.process() else { return format!("a process of user {}", listener.uid) };
    let name = std::fs::read_to_string(format!("/proc/{}/comm", process.pid)).unwrap_or_default();
    format!("{} (process {}, user {})", name.trim(), process.pid, listener.uid)
}

pub fn listen(address: SocketAddr, port: &Port) -> Line {
    const NAME: &str = "listen";
    match port {
        Port::Free if address.port() == 0 => Line::ok(NAME, format!("any free port of {}", address.ip())),
        Port::Free => Line::ok(NAME, format!("{address} is free")),
        Port::Ours => Line::ok(NAME, format!("{address}, where the daemon listens")),
        Port::Taken { by } => Line::error(
            NAME,
            format!("{address} is taken by {by}"),
            "stop that, or choose another address in [server] listen",
        ),
        Port::Failed(why) => Line::error(
            NAME,
            format!("{address}: {why}"),
            "choose another address in [server] listen, for example 127.0.0.1:8088",
        ),
    }
}

/// People who can sign in here, of the text of `/etc/passwd`.
pub fn people(passwd: &str) -> Vec<(String, u32)> {
    let person = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, _, _, _, shell] = fields[..] else { return None };
        let uid = uid.parse().ok().filter(|uid| PEOPLE.contains(uid))?;
        let can_sign_in = !shell.ends_with("/nologin") && !shell.ends_with("/false");
        can_sign_in.then(|| (name.to_owned(), uid))
    };
    passwd.lines().filter_map(person).collect()
}

/// `known`: the users that cove and its browsers run as, and whoever asks.
pub fn local_users(people: &[(String, u32)], known: &[u32]) -> Line {
    const NAME: &str = "local_users";
    const SHOWN: usize = 5;
    let others: Vec<&str> =
        people.iter().filter(|(_, uid)| !known.contains(uid)).map(|(name, _)| name.as_str()).collect();
    if others.is_empty() {
        return Line::ok(NAME, "nobody else can sign in on this machine");
    }
    let more = others.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let names = others[..others.len().min(SHOWN)].join(", ");
    Line::warning(
        NAME,
        format!(
            "{names}{more} can sign in here too: the DevTools port of a running browser is open to every local user, who can \
             use the accounts signed in there and read the files that the browser's user can"
        ),
        "keep this machine for cove, or give those people none: `sudo usermod -s /usr/sbin/nologin NAME`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::line::Status;

    #[test]
    fn memory_is_enough_for_the_slots_or_not() {
        let status = |found, slots| memory(found, slots).status;
        assert_eq!(status(Some((16_000, 8_000)), 15), Status::Ok);
        let short = memory(Some((4_096, 3_000)), 15);
        assert!(short.status == Status::Warning && short.help.unwrap().contains("slots to 7"));
        assert_eq!(status(Some((16_000, 100)), 15), Status::Warning);
        assert_eq!(status(Some((512, 500)), 1), Status::Error);
        assert_eq!(status(None, 1), Status::Warning);
        assert!(memory_mb().unwrap().0 > 100);
        assert_eq!(shared_memory(Some(512)).status, Status::Ok);
        assert_eq!(shared_memory(Some(64)).status, Status::Warning);
        assert_eq!(shared_memory(None).status, Status::Warning);
    }

    #[test]
    fn open_files_go_by_slots_and_connections() {
        assert_eq!(descriptors(Some(1_024), false, 15, 1_024).status, Status::Warning);
        assert_eq!(descriptors(Some(65_536), true, 15, 1_024).status, Status::Ok);
        assert_eq!(descriptors(None, true, 15, 1_024).status, Status::Ok);
        assert!(open_files(None).is_none_or(|limit| limit > 0));
        assert_eq!(open_files(Some(u32::MAX)), None);
    }

    #[test]
    fn an_address_is_free_ours_or_taken_by_somebody_with_a_name() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        assert_eq!(look_at_port(address, Some(address), None), Port::Ours);
        assert_eq!(look_at_port(address, None, Some(std::process::id())), Port::Ours, "by its process");
        let taken = look_at_port(address, None, Some(1));
        let own = format!("process {}", std::process::id());
        assert!(matches!(&taken, Port::Taken { by } if by.contains(&own)), "{taken:?}");
        assert_eq!(listen(address, &taken).status, Status::Error);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        assert_eq!(look_at_port(any, None, None), Port::Free);
        assert_eq!(look_at_port(any, Some(address), None), Port::Ours);
        assert_eq!(listen(any, &Port::Free).status, Status::Ok);
        assert_eq!(listen(address, &Port::Free).status, Status::Ok);
        assert_eq!(listen(address, &Port::Ours).status, Status::Ok);
        assert_eq!(listen(address, &Port::Failed("no".to_owned())).status, Status::Error);
    }

    #[test]
    fn other_people_are_warned_of_and_services_are_not_people() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\ncove:x:990:990::/var/lib/cove:/usr/sbin/nologin\n\
            anna:x:1000:1000::/home/anna:/bin/bash\nben:x:1001:1001::/home/ben:/bin/false\n\
            nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\nbad line\n";
        let people = people(passwd);
        assert_eq!(people, [("anna".to_owned(), 1_000)]);
        assert_eq!(local_users(&people, &[0, 1_000]).status, Status::Ok);
        let line = local_users(&people, &[0]);
        assert!(line.status == Status::Warning && line.found.starts_with("anna can sign in"), "{line:?}");
        let crowd: Vec<(String, u32)> = (0..7).map(|number| (format!("u{number}"), number)).collect();
        assert!(local_users(&crowd, &[]).found.contains("u4 and 2 more"));
    }
}
