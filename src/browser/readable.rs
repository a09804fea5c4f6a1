//! Whether a file can be read: by this process, or by another user of this machine.
//!
//! The browser host and the `dolphin` provider ask before a file is given to a browser. For ourselves the
//! file is really opened; for another user [`access`] decides as the kernel would, and `cove doctor` asks that
//! for folders as well. Blocking, on a dead network share for ever: [`Looks`] bounds it for those who wait.

mod access;
mod looks;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::processes::Identity;
pub use access::{Access, ENTER, READ, WRITE, access};
pub use looks::Looks;

const MAX_TABLE_BYTES: u64 = 4 * 1024 * 1024;

/// A user with its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    pub uid: u32,
    /// The group of files that it makes; also among its groups.
    pub gid: u32,
    pub groups: BTreeSet<u32>,
}

impl Reader {
    /// As whom a process reads.
    #[must_use]
    pub fn of_process(process: Identity) -> Option<Self> {
        parse_status(&fs::read_to_string(format!("/proc/{}/status", process.pid)).ok()?)
    }

    /// As a new process of this user would read. None: the user is in no file of this machine.
    #[must_use]
    pub fn of_user(uid: u32) -> Option<Self> {
        parse_tables(&table("/etc/passwd"), &table("/etc/group"), uid)
    }

    fn is_us(&self) -> bool {
        self.uid == rustix::process::geteuid().as_raw()
    }
}

fn table(path: &str) -> String {
    use std::io::Read as _;
    let mut text = String::new();
    // A table that is not there, or is no text, names nobody.
    if let Ok(file) = fs::File::open(path) {
        let _ = file.take(MAX_TABLE_BYTES).read_to_string(&mut text);
    }
    text
}

/// The effective ids, and the groups beside them.
fn parse_status(status: &str) -> Option<Reader> {
    let numbers = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().map(|number| number.parse().ok()).collect::<Option<Vec<u32>>>()
    };
    let (uid, gid) = (*numbers("Uid:")?.get(1)?, *numbers("Gid:")?.get(1)?);
    Some(Reader { uid, gid, groups: numbers("Groups:")?.into_iter().chain([gid]).collect() })
}

fn parse_tables(passwd: &str, group: &str, uid: u32) -> Option<Reader> {
    let user = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.len() >= 4 && fields[2].parse() == Ok(uid))?;
    let own = user[3].parse().ok()?;
    let mut groups = BTreeSet::from([own]);
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let [_, _, gid, members] = fields[..]
            && members.split(',').any(|member| member == user[0])
        {
            groups.extend(gid.parse::<u32>());
        }
    }
    Some(Reader { uid, gid: own, groups })
}

/// Really opens it. Looked at first, and opened without blocking: opening a device can have effects,
/// and opening a pipe waits for its other end.
#[must_use]
pub fn by_us(path: &Path) -> bool {
    let regular = |found: fs::Metadata| found.is_file();
    #[expect(clippy::cast_possible_wrap, reason = "a flag word of the system, small and positive")]
    let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY).bits() as i32;
    path.is_absolute()
        && fs::metadata(path).is_ok_and(regular)
        && fs::OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(path)
            .and_then(|file| file.metadata())
            .is_ok_and(regular)
}

/// By another user: a regular file that the kernel would let it read.
#[must_use]
pub fn by(path: &Path, reader: &Reader) -> bool {
    if reader.is_us() {
        return by_us(path);
    }
    let is_file = fs::metadata(path).is_ok_and(|entry| entry.is_file());
    path.is_absolute() && is_file && access(path, reader, READ) == Access::Yes
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn only_a_regular_file_that_opens_is_readable() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("a.mp4");
        fs::write(&file, "x").unwrap();
        let pipe = root.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(by_us(&file) && by_us(&link));
        for not in [root.path(), &pipe, &root.path().join("gone"), Path::new("/dev/null"), Path::new("a.mp4")] {
            assert!(!by_us(not), "{}", not.display());
        }
    }

    #[test]
    fn another_user_reads_by_owner_group_and_mode_of_the_file_and_its_folders() {
        let root = tempfile::tempdir_in("/tmp").unwrap();
        let folder = root.path().join("media");
        fs::create_dir(&folder).unwrap();
        let file = folder.join("a.mp4");
        fs::write(&file, "x").unwrap();
        let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(root.path(), 0o755);
        let own = fs::metadata(&file).unwrap();
        let (uid, gid) = (own.uid() + 4_711, own.gid() + 4_711);
        let stranger = Reader { uid, gid, groups: [gid].into() };
        let member = Reader { groups: [own.gid()].into(), ..stranger.clone() };
        for (of_folder, of_file, by_stranger, by_member) in [
            (0o755, 0o644, true, true),
            (0o750, 0o640, false, true),
            (0o750, 0o644, false, true),
            (0o755, 0o640, false, true),
            (0o700, 0o644, false, false),
            (0o755, 0o604, true, false),
        ] {
            mode(&folder, of_folder);
            mode(&file, of_file);
            assert_eq!(
                (by(&file, &stranger), by(&file, &member)),
                (by_stranger, by_member),
                "{of_folder:o} {of_file:o}"
            );
        }
        mode(&folder, 0o755);
        assert!(!by(&folder, &stranger) && !by(&folder.join("gone"), &stranger));
    }

    #[test]
    fn a_reader_is_read_from_a_process_or_from_the_users_table() {
        let own = Reader::of_process(super::super::processes::read(std::process::id()).unwrap().identity).unwrap();
        assert_eq!(own.uid, rustix::process::geteuid().as_raw());
        let status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t20 30 \n";
        assert_eq!(parse_status(status), Some(Reader { uid: 2, gid: 6, groups: [6, 20, 30].into() }));
        assert_eq!(parse_status("Uid:\t1\n"), None);
        let (passwd, group) =
            ("root:x:0:0::/:\nanna:x:1000:1000:A:/home/anna:/bin/sh\nbroken\n", "media:x:44:ben,anna\nx:x:45:annab\n");
        assert_eq!(
            parse_tables(passwd, group, 1_000),
            Some(Reader { uid: 1_000, gid: 1_000, groups: [44, 1_000].into() })
        );
        assert_eq!(parse_tables(passwd, group, 7), None);
    }
}
