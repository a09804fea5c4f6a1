//! What the kernel would let a user do: owner, groups, mode, access lists, and a way through every folder.
//!
//! For users that we are not: nobody is impersonated and nothing is opened. The rules are those of acl(5) and
//! `path_resolution(7)`; root may do everything.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Reader;

const ACCESS_LIST: &str = "system.posix_acl_access";
/// An access list of 1,000 entries.
const MAX_ACCESS_LIST_BYTES: usize = 4 + 8 * 1_000;

pub const READ: u16 = 4;
pub const WRITE: u16 = 2;
/// Of a folder: going through it.
pub const ENTER: u16 = 1;

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

    fn allows(&self, reader: &Reader, wanted: u16) -> bool {
        if reader.uid == 0 {
            return true;
        }
        let entries = self.entries();
        let first = |tag: u16| entries.iter().find(|entry| entry.tag == tag).map_or(0, |entry| entry.permissions);
        let mask = entries.iter().find(|entry| entry.tag == MASK).map_or(7, |entry| entry.permissions);
        let holds = |permissions: u16| permissions & wanted == wanted;
        if reader.uid == self.uid {
            return holds(first(OWNING_USER));
        }
        if let Some(own) = entries.iter().find(|entry| entry.tag == USER && entry.id == reader.uid) {
            return holds(own.permissions & mask);
        }
        let of_a_group = |entry: &&Entry| match entry.tag {
            OWNING_GROUP => reader.groups.contains(&self.gid),
            GROUP => reader.groups.contains(&entry.id),
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

/// Whether a user gets at a path.
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

/// Whether `reader` may do `wanted` with `path`; every folder above it has to let it through. Nothing is opened.
#[must_use]
pub fn access(path: &Path, reader: &Reader, wanted: u16) -> Access {
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
            Ok(node) if node.allows(reader, wanted) => {}
            Ok(_) => return Access::No(at.to_owned()),
            Err(error) => return Access::Unknown(format!("{}: {error}", at.display())),
        }
    }
    Access::Yes
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn reader(uid: u32, groups: &[u32]) -> Reader {
        Reader { uid, gid: uid, groups: groups.iter().copied().collect() }
    }

    fn node(mode: u32, access_list: Vec<Entry>) -> Node {
        Node { uid: 10, gid: 20, mode, access_list }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        let closed_to_owner = node(0o100_077, Vec::new());
        assert!(!closed_to_owner.allows(&reader(10, &[20]), READ), "the owner is the owner even where others may");
        assert!(closed_to_owner.allows(&reader(11, &[20]), READ) && closed_to_owner.allows(&reader(11, &[]), READ));
        let for_the_group = node(0o100_640, Vec::new());
        assert!(for_the_group.allows(&reader(11, &[7, 20]), READ) && !for_the_group.allows(&reader(11, &[7]), READ));
        assert!(!for_the_group.allows(&reader(11, &[20]), READ | ENTER), "both are wanted");
        assert!(node(0, Vec::new()).allows(&reader(0, &[]), READ));
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
        assert!(open.allows(&reader(30, &[]), READ) && open.allows(&reader(31, &[40]), READ));
        assert!(open.allows(&reader(31, &[20, 40]), READ), "one group of several is enough");
        assert!(!open.allows(&reader(31, &[20]), READ) && !open.allows(&reader(31, &[]), READ));
        let masked = node(0o100_640, list(0));
        assert!(!masked.allows(&reader(30, &[]), READ) && !masked.allows(&reader(31, &[40]), READ));
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
        let stranger = reader(4_000_000, &[4_000_000]);
        assert_eq!(access(&file, &stranger, READ), Access::No(closed.clone()));
        set(&closed, 0o711);
        assert_eq!(access(&file, &stranger, READ), Access::Yes);
        assert_eq!(access(&closed, &stranger, READ | ENTER), Access::No(closed));
        assert_eq!(access(&top.join("gone"), &stranger, READ), Access::Missing);
    }

    /// The list is written by us in the kernel's form and read back from the kernel; as root a real attempt by that
    /// user has the last word.
    #[test]
    fn the_kernels_own_list_is_read_and_agrees_with_a_real_attempt() {
        const STRANGER: u32 = 65_533;
        let root = tempfile::tempdir_in("/tmp").unwrap();
        let file = root.path().join("a.mp4");
        std::fs::write(&file, "x").unwrap();
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let stranger = reader(STRANGER, &[STRANGER]);
        for (granted, mask) in [(0, 0), (4, 4), (4, 0)] {
            let entries = [
                (OWNING_USER, 6, u32::MAX),
                (USER, granted, STRANGER),
                (OWNING_GROUP, 0, u32::MAX),
                (MASK, mask, u32::MAX),
                (OTHER, 0, u32::MAX),
            ];
            let mut list = 2_u32.to_le_bytes().to_vec();
            for (tag, permissions, id) in entries {
                list.extend(tag.to_le_bytes().into_iter().chain(u16::to_le_bytes(permissions)).chain(id.to_le_bytes()));
            }
            let set = rustix::fs::setxattr(&file, ACCESS_LIST, &list, rustix::fs::XattrFlags::empty());
            if set == Err(rustix::io::Errno::OPNOTSUPP) {
                return;
            }
            set.unwrap();
            let may = access(&file, &stranger, READ) == Access::Yes;
            assert_eq!(may, granted & mask & READ != 0, "{granted} {mask}");
            if rustix::process::geteuid().is_root() {
                let mut attempt = std::process::Command::new("setpriv");
                attempt.args(["--reuid=65533", "--regid=65533", "--clear-groups", "cat"]).arg(&file);
                assert_eq!(attempt.output().unwrap().status.success(), may, "{granted} {mask}");
            }
        }
    }
}
