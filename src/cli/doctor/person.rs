//! Who may read what: a user of this machine, and the kernel's rules for a path.
//!
//! cove and its browsers may be different users, and whoever runs `cove doctor` a third. What another user
//! may read is worked out as the kernel does: mode bits, groups, access lists, and a way through every
//! folder above. Nothing is opened for it, and nobody is impersonated.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command;

const ACCESS_LIST: &str = "system.posix_acl_access";
/// An access list of 1,000 entries.
const MAX_ACCESS_LIST_BYTES: usize = 4 + 8 * 1_000;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

pub const READ: u16 = 4;
/// Of a folder: going through it.
pub const ENTER: u16 = 1;

/// A user with all groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    pub name: String,
    pub uid: u32,
    /// The group of files that it makes.
    pub gid: u32,
    pub groups: BTreeSet<u32>,
}

impl Person {
    /// Whoever runs this process.
    pub async fn own() -> Self {
        let own = Self::of_process(std::process::id()).await;
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        own.unwrap_or(Self { name: "this user".to_owned(), uid, gid, groups: BTreeSet::from([gid]) })
    }

    /// The user that a process runs as, with the groups that it really has.
    pub async fn of_process(pid: u32) -> Option<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let (uid, gid, groups) = parse_status(&status)?;
        Some(Self { name: name_of(uid).await, uid, gid, groups })
    }

    /// A user as a new process of his would be.
    pub async fn of_user(uid: u32) -> Self {
        let said = command::output("id", &["-G", &uid.to_string()], ANSWER_WITHIN).await.unwrap_or_default();
        // The first is the user's own.
        let groups: Vec<u32> = said.split_whitespace().filter_map(|group| group.parse().ok()).collect();
        let gid = groups.first().copied().unwrap_or(uid);
        Self { name: name_of(uid).await, uid, gid, groups: groups.into_iter().collect() }
    }
}

/// The name, or the number of a user without one, which commands take as well.
pub async fn name_of(uid: u32) -> String {
    let entry = command::output("getent", &["passwd", &uid.to_string()], ANSWER_WITHIN).await.unwrap_or_default();
    entry.split(':').next().filter(|name| !name.is_empty()).map_or_else(|| uid.to_string(), str::to_owned)
}

/// Effective user and group, and all groups, of `/proc/PID/status`.
fn parse_status(status: &str) -> Option<(u32, u32, BTreeSet<u32>)> {
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let effective = |name: &str| line(name)?.split_whitespace().nth(1)?.parse().ok();
    let mut groups: BTreeSet<u32> =
        line("Groups:")?.split_whitespace().filter_map(|group| group.parse().ok()).collect();
    let (uid, gid) = (effective("Uid:")?, effective("Gid:")?);
    groups.insert(gid);
    Some((uid, gid, groups))
}

/// What decides about one file or folder.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    uid: u32,
    gid: u32,
    mode: u32,
    /// Empty: the mode is all there is.
    access_list: Vec<Entry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

// Tags of an access list, as the kernel stores them.
const OWNING_USER: u16 = 0x01;
const USER: u16 = 0x02;
const OWNING_GROUP: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

impl Node {
    fn of(path: &Path) -> io::Result<Self> {
        let found = std::fs::metadata(path)?;
        let mut list = vec![0; MAX_ACCESS_LIST_BYTES];
        // A file system without access lists has none.
        let bytes = rustix::fs::getxattr(path, ACCESS_LIST, &mut list[..]).unwrap_or(0);
        let access_list = parse_access_list(&list[..bytes]);
        Ok(Self { uid: found.uid(), gid: found.gid(), mode: found.mode(), access_list })
    }

    /// The entries, made of the mode where there is no list.
    fn entries(&self) -> Vec<Entry> {
        if !self.access_list.is_empty() {
            return self.access_list.clone();
        }
        let bits = |shift: u32| u16::try_from(self.mode >> shift & 7).unwrap_or(0);
        [(OWNING_USER, 6), (OWNING_GROUP, 3), (OTHER, 0)]
            .map(|(tag, shift)| Entry { tag, permissions: bits(shift), id: 0 })
            .to_vec()
    }

    fn allows(&self, person: &Person, wanted: u16) -> bool {
        if person.uid == 0 {
            return true;
        }
        let entries = self.entries();
        let first = |tag: u16| entries.iter().find(|entry| entry.tag == tag).map_or(0, |entry| entry.permissions);
        let mask = entries.iter().find(|entry| entry.tag == MASK).map_or(7, |entry| entry.permissions);
        let holds = |permissions: u16| permissions & wanted == wanted;
        if person.uid == self.uid {
            return holds(first(OWNING_USER));
        }
        if let Some(own) = entries.iter().find(|entry| entry.tag == USER && entry.id == person.uid) {
            return holds(own.permissions & mask);
        }
        let of_a_group = |entry: &&Entry| match entry.tag {
            OWNING_GROUP => person.groups.contains(&self.gid),
            GROUP => person.groups.contains(&entry.id),
            _ => false,
        };
        let mut groups = entries.iter().filter(of_a_group).peekable();
        if groups.peek().is_some() {
            return groups.any(|entry| holds(entry.permissions & mask));
        }
        holds(first(OTHER))
    }
}

/// A version, then entries of tag, permissions and id; little-endian.
fn parse_access_list(bytes: &[u8]) -> Vec<Entry> {
    let Some((version, entries)) = bytes.split_first_chunk::<4>() else { return Vec::new() };
    if u32::from_le_bytes(*version) != 2 {
        return Vec::new();
    }
    let entry = |bytes: &[u8]| {
        let &[t0, t1, p0, p1, i0, i1, i2, i3] = bytes else { return None };
        Some(Entry {
            tag: u16::from_le_bytes([t0, t1]),
            permissions: u16::from_le_bytes([p0, p1]),
            id: u32::from_le_bytes([i0, i1, i2, i3]),
        })
    };
    entries.chunks_exact(8).filter_map(entry).collect()
}

/// Whether a person gets at a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Access {
    Yes,
    /// Refused here: the path itself, or a folder above it.
    No(PathBuf),
    /// There is nothing of that name.
    Missing,
    /// We may not look ourselves.
    Unknown(String),
}

/// Whether `person` may do `wanted` with `path`; every folder above it has to let him through.
pub fn access(person: &Person, path: &Path, wanted: u16) -> Access {
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Access::Missing,
        Err(error) => return Access::Unknown(format!("{}: {error}", path.display())),
    };
    let mut above: Vec<&Path> = real.ancestors().skip(1).collect();
    above.reverse();
    let ways = above.into_iter().map(|folder| (folder, ENTER)).chain([(real.as_path(), wanted)]);
    for (at, wanted) in ways {
        match Node::of(at) {
            Ok(node) if node.allows(person, wanted) => {}
            Ok(_) => return Access::No(at.to_owned()),
            Err(error) => return Access::Unknown(format!("{}: {error}", at.display())),
        }
    }
    Access::Yes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn person(uid: u32, groups: &[u32]) -> Person {
        Person { name: format!("u{uid}"), uid, gid: uid, groups: groups.iter().copied().collect() }
    }

    fn node(mode: u32, access_list: Vec<Entry>) -> Node {
        Node { uid: 10, gid: 20, mode, access_list }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let closed_to_owner = node(0o100_077, Vec::new());
        assert!(!closed_to_owner.allows(&person(10, &[20]), READ), "the owner is the owner even where others may");
        assert!(closed_to_owner.allows(&person(11, &[20]), READ) && closed_to_owner.allows(&person(11, &[]), READ));
        let for_the_group = node(0o100_640, Vec::new());
        assert!(for_the_group.allows(&person(11, &[7, 20]), READ) && !for_the_group.allows(&person(11, &[7]), READ));
        assert!(!for_the_group.allows(&person(11, &[20]), READ | ENTER), "both are wanted");
        assert!(node(0, Vec::new()).allows(&person(0, &[]), READ));
    }

    #[test]
    fn an_access_list_names_more_and_its_mask_bounds_them() {
        let entry = |tag, permissions, id| Entry { tag, permissions, id };
        let list = |mask| {
            vec![
                entry(OWNING_USER, 6, 0),
                entry(USER, 4, 30),
                entry(OWNING_GROUP, 0, 0),
                entry(GROUP, 4, 40),
                entry(MASK, mask, 0),
                entry(OTHER, 0, 0),
            ]
        };
        let open = node(0o100_640, list(4));
        assert!(open.allows(&person(30, &[]), READ) && open.allows(&person(31, &[40]), READ));
        assert!(open.allows(&person(31, &[20, 40]), READ), "one group of several is enough");
        assert!(!open.allows(&person(31, &[20]), READ) && !open.allows(&person(31, &[]), READ));
        let masked = node(0o100_640, list(0));
        assert!(!masked.allows(&person(30, &[]), READ) && !masked.allows(&person(31, &[40]), READ));
        let raw = [2, 0, 0, 0, 2, 0, 4, 0, 30, 0, 0, 0, 0x20, 0, 0, 0, 255, 255, 255, 255];
        assert_eq!(parse_access_list(&raw), [entry(USER, 4, 30), entry(OTHER, 0, u32::MAX)]);
        assert_eq!(parse_access_list(&[1, 0, 0, 0, 2, 0]), []);
    }

    #[test]
    fn a_folder_above_that_is_closed_is_named() {
        let root = tempfile::tempdir().unwrap();
        let top = root.path().canonicalize().unwrap();
        let (closed, file) = (top.join("closed"), top.join("closed/a.mp4"));
        std::fs::create_dir(&closed).unwrap();
        std::fs::write(&file, "x").unwrap();
        let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        set(&top, 0o755);
        set(&file, 0o644);
        set(&closed, 0o700);
        let stranger = person(4_000_000, &[4_000_000]);
        assert_eq!(access(&stranger, &file, READ), Access::No(closed.clone()));
        set(&closed, 0o711);
        assert_eq!(access(&stranger, &file, READ), Access::Yes);
        assert_eq!(access(&stranger, &closed, READ | ENTER), Access::No(closed));
        assert_eq!(access(&stranger, &top.join("gone"), READ), Access::Missing);
    }

    #[test]
    fn the_groups_of_a_process_are_all_it_has() {
        let status = "Name:\tx\nUid:\t5\t6\t7\t8\nGid:\t1\t2\t3\t4\nGroups:\t20 30 \n";
        assert_eq!(parse_status(status), Some((6, 2, BTreeSet::from([2, 20, 30]))));
        assert_eq!(parse_status("Name:\tx\n"), None);
    }
}
