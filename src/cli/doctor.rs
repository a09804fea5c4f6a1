//! `cove doctor`: looks at everything that cove needs, one line a check, with what to do where it is not well.
//!
//! It works without a daemon and says whether one runs; where one does, what only it knows is asked of it.
//! This file runs the checks in order; each is a judgment of facts in a file of its own. Invariants: nothing is changed (temporary files aside, and what `--profile` starts is stopped
//! again); a check that cannot be made from here says so instead of passing; every wait has a deadline.

mod chromium;
mod clock;
mod command;
mod disk;
mod display;
mod dolphin;
mod line;
mod machine;
mod media;
mod person;
mod profile;
mod running;
mod scene;
mod service;
mod state;
mod tree;
mod trial;

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::{Global, exit, print, print_json};
use crate::browser::chromium::ChromiumProvider;
use crate::browser::{self, Provider, SessionStats, processes};
use crate::config::dolphin::Token;
use crate::config::{Config, ProviderKind, Sources};
use crate::model::{Clock, SystemClock};
use crate::store::{self, ClockMark, Inspected, OpenError};
use line::{Line, Status};
use person::Person;
use running::Daemon;
use scene::Scene;

pub(super) const HELP: &str =
    "Each line is ok, warning or error, what was found, and what to do. Run it as the daemon's user, or with sudo:
then it also sees what other users may. Exit code 0: no error; 20: at least one.";

#[derive(clap::Args)]
pub struct DoctorArgs {
    /// Also start this profile and stop it again
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// For a look at the file system.
const FILES_WITHIN: Duration = Duration::from_secs(20);
const INSPECT_WITHIN: Duration = Duration::from_secs(120);

/// The lines so far; a person sees each as it comes.
struct Report {
    json: bool,
    lines: Vec<Line>,
}

impl Report {
    fn add(&mut self, lines: impl IntoIterator<Item = Line>) {
        for line in lines {
            if !self.json {
                print(&line.text());
            }
            self.lines.push(line);
        }
    }

    fn end(self) -> u8 {
        let count = |status| self.lines.iter().filter(|line| line.status == status).count();
        let (errors, warnings) = (count(Status::Error), count(Status::Warning));
        if self.json {
            let checks: Vec<_> = self.lines.iter().map(Line::json).collect();
            print_json(&json!({"checks": checks, "ok": errors == 0}));
        } else {
            print(&format!("\n{}, {}", line::counted(errors, "error"), line::counted(warnings, "warning")));
        }
        if errors == 0 { exit::OK } else { exit::UNSOUND }
    }
}

pub(super) async fn run(global: &Global, args: DoctorArgs) -> anyhow::Result<u8> {
    let mut report = Report { json: args.json, lines: Vec::new() };
    let loaded = Config::load(&Sources::from_process(global.config.clone(), None));
    report.add([state::configuration(&loaded)]);
    let Ok(loaded) = loaded else {
        // Nothing else of it can be believed.
        report.add([clock::judge(SystemClock.moment(), clock::is_synchronised().await, None)]);
        return Ok(report.end());
    };
    let state_dir = loaded.config.state_dir();
    // Nearly everything looks at it: one that is away would hold each check.
    let path = state_dir.clone();
    if command::bounded(FILES_WITHIN, move || drop(std::fs::metadata(path))).await.is_none() {
        report.add([state::no_answer(&state_dir, FILES_WITHIN)]);
        return Ok(report.end());
    }
    let scene = Scene::look(global, loaded).await?;
    report.add([running::judge(&scene.daemon, env!("CARGO_PKG_VERSION"))]);
    let mark = scene.state(&mut report, global).await;
    scene.media(&mut report).await;
    scene.disk(&mut report).await;
    report.add([clock::judge(SystemClock.moment(), clock::is_synchronised().await, mark)]);
    scene.machine(&mut report);
    let measured = match scene.config().browser.provider {
        ProviderKind::Chromium => scene.chromium(&mut report).await,
        ProviderKind::Dolphin => scene.dolphin(&mut report).await,
    };
    let hides = tree::proc_hides(scene.daemon.process().map(|(pid, _)| pid));
    report.add([tree::judge(measured.as_ref(), scene.browser.as_ref(), &scene.cove, hides)]);
    report.add(scene.profile(args.profile.as_deref()).await);
    Ok(report.end())
}

/// A file of some size is read to its end.
async fn inspect(dir: &Path) -> Result<Option<Inspected>, OpenError> {
    let folder = dir.to_owned();
    let found = command::bounded(INSPECT_WITHIN, move || store::inspect(&folder)).await;
    found.unwrap_or_else(|| Err(OpenError::Io { path: dir.to_owned(), error: ErrorKind::TimedOut.into() }))
}

/// The checks, in parts.
impl Scene {
    /// Answers the time that the state file last saw, if no daemon holds it.
    async fn state(&self, report: &mut Report, global: &Global) -> Option<ClockMark> {
        let dir = self.state_dir();
        let folder = state::Folder::look(&dir, &self.cove).await;
        let daemon = self.daemon.process();
        let line = state::state_directory(&dir, &folder, &self.own, daemon.map(|(_, uid)| uid));
        report.add([state::elsewhere(line, &self.config().state_dir(), self.held.as_deref())]);
        // A file that a daemon holds is left alone.
        let found = if self.daemon.runs() { Ok(None) } else { inspect(&dir).await };
        let holder = match (&self.daemon, &found) {
            (Daemon::Absent { .. }, Err(OpenError::Held(path))) => {
                state::Holder::Stranger { pid: processes::who_opened(path) }
            }
            (Daemon::Absent { .. } | Daemon::Forbidden { .. }, _) => state::Holder::Nobody,
            _ => match daemon.filter(|_| self.held.is_some()) {
                Some((pid, _)) => state::Holder::Daemon { pid },
                None => state::Holder::Unseen,
            },
        };
        let files =
            state::private_files(&dir, self.config(), self.loaded.file.as_deref(), global.token_file.as_deref());
        report.add([state::state_file(&dir, &found, &holder), state::permissions(files, &self.cove).await]);
        found.ok().flatten().and_then(|found| found.clock)
    }

    async fn media(&self, report: &mut Report) {
        let roots = &self.config().media.roots;
        let mut for_cove = Vec::new();
        for root in roots {
            for_cove.push(media::look(root, &self.cove).await);
        }
        report.add([media::for_cove(&for_cove, &self.cove)]);
        let uploads = self.state_dir().join("media");
        let mut for_browser = Vec::new();
        if let Some(browser) = &self.browser {
            for root in roots.iter().chain([&uploads]) {
                for_browser.push(media::look(root, browser).await);
            }
        }
        report.add([media::for_browser(&for_browser, self.browser.as_ref(), &self.cove)]);
    }

    async fn disk(&self, report: &mut Report) {
        let dir = self.state_dir();
        let folder = dir.clone();
        let free = command::bounded(FILES_WITHIN, move || disk::free_mb(&folder)).await;
        let free: io::Result<u64> = free.unwrap_or_else(|| Err(ErrorKind::TimedOut.into()));
        report.add([disk::space(&dir, &free, self.config().resources.disk_reserve_mb)]);
        let folder = dir.clone();
        let median = command::bounded(FILES_WITHIN, move || disk::measure(&folder)).await;
        report.add([disk::speed(&dir, &median.unwrap_or_else(|| Err(ErrorKind::TimedOut.into())))]);
    }

    fn machine(&self, report: &mut Report) {
        let (config, daemon) = (self.config(), self.daemon.process().map(|(pid, _)| pid));
        let slots = config.engine.slots;
        report.add([machine::memory(machine::memory_mb(), slots), machine::shared_memory(machine::shared_memory_mb())]);
        let theirs = daemon.and_then(|pid| machine::open_files(Some(pid)));
        let limit = theirs.or_else(|| machine::open_files(None));
        report.add([machine::descriptors(limit, theirs.is_some(), slots, config.server.max_connections)]);
        let at = std::fs::read_to_string(self.state_dir().join("listen")).ok();
        let at: Option<SocketAddr> = at.filter(|_| self.daemon.runs()).and_then(|text| text.trim().parse().ok());
        report.add([machine::listen(config.server.listen, &machine::look_at_port(config.server.listen, at, daemon))]);
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let asked_by = std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok());
        let known = [Some(self.own.uid()), Some(self.cove.uid()), self.browser.as_ref().map(Person::uid), asked_by];
        report.add([machine::local_users(&machine::people(&passwd), &known.into_iter().flatten().collect::<Vec<_>>())]);
    }

    fn display(&self, running: bool) -> Line {
        let starts_browsers = match &self.service {
            Some(host) => host.as_ref().ok().copied(),
            None => self.daemon.process().map(|(pid, _)| pid),
        };
        let (variables, whose) = display::variables(starts_browsers);
        let found = display::find(&variables, &display::socket_is_there);
        let browser = &self.config().browser;
        display::judge(&found, whose, browser.provider, browser.headless, running)
    }

    async fn chromium(&self, report: &mut Report) -> Option<SessionStats> {
        let browser = &self.config().browser;
        report.add([self.display(false)]);
        if let (Some(found), Some(socket)) = (&self.service, &browser.host_socket) {
            report.add([service::judge(socket, found, self.browser.as_ref())]);
        }
        let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let found = chromium::binary(browser.chromium.as_deref()).await;
        report.add([chromium::browser(&found, &os_release)]);
        let start = match &found {
            Ok(_) => Some(chromium::try_start(browser, self.become_browser()).await),
            Err(_) => None,
        };
        let is_root = self.browser.as_ref().unwrap_or(&self.own).uid() == 0;
        report.add([chromium::sandbox(browser.sandbox, is_root, chromium::Kernel::look(), start.as_ref())]);
        report.add(chromium::start(start.as_ref()));
        start.and_then(Result::ok).and_then(|started| started.stats)
    }

    async fn dolphin(&self, report: &mut Report) -> Option<SessionStats> {
        let dolphin = &self.config().dolphin;
        let (token, told) = match self.dolphin_token() {
            Ok(Some(token)) => (Some(token), dolphin::Token::There),
            Ok(None) => (None, dolphin::Token::None),
            Err(why) => (None, dolphin::Token::Broken(why)),
        };
        let look = match browser::dolphin::look(&dolphin.api_host, &dolphin.cloud_host, token.as_ref()).await {
            Ok(look) => look,
            Err(error) => {
                let help = "this is a defect of cove; report it";
                report.add([Line::error("dolphin", format!("no HTTP client can be made: {error}"), help)]);
                return None;
            }
        };
        let known = match (&self.daemon, &told) {
            (Daemon::Answers { .. }, dolphin::Token::None) => self.client.get("/api/v1/profiles").await.ok(),
            _ => None,
        };
        let known = known.and_then(|answer| answer["profiles"].as_array().map(Vec::len));
        report.add([
            self.display(dolphin::answers(&look)),
            dolphin::reachable(&look, &dolphin.api_host, self.dolphin.as_ref()),
            dolphin::signed_in(&look),
            dolphin::profiles(&look, &told, dolphin.profiles.len(), known, &dolphin.cloud_host),
        ]);
        // What the application uses itself shows what cove's user may see of it.
        let main = self.dolphin.as_ref().filter(|_| self.own.uid() == self.cove.uid())?.process()?;
        Some(processes::stats(&processes::tree_of(main)))
    }

    /// As a daemon with our environment would find it.
    fn dolphin_token(&self) -> Result<Option<Token>, String> {
        let source = self.config().dolphin.token_source(|name| std::env::var_os(name));
        let source = source.map_err(|error| error.to_string())?;
        source.map(|source| source.read()).transpose()
    }

    async fn profile(&self, name: Option<&str>) -> [Line; 2] {
        let Some(name) = name else { return profile::not_tried() };
        if let Daemon::Forbidden { tried } = &self.daemon {
            return profile::not_now(format!("this user may not open {tried}"), "run `cove doctor` with sudo");
        }
        if self.daemon.runs() {
            return profile::through_daemon(&self.client, name).await;
        }
        let (browser, dolphin) = (&self.config().browser, &self.config().dolphin);
        if browser.provider == ProviderKind::Dolphin {
            let token = dolphin.token_source(|name| std::env::var_os(name)).ok().flatten();
            return profile::through_dolphin(dolphin, token, name).await;
        }
        let service = browser.host_socket.clone().map(ChromiumProvider::connect);
        let service = service.as_ref().map(|service| service as &dyn Provider);
        profile::through_host(browser, &self.state_dir().join("profiles"), name, self.become_browser(), service).await
    }
}
