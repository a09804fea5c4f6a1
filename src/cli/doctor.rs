//! `cove doctor`: looks at everything that cove needs, one line a check, with what to do where it is not well.
//!
//! It works without a daemon and says whether one runs; where one does, what only it knows is asked of it.
//! This file gathers who is who and runs the checks in order; each is a judgment of facts in a file of its
//! own. Invariants: nothing is changed (temporary files aside, and what `--profile` starts is stopped
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
mod service;
mod state;
mod tree;
mod trial;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde_json::json;

use super::remote::Client;
use super::{Global, exit, print, print_json, token};
use crate::browser::chromium::ChromiumProvider;
use crate::browser::processes::{self, Listener};
use crate::browser::{Provider, SessionStats};
use crate::config::{Config, Loaded, ProviderKind, Sources};
use crate::model::{Clock, SystemClock};
use crate::outbound;
use crate::store::{self, ClockMark, OpenError};
use line::{Line, Status};
use person::Person;
use running::Daemon;

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
    let scene = Scene::look(global, loaded).await?;
    report.add([running::judge(&scene.daemon, env!("CARGO_PKG_VERSION"))]);
    let mark = scene.state(&mut report, global).await;
    scene.media(&mut report);
    scene.disk(&mut report);
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

/// Who is who on this machine.
struct Scene {
    loaded: Loaded,
    client: Client,
    daemon: Daemon,
    /// Whoever runs this command.
    own: Person,
    /// The user that the daemon runs as, or will.
    cove: Person,
    /// A browser host that is a service: its process, or why there is none.
    service: Option<Result<u32, String>>,
    /// Who listens where Dolphin's Local API should be.
    dolphin: Option<Listener>,
    /// The user that browsers run as; None: not known.
    browser: Option<Person>,
}

impl Scene {
    async fn look(global: &Global, loaded: Loaded) -> anyhow::Result<Self> {
        let config = &loaded.config;
        let socket = match (global.url(), &global.socket) {
            (_, Some(socket)) => Some(socket.clone()),
            (Some(_), None) => None,
            (None, None) => Some(config.socket_path()),
        };
        let client = match (&socket, global.url()) {
            (Some(socket), _) => Client::unix(socket)?,
            (None, url) => Client::url(url.unwrap_or_default())?,
        };
        let client = client.with_token(token(global)?);
        let daemon = running::look(&client, socket.as_ref()).await;
        let own = Person::own().await;
        let cove = cove_user(&daemon, &config.state_dir(), &own).await;
        let service = match &config.browser.host_socket {
            Some(socket) if config.browser.provider == ProviderKind::Chromium => Some(service::greet(socket).await),
            _ => None,
        };
        let dolphin = local_port(&config.dolphin.api_host)
            .filter(|_| config.browser.provider == ProviderKind::Dolphin)
            .and_then(processes::listener);
        let browser = match (config.browser.provider, &service, &dolphin) {
            (ProviderKind::Dolphin, _, listener) => match listener {
                Some(listener) => Some(user_of(listener).await),
                None => None,
            },
            (ProviderKind::Chromium, None, _) => Some(cove.clone()),
            (ProviderKind::Chromium, Some(Ok(pid)), _) => Person::of_process(*pid).await,
            (ProviderKind::Chromium, Some(Err(_)), _) => None,
        };
        Ok(Self { loaded, client, daemon, own, cove, service, dolphin, browser })
    }

    fn config(&self) -> &Config {
        &self.loaded.config
    }

    /// User and group to start a browser as, where we are not that user and may become it.
    fn become_browser(&self) -> Option<(u32, u32)> {
        let browser = self.browser.as_ref()?;
        (self.own.uid() == 0 && browser.uid() != 0).then_some((browser.uid(), browser.reader.gid))
    }

    /// Answers the time that the state file last saw, if no daemon holds it.
    async fn state(&self, report: &mut Report, global: &Global) -> Option<ClockMark> {
        let dir = self.config().state_dir();
        let folder = state::Folder::look(&dir, &self.cove).await;
        let daemon = self.daemon.process();
        report.add([state::state_directory(&dir, &folder, &self.own, daemon.map(|(_, uid)| uid))]);
        // A file that a daemon holds is left alone.
        let found = if self.daemon.runs() { Ok(None) } else { store::inspect(&dir) };
        let holder = match (&self.daemon, &found) {
            (Daemon::Absent { .. }, Err(OpenError::Held(path))) => {
                state::Holder::Stranger { pid: processes::who_opened(path) }
            }
            (Daemon::Absent { .. }, _) => state::Holder::Nobody,
            _ => state::Holder::Daemon { pid: daemon.map(|(pid, _)| pid) },
        };
        let files = state::private_files(self.config(), self.loaded.file.as_deref(), global.token_file.as_deref());
        report.add([state::state_file(&dir, &found, &holder), state::permissions(&files, &self.cove)]);
        found.ok().flatten().and_then(|found| found.clock)
    }

    fn media(&self, report: &mut Report) {
        let roots = &self.config().media.roots;
        let for_cove: Vec<_> = roots.iter().map(|root| media::look(root, &self.cove)).collect();
        report.add([media::for_cove(&for_cove, &self.cove)]);
        let uploads = self.config().state_dir().join("media");
        let for_browser: Vec<_> = match &self.browser {
            Some(browser) => roots.iter().chain([&uploads]).map(|root| media::look(root, browser)).collect(),
            None => Vec::new(),
        };
        report.add([media::for_browser(&for_browser, self.browser.as_ref(), &self.cove)]);
    }

    fn disk(&self, report: &mut Report) {
        let dir = self.config().state_dir();
        report.add([disk::space(&dir, &disk::free_mb(&dir), self.config().resources.disk_reserve_mb)]);
        report.add([disk::speed(&dir, &disk::measure(&dir))]);
    }

    fn machine(&self, report: &mut Report) {
        let (config, daemon) = (self.config(), self.daemon.process().map(|(pid, _)| pid));
        let slots = config.engine.slots;
        report.add([machine::memory(machine::memory_mb(), slots), machine::shared_memory(machine::shared_memory_mb())]);
        let theirs = daemon.and_then(|pid| machine::open_files(Some(pid)));
        let limit = theirs.or_else(|| machine::open_files(None));
        report.add([machine::descriptors(limit, theirs.is_some(), slots, config.server.max_connections)]);
        let at = std::fs::read_to_string(config.state_dir().join("listen")).ok();
        let at: Option<SocketAddr> = at.filter(|_| self.daemon.runs()).and_then(|text| text.trim().parse().ok());
        report.add([machine::listen(config.server.listen, &machine::look_at_port(config.server.listen, at))]);
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
        let (local, cloud) = match (outbound::local().build(), outbound::anywhere().build()) {
            (Ok(local), Ok(cloud)) => (local, cloud),
            (Err(error), _) | (_, Err(error)) => {
                report.add([Line::error(
                    "dolphin",
                    format!("no HTTP client can be made: {error}"),
                    "this is a defect of cove; report it",
                )]);
                return None;
            }
        };
        let token = dolphin_token(dolphin.api_token_file.as_deref());
        let given = token.as_ref().ok().and_then(Option::as_deref);
        let found = dolphin::look(&local, &cloud, &dolphin.api_host, &dolphin.cloud_host, given).await;
        report.add([
            self.display(found.answers()),
            dolphin::reachable(&found, &dolphin.api_host, self.dolphin.as_ref()),
            dolphin::signed_in(&found),
            dolphin::profiles(&found, &token.map(|token| token.is_some()), dolphin.profiles.len(), &dolphin.cloud_host),
        ]);
        None
    }

    async fn profile(&self, name: Option<&str>) -> [Line; 2] {
        let Some(name) = name else { return profile::not_tried() };
        if self.daemon.runs() {
            return profile::through_daemon(&self.client, name).await;
        }
        let browser = &self.config().browser;
        let service = browser.host_socket.clone().map(ChromiumProvider::connect);
        let service = service.as_ref().map(|service| service as &dyn Provider);
        profile::through_host(
            browser,
            &self.config().state_dir().join("profiles"),
            name,
            self.become_browser(),
            service,
        )
        .await
    }
}

/// The user of the daemon that runs; else the owner of the state directory; else whoever asks.
async fn cove_user(daemon: &Daemon, state_dir: &Path, own: &Person) -> Person {
    use std::os::unix::fs::MetadataExt;
    if let Some((pid, uid)) = daemon.process() {
        return match Person::of_process(pid).await {
            Some(person) => person,
            None => Person::of_user(uid).await,
        };
    }
    match std::fs::metadata(state_dir).map(|found| found.uid()) {
        Ok(uid) if uid != own.uid() => Person::of_user(uid).await,
        _ => own.clone(),
    }
}

async fn user_of(listener: &Listener) -> Person {
    let of_process = match listener.process() {
        Some(process) => Person::of_process(process.pid).await,
        None => None,
    };
    match of_process {
        Some(person) => person,
        None => Person::of_user(listener.uid).await,
    }
}

/// The port of an address on this machine; None for one elsewhere.
fn local_port(url: &str) -> Option<u16> {
    let url = url::Url::parse(url).ok()?;
    let host = url.host_str()?.trim_matches(['[', ']']);
    let here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|host| host.is_loopback());
    url.port_or_known_default().filter(|_| here)
}

/// The first line of the file.
fn dolphin_token(file: Option<&Path>) -> Result<Option<String>, String> {
    let Some(file) = file else { return Ok(None) };
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let token = text.lines().next().unwrap_or_default().trim().to_owned();
    if token.is_empty() { Err(format!("{}: its first line is empty", file.display())) } else { Ok(Some(token)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_of_this_machine_has_a_local_port() {
        assert_eq!(local_port("http://127.0.0.1:3001"), Some(3_001));
        assert_eq!(local_port("http://localhost:3001/v1.0"), Some(3_001));
        assert_eq!(local_port("http://[::1]:9"), Some(9));
        assert_eq!(local_port("http://10.0.0.1:3001"), None);
        assert_eq!(local_port("nonsense"), None);
    }
}
