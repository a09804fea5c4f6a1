//! Where the browser's binary is: the configured one, or Chromium or Chrome from the usual places.
//!
//! Called by the browser host at every start of a browser, so that one installed later is found
//! without a restart. Ubuntu's `chromium` is a snap: it confines itself to its own folders and cannot
//! use a data directory of ours, so it is never chosen, and the message says so. Nothing is run here.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::model::{Failure, FailureCode};

/// Names looked for in every folder of PATH, in this order.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
/// Looked at after PATH, which a service may not have.
const USUAL_PLACES: [&str; 5] = [
    "/usr/bin/chromium",
    "/usr/bin/chromium-browser",
    "/usr/bin/google-chrome",
    "/usr/bin/google-chrome-stable",
    "/opt/google/chrome/chrome",
];
/// Snap's launcher script is smaller than this.
const MAX_SCRIPT_BYTES: u64 = 4096;

/// # Errors
/// `browser_not_found`, with what was looked for.
pub fn browser(configured: Option<&Path>) -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    match configured {
        Some(wanted) => named(wanted, &folders),
        None => usual(&folders, &USUAL_PLACES),
    }
}

fn named(wanted: &Path, folders: &[PathBuf]) -> Result<PathBuf, Failure> {
    let bare = wanted.components().count() == 1 && !wanted.is_absolute();
    let found = if bare {
        folders.iter().map(|folder| folder.join(wanted)).find(|path| is_executable(path))
    } else {
        Some(wanted.to_owned()).filter(|path| is_executable(path))
    };
    let shown = wanted.display();
    match found {
        Some(path) if is_snap(&path) => Err(not_found(format!(
            "{shown} is the snap of Chromium, which cannot use the profiles of cove; name a browser from a deb or rpm"
        ))),
        // Absolute, for the browser is run in another folder.
        Some(path) => std::path::absolute(&path).map_err(|error| not_found(format!("{shown}: {error}"))),
        None if wanted.exists() => Err(not_found(format!("{shown} is not a file that can be run"))),
        None => Err(not_found(format!("{shown} does not exist"))),
    }
}

fn usual(folders: &[PathBuf], usual_places: &[&str]) -> Result<PathBuf, Failure> {
    let on_path = NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    let mut snap = None;
    for path in on_path.chain(usual_places.iter().map(PathBuf::from)) {
        if is_executable(&path) {
            if !is_snap(&path) {
                return Ok(path);
            }
            snap.get_or_insert(path);
        }
    }
    Err(not_found(match snap {
        Some(path) => format!(
            "only the snap of Chromium is here ({}), which cannot use the profiles of cove; install Chromium or Chrome from a deb or rpm",
            path.display()
        ),
        None => format!("none of {} is on PATH or in the usual places", NAMES.join(", ")),
    }))
}

fn not_found(detail: String) -> Failure {
    Failure::new(FailureCode::BrowserNotFound, detail)
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Snap's own link, or the script that Ubuntu installs in Chromium's place.
fn is_snap(path: &Path) -> bool {
    if path.starts_with("/snap") || path.canonicalize().is_ok_and(|real| real.ends_with("usr/bin/snap")) {
        return true;
    }
    let mut head = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_SCRIPT_BYTES).read_to_end(&mut head));
    let text = String::from_utf8_lossy(&head);
    read.is_ok() && text.starts_with("#!") && (text.contains("/snap/bin/chromium") || text.contains("chromium snap"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};

    use super::{browser, named, usual};
    use crate::model::FailureCode;

    fn put(folder: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn the_first_real_browser_wins_and_the_snap_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let folders = [folder.path().to_owned()];
        put(folder.path(), "chromium", "not executable", 0o644);
        put(folder.path(), "chromium-browser", "#!/bin/sh\nexec /snap/bin/chromium \"$@\"\n", 0o755);
        let alone = usual(&folders, &[]).unwrap_err();
        assert_eq!(alone.code, FailureCode::BrowserNotFound);
        assert!(alone.detail.contains("snap"), "{alone}");
        let chrome = put(folder.path(), "google-chrome", "#!/bin/sh\n", 0o755);
        assert_eq!(usual(&folders, &[]).unwrap(), chrome);
    }

    #[test]
    fn a_configured_browser_that_cannot_run_is_named_in_the_message() {
        let folder = tempfile::tempdir().unwrap();
        let plain = put(folder.path(), "plain", "x", 0o644);
        assert!(browser(Some(&plain)).unwrap_err().detail.contains("plain is not a file that can be run"));
        let gone = folder.path().join("gone");
        assert!(browser(Some(&gone)).unwrap_err().detail.contains("does not exist"));
        let found = put(folder.path(), "mine", "#!/bin/sh\n", 0o755);
        assert_eq!(named(Path::new("mine"), &[folder.path().to_owned()]).unwrap(), found);
        assert!(usual(&[], &[]).unwrap_err().detail.contains("google-chrome"));
    }
}
