//! A user of this machine with a name: cove's, its browsers', and whoever runs `cove doctor`.

use std::path::Path;
use std::time::Duration;

use super::command;
use crate::browser::processes;
use crate::browser::readable::{self, Access, Reader};

const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    pub name: String,
    pub reader: Reader,
}

impl Person {
    /// Whoever runs this process.
    pub async fn own() -> Self {
        if let Some(own) = Self::of_process(std::process::id()).await {
            return own;
        }
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Self { name: "this user".to_owned(), reader: Reader { uid, gid, groups: [gid].into() } }
    }

    /// The user that a process runs as, with the groups that it really has.
    pub async fn of_process(pid: u32) -> Option<Self> {
        let reader = Reader::of_process(processes::read(pid)?.identity)?;
        Some(Self { name: name_of(reader.uid).await, reader })
    }

    /// A user as a new process of his would be; one that is in no file of this machine may be in a directory of
    /// the network.
    pub async fn of_user(uid: u32) -> Self {
        let name = name_of(uid).await;
        if let Some(reader) = Reader::of_user(uid) {
            return Self { name, reader };
        }
        let said = command::output("id", &["-G", &uid.to_string()], ANSWER_WITHIN).await.unwrap_or_default();
        // The first is the user's own.
        let groups: Vec<u32> = said.split_whitespace().filter_map(|group| group.parse().ok()).collect();
        let gid = groups.first().copied().unwrap_or(uid);
        Self { name, reader: Reader { uid, gid, groups: groups.into_iter().chain([gid]).collect() } }
    }

    pub const fn uid(&self) -> u32 {
        self.reader.uid
    }

    pub fn access(&self, path: &Path, wanted: u16) -> Access {
        readable::access(path, &self.reader, wanted)
    }

    #[cfg(test)]
    pub fn of_test(name: &str, uid: u32) -> Self {
        Self { name: name.to_owned(), reader: Reader { uid, gid: uid, groups: [uid].into() } }
    }
}

/// The name, or the number of a user without one, which commands take as well.
pub async fn name_of(uid: u32) -> String {
    let entry = command::output("getent", &["passwd", &uid.to_string()], ANSWER_WITHIN).await.unwrap_or_default();
    entry.split(':').next().filter(|name| !name.is_empty()).map_or_else(|| uid.to_string(), str::to_owned)
}
