//! Can cove see what its browsers use, and which processes they are?
//!
//! Figures of the browser's user are exact where cove is that user, root, or asks a browser host that is;
//! otherwise an estimate, and nothing at all where the daemon's `/proc` hides other users.

use super::line::Line;
use super::person::Person;
use crate::browser::SessionStats;

/// Whether a mount of /proc keeps the processes of others from an ordinary user; `mounts` is the text of
/// `/proc/PID/mounts`. The last mount on the place is the one that is seen.
fn hides(mounts: &str) -> bool {
    let mut options = mounts.lines().rev().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        match (fields.next(), fields.next(), fields.next()) {
            (Some("/proc"), Some("proc"), Some(options)) => Some(options),
            _ => None,
        }
    });
    let hide = options.next().and_then(|options| options.split(',').find_map(|one| one.strip_prefix("hidepid=")));
    hide.is_some_and(|how| !matches!(how, "0" | "off"))
}

/// As the daemon sees it where it runs and we may look, else as we do.
pub fn proc_hides(daemon: Option<u32>) -> bool {
    let read = |who: &str| std::fs::read_to_string(format!("/proc/{who}/mounts")).ok();
    let mounts = daemon.and_then(|pid| read(&pid.to_string())).or_else(|| read("self"));
    hides(&mounts.unwrap_or_default())
}

/// `measured`: the figures of a tree of the browser's user, as cove's user or its browser host sees them.
/// `browser`: None where its user is not known.
pub fn judge(measured: Option<&SessionStats>, browser: Option<&Person>, cove: &Person, hides: bool) -> Line {
    const NAME: &str = "process_tree";
    if let Some(stats) = measured.filter(|stats| stats.exact && stats.pids.len() > 1) {
        let told = format!("{} processes, {} MiB", stats.pids.len(), stats.pss_bytes >> 20);
        return Line::ok(NAME, format!("what a browser uses can be read exactly ({told})"));
    }
    let Some(browser) = browser else {
        return Line::warning(
            NAME,
            "which user runs the browsers is not known",
            "start Dolphin Anty or the browser host, and run `cove doctor` again",
        );
    };
    if cove.uid() == 0 || cove.uid() == browser.uid() {
        return Line::ok(
            NAME,
            format!("cove runs as {}, and can read what browsers of {} use", cove.name, browser.name),
        );
    }
    let help = format!(
        "run cove as that user: `sudo systemctl edit cove`, there `[Service]` and `User={0}`, and `sudo chown -R {0}` its state directory",
        browser.name
    );
    if hides {
        return Line::error(
            NAME,
            format!(
                "the processes of {} are hidden from cove ({}): neither what a session uses nor what was left behind can be seen",
                browser.name, cove.name
            ),
            help,
        );
    }
    Line::warning(
        NAME,
        format!("the browsers run as {}, and cove as {}: what a session uses is estimated", browser.name, cove.name),
        help,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::line::Status;

    fn stats(exact: bool, count: u32) -> SessionStats {
        SessionStats { pss_bytes: 300 << 20, exact, cpu_seconds: 1.0, pids: (1..=count).collect() }
    }

    #[test]
    fn what_cove_sees_goes_by_users_and_by_what_was_measured() {
        let (root, cove, dolphin) =
            (Person::of_test("root", 0), Person::of_test("cove", 5), Person::of_test("dolphin", 6));
        let status = |measured: Option<SessionStats>, browser: Option<&Person>, cove: &Person, hides| {
            judge(measured.as_ref(), browser, cove, hides).status
        };
        assert_eq!(status(Some(stats(true, 9)), Some(&cove), &cove, false), Status::Ok);
        assert_eq!(status(Some(stats(false, 9)), Some(&dolphin), &cove, false), Status::Warning);
        assert_eq!(status(None, Some(&dolphin), &root, true), Status::Ok);
        assert_eq!(status(None, Some(&cove), &cove, true), Status::Ok);
        assert_eq!(status(None, None, &cove, false), Status::Warning);
        assert_eq!(status(None, Some(&dolphin), &cove, false), Status::Warning);
        assert_eq!(status(None, Some(&dolphin), &cove, true), Status::Error);
        assert_eq!(status(Some(stats(true, 0)), Some(&dolphin), &cove, true), Status::Error, "nothing was seen");
    }

    #[test]
    fn the_last_mount_of_proc_counts() {
        assert!(!hides("proc /proc proc rw,relatime 0 0\n"));
        assert!(hides("proc /proc proc rw 0 0\nproc /proc proc rw,relatime,hidepid=invisible 0 0\n"));
        assert!(!hides("proc /proc proc rw,hidepid=2 0 0\nproc /proc proc rw,hidepid=off 0 0\n"));
        assert!(!hides("proc /x/proc proc rw,hidepid=2 0 0\n"));
        assert!(hides("proc /proc proc rw,hidepid=1 0 0\n"));
    }
}
