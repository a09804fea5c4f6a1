//! Who is who: the daemon, the user that cove runs as, the user that its browsers run as.
//!
//! Gathered once, before the checks, which ask for it again and again.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::person::Person;
use super::running::{self, Daemon};
use super::service;
use crate::browser::processes::{self, Listener};
use crate::cli::remote::Client;
use crate::cli::{Global, tell, token};
use crate::config::{Config, Loaded, ProviderKind};
use crate::store::STATE_FILE;

/// Who is who on this machine.
pub struct Scene {
    pub loaded: Loaded,
    pub client: Client,
    pub daemon: Daemon,
    /// Where the daemon that runs keeps its state, by the files that it has open; None: none runs, or it cannot be seen.
    pub held: Option<PathBuf>,
    /// Whoever runs this command.
    pub own: Person,
    /// The user that the daemon runs as, or will.
    pub cove: Person,
    /// A browser host that is a service: its process, or why there is none.
    pub service: Option<Result<u32, String>>,
    /// Who listens where Dolphin's Local API should be.
    pub dolphin: Option<Listener>,
    /// The user that browsers run as; None: not known.
    pub browser: Option<Person>,
}

impl Scene {
    pub async fn look(global: &Global, loaded: Loaded) -> anyhow::Result<Self> {
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
        // Much can be looked at without one.
        let token = token(global)?.unwrap_or_else(|mistyped| {
            tell(&mistyped);
            None
        });
        let client = client.with_token(token);
        let daemon = running::look(&client, socket.as_ref()).await;
        let held = daemon.process().and_then(|(pid, _)| state_of(pid));
        let own = Person::own().await;
        let cove = cove_user(&daemon, held.as_ref().unwrap_or(&config.state_dir()), &own).await;
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
        Ok(Self { loaded, client, daemon, held, own, cove, service, dolphin, browser })
    }

    pub fn config(&self) -> &Config {
        &self.loaded.config
    }

    /// Where the state is: of a daemon that runs, wherever it was told to keep it.
    pub fn state_dir(&self) -> PathBuf {
        self.held.clone().unwrap_or_else(|| self.config().state_dir())
    }

    /// User and group to start a browser as, where we are not that user and may become it.
    pub fn become_browser(&self) -> Option<(u32, u32)> {
        let browser = self.browser.as_ref()?;
        (self.own.uid() == 0 && browser.uid() != 0).then_some((browser.uid(), browser.reader.gid))
    }
}

fn state_of(pid: u32) -> Option<PathBuf> {
    let opened = processes::opened_by(pid, STATE_FILE)?;
    opened.first().and_then(|file| file.parent()).map(Path::to_owned)
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
