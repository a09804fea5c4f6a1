//! What the demo must know of the machine: where a browser is, whether its sandbox can work, and what a
//! person has to install otherwise. From that it writes the daemon's configuration.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

const NAMES: [&str; 5] = ["chromium", "google-chrome-stable", "google-chrome", "chromium-browser", "chrome"];
/// Folders that a service's or a minimal PATH may lack.
const ELSEWHERE: [&str; 4] = ["/usr/bin", "/usr/local/bin", "/opt/google/chrome", "/usr/lib64/chromium-browser"];
/// A unix socket's address holds 108 bytes, the last of them zero.
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Looks for a browser along `path` (the PATH variable) and in the usual folders. A snap is passed over:
/// its confinement keeps it from the daemon's folders.
pub fn find_browser(path: &std::ffi::OsStr) -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::split_paths(path).collect();
    folders.extend(ELSEWHERE.map(PathBuf::from));
    let candidates = NAMES.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name)));
    candidates.into_iter().find(|candidate| is_program(candidate) && !is_snap(candidate))
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
}

/// A link into a snap, or the script that Ubuntu installs in a browser's place.
fn is_snap(path: &Path) -> bool {
    use std::io::Read as _;

    let Ok(real) = path.canonicalize() else { return true };
    if real.starts_with("/snap") || real.ends_with("usr/bin/snap") {
        return true;
    }
    let mut head = Vec::new();
    let script = std::fs::File::open(&real).and_then(|file| file.take(4_096).read_to_end(&mut head));
    script.is_ok() && head.starts_with(b"#!") && String::from_utf8_lossy(&head).contains("/snap/bin/")
}

/// What to do where no browser was found, by the text of `/etc/os-release`.
pub fn how_to_install(os_release: &str) -> &'static str {
    let value = |key: &str| {
        let line = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches('"')
    };
    let ids = format!("{} {}", value("ID"), value("ID_LIKE"));
    let is = |id: &str| ids.split_whitespace().any(|word| word == id);
    if is("ubuntu") {
        "Ubuntu's chromium is a snap, which cannot be used here: install Google Chrome instead \
         (https://dl.google.com/linux/direct/google-chrome-stable_current_amd64.deb, then \
         `sudo apt-get install ./google-chrome-stable_current_amd64.deb`)"
    } else if is("debian") {
        "install it with `sudo apt-get install chromium`"
    } else if is("fedora") || is("rhel") || is("centos") {
        "install it with `sudo dnf install chromium` (on Enterprise Linux it is in EPEL: `sudo dnf install epel-release` first)"
    } else {
        "install Chromium or Google Chrome with your system's package manager, so that `chromium` or `google-chrome` is in PATH"
    }
}

/// Why Chromium's own sandbox cannot work here; None: it can.
pub async fn why_no_sandbox(browser: &Path) -> Option<&'static str> {
    if rustix::process::geteuid().is_root() {
        return Some("the demo runs as root, and Chromium refuses its sandbox to root");
    }
    if has_setuid_helper(browser) || user_namespaces_work().await {
        return None;
    }
    Some("this system gives no user namespaces to ordinary users, and no setuid sandbox is installed")
}

/// The older sandbox: a helper that belongs to root, beside the browser.
fn has_setuid_helper(browser: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;

    let beside = browser.canonicalize().ok().and_then(|real| real.parent().map(Path::to_owned));
    let folders = beside.into_iter().chain(["/usr/lib/chromium", "/usr/lib64/chromium-browser"].map(PathBuf::from));
    folders.map(|folder| folder.join("chrome-sandbox")).any(|helper| {
        std::fs::metadata(helper).is_ok_and(|facts| facts.uid() == 0 && facts.permissions().mode() & 0o4000 != 0)
    })
}

/// Asks the kernel by making one, in a process of its own.
async fn user_namespaces_work() -> bool {
    let probe = tokio::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "true"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .status();
    matches!(tokio::time::timeout(Duration::from_secs(5), probe).await, Ok(Ok(status)) if status.success())
}

/// Where everything of one demo lies.
#[derive(Clone, Debug)]
pub struct Layout {
    pub dir: PathBuf,
}

impl Layout {
    pub fn config(&self) -> PathBuf {
        self.dir.join("cove.toml")
    }
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }
    pub fn profiles(&self) -> PathBuf {
        self.state().join("profiles")
    }
    pub fn socket(&self) -> PathBuf {
        self.dir.join("cove.sock")
    }
    pub fn videos(&self) -> PathBuf {
        self.dir.join("videos")
    }
    pub fn site(&self) -> PathBuf {
        self.dir.join("site")
    }
    pub fn report(&self) -> PathBuf {
        self.dir.join("report.html")
    }
    pub fn log(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.log"))
    }

    pub fn evidence(&self, item: &str, fence: &str) -> PathBuf {
        self.state().join("evidence").join(item).join(fence)
    }

    /// The daemon's configuration file.
    ///
    /// # Errors
    /// When the folder's name is too long for a socket in it.
    pub fn configuration(&self, browser: &Path, sandbox: bool, slots: usize) -> anyhow::Result<String> {
        let socket = self.socket();
        anyhow::ensure!(
            socket.as_os_str().len() <= MAX_SOCKET_PATH_BYTES,
            "{} is too long for a unix socket (at most {MAX_SOCKET_PATH_BYTES} bytes): set TMPDIR to a shorter folder",
            socket.display()
        );
        let keys: Value = json!({
            "server": { "listen": "127.0.0.1:0", "socket": socket },
            "state": { "dir": self.state() },
            "media": { "roots": [self.videos()] },
            "engine": { "slots": slots, "drain_seconds": 10 },
            "browser": { "provider": "chromium", "chromium": browser, "headless": true, "sandbox": sandbox },
            "auth": { "required": false },
            // It shows the way of a post, on whatever machine: nothing is held back for what else runs there.
            "resources": { "cpu_threshold_percent": 0, "session_estimate_mb": 0, "memory_stall_percent": 0 },
            "limits": { "task_starts": 0, "health": 0, "metrics": 0, "requests": 0 },
        });
        Ok(format!("# Written by `cove demo`.\n\n{}", toml::to_string(&keys)?))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::{Layout, how_to_install, is_snap};
    use crate::config::Config;

    #[test]
    fn the_configuration_says_what_the_demo_needs_and_nothing_unknown() {
        let layout = Layout { dir: "/tmp/a \"quoted\" folder".into() };
        let text = layout.configuration(Path::new("/usr/bin/chromium"), false, 2).unwrap();
        let config: Config = toml::from_str(&text).unwrap();
        assert_eq!(config.server.listen.port(), 0);
        assert_eq!(config.state.dir, Some(layout.state()));
        assert_eq!(config.media.roots, [layout.videos()]);
        assert_eq!((config.engine.slots, config.limits.task_starts), (2, 0));
        let resources = &config.resources;
        let looked_at =
            (resources.cpu_threshold_percent, resources.session_estimate_mb, resources.memory_stall_percent);
        assert_eq!(looked_at, (0, 0, 0), "a busy machine holds nothing back");
        assert!(!config.auth.required && !config.browser.sandbox && config.browser.headless);
    }

    #[test]
    fn a_folder_too_long_for_a_socket_is_refused_with_what_to_do() {
        let layout = Layout { dir: format!("/{}", "x".repeat(110)).into() };
        let error = layout.configuration(Path::new("/usr/bin/chromium"), true, 2).unwrap_err();
        assert!(error.to_string().contains("TMPDIR"), "{error}");
    }

    #[test]
    fn each_system_is_told_its_own_package() {
        assert!(how_to_install("ID=debian\n").contains("apt-get install chromium"));
        assert!(how_to_install("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n").contains("Google Chrome"));
        assert!(how_to_install("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n").contains("dnf"));
        assert!(how_to_install("").contains("package manager"));
    }

    #[test]
    fn the_stand_in_of_a_snap_is_not_a_browser() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        assert!(is_snap(&write("stub", "#!/bin/sh\nif ! [ -x /snap/bin/chromium ]; then\n")));
        assert!(!is_snap(&write("wrapper", "#!/bin/sh\nexec /usr/lib/chromium/chromium \"$@\"\n")));
    }
}
