//! The configuration, the state directory, the state file, and who may read what must stay private.
//!
//! Each check is a judgment of facts with the gathering beside it. Nothing is made and nothing is mended
//! here: a state file that no daemon holds is opened over a trial that is forgotten.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command;
use super::line::{Line, Status, counted};
use super::person::Person;
use crate::browser::readable::{Access, ENTER, READ, WRITE};
use crate::config::{Config, ConfigError, Loaded};
use crate::store::{Inspected, LEDGER_FILE, OpenError, Pause, SCHEMA_VERSION, STATE_FILE};

pub fn configuration(loaded: &Result<Loaded, Vec<ConfigError>>) -> Line {
    const NAME: &str = "configuration";
    let said = |errors: &[ConfigError]| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let check =
        "correct it; `cove config check` tells whether it is right, `cove config show` where each value is from";
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(errors) => return Line::error(NAME, said(errors), check),
    };
    let refused = loaded.check_serve();
    let file = loaded.file.as_ref().map_or("no file, the defaults".to_owned(), |file| file.display().to_string());
    if !refused.is_empty() {
        return Line::error(NAME, format!("{file}: {}", said(&refused)), check);
    }
    if !loaded.warnings.is_empty() {
        return Line::warning(NAME, format!("{file}: {}", loaded.warnings.join("; ")), check);
    }
    Line::ok(NAME, file)
}

/// What is where the state directory should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Folder {
    /// It can be made, or not, in the nearest folder that is there.
    Missing {
        above: PathBuf,
        can_be_made: bool,
    },
    Unreadable(String),
    Occupied,
    There {
        uid: u32,
        owner: String,
        mode: u32,
    },
}

impl Folder {
    pub async fn look(path: &Path, cove: &Person) -> Self {
        match std::fs::metadata(path) {
            Ok(found) if !found.is_dir() => Self::Occupied,
            Ok(found) => {
                let uid = found.uid();
                Self::There { uid, owner: super::person::name_of(uid).await, mode: found.mode() & 0o7777 }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let above = path.ancestors().find(|above| above.is_dir()).unwrap_or(Path::new("/")).to_owned();
                let can_be_made = cove.access(&above, WRITE | ENTER) == Access::Yes;
                Self::Missing { above, can_be_made }
            }
            Err(error) => Self::Unreadable(error.to_string()),
        }
    }
}

/// Its disk is away.
pub fn no_answer(path: &Path, within: Duration) -> Line {
    Line::error(
        STATE_DIRECTORY,
        format!(
            "{} does not answer within {} s: is it on a network share that is away?",
            path.display(),
            within.as_secs()
        ),
        "mount it again, and put [state] dir on a local disk",
    )
}

const STATE_DIRECTORY: &str = "state_directory";

/// Of a folder that nobody else may look into. Its group may go through it: where browsers have a user of
/// their own, uploaded media is reached that way.
const FORBIDDEN_IN_STATE: u32 = 0o067;

/// `daemon`: the user of one that runs.
pub fn state_directory(path: &Path, folder: &Folder, own: &Person, daemon: Option<u32>) -> Line {
    const NAME: &str = STATE_DIRECTORY;
    let shown = path.display();
    match folder {
        Folder::Missing { can_be_made: true, .. } => {
            Line::ok(NAME, format!("{shown} is not there yet; the daemon makes it at its first start"))
        }
        Folder::Missing { above, .. } => Line::error(
            NAME,
            format!("{shown} is not there, and {} may not make it in {}", own.name, above.display()),
            format!("make it: `sudo install -d -m 700 -o {} {shown}`, or name another in [state] dir", own.name),
        ),
        Folder::Unreadable(why) => {
            Line::error(NAME, format!("{shown}: {why}"), "run `cove doctor` as the daemon's user, or with sudo")
        }
        Folder::Occupied => {
            Line::error(NAME, format!("{shown} is not a folder"), "move it away, or name another in [state] dir")
        }
        Folder::There { mode, .. } if mode & FORBIDDEN_IN_STATE != 0 => Line::error(
            NAME,
            format!("{shown} has mode {mode:04o}: other users of this machine can look into it"),
            format!("`chmod 700 {shown}`"),
        ),
        Folder::There { uid, owner, .. } if daemon.is_some_and(|daemon| daemon != *uid && daemon != 0) => Line::error(
            NAME,
            format!("{shown} belongs to {owner}, and the daemon runs as uid {}", daemon.unwrap_or_default()),
            format!("give it to the daemon's user: `sudo chown -R USER {shown}`"),
        ),
        Folder::There { uid, owner, .. } if own.uid() != 0 && own.uid() != *uid => Line::warning(
            NAME,
            format!("{shown} belongs to {owner}, and {} may not look into it", own.name),
            format!(
                "`sudo -u {} cove doctor`",
                if *owner == uid.to_string() { format!("'#{uid}'") } else { owner.clone() }
            ),
        ),
        Folder::There { owner, mode, .. } => Line::ok(NAME, format!("{shown}, mode {mode:04o}, of {owner}")),
    }
}

/// What stands in the configuration that this command reads is not what the daemon goes by.
pub fn elsewhere(line: Line, configured: &Path, held: Option<&Path>) -> Line {
    match held {
        Some(held) if line.status == Status::Ok && !is_same(held, configured) => Line::warning(
            STATE_DIRECTORY,
            format!(
                "{}, where the daemon that runs keeps it; the configuration says {}",
                line.found,
                configured.display()
            ),
            "give --config the daemon's file, or set [state] dir as it is started",
        ),
        _ => line,
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    one == other || one.canonicalize().ok().is_some_and(|one| other.canonicalize().is_ok_and(|other| one == other))
}

/// Who keeps the state file open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A daemon that answered us.
    Daemon {
        pid: u32,
    },
    /// A daemon runs, and what it has open cannot be seen from here.
    Unseen,
    /// Somebody, while no daemon answers.
    Stranger {
        pid: Option<u32>,
    },
    Nobody,
}

pub fn state_file(folder: &Path, found: &Result<Option<Inspected>, OpenError>, holder: &Holder) -> Line {
    const NAME: &str = "state_file";
    let path = folder.join(STATE_FILE);
    let shown = path.display();
    let process = |pid: &Option<u32>| pid.map_or("a process".to_owned(), |pid| format!("process {pid}"));
    match holder {
        Holder::Daemon { pid } => return Line::ok(NAME, format!("{shown}, held by the daemon (process {pid})")),
        Holder::Unseen => {
            let found =
                format!("{shown} is not looked at while a daemon runs; whether it is this one's cannot be seen");
            return Line::ok(NAME, found);
        }
        Holder::Stranger { .. } | Holder::Nobody => {}
    }
    match found {
        Ok(None) => Line::ok(NAME, format!("{shown} is not there yet; the daemon makes it at its first start")),
        Ok(Some(found)) => whole_file(NAME, folder, found),
        Err(OpenError::Held(_)) => {
            let Holder::Stranger { pid } = holder else {
                return Line::ok(NAME, format!("{shown} is held by a process, as it is while a daemon runs"));
            };
            let kill = pid.map_or("find it: `fuser -v` on the file".to_owned(), |pid| {
                format!("see what it is: `ps -fp {pid}`; a daemon that hangs is ended by `kill {pid}`")
            });
            Line::error(NAME, format!("{shown} is held by {}, and no daemon answers", process(pid)), kill)
        }
        Err(OpenError::Io { error, .. }) if error.kind() == ErrorKind::PermissionDenied => Line::warning(
            NAME,
            format!("{shown} may not be opened by this user"),
            "run `cove doctor` as the daemon's user, or with sudo",
        ),
        Err(OpenError::NewerSchema { .. }) => Line::error(
            NAME,
            found_text(found),
            "install the newer cove again, or put back with `cove snapshots restore` a snapshot from before the upgrade",
        ),
        Err(_) => Line::error(
            NAME,
            found_text(found),
            "put a good one back: `cove snapshots list`, then `cove snapshots restore NAME`",
        ),
    }
}

fn found_text(found: &Result<Option<Inspected>, OpenError>) -> String {
    found.as_ref().err().map(ToString::to_string).unwrap_or_default()
}

fn whole_file(name: &'static str, folder: &Path, found: &Inspected) -> Line {
    let shown = folder.join(STATE_FILE).display().to_string();
    let text = format!("{shown}, {} KiB, schema {}", found.bytes / 1024, found.schema);
    let ledger = folder.join(LEDGER_FILE);
    if found.ledger_bytes.is_none() {
        return Line::error(
            name,
            format!(
                "{text}, but {} is not there: the next start holds everything, since nothing tells what went out",
                ledger.display()
            ),
            "put the ledger back before the next start",
        );
    }
    match &found.pause {
        Some(Pause::LedgerDamaged { what, .. }) => Line::error(
            name,
            format!("{text}; the publish ledger is damaged: {what}"),
            "look at `cove items list --state held`, then `cove resume --accept-duplicates`",
        ),
        Some(Pause::Restored { .. }) => Line::warning(
            name,
            format!("{text}; it was restored, and a human has to look before anything is published"),
            "start the daemon, look at `cove items list --state held`, then `cove resume`",
        ),
        Some(Pause::Operator { .. }) => {
            Line::warning(name, format!("{text}; paused"), "`cove resume` when it shall go on")
        }
        None if found.schema < SCHEMA_VERSION => {
            Line::ok(name, format!("{text}; the next start brings it to schema {SCHEMA_VERSION}"))
        }
        None => Line::ok(name, text),
    }
}

/// A file, and the permission bits that it must not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Private {
    pub path: PathBuf,
    /// What somebody could do with a bit too much.
    pub danger: &'static str,
    pub forbidden: u32,
    /// cove itself has to read it.
    pub needed: bool,
}

/// What cove keeps or reads, and others must not.
pub fn private_files(state: &Path, config: &Config, file: Option<&Path>, token_file: Option<&Path>) -> Vec<Private> {
    let private = |path: PathBuf, danger, forbidden, needed| Private { path, danger, forbidden, needed };
    let mut files = vec![
        private(state.join(STATE_FILE), "read what is queued and published", 0o007, false),
        private(state.join(LEDGER_FILE), "read what was published", 0o007, false),
        private(config.socket_path(), "command the daemon", 0o007, false),
    ];
    let tokens = config.dolphin.api_token_file.as_deref().map(|token| (token, true));
    let tokens = tokens.into_iter().chain(token_file.map(|token| (token, false)));
    files.extend(tokens.map(|(token, needed)| private(token.to_owned(), "read the token in it", 0o007, needed)));
    files.extend(file.map(|file| private(file.to_owned(), "change what cove does", 0o022, true)));
    files
}

/// `found`: None where it is not there.
fn private_file(private: &Private, found: Option<&Metadata>, readable: &Access, cove: &Person) -> Line {
    let name = PERMISSIONS;
    let shown = private.path.display();
    let mode = found.map(|found| found.mode() & 0o7777);
    match mode {
        Some(mode) if mode & private.forbidden != 0 => {
            let who = if mode & private.forbidden & 0o007 != 0 { "every user of this machine" } else { "its group" };
            Line::error(
                name,
                format!("{shown} has mode {mode:04o}: {who} can {}", private.danger),
                format!("`chmod {:03o} {shown}`", mode & !private.forbidden & 0o777),
            )
        }
        None if private.needed => {
            Line::error(name, format!("{shown} is not there"), "make it, or take it out of the configuration")
        }
        _ if private.needed && matches!(readable, Access::No(_)) => Line::error(
            name,
            format!("{shown} cannot be read by cove, which runs as {}", cove.name),
            format!("let its user read it: `sudo chown {} {shown}`", cove.name),
        ),
        _ => Line::ok(name, ""),
    }
}

const PERMISSIONS: &str = "permissions";
const LOOK_WITHIN: Duration = Duration::from_secs(10);

pub async fn permissions(files: Vec<Private>, cove: &Person) -> Line {
    let person = cove.clone();
    let looked = command::bounded(LOOK_WITHIN, move || permissions_now(&files, &person)).await;
    looked.unwrap_or_else(|| {
        let found = format!("a file did not answer within {} s", LOOK_WITHIN.as_secs());
        Line::warning(PERMISSIONS, found, "is it on a network share that is away? `cove config show` names the files")
    })
}

fn permissions_now(files: &[Private], cove: &Person) -> Line {
    let lines: Vec<Line> = files
        .iter()
        .map(|private| {
            let found = std::fs::metadata(&private.path).ok();
            private_file(private, found.as_ref(), &cove.access(&private.path, READ), cove)
        })
        .collect();
    let there = files.iter().filter(|private| private.path.exists()).count();
    Line::together(PERMISSIONS, &lines, || format!("what must be private is ({})", counted(there, "file")))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cli::doctor::line::Status;
    use crate::model::Timestamp;

    fn loaded(config: Config, warnings: &[&str]) -> Loaded {
        let warnings = warnings.iter().map(ToString::to_string).collect();
        let none = std::collections::BTreeMap::new;
        Loaded { config, warnings, origins: none(), set: none(), file: Some("/c.toml".into()) }
    }

    #[test]
    fn a_configuration_is_right_or_says_every_mistake() {
        let mut open = Config::default();
        open.auth.required = false;
        assert_eq!(configuration(&Ok(loaded(open.clone(), &[]))), Line::ok("configuration", "/c.toml"));
        assert_eq!(configuration(&Ok(loaded(open.clone(), &["odd"]))).status, Status::Warning);
        open.server.listen = ([192, 168, 0, 1], 1).into();
        let refused = configuration(&Ok(loaded(open, &[])));
        assert_eq!(refused.status, Status::Error);
        assert!(refused.found.contains("server.listen"), "{refused:?}");
        let sources = crate::config::Sources {
            env: [("COVE_ENGINE__SLOTS".to_owned(), "no".to_owned())].into(),
            is_root: true,
            ..crate::config::Sources::default()
        };
        let wrong = configuration(&Config::load(&sources));
        assert!(wrong.status == Status::Error && wrong.found.contains("engine.slots"), "{wrong:?}");
    }

    #[test]
    fn a_state_directory_is_private_and_of_the_right_user() {
        let (root, anna) = (Person::of_test("root", 0), Person::of_test("anna", 1_000));
        let there = |uid, mode| Folder::There { uid, owner: "cove".to_owned(), mode };
        let judge = |folder: &Folder, own: &Person, daemon| state_directory(Path::new("/s"), folder, own, daemon);
        for mode in [0o700, 0o710] {
            assert_eq!(judge(&there(5, mode), &root, None).status, Status::Ok);
        }
        for mode in [0o755, 0o750, 0o720, 0o701] {
            let line = judge(&there(5, mode), &root, None);
            assert_eq!((line.status, line.help.as_deref()), (Status::Error, Some("`chmod 700 /s`")), "{mode:o}");
        }
        let foreign = judge(&there(5, 0o700), &anna, None);
        assert_eq!((foreign.status, foreign.help.as_deref()), (Status::Warning, Some("`sudo -u cove cove doctor`")));
        let nameless = Folder::There { uid: 5, owner: "5".to_owned(), mode: 0o700 };
        assert_eq!(judge(&nameless, &anna, None).help.as_deref(), Some("`sudo -u '#5' cove doctor`"));
        assert_eq!(judge(&there(5, 0o700), &root, Some(6)).status, Status::Error);
        assert_eq!(judge(&there(5, 0o700), &root, Some(5)).status, Status::Ok);
        let missing = |can_be_made| Folder::Missing { above: "/".into(), can_be_made };
        assert_eq!(judge(&missing(true), &anna, None).status, Status::Ok);
        assert_eq!(judge(&missing(false), &anna, None).status, Status::Error);
        assert_eq!(judge(&Folder::Occupied, &anna, None).status, Status::Error);
        assert_eq!(no_answer(Path::new("/s"), Duration::from_secs(20)).status, Status::Error);
        assert_eq!(judge(&Folder::Unreadable("no".to_owned()), &anna, None).status, Status::Error);
    }

    #[test]
    fn a_state_file_is_held_by_a_daemon_or_could_be_opened_by_one() {
        let sound = Inspected { schema: SCHEMA_VERSION, bytes: 2_048, ledger_bytes: Some(9), clock: None, pause: None };
        let judge = |found: Result<Option<Inspected>, OpenError>, holder| state_file(Path::new("/s"), &found, &holder);
        let path = || PathBuf::from("/s/state.redb");
        let with = |pause| Ok(Some(Inspected { pause: Some(pause), ..sound.clone() }));
        let since = Timestamp::ZERO;
        assert_eq!(judge(Ok(None), Holder::Nobody).status, Status::Ok);
        assert_eq!(judge(Ok(None), Holder::Daemon { pid: 7 }).status, Status::Ok);
        assert!(!judge(Ok(None), Holder::Unseen).found.contains("held by"), "nobody saw that");
        assert!(judge(Ok(Some(sound.clone())), Holder::Nobody).found.contains("2 KiB"));
        let older = judge(Ok(Some(Inspected { schema: 1, ..sound.clone() })), Holder::Nobody);
        assert!(older.status == Status::Ok && older.found.contains("the next start brings it"), "{older:?}");
        let bare = judge(Ok(Some(Inspected { ledger_bytes: None, ..sound.clone() })), Holder::Nobody);
        assert!(bare.status == Status::Error && bare.found.contains("publish.ledger"), "{bare:?}");
        assert_eq!(judge(with(Pause::Operator { since }), Holder::Nobody).status, Status::Warning);
        assert_eq!(judge(with(Pause::Restored { since, blind: false }), Holder::Nobody).status, Status::Warning);
        let damaged = Pause::LedgerDamaged { since, what: "line 3".to_owned() };
        assert_eq!(judge(with(damaged), Holder::Nobody).status, Status::Error);
        assert_eq!(judge(Err(OpenError::Held(path())), Holder::Nobody).status, Status::Ok);
        let stranger = judge(Err(OpenError::Held(path())), Holder::Stranger { pid: Some(7) });
        assert!(stranger.status == Status::Error && stranger.help.unwrap().contains("kill 7"));
        let denied = OpenError::Io { path: path(), error: io::ErrorKind::PermissionDenied.into() };
        assert_eq!(judge(Err(denied), Holder::Nobody).status, Status::Warning);
        let newer = OpenError::NewerSchema { path: path(), found: SCHEMA_VERSION + 1, kept: None };
        assert_eq!(judge(Err(newer), Holder::Nobody).status, Status::Error);
        let other = OpenError::NotAStateFile { path: path(), why: "text".to_owned() };
        assert!(judge(Err(other), Holder::Nobody).help.unwrap().contains("cove snapshots restore"));
    }

    #[test]
    fn what_others_could_read_or_change_is_named_with_the_mode_that_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        let cove = Person::of_test("cove", 0);
        let private = |needed, forbidden| Private { path: token.clone(), danger: "read it", forbidden, needed };
        let judge = |files: &[Private]| permissions_now(files, &cove);
        assert_eq!(judge(&[private(false, 0o007)]).status, Status::Ok, "not there, and not needed");
        assert_eq!(judge(&[private(true, 0o007)]).status, Status::Error);
        std::fs::write(&token, "x").unwrap();
        let set = |mode| std::fs::set_permissions(&token, std::fs::Permissions::from_mode(mode)).unwrap();
        set(0o640);
        assert_eq!(judge(&[private(true, 0o007)]).status, Status::Ok);
        let found = token.metadata().unwrap();
        let hidden = private_file(&private(true, 0o007), Some(&found), &Access::No(token.clone()), &cove);
        assert!(hidden.status == Status::Error && hidden.help.unwrap().contains("chown cove"));
        set(0o644);
        let open = judge(&[private(true, 0o007)]);
        assert_eq!(open.help, Some(format!("`chmod 640 {}`", token.display())));
        set(0o664);
        let writable = judge(&[private(true, 0o022)]);
        assert!(writable.found.contains("its group can read it"), "{writable:?}");
        let mut config = Config::default();
        config.dolphin.api_token_file = Some(token.clone());
        assert!(
            private_files(&config.state_dir(), &config, None, None)
                .iter()
                .any(|private| private.path == token && private.needed)
        );
    }
}
