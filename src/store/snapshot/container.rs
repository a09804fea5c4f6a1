//! The file format: packing, and taking apart again. The table in [`super`] has it byte by byte.
//!
//! The only file that knows zstd and tar. Everything streams; what is read is bounded before it is believed.
//! Invariant: a reader believes nothing of a file whose last 32 bytes are not the hash of all before them.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};

use super::copy::{Watch, new_file};
use super::{Manifest, SnapshotError};
use crate::store::media::hex;

const HEAD_FRAME: [u8; 4] = [0x50, 0x2A, 0x4D, 0x18];
const TAIL_FRAME: [u8; 4] = [0x51, 0x2A, 0x4D, 0x18];
const HEAD_MAGIC: [u8; 8] = *b"COVESNAP";
const TAIL_MAGIC: [u8; 8] = *b"COVEHASH";
const FORMAT: u32 = 1;
/// Of the first frame's content.
const MAX_HEAD_BYTES: u32 = 64 * 1024;
const TAIL_BYTES: u64 = 48;
const SUM_BYTES: u64 = 32;
/// zstd's own default: most of what can be gained, at some hundred megabytes a second.
const LEVEL: i32 = 3;
/// Written between two syncs, so that the disk is never kept for long.
const SYNC_BYTES: u64 = 8 * 1024 * 1024;
const PIECE_BYTES: usize = 128 * 1024;
/// Bytes between two looks at whether to go on.
const LOOK_BYTES: u64 = 8 * 1024 * 1024;

pub(super) const STATE_MEMBER: &str = "state.redb";
const CONFIG_MEMBER: &str = "cove.toml";

/// Hashes of a whole file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sums {
    pub sha256: String,
    pub bytes: u64,
}

/// What goes into a snapshot beside the state.
pub(super) struct Extras<'a> {
    pub config: Option<&'a str>,
    /// Where `media` and `evidence` lie.
    pub state_dir: &'a Path,
}

/// Writes a snapshot of `state` to `to` and returns when it is durable.
pub(super) fn pack(
    state: &Path,
    manifest: &Manifest,
    extras: &Extras<'_>,
    to: &Path,
    watch: &Watch,
) -> Result<Sums, SnapshotError> {
    let mut out = Writer { file: new_file(to)?, hasher: Sha256::new(), bytes: 0, unsynced: 0 };
    let packed = pack_into(&mut out, state, manifest, extras, watch).and_then(|()| out.file.sync_all());
    // What stopped the work says more than the error that it was stopped with.
    watch.go_on()?;
    packed.map_err(|error| SnapshotError::io(to, error))?;
    Ok(Sums { sha256: hex(&out.hasher.finalize()), bytes: out.bytes })
}

fn pack_into(
    out: &mut Writer,
    state: &Path,
    manifest: &Manifest,
    extras: &Extras<'_>,
    watch: &Watch,
) -> io::Result<()> {
    out.write_all(&head(manifest)?)?;
    archive(out, state, manifest, extras, watch)?;
    let mut tail = TAIL_FRAME.to_vec();
    tail.extend_from_slice(&40_u32.to_le_bytes());
    tail.extend_from_slice(&TAIL_MAGIC);
    out.write_all(&tail)?;
    let sum = out.hasher.clone().finalize();
    out.write_all(&sum)
}

fn archive(out: &mut Writer, state: &Path, manifest: &Manifest, extras: &Extras<'_>, watch: &Watch) -> io::Result<()> {
    let mut encoder = zstd::Encoder::new(out, LEVEL)?;
    encoder.include_checksum(true)?;
    let mut archive =
        Archive { tar: tar::Builder::new(encoder), mtime: manifest.created_at.as_millis() / 1_000, watch };
    archive.file(STATE_MEMBER.as_ref(), File::open(state)?)?;
    if let Some(config) = extras.config {
        archive.append(CONFIG_MEMBER.as_ref(), config.len() as u64, config.as_bytes())?;
    }
    for (wanted, folder) in [(manifest.media, "media"), (manifest.evidence, "evidence")] {
        if wanted {
            archive.folder(extras.state_dir, Path::new(folder))?;
        }
    }
    archive.tar.into_inner()?.finish()?;
    Ok(())
}

fn head(manifest: &Manifest) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(manifest).map_err(io::Error::other)?;
    let length = u32::try_from(json.len() + 12).ok().filter(|length| *length <= MAX_HEAD_BYTES);
    let length = length.ok_or_else(|| io::Error::other("the manifest is too long"))?;
    let mut head = HEAD_FRAME.to_vec();
    head.extend_from_slice(&length.to_le_bytes());
    head.extend_from_slice(&HEAD_MAGIC);
    head.extend_from_slice(&FORMAT.to_le_bytes());
    head.extend_from_slice(&json);
    Ok(head)
}

/// Hashes what it writes.
struct Writer {
    file: File,
    hasher: Sha256,
    bytes: u64,
    unsynced: u64,
}

impl Write for Writer {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let written = self.file.write(piece)?;
        self.hasher.update(&piece[..written]);
        self.bytes += written as u64;
        self.unsynced += written as u64;
        if self.unsynced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.unsynced = 0;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

struct Archive<'a, W: Write> {
    tar: tar::Builder<W>,
    mtime: u64,
    watch: &'a Watch,
}

impl<W: Write> Archive<'_, W> {
    fn append(&mut self, name: &Path, bytes: u64, content: impl Read) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes);
        header.set_mode(0o600);
        header.set_mtime(self.mtime);
        self.tar.append_data(&mut header, name, Watched { inner: content, watch: self.watch, unlooked: 0 })
    }

    /// As long as it is now: one that grows meanwhile is cut, and one that shrinks is an error.
    fn file(&mut self, name: &Path, file: File) -> io::Result<()> {
        let bytes = file.metadata()?.len();
        self.append(name, bytes, BufReader::with_capacity(PIECE_BYTES, file.take(bytes)))
    }

    /// Every whole file below; one that is removed meanwhile was no longer wanted.
    fn folder(&mut self, root: &Path, below: &Path) -> io::Result<()> {
        let entries = match std::fs::read_dir(root.join(below)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        let mut names: Vec<_> = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
        names.sort();
        // An upload that is under way begins with a dot.
        for name in names.iter().filter(|name| !name.to_string_lossy().starts_with('.')) {
            let below = below.join(name);
            let path = root.join(&below);
            match std::fs::symlink_metadata(&path) {
                Ok(facts) if facts.is_dir() => self.folder(root, &below)?,
                Ok(facts) if facts.is_file() => match File::open(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    file => self.file(&below, file?)?,
                },
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Reads on only while the work shall go on.
struct Watched<'a, R> {
    inner: R,
    watch: &'a Watch,
    unlooked: u64,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.unlooked >= LOOK_BYTES {
            self.watch.go_on().map_err(io::Error::other)?;
            self.unlooked = 0;
        }
        let read = self.inner.read(into)?;
        self.unlooked += read as u64;
        Ok(read)
    }
}

/// SHA-256 of a file that stays as it is.
pub(super) fn hash_file(path: &Path, watch: &Watch) -> Result<Sums, SnapshotError> {
    let failed = |error| SnapshotError::io(path, error);
    let file = File::open(path).map_err(failed)?;
    let mut hasher = Hasher { hasher: Sha256::new(), bytes: 0 };
    copy_watched(file, &mut hasher, watch, path)?;
    Ok(Sums { sha256: hex(&hasher.hasher.finalize()), bytes: hasher.bytes })
}

fn copy_watched(from: impl Read, to: &mut impl Write, watch: &Watch, path: &Path) -> Result<u64, SnapshotError> {
    let mut from = Watched { inner: from, watch, unlooked: 0 };
    let mut piece = vec![0; PIECE_BYTES];
    let mut all = 0;
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => return Ok(all),
            Ok(read) => read,
            Err(error) => {
                watch.go_on()?;
                return Err(SnapshotError::io(path, error));
            }
        };
        to.write_all(&piece[..read]).map_err(|error| SnapshotError::io(path, error))?;
        all += read as u64;
    }
}

/// Hashes what it is given and keeps nothing.
struct Hasher {
    hasher: Sha256,
    bytes: u64,
}

impl Write for Hasher {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.hasher.update(piece);
        self.bytes += piece.len() as u64;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn damaged(what: impl Into<String>) -> SnapshotError {
    SnapshotError::Damaged(what.into())
}

/// What the file says of itself, and where its archive begins. Nothing of it is proved by that.
pub(super) fn read_head(file: &mut File, path: &Path) -> Result<(Manifest, u64), SnapshotError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("the file ends in its head"),
        _ => SnapshotError::io(path, error),
    };
    let mut fixed = [0; 20];
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_exact(&mut fixed)).map_err(failed)?;
    let number = |at: usize| u32::from_le_bytes(fixed[at..at + 4].try_into().expect("four bytes"));
    if fixed[..4] != HEAD_FRAME || fixed[8..16] != HEAD_MAGIC {
        return Err(damaged("this is not a snapshot of cove"));
    }
    if number(16) != FORMAT {
        return Err(damaged(format!("its format is {}, and this version of cove knows {FORMAT}", number(16))));
    }
    let length = number(4);
    if !(12..=MAX_HEAD_BYTES).contains(&length) {
        return Err(damaged(format!("its head claims {length} bytes")));
    }
    let mut json = vec![0; length as usize - 12];
    file.read_exact(&mut json).map_err(failed)?;
    let manifest = serde_json::from_slice(&json).map_err(|error| damaged(format!("its manifest: {error}")))?;
    Ok((manifest, 8 + u64::from(length)))
}

/// Proves that the file is as it was written.
pub(super) fn check_sum(path: &Path, watch: &Watch) -> Result<Sums, SnapshotError> {
    let failed = |error| SnapshotError::io(path, error);
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let content = length.checked_sub(TAIL_BYTES).ok_or_else(|| damaged("the file is too short for a snapshot"))?;
    let mut hasher = Hasher { hasher: Sha256::new(), bytes: 0 };
    let until_sum = (&mut file).take(content + TAIL_BYTES - SUM_BYTES);
    copy_watched(until_sum, &mut hasher, watch, path)?;
    let mut sum = [0; 32];
    file.read_exact(&mut sum).map_err(failed)?;
    if hasher.hasher.clone().finalize()[..] != sum {
        return Err(damaged("its hash is not that of its content: it was altered, or cut"));
    }
    hasher.hasher.update(sum);
    Ok(Sums { sha256: hex(&hasher.hasher.finalize()), bytes: length })
}

/// Goes through the members of a snapshot whose hash was found right.
pub(super) fn each_member(
    path: &Path,
    watch: &Watch,
    mut visit: impl FnMut(&Path, u64, &mut dyn Read) -> Result<(), SnapshotError>,
) -> Result<(), SnapshotError> {
    let failed = |error| SnapshotError::io(path, error);
    let bad = |error: io::Error| damaged(format!("its archive: {error}"));
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let (_, begin) = read_head(&mut file, path)?;
    let bytes = length.checked_sub(begin + TAIL_BYTES).ok_or_else(|| damaged("the file is too short"))?;
    file.seek(SeekFrom::Start(begin)).map_err(failed)?;
    let mut archive = tar::Archive::new(zstd::Decoder::new(file.take(bytes)).map_err(bad)?);
    for entry in archive.entries().map_err(bad)? {
        let mut entry = entry.map_err(bad)?;
        let name = entry.path().map_err(bad)?.into_owned();
        let plain = !name.as_os_str().is_empty() && name.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || entry.header().entry_type() != tar::EntryType::Regular {
            return Err(damaged(format!("its archive has a member {}", name.display())));
        }
        let size = entry.size();
        visit(&name, size, &mut entry)?;
        watch.go_on()?;
    }
    Ok(())
}

/// Writes the state to `to`, or only hashes it; what it is must be what the manifest says.
pub(super) fn unpack_state(
    path: &Path,
    manifest: &Manifest,
    to: Option<&Path>,
    watch: &Watch,
) -> Result<(), SnapshotError> {
    let mut seen = false;
    each_member(path, watch, |name, bytes, content| {
        if name != Path::new(STATE_MEMBER) {
            return Ok(());
        }
        if std::mem::replace(&mut seen, true) || bytes != manifest.state_bytes {
            return Err(damaged(format!("its state has {bytes} bytes, and should have {}", manifest.state_bytes)));
        }
        let mut hasher = Hasher { hasher: Sha256::new(), bytes: 0 };
        match to {
            None => copy_watched(content, &mut hasher, watch, path).map(drop)?,
            Some(to) => write_member(content, to, &mut hasher, watch)?,
        }
        let found = hex(&hasher.hasher.finalize());
        if found == manifest.state_sha256 { Ok(()) } else { Err(damaged("its state is not the one that was checked")) }
    })?;
    if seen { Ok(()) } else { Err(damaged("it holds no state")) }
}

fn write_member(content: impl Read, to: &Path, hasher: &mut Hasher, watch: &Watch) -> Result<(), SnapshotError> {
    let mut file = new_file(to)?;
    let mut both = Both { hasher, file: &mut file };
    copy_watched(content, &mut both, watch, to)?;
    file.sync_all().map_err(|error| SnapshotError::io(to, error))
}

struct Both<'a> {
    hasher: &'a mut Hasher,
    file: &'a mut File,
}

impl Write for Both<'_> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.file.write_all(piece)?;
        self.hasher.write(piece)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Puts the files of `media` and `evidence` back where they are missing; what is there stays as it is.
pub(super) fn unpack_missing(path: &Path, state_dir: &Path, watch: &Watch) -> Result<Vec<PathBuf>, SnapshotError> {
    let mut made = Vec::new();
    each_member(path, watch, |name, _, content| {
        let wanted = name.starts_with("media") || name.starts_with("evidence");
        let to = state_dir.join(name);
        if !wanted || to.symlink_metadata().is_ok() {
            return Ok(());
        }
        if let Some(folder) = to.parent() {
            std::fs::create_dir_all(folder).map_err(|error| SnapshotError::io(folder, error))?;
        }
        let mut file = new_file(&to)?;
        copy_watched(content, &mut file, watch, &to)?;
        file.sync_all().map_err(|error| SnapshotError::io(&to, error))?;
        made.push(to);
        Ok(())
    })?;
    Ok(made)
}
