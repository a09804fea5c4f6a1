//! From a loopback port to the process that listens on it, and back.
//!
//! For browsers that are not our children: Dolphin's session is known by its `DevTools` port, or by a pid
//! without a port. The kernel's table of sockets is readable for everybody and tells each socket's user;
//! which process holds it stands in the descriptors of the processes, which only their user and root may
//! read. What cannot be known is said so ([`Holder::Hidden`]) and never guessed across users: a command line
//! counts only where its process belongs to the socket's own user.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Identity, PORT_SWITCH, Process, all, command_line, read, value_of};

const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// Of one table; a socket takes 150 bytes.
const MAX_TABLE_BYTES: u64 = 64 * 1024 * 1024;
/// Of one process.
const MAX_DESCRIPTORS: usize = 65_536;
const LISTENING: &str = "0A";

/// Who listens on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The user that the socket belongs to; known for every socket.
    pub uid: u32,
    pub holder: Holder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This process has the socket.
    Holds(Identity),
    /// The descriptors of the socket's user may not be read, but this browser of that user was started with
    /// exactly this `DevTools` port.
    Named(Identity),
    /// Nothing tells the process: it is another user's, or in a container.
    Hidden,
}

impl Listener {
    #[must_use]
    pub const fn process(&self) -> Option<Identity> {
        match self.holder {
            Holder::Holds(process) | Holder::Named(process) => Some(process),
            Holder::Hidden => None,
        }
    }
}

/// Who answers on `127.0.0.1:port`, or on `[::1]:port` where nobody does. None: nobody listens.
#[must_use]
pub fn listener(port: u16) -> Option<Listener> {
    let find = || sockets().into_iter().filter(|socket| socket.port == port).min_by_key(|socket| socket.reach);
    let socket = find()?;
    let processes = all();
    let holder = holder(&socket, &processes).or_else(|| named(&socket, &processes));
    // A socket that was closed meanwhile has no holder, and is nobody's.
    let holder = holder.or_else(|| (find()? == socket).then_some(Holder::Hidden))?;
    Some(Listener { uid: socket.uid, holder })
}

/// The ports on which one of these processes answers on loopback, in order. Where descriptors may not be read,
/// the port that the command line of a browser asked for, if that user listens on it.
#[must_use]
pub fn ports_of(members: &BTreeSet<Identity>) -> Vec<u16> {
    let sockets = sockets();
    let by_inode: BTreeMap<u64, u16> = sockets.iter().map(|socket| (socket.inode, socket.port)).collect();
    let mut ports = BTreeSet::new();
    for member in members.iter().filter(|member| read(member.pid).is_some_and(|now| now.identity == **member)) {
        if let Some(inodes) = socket_inodes(member.pid) {
            ports.extend(inodes.iter().filter_map(|inode| by_inode.get(inode)));
        } else {
            let (owner, wanted) = (owner(member.pid), named_port(&command_line(member.pid)));
            let theirs = |socket: &&Socket| Some(socket.port) == wanted && Some(socket.uid) == owner;
            ports.extend(sockets.iter().find(theirs).map(|socket| socket.port));
        }
    }
    ports.into_iter().collect()
}

/// A socket that listens where a connection from this machine arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    port: u16,
    uid: u32,
    inode: u64,
    reach: Reach,
}

/// How near to `127.0.0.1` an address is: with several sockets on one port, the nearest gets the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Loopback4,
    Any4,
    Any6,
    Loopback6,
}

fn sockets() -> Vec<Socket> {
    let rows = TABLES.iter().filter_map(|table| std::fs::File::open(table).ok());
    // The first line is the head, and is no socket.
    let lines = rows.flat_map(|file| BufReader::new(file.take(MAX_TABLE_BYTES)).lines().map_while(Result::ok));
    lines.filter_map(|line| parse_row(&line)).collect()
}

fn parse_row(line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_ascii_whitespace().take(10).collect();
    let [_, local, _, LISTENING, _, _, _, uid, _, inode] = fields[..] else { return None };
    let (address, port) = local.split_once(':')?;
    let reach = match parse_address(address)?.to_canonical() {
        IpAddr::V4(Ipv4Addr::LOCALHOST) => Reach::Loopback4,
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Reach::Any4,
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Reach::Any6,
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Reach::Loopback6,
        _ => return None,
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(Socket { port, uid: uid.parse().ok()?, inode: inode.parse().ok()?, reach })
}

/// Each 32 bits as a number of this machine's byte order.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let bytes: Vec<u8> = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?))
        }
        _ => None,
    }
}

/// The process that has the socket. One that was handed on is also held by the one who made it: systemd keeps
/// those of socket activation, and a child inherits; so the oldest that is not systemd itself.
fn holder(socket: &Socket, processes: &[Process]) -> Option<Holder> {
    // Nearly always a process of the socket's own user: those first, and the others only where none has it.
    let (own, others): (Vec<&Process>, Vec<&Process>) =
        processes.iter().partition(|process| owner(process.identity.pid) == Some(socket.uid));
    [own, others].into_iter().find_map(|processes| {
        let holds = |process: &&Process| {
            socket_inodes(process.identity.pid).is_some_and(|inodes| inodes.contains(&socket.inode))
        };
        let holders = processes.into_iter().filter(|process| !process.zombie).filter(holds);
        let oldest = holders.map(|process| process.identity).min_by_key(|one| (one.pid == 1, one.started, one.pid));
        oldest.map(Holder::Holds)
    })
}

/// The youngest of those that were told this port: a script that starts a browser has the same command line.
fn named(socket: &Socket, processes: &[Process]) -> Option<Holder> {
    let told = |process: &&Process| {
        let pid = process.identity.pid;
        !process.zombie && owner(pid) == Some(socket.uid) && named_port(&command_line(pid)) == Some(socket.port)
    };
    let youngest = processes.iter().filter(told).map(|process| process.identity).max_by_key(|one| one.started);
    youngest.map(Holder::Named)
}

/// The user of a process; root for one that may not be looked into even by its own user.
fn owner(pid: u32) -> Option<u32> {
    Some(std::fs::metadata(format!("/proc/{pid}")).ok()?.uid())
}

/// None: they may not be read.
fn socket_inodes(pid: u32) -> Option<BTreeSet<u64>> {
    let folder = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let links = folder.take(MAX_DESCRIPTORS).filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    let inode = |link: PathBuf| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    Some(links.filter_map(inode).collect())
}

/// A process that has this file open, the oldest; None where there is none, or none that may be seen.
#[must_use]
pub fn who_opened(path: &Path) -> Option<u32> {
    let wanted = path.canonicalize().ok()?;
    let has_it = |pid: u32| {
        let folder = std::fs::read_dir(format!("/proc/{pid}/fd")).ok();
        let mut links = folder.into_iter().flatten().take(MAX_DESCRIPTORS).filter_map(Result::ok);
        links.any(|entry| std::fs::read_link(entry.path()).is_ok_and(|link| link == wanted))
    };
    let others = all().into_iter().map(|process| process.identity).filter(|one| one.pid != std::process::id());
    others.filter(|one| has_it(one.pid)).min_by_key(|one| one.started).map(|one| one.pid)
}

/// The files with this name that a process has open; None where that may not be seen.
#[must_use]
pub fn opened_by(pid: u32, name: &str) -> Option<Vec<PathBuf>> {
    let folder = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let links = folder.take(MAX_DESCRIPTORS).filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    Some(links.filter(|link| link.file_name().is_some_and(|found| found == name)).collect())
}

/// The fixed `DevTools` port that a browser's main process was started with.
fn named_port(command_line: &[u8]) -> Option<u16> {
    if value_of(command_line, "--type=").is_some() {
        return None;
    }
    let port = std::str::from_utf8(value_of(command_line, PORT_SWITCH)?).ok()?.parse().ok()?;
    (port != 0).then_some(port)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::TcpListener;

    use super::{Holder, Reach, Socket, listener, named_port, parse_row, ports_of};
    use crate::browser::processes;

    #[test]
    fn rows_that_listen_on_loopback_are_read() {
        let row = "   1: 0100007F:1F98 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 x";
        let four = Socket { port: 8_088, uid: 1_000, inode: 4_711, reach: Reach::Loopback4 };
        assert_eq!(parse_row(row), Some(four));
        let with = |address: &str| parse_row(&row.replace("0100007F", address)).map(|socket| socket.reach);
        assert_eq!(with("00000000"), Some(Reach::Any4));
        assert_eq!(with("00000000000000000000000000000000"), Some(Reach::Any6));
        assert_eq!(with("00000000000000000000000001000000"), Some(Reach::Loopback6));
        assert_eq!(with("0000000000000000FFFF00000100007F"), Some(Reach::Loopback4), "mapped");
        assert_eq!(with("0101A8C0"), None, "another address of the machine");
        assert_eq!(parse_row(&row.replace(" 0A ", " 01 ")), None, "connected");
        assert_eq!(parse_row("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt"), None);
        assert_eq!(parse_row("   1: 0100007F:1F98"), None);
    }

    #[test]
    fn the_port_of_a_command_line_is_its_main_process_own() {
        assert_eq!(named_port(b"chrome\0--remote-debugging-port=9222\0"), Some(9_222));
        assert_eq!(named_port(b"chrome\0--remote-debugging-port=0\0"), None);
        assert_eq!(named_port(b"chrome\0--type=renderer\0--remote-debugging-port=9222\0"), None);
        assert_eq!(named_port(b"chrome\0"), None);
    }

    #[test]
    fn this_process_is_found_by_its_port_on_each_loopback() {
        let own = processes::read(std::process::id()).unwrap().identity;
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
            let socket = TcpListener::bind(address).unwrap();
            let port = socket.local_addr().unwrap().port();
            let found = listener(port).unwrap();
            assert_eq!(found.holder, Holder::Holds(own), "{address}");
            assert_eq!(found.uid, rustix::process::geteuid().as_raw());
            assert!(ports_of(&BTreeSet::from([own])).contains(&port));
        }
        assert_eq!(listener(1), None, "nobody serves tcpmux");
    }
}
