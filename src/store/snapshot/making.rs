//! Making a snapshot: begun in a moment, then carried out on a thread of its own that gives way to everybody.
//!
//! The caller has the name when the read transaction has begun, so whatever was acknowledged before that is in
//! it. Invariants: the ledger's position is taken first (fence.md rule 18); the transaction ends with the copy,
//! so that it pins no pages while the rest is done; the snapshot gets its name last, when it is durable and was
//! read back; whatever ends the work before that leaves nothing but, after a kill, a temporary folder.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use redb::{ReadTransaction, ReadableDatabase};
use tokio::sync::oneshot;

use super::container::{self, Extras};
use super::copy::{Watch, copy};
use super::folder::{Note, Scratch, Snapshot, SnapshotFolder};
use super::origin::Origin;
use super::{Manifest, SnapshotError, SnapshotReason, drill};
use crate::model::{Clock, Timestamp};
use crate::store::boot::{SCHEMA_VERSION, STATE_FILE};
use crate::store::files::sync_folder_of;
use crate::store::ledger::Position;
use crate::store::{Store, StoreError, reads};

/// The least that the kernel knows: only what nobody else wants is left for it.
const NICE: i32 = 19;

/// What is wanted of a snapshot.
#[derive(Clone)]
pub struct SnapshotPlan {
    pub folder: SnapshotFolder,
    pub state_dir: PathBuf,
    pub reason: SnapshotReason,
    /// Without its secrets.
    pub config: String,
    pub media: bool,
    pub evidence: bool,
    /// What has to stay free on the disk of the folder.
    pub least_free_bytes: u64,
    pub machine: Option<String>,
    pub clock: Arc<dyn Clock>,
    /// Set to end the work early.
    pub cancel: Arc<AtomicBool>,
}

/// A snapshot whose moment is fixed.
pub struct Begun {
    plan: SnapshotPlan,
    name: String,
    created_at: Timestamp,
    position: Position,
    txn: ReadTransaction,
    epoch: u64,
    sequence: u64,
    scratch: Scratch,
}

impl Store {
    /// Fixes what will be in the snapshot.
    pub async fn begin_snapshot(&self, plan: SnapshotPlan) -> Result<Begun, SnapshotError> {
        // Before the read transaction: a line that comes in between belongs to what came after.
        let position = self.writer.ledger_position();
        let db = self.db.clone();
        let begun = tokio::task::spawn_blocking(move || {
            let created_at = plan.clock.now();
            let scratch = plan.folder.scratch()?;
            let state = plan.state_dir.join(STATE_FILE);
            let bytes = state.metadata().map_err(|error| SnapshotError::io(&state, error))?.len();
            plan.watch(scratch.path()).needs(bytes)?;
            let txn = db.begin_read()?;
            let meta = reads::meta(&txn)?;
            let name = plan.folder.free_name(created_at, &format!("{}-{}", meta.epoch, meta.sequence));
            let (epoch, sequence) = (meta.epoch, meta.sequence);
            Ok(Begun { plan, name, created_at, position, txn, epoch, sequence, scratch })
        });
        begun.await.unwrap_or(Err(SnapshotError::Store(StoreError::Closed)))
    }
}

impl SnapshotPlan {
    fn watch(&self, folder: &Path) -> Watch {
        Watch { cancel: self.cancel.clone(), folder: folder.to_owned(), least_free_bytes: self.least_free_bytes }
    }
}

impl Begun {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Carries it out on a thread of its own.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn run(self) -> Result<oneshot::Receiver<Result<Snapshot, SnapshotError>>, SnapshotError> {
        let folder = self.plan.folder.path().to_owned();
        aside(move || self.make()).map_err(|error| SnapshotError::io(&folder, error))
    }

    fn make(self) -> Result<Snapshot, SnapshotError> {
        let Self { plan, name, created_at, position, txn, epoch, sequence, scratch } = self;
        let watch = plan.watch(scratch.path());
        let state = scratch.path().join(container::STATE_MEMBER);
        let origin = Origin { name: name.clone(), created_at, ledger: position, machine: plan.machine.clone() };
        let tables = copy(&txn, &state, &origin, &watch)?;
        drop(txn);
        let sums = container::hash_file(&state, &watch)?;
        drill::check_state(&state, SCHEMA_VERSION, &tables)?;
        let manifest = Manifest {
            name,
            created_at,
            reason: plan.reason,
            cove: env!("CARGO_PKG_VERSION").to_owned(),
            schema: SCHEMA_VERSION,
            epoch,
            sequence,
            ledger_bytes: position.bytes,
            ledger_facts: position.facts,
            machine: plan.machine.clone(),
            state_bytes: sums.bytes,
            state_sha256: sums.sha256,
            source_sha256: None,
            tables,
            media: plan.media,
            evidence: plan.evidence,
        };
        let extras = Extras { config: Some(&plan.config), state_dir: &plan.state_dir };
        finish(&state, &manifest, &extras, &plan.folder, scratch.path(), &watch, || plan.clock.now())
    }
}

/// Work on a thread that gives way to everybody. It goes on when nobody waits for its answer any more.
pub(super) fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<oneshot::Receiver<T>> {
    let (tell, told) = oneshot::channel();
    let work = move || {
        give_way();
        drop(tell.send(work()));
    };
    std::thread::Builder::new().name("cove-snapshot".to_owned()).spawn(work)?;
    Ok(told)
}

/// This thread takes what others leave. Where the kernel refuses, the work is only less polite.
fn give_way() {
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        tracing::debug!(%error, "a snapshot is made at the usual priority");
    }
}

/// Packs a state that was checked, reads the file back, and gives it its name.
pub(super) fn finish(
    state: &Path,
    manifest: &Manifest,
    extras: &Extras<'_>,
    folder: &SnapshotFolder,
    scratch: &Path,
    watch: &Watch,
    now: impl FnOnce() -> Timestamp,
) -> Result<Snapshot, SnapshotError> {
    let packed = scratch.join("packed");
    let sums = container::pack(state, manifest, extras, &packed, watch)?;
    // What was checked is what lies in it: that makes it verified.
    if container::check_sum(&packed, watch)? != sums {
        return Err(SnapshotError::Damaged("what was written is not what can be read".to_owned()));
    }
    container::unpack_state(&packed, manifest, None, watch)?;
    let path = folder.path().join(&manifest.name);
    let failed = |error| SnapshotError::io(&path, error);
    let mtime_ns = {
        use std::os::unix::fs::MetadataExt as _;
        let facts = packed.metadata().map_err(failed)?;
        facts.mtime().saturating_mul(1_000_000_000).saturating_add(facts.mtime_nsec())
    };
    let (bytes, verified_at) = (sums.bytes, Some(now()));
    let note = Note { bytes, mtime_ns, sha256: Some(sums.sha256.clone()), verified_at, damage: None };
    folder.write_note(&manifest.name, &note)?;
    watch.go_on()?;
    std::fs::rename(&packed, &path).map_err(failed)?;
    sync_folder_of(&path).map_err(failed)?;
    Ok(Snapshot {
        name: manifest.name.clone(),
        bytes,
        created_at: manifest.created_at,
        sha256: Some(sums.sha256),
        verified_at,
        damage: None,
        manifest: Some(manifest.clone()),
    })
}
