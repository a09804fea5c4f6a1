//! The provider `chromium`: is there a browser, does it start with its sandbox, is CDP reachable?
//!
//! Nothing is guessed where it can be tried: a browser is really started, by a browser host like the daemon's
//! and as cove's user, with a profile that is thrown away. What the kernel allows only explains a failure.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command;
use super::line::Line;
use super::trial::{Started, Trial, try_profile};
use crate::browser::host::find_browser;
use crate::cli::demo::machine::how_to_install;
use crate::config::Browser;
use crate::model::{Failure, FailureCode, ProfileId};

const VERSION_WITHIN: Duration = Duration::from_secs(20);
const SANDBOX: &str = "sandbox";
const START: &str = "browser_start";
const CDP: &str = "cdp";

/// The binary, and what it says of itself.
pub async fn binary(configured: Option<&Path>) -> Result<(PathBuf, Option<String>), Failure> {
    let path = find_browser(configured)?;
    let version = command::output(&path, &["--version"], VERSION_WITHIN).await;
    // Debian's wrapper may print more.
    let version = version.and_then(|text| text.lines().next_back().map(str::to_owned)).filter(|line| !line.is_empty());
    Ok((path, version))
}

pub fn browser(found: &Result<(PathBuf, Option<String>), Failure>, os_release: &str) -> Line {
    const NAME: &str = "chromium";
    match found {
        Ok((path, Some(version))) => Line::ok(NAME, format!("{}, {version}", path.display())),
        Ok((path, None)) => Line::warning(
            NAME,
            format!("{} does not tell its version", path.display()),
            format!("see why: `{} --version`", path.display()),
        ),
        Err(failure) => Line::error(NAME, failure.detail.clone(), how_to_install(os_release)),
    }
}

/// What the kernel says about user namespaces; None where it has no such switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    pub unprivileged_userns_clone: Option<u64>,
    pub apparmor_restrict_unprivileged_userns: Option<u64>,
    pub max_user_namespaces: Option<u64>,
}

impl Kernel {
    pub fn look() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse().ok();
        Self {
            unprivileged_userns_clone: read("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restrict_unprivileged_userns: read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            max_user_namespaces: read("/proc/sys/user/max_user_namespaces"),
        }
    }

    /// Why there are no user namespaces for Chromium, and what gives it some.
    fn refusal(self) -> Option<(&'static str, &'static str)> {
        if self.unprivileged_userns_clone == Some(0) {
            return Some((
                "the kernel gives ordinary users no user namespaces (kernel.unprivileged_userns_clone = 0)",
                "`echo kernel.unprivileged_userns_clone=1 | sudo tee /etc/sysctl.d/60-cove.conf && sudo sysctl --system`",
            ));
        }
        if self.max_user_namespaces == Some(0) {
            return Some((
                "the kernel gives nobody user namespaces (user.max_user_namespaces = 0)",
                "`echo user.max_user_namespaces=15000 | sudo tee /etc/sysctl.d/60-cove.conf && sudo sysctl --system`",
            ));
        }
        if self.apparmor_restrict_unprivileged_userns == Some(1) {
            return Some((
                "AppArmor keeps user namespaces from programs without a profile of their own (kernel.apparmor_restrict_unprivileged_userns = 1)",
                "use Google Chrome's deb, which brings its profile, or `echo kernel.apparmor_restrict_unprivileged_userns=0 | \
                 sudo tee /etc/sysctl.d/60-cove.conf && sudo sysctl --system`",
            ));
        }
        None
    }
}

/// Starts a browser with a throw-away profile, as `user` where we may become it.
pub async fn try_start(browser: &Browser, user: Option<(u32, u32)>) -> Result<Started, Failure> {
    let failed = |why| Failure::new(FailureCode::BrowserStartFailed, why);
    let trial = Trial::start(user, browser.chromium.clone(), browser.sandbox, None).await.map_err(failed)?;
    let profile = ProfileId::new("doctor").map_err(|error| failed(error.to_string()))?;
    let started = try_profile(&trial.provider, &profile).await;
    trial.end().await;
    started
}

/// `start`: None where there is no browser to try.
pub fn sandbox(wanted: bool, is_root: bool, kernel: Kernel, start: Option<&Result<Started, Failure>>) -> Line {
    if !wanted {
        return Line::warning(
            SANDBOX,
            "it is off ([browser] sandbox = false): a page that breaks out of the browser has all rights of its user",
            "run cove as an ordinary user, and set [browser] sandbox = true",
        );
    }
    if is_root {
        return Line::error(
            SANDBOX,
            "cove runs as root here, and Chromium refuses its sandbox to root",
            "run cove as an ordinary user (the package does), or set [browser] sandbox = false if you accept it",
        );
    }
    let refusal = kernel.refusal();
    match start {
        Some(Ok(_)) => Line::ok(SANDBOX, "on; a browser started with it"),
        Some(Err(failure)) if failure.detail.to_ascii_lowercase().contains("sandbox") => {
            let (why, help) = refusal.unwrap_or((
                "Chromium finds no sandbox that it can use",
                "allow user namespaces to cove's user (a container: `--security-opt seccomp=unconfined`, or Docker's Chrome profile)",
            ));
            Line::error(SANDBOX, why, help)
        }
        _ => match refusal {
            Some((why, help)) => Line::error(SANDBOX, why, help),
            None => Line::warning(SANDBOX, "it could not be tried, since no browser started", "see the other lines"),
        },
    }
}

pub fn start(start: Option<&Result<Started, Failure>>) -> [Line; 2] {
    let unknown = |name| Line::error(name, "no browser could be tried", "see the line `chromium`");
    match start {
        None => [unknown(START), unknown(CDP)],
        Some(started) => lines(START, CDP, "a browser with an empty profile", started),
    }
}

/// The two lines of one start: does it start, is CDP reachable.
pub fn lines(start: &'static str, cdp: &'static str, what: &str, started: &Result<Started, Failure>) -> [Line; 2] {
    let started = match started {
        Ok(started) => started,
        Err(failure) => {
            let first = Line::error(start, failure.detail.clone(), failure.code.help());
            return [
                first,
                Line::error(cdp, "nothing to connect to: it did not start", format!("see the line `{start}`")),
            ];
        }
    };
    let took = started.took.as_secs_f64();
    let first = match &started.stopped {
        Ok(()) => Line::ok(start, format!("{what} started in {took:.1} s, and was stopped")),
        Err(failure) => Line::error(
            start,
            format!("{what} started in {took:.1} s, but did not stop: {}", failure.detail),
            failure.code.help(),
        ),
    };
    let second = match &started.cdp {
        Ok(name) => Line::ok(cdp, name.clone()),
        Err(why) => Line::error(
            cdp,
            why.clone(),
            "see that no firewall keeps loopback connections away (`sudo nft list ruleset`)",
        ),
    };
    [first, second]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::line::Status;

    fn started() -> Started {
        Started { took: Duration::from_millis(1_500), cdp: Ok("Chrome/1".to_owned()), stats: None, stopped: Ok(()) }
    }

    fn failed(detail: &str) -> Result<Started, Failure> {
        Err(Failure::new(FailureCode::BrowserStartFailed, detail))
    }

    #[test]
    fn a_browser_is_there_with_its_version_or_the_line_says_how_to_get_one() {
        let path = || PathBuf::from("/usr/bin/chromium");
        assert_eq!(browser(&Ok((path(), Some("Chromium 156".to_owned()))), "").status, Status::Ok);
        assert_eq!(browser(&Ok((path(), None)), "").status, Status::Warning);
        let missing = Err(Failure::new(FailureCode::BrowserNotFound, "only the snap of Chromium is here"));
        let line = browser(&missing, "ID=debian\n");
        assert!(line.status == Status::Error && line.help.unwrap().contains("apt-get install chromium"));
    }

    #[test]
    fn a_sandbox_is_what_a_start_says_and_the_kernel_explains() {
        let judge = |wanted, root, kernel, start: Option<Result<Started, Failure>>| {
            sandbox(wanted, root, kernel, start.as_ref())
        };
        let free = Kernel::default();
        assert_eq!(judge(true, false, free, Some(Ok(started()))).status, Status::Ok);
        assert_eq!(judge(false, true, free, Some(Ok(started()))).status, Status::Warning);
        assert_eq!(judge(true, true, free, None).status, Status::Error);
        assert_eq!(judge(true, false, free, Some(failed("No usable sandbox!"))).status, Status::Error);
        assert_eq!(judge(true, false, free, Some(failed("out of memory"))).status, Status::Warning);
        let restricted = Kernel { apparmor_restrict_unprivileged_userns: Some(1), ..free };
        assert_eq!(judge(true, false, restricted, Some(Ok(started()))).status, Status::Ok, "Chrome brings its profile");
        for (kernel, switch) in [
            (restricted, "apparmor_restrict_unprivileged_userns"),
            (Kernel { unprivileged_userns_clone: Some(0), ..free }, "unprivileged_userns_clone"),
            (Kernel { max_user_namespaces: Some(0), ..free }, "max_user_namespaces"),
        ] {
            for start in [Some(failed("No usable sandbox!")), None] {
                let line = judge(true, false, kernel, start);
                assert_eq!(line.status, Status::Error);
                assert!(line.found.contains(switch) && line.help.unwrap().contains(switch));
            }
        }
    }

    #[test]
    fn a_start_has_two_lines() {
        let status = |result: Option<Result<Started, Failure>>| start(result.as_ref()).map(|line| line.status);
        assert_eq!(status(Some(Ok(started()))), [Status::Ok, Status::Ok]);
        assert_eq!(status(None), [Status::Error, Status::Error]);
        assert_eq!(status(Some(failed("x"))), [Status::Error, Status::Error]);
        let deaf = Started { cdp: Err("refused".to_owned()), ..started() };
        assert_eq!(status(Some(Ok(deaf))), [Status::Ok, Status::Error]);
        let immortal = Started { stopped: Err(Failure::new(FailureCode::ProfileInUse, "lives")), ..started() };
        assert_eq!(status(Some(Ok(immortal))), [Status::Error, Status::Ok]);
    }
}
