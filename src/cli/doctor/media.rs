//! The media folders: can cove read them, and can the browser's user?
//!
//! A browser opens an upload's file by its path, as its own user. Every configured root is looked at with a
//! bounded sample of what is in it, and the daemon's own folder of uploads for the browser alone.

use std::fs::FileType;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command;
use super::line::{Line, counted};
use super::person::Person;
use crate::browser::readable::{Access, ENTER, READ};

/// Entries of one root that are looked at, breadth first.
const SAMPLE: usize = 300;
const LOOK_WITHIN: Duration = Duration::from_secs(10);

/// What of one root a person cannot read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    pub path: PathBuf,
    pub access: Trouble,
    /// Files that were looked at.
    pub files: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    None,
    Missing,
    /// The root, a folder above it, or something in it.
    Refused {
        at: PathBuf,
        more: usize,
    },
    Unknown(String),
}

/// Bounded: a root may be on a network share that is away.
pub async fn look(root: &Path, person: &Person) -> Root {
    let (path, by) = (root.to_owned(), person.clone());
    let found = command::bounded(LOOK_WITHIN, move || look_now(&path, &by)).await;
    found.unwrap_or_else(|| {
        let why = format!("no answer within {} s; is it on a network share that is away?", LOOK_WITHIN.as_secs());
        Root { path: root.to_owned(), access: Trouble::Unknown(why), files: 0 }
    })
}

fn look_now(root: &Path, person: &Person) -> Root {
    let root_is = |access| Root { path: root.to_owned(), access, files: 0 };
    match person.access(root, READ | ENTER) {
        Access::Yes => {}
        Access::Missing => return root_is(Trouble::Missing),
        Access::No(at) => return root_is(Trouble::Refused { at, more: 0 }),
        Access::Unknown(why) => return root_is(Trouble::Unknown(why)),
    }
    let mut refused: Vec<PathBuf> = Vec::new();
    let mut files = 0;
    for (path, kind) in sample(root) {
        let wanted = if kind.is_dir() { READ | ENTER } else { READ };
        files += usize::from(!kind.is_dir());
        if let Access::No(at) = person.access(&path, wanted)
            && !refused.contains(&at)
        {
            refused.push(at);
        }
    }
    let more = refused.len().saturating_sub(1);
    let access = refused.into_iter().next().map_or(Trouble::None, |at| Trouble::Refused { at, more });
    Root { path: root.to_owned(), access, files }
}

/// Files and folders below `root`, the nearest first. What is hidden from us is left out.
fn sample(root: &Path) -> Vec<(PathBuf, FileType)> {
    let mut found: Vec<(PathBuf, FileType)> = Vec::new();
    let mut folders = std::collections::VecDeque::from([root.to_owned()]);
    while let Some(folder) = folders.pop_front() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.filter_map(Result::ok) {
            if found.len() >= SAMPLE {
                return found;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => {
                    folders.push_back(entry.path());
                    found.push((entry.path(), kind));
                }
                Ok(kind) if kind.is_file() => found.push((entry.path(), kind)),
                _ => {}
            }
        }
    }
    found
}

fn one(name: &'static str, root: &Root, person: &Person, whose: &str) -> Line {
    let (shown, who) = (root.path.display(), &person.name);
    match &root.access {
        Trouble::None => Line::ok(name, ""),
        Trouble::Missing => {
            Line::error(name, format!("{shown} is not there"), "make it or mount it, or take it out of [media] roots")
        }
        Trouble::Unknown(why) => {
            Line::warning(name, format!("{shown} cannot be looked at: {why}"), "run `cove doctor` with sudo")
        }
        Trouble::Refused { at, more } => {
            let more = if *more > 0 { format!(" and {more} more") } else { String::new() };
            let grant = if at.starts_with(&root.path) {
                format!(
                    "let it read: `sudo setfacl -R -m u:{who}:rX {shown}` and `sudo setfacl -R -d -m u:{who}:rX {shown}`"
                )
            } else {
                format!("let it through: `sudo setfacl -m u:{who}:x {}`", at.display())
            };
            Line::error(name, format!("{}{more} cannot be read by {whose} ({who})", at.display()), grant)
        }
    }
}

pub fn for_cove(roots: &[Root], cove: &Person) -> Line {
    const NAME: &str = "media_roots";
    if roots.is_empty() {
        return Line::ok(NAME, "none is configured: items name uploaded media alone");
    }
    let lines: Vec<Line> = roots.iter().map(|root| one(NAME, root, cove, "cove's user")).collect();
    Line::together(NAME, &lines, || well(roots, cove))
}

/// `roots` are with the daemon's own folder of uploads. None: who runs the browsers is not known.
pub fn for_browser(roots: &[Root], browser: Option<&Person>, cove: &Person) -> Line {
    const NAME: &str = "media_browser";
    let Some(browser) = browser else {
        return Line::warning(
            NAME,
            "which user runs the browsers is not known, so what it can read is not either",
            "start Dolphin Anty or the browser host, and run `cove doctor` again",
        );
    };
    if browser.uid() == cove.uid() {
        return Line::ok(NAME, format!("the browsers run as {}, like cove itself", cove.name));
    }
    // A folder of uploads that is not there yet is made with the first upload; and a root that is missing is told
    // by the other line.
    let there: Vec<&Root> = roots.iter().filter(|root| root.access != Trouble::Missing).collect();
    let lines: Vec<Line> = there.iter().map(|root| one(NAME, root, browser, "the browser's user")).collect();
    Line::together(NAME, &lines, || well(roots, browser))
}

fn well(roots: &[Root], person: &Person) -> String {
    let files = roots.iter().map(|root| root.files).sum();
    format!("{} and {} in them can be read by {}", counted(roots.len(), "folder"), counted(files, "file"), person.name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cli::doctor::line::Status;

    fn root(access: Trouble) -> Root {
        Root { path: "/m".into(), access, files: 2 }
    }

    #[test]
    fn every_kind_of_trouble_has_its_line() {
        let (cove, dolphin) = (Person::of_test("cove", 5), Person::of_test("dolphin", 6));
        let refused = |at: &str| root(Trouble::Refused { at: at.into(), more: 1 });
        assert_eq!(for_cove(&[], &cove).status, Status::Ok);
        assert!(for_cove(&[root(Trouble::None)], &cove).found.starts_with("1 folder and 2 files"));
        assert_eq!(for_cove(&[root(Trouble::Missing)], &cove).status, Status::Error);
        assert_eq!(for_cove(&[root(Trouble::Unknown("x".to_owned()))], &cove).status, Status::Warning);
        let inside = for_browser(&[refused("/m/a.mp4")], Some(&dolphin), &cove);
        assert_eq!(inside.status, Status::Error);
        assert!(inside.found.contains("/m/a.mp4 and 1 more") && inside.help.unwrap().contains("-R -m u:dolphin:rX /m"));
        let above = for_browser(&[refused("/")], Some(&dolphin), &cove);
        assert!(above.help.unwrap().contains("setfacl -m u:dolphin:x /"));
        assert_eq!(for_browser(&[refused("/m")], Some(&cove), &cove).status, Status::Ok, "one user");
        assert_eq!(for_browser(&[root(Trouble::Missing)], Some(&dolphin), &cove).status, Status::Ok);
        assert_eq!(for_browser(&[], None, &cove).status, Status::Warning);
    }

    #[test]
    fn a_file_deep_in_a_root_that_a_user_cannot_read_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let top = folder.path().canonicalize().unwrap();
        let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::create_dir(top.join("deep")).unwrap();
        let file = top.join("deep/a.mp4");
        std::fs::write(&file, "x").unwrap();
        set(&top, 0o755);
        set(&top.join("deep"), 0o755);
        set(&file, 0o644);
        let stranger = Person::of_test("stranger", 4_000_000);
        assert_eq!(look_now(&top, &stranger), Root { path: top.clone(), access: Trouble::None, files: 1 });
        set(&file, 0o600);
        assert_eq!(look_now(&top, &stranger).access, Trouble::Refused { at: file, more: 0 });
        set(&top, 0o700);
        assert_eq!(look_now(&top, &stranger).access, Trouble::Refused { at: top.clone(), more: 0 });
        assert_eq!(look_now(&top.join("gone"), &stranger).access, Trouble::Missing);
    }
}
