//! A simulated disk with the two files of a state on it: one ordered log of what was written and synced,
//! and what a power cut at any place in it leaves.
//!
//! What was not synced is kept, lost or torn in sectors of 512 bytes, each on its own: also a later one
//! without an earlier one. An operation can be made to fail. Two switches are for the negative controls:
//! a disk on which the sync of one file does nothing.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Cursor};
use std::sync::{Arc, Mutex, MutexGuard};

use cove::store::LedgerFile;
use redb::StorageBackend;

const SECTOR_BYTES: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    State,
    Ledger,
}

/// One operation, or the moment at which step `n` of the workload had its answer.
#[derive(Clone, Debug)]
pub enum Op {
    Write {
        file: Name,
        at: usize,
        bytes: Vec<u8>,
    },
    SetLen {
        file: Name,
        bytes: usize,
    },
    Sync {
        file: Name,
    },
    /// A sync failed: the kernel takes what it could not write for clean. It can be read, and is never
    /// written any more.
    Forgotten {
        file: Name,
    },
    Answered {
        steps: usize,
    },
}

/// Both files, as somebody finds them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    files: [Vec<u8>; 2],
}

impl Image {
    pub fn file(&self, name: Name) -> &Vec<u8> {
        &self.files[name as usize]
    }

    pub fn file_mut(&mut self, name: Name) -> &mut Vec<u8> {
        &mut self.files[name as usize]
    }

    fn write(&mut self, file: Name, at: usize, bytes: &[u8]) {
        let content = self.file_mut(file);
        let end = at + bytes.len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[at..end].copy_from_slice(bytes);
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Write { file, at, bytes } => self.write(*file, *at, bytes),
            Op::SetLen { file, bytes } => self.file_mut(*file).resize(*bytes, 0),
            Op::Sync { .. } | Op::Forgotten { .. } | Op::Answered { .. } => {}
        }
    }

    /// A part of what was not synced: `keep` is the chance of each sector, in quarters.
    fn apply_torn(&mut self, op: &Op, keep: u8, dice: &mut fastrand::Rng) {
        let mut kept = || dice.u8(..4) < keep;
        match op {
            Op::Write { file, at, bytes } => {
                let mut from = 0;
                while from < bytes.len() {
                    let to = (from + SECTOR_BYTES - (at + from) % SECTOR_BYTES).min(bytes.len());
                    if kept() {
                        self.write(*file, at + from, &bytes[from..to]);
                    }
                    from = to;
                }
            }
            Op::SetLen { .. } => {
                if kept() {
                    self.apply(op);
                }
            }
            Op::Sync { .. } | Op::Forgotten { .. } | Op::Answered { .. } => {}
        }
    }
}

/// What is really on the disk while a log is played.
pub struct Player<'a> {
    log: &'a [Op],
    durable: Image,
    pending: Vec<&'a Op>,
    /// Syncs of these files do nothing.
    stubbed: BTreeSet<Name>,
    next: usize,
    answered: usize,
}

impl<'a> Player<'a> {
    pub fn new(begin: Image, log: &'a [Op], stubbed: &[Name]) -> Self {
        let stubbed = stubbed.iter().copied().collect();
        Self { log, durable: begin, pending: Vec::new(), stubbed, next: 0, answered: 0 }
    }

    /// Plays on until `place` operations have gone through.
    pub fn play_to(&mut self, place: usize) {
        while self.next < place {
            let op = &self.log[self.next];
            self.next += 1;
            match op {
                Op::Sync { file } if self.stubbed.contains(file) => {}
                Op::Sync { file } => {
                    for op in self.take_pending(*file) {
                        self.durable.apply(op);
                    }
                }
                Op::Forgotten { file } => drop(self.take_pending(*file)),
                Op::Answered { steps } => self.answered = *steps,
                other => self.pending.push(other),
            }
        }
    }

    fn take_pending(&mut self, name: Name) -> Vec<&'a Op> {
        let of_it = |op: &&Op| matches!(op, Op::Write { file, .. } | Op::SetLen { file, .. } if *file == name);
        let (taken, left) = std::mem::take(&mut self.pending).into_iter().partition(of_it);
        self.pending = left;
        taken
    }

    /// Steps that had their answer.
    pub const fn answered(&self) -> usize {
        self.answered
    }

    /// The power goes now.
    pub fn cut(&self, dice: &mut fastrand::Rng) -> Image {
        let mut image = self.durable.clone();
        let keep = dice.u8(..=4);
        self.pending.iter().for_each(|op| image.apply_torn(op, keep, dice));
        image
    }
}

/// How an operation fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Io,
    NoSpace,
    /// A half of it is done.
    Short,
    /// Nothing is done, and nothing is said. For the negative control.
    Lie,
}

/// Operation `at` fails, counted from 1 over both files, reads included.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub at: u64,
    pub fault: Fault,
    /// And every one after it.
    pub from_then_on: bool,
}

#[derive(Debug, Default)]
struct Inner {
    live: Image,
    log: Vec<Op>,
    plan: Option<Plan>,
    operations: u64,
}

/// A handle; clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<Inner>>);

impl Disk {
    pub fn new(image: Image) -> Self {
        Self(Arc::new(Mutex::new(Inner { live: image, ..Inner::default() })))
    }

    pub fn failing(image: Image, plan: Plan) -> Self {
        Self(Arc::new(Mutex::new(Inner { live: image, plan: Some(plan), ..Inner::default() })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub fn state(&self) -> OneFile {
        OneFile { disk: self.clone(), name: Name::State }
    }

    pub fn ledger(&self) -> OneFile {
        OneFile { disk: self.clone(), name: Name::Ledger }
    }

    pub fn answered(&self, steps: usize) {
        self.inner().log.push(Op::Answered { steps });
    }

    /// What another process would read now.
    pub fn live(&self) -> Image {
        self.inner().live.clone()
    }

    pub fn log(&self) -> Vec<Op> {
        self.inner().log.clone()
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.inner().operations
    }

    /// The log so far, as a power cut now would leave it.
    pub fn cut(&self, begin: &Image, dice: &mut fastrand::Rng) -> Image {
        let log = self.log();
        let mut player = Player::new(begin.clone(), &log, &[]);
        player.play_to(log.len());
        player.cut(dice)
    }

    /// The disk is well again.
    pub fn mend(&self) {
        self.inner().plan = None;
    }
}

impl Inner {
    /// The fault of this operation, if it has one.
    fn next(&mut self) -> Option<Fault> {
        self.operations += 1;
        let plan = self.plan?;
        let hit = self.operations == plan.at || (plan.from_then_on && self.operations > plan.at);
        hit.then_some(plan.fault)
    }

    fn write(&mut self, file: Name, at: usize, bytes: &[u8]) -> io::Result<()> {
        let fault = self.next();
        let done = match fault {
            None => bytes.len(),
            Some(Fault::Short) => bytes.len() / 2,
            Some(_) => 0,
        };
        if done > 0 {
            let op = Op::Write { file, at, bytes: bytes[..done].to_vec() };
            self.live.apply(&op);
            self.log.push(op);
        }
        result(fault)
    }

    fn set_len(&mut self, file: Name, bytes: usize) -> io::Result<()> {
        let fault = self.next();
        if fault.is_none() {
            let op = Op::SetLen { file, bytes };
            self.live.apply(&op);
            self.log.push(op);
        }
        result(fault)
    }

    fn sync(&mut self, file: Name) -> io::Result<()> {
        let fault = self.next();
        match fault {
            None => self.log.push(Op::Sync { file }),
            Some(Fault::Lie) => {}
            Some(_) => self.log.push(Op::Forgotten { file }),
        }
        result(fault)
    }
}

fn result(fault: Option<Fault>) -> io::Result<()> {
    match fault {
        None | Some(Fault::Lie) => Ok(()),
        Some(Fault::Io) => Err(io::Error::from_raw_os_error(5)),
        Some(Fault::NoSpace) => Err(io::ErrorKind::StorageFull.into()),
        Some(Fault::Short) => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// One of the two files.
#[derive(Debug)]
pub struct OneFile {
    disk: Disk,
    name: Name,
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

impl StorageBackend for OneFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.inner().live.file(self.name).len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut inner = self.disk.inner();
        result(inner.next())?;
        let content = inner.live.file(self.name);
        let from = place(offset);
        let bytes = content.get(from..from + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.inner().set_len(self.name, place(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.inner().sync(self.name)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.inner().write(self.name, place(offset), data)
    }
}

impl LedgerFile for OneFile {
    fn read(&mut self) -> io::Result<Box<dyn BufRead + '_>> {
        let mut inner = self.disk.inner();
        result(inner.next())?;
        Ok(Box::new(Cursor::new(inner.live.file(self.name).clone())))
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.inner().write(self.name, place(offset), bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.inner().sync(self.name)
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        self.disk.inner().set_len(self.name, place(bytes))
    }
}
