//! Uploads and file inputs against a real folder.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::stream;
use tempfile::TempDir;

use super::{MediaError, MediaStore, PutError, fingerprint, unchanged};

/// `printf abc | sha256sum`
const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

struct Place {
    _dir: TempDir,
    root: PathBuf,
    media: PathBuf,
    store: MediaStore,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().canonicalize().unwrap();
    let root = base.join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(base.join("outside"), b"abc").unwrap();
    let store = MediaStore::new(&base, vec![root.clone()], 10).unwrap();
    Place { _dir: dir, root, media: base.join("media"), store }
}

impl Place {
    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.root.join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }

    async fn error(&self, name: &str) -> MediaError {
        self.store.resolve(name).await.expect_err(name)
    }

    fn files(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        walk(&self.media, &mut found);
        found
    }
}

fn chunks(parts: &[&'static str]) -> impl futures_util::Stream<Item = Result<Bytes, &'static str>> + Send + use<> {
    let parts: Vec<_> = parts.iter().map(|part| Ok(Bytes::from_static(part.as_bytes()))).collect();
    stream::iter(parts)
}

#[tokio::test]
async fn a_file_under_a_root_is_hashed() {
    let place = place();
    let name = place.file("a.mp4", b"abc");
    let file = place.store.resolve(&name).await.unwrap();
    assert_eq!((file.sha256.as_str(), file.bytes), (ABC, 3));
    assert_eq!(file.path, PathBuf::from(&name));
    let dotted = place.root.join("../root/./a.mp4");
    assert_eq!(place.store.resolve(dotted.to_str().unwrap()).await.unwrap(), file);
    symlink(&name, place.root.join("link")).unwrap();
    assert_eq!(place.store.resolve(place.root.join("link").to_str().unwrap()).await.unwrap().path, file.path);
}

#[tokio::test]
async fn a_file_outside_the_roots_is_refused_through_dots_and_symlinks() {
    let place = place();
    let outside = place.root.parent().unwrap().join("outside");
    symlink(&outside, place.root.join("link")).unwrap();
    symlink(outside.parent().unwrap(), place.root.join("folder")).unwrap();
    for name in [
        outside.clone(),
        place.root.join("../outside"),
        place.root.join("link"),
        place.root.join("folder/outside"),
        place.root.clone(),
        PathBuf::from("/etc/passwd"),
        PathBuf::from("/etc/there-is-no-such-file"),
        place.root.join("../there-is-no-such-file"),
        place.root.join("../rootless"),
    ] {
        let error = place.error(name.to_str().unwrap()).await;
        assert!(matches!(error, MediaError::Outside), "{name:?}: {error}");
    }
}

#[tokio::test]
async fn what_is_no_file_with_bytes_is_refused() {
    let place = place();
    std::fs::create_dir(place.root.join("folder")).unwrap();
    let fifo = place.root.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
    let path = |name: &str| place.root.join(name).to_str().unwrap().to_owned();
    assert!(matches!(place.error(&path("gone")).await, MediaError::Missing));
    assert!(matches!(place.error(&path("gone/deeper")).await, MediaError::Missing));
    assert!(matches!(place.error(&path("folder")).await, MediaError::NotRegular));
    assert!(matches!(place.error(&path("fifo")).await, MediaError::NotRegular));
    assert!(matches!(place.error(&place.file("empty", b"")).await, MediaError::Empty));
    let large = place.error(&place.file("large", b"eleven bytes")).await;
    assert!(matches!(large, MediaError::TooLarge { bytes: 12, max: 10 }));
    for name in ["a.mp4", "", "./a", "sha256:", "sha256:../../outside", "sha256:BA78", "/a\0b"] {
        assert!(matches!(place.error(name).await, MediaError::BadName), "{name}");
    }
    assert!(matches!(place.error(&format!("sha256:{ABC}")).await, MediaError::NotUploaded));
}

#[tokio::test]
async fn rule_3_a_changed_file_is_seen() {
    let place = place();
    let name = place.file("a.mp4", b"abc");
    let file = place.store.resolve(&name).await.unwrap();
    assert!(unchanged(&file).await.unwrap());
    std::fs::write(&name, b"abcd").unwrap();
    assert!(!unchanged(&file).await.unwrap());
    // Each of what is looked at counts alone: the size under the old time, the time under the old size.
    let set_modified = |at| std::fs::File::options().write(true).open(&name).unwrap().set_modified(at).unwrap();
    let accepted = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(file.mtime_ns.try_into().unwrap());
    set_modified(accepted);
    assert!(!unchanged(&file).await.unwrap());
    std::fs::write(&name, b"abd").unwrap();
    set_modified(accepted + std::time::Duration::from_secs(1));
    assert!(!unchanged(&file).await.unwrap());
    // The same bytes in another inode are another file as well.
    std::fs::write(place.root.join("b"), b"abc").unwrap();
    std::fs::rename(place.root.join("b"), &name).unwrap();
    set_modified(accepted);
    assert!(!unchanged(&file).await.unwrap());
    let again = place.store.resolve(&name).await.unwrap();
    assert_eq!(again.sha256, ABC);
    std::fs::remove_file(&name).unwrap();
    assert!(unchanged(&again).await.is_err());
}

#[tokio::test]
async fn an_upload_lies_under_its_hash_once() {
    let place = place();
    let stored = place.store.put(chunks(&["a", "", "bc"])).await.unwrap();
    assert_eq!((stored.sha256.as_str(), stored.bytes), (ABC, 3));
    let path = place.media.join("ba").join(ABC);
    assert_eq!(std::fs::read(&path).unwrap(), b"abc");
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(path.parent().unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o750);
    let before = fingerprint(&path).unwrap();
    place.store.put(chunks(&["abc"])).await.unwrap();
    assert_eq!(fingerprint(&path).unwrap(), before, "the older copy stays as waiting items know it");
    assert_eq!(place.files(), std::slice::from_ref(&path));
    let file = place.store.resolve(&format!("sha256:{ABC}")).await.unwrap();
    assert_eq!(file.path, path);
}

#[tokio::test]
async fn an_upload_that_fails_leaves_nothing() {
    let place = place();
    assert!(matches!(place.store.put(chunks(&[""])).await, Err(PutError::Empty)));
    assert!(matches!(place.store.put(chunks(&["0123456789", "x"])).await, Err(PutError::TooLarge { max: 10 })));
    let broken = stream::iter([Ok(Bytes::from_static(b"a")), Err("cut")]);
    assert!(matches!(place.store.put(broken).await, Err(PutError::Body("cut"))));
    assert_eq!(place.files(), Vec::<PathBuf>::new());
    // Exactly the limit is allowed.
    assert_eq!(place.store.put(chunks(&["0123456789"])).await.unwrap().bytes, 10);
}

#[tokio::test]
async fn a_dropped_upload_and_a_crashed_one_leave_nothing() {
    let place = place();
    let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
    let hanging = stream::once(async { Ok::<_, ()>(Bytes::from_static(b"abc")) });
    let hanging = futures_util::StreamExt::chain(
        hanging,
        stream::once(async {
            sender.send(()).unwrap();
            std::future::pending().await
        }),
    );
    tokio::select! {
        _ = place.store.put(hanging) => panic!("the body never ends"),
        asked = receiver => asked.unwrap(),
    }
    assert_eq!(place.files(), Vec::<PathBuf>::new());

    std::fs::write(place.media.join(".upload-crashed"), b"half").unwrap();
    assert!(matches!(place.error(place.media.join(".upload-crashed").to_str().unwrap()).await, MediaError::Outside));
    MediaStore::new(place.media.parent().unwrap(), vec![], 10).unwrap();
    assert_eq!(place.files(), Vec::<PathBuf>::new());
}
