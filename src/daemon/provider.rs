//! The one provider of this daemon, made from its configuration.
//!
//! Called once, at the start. `chromium`: the browser host, a service of its own or a child of this process.
//! `dolphin`: the client of an application that others run; nothing is asked of it here, so a daemon starts
//! while it is down. A token that was configured and is not there is a mistake that a start should tell.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::ServeError;
use crate::breaker::board::Board;
use crate::browser::Provider;
use crate::browser::chromium::ChromiumProvider;
use crate::browser::dolphin::{Deadlines, DolphinProvider, Setup};
use crate::browser::host::HostOptions;
use crate::config::{Config, ProviderKind};
use crate::model::Clock;
use crate::ops::resources::Browsers;

/// The browser host of this daemon listens on `browser-host-<pid>.sock` in the state directory.
const HOST_SOCKET: &str = "browser-host-";
const SOCKET_ENDING: &str = ".sock";
/// The unit of a browser host that is a service of its own; its memory is bounded there.
const HOST_SERVICE: &str = "cove-browser.service";

pub(super) fn start(
    config: &Config,
    state_dir: &Path,
    breakers: &Board,
    clock: &Arc<dyn Clock>,
) -> Result<Arc<dyn Provider>, ServeError> {
    Ok(match config.browser.provider {
        ProviderKind::Chromium => {
            let gap = Duration::from_millis(config.browser.start_stagger_ms);
            Arc::new(chromium(config, state_dir)?.with_start_gap(gap))
        }
        ProviderKind::Dolphin => Arc::new(dolphin(config, state_dir, breakers, clock)?),
    })
}

/// Where they take their memory from.
pub(super) const fn browsers(config: &Config) -> Browsers {
    match config.browser.provider {
        ProviderKind::Chromium if config.browser.host_socket.is_none() => Browsers::Here,
        ProviderKind::Chromium => Browsers::Beside(HOST_SERVICE),
        ProviderKind::Dolphin => Browsers::Elsewhere,
    }
}

fn dolphin(
    config: &Config,
    state_dir: &Path,
    breakers: &Board,
    clock: &Arc<dyn Clock>,
) -> Result<DolphinProvider, ServeError> {
    let dolphin = &config.dolphin;
    let token = dolphin.token_source(|name| std::env::var_os(name)).map_err(ServeError::Config)?;
    if token.is_none() {
        let profiles = dolphin.profiles.len();
        tracing::warn!(profiles, "no token of Dolphin Anty: only the profiles of `[dolphin] profiles` are known");
    }
    let (breakers, clock) = (breakers.clone(), clock.clone());
    let setup = Setup { dolphin, token, state_dir, breakers, clock, deadlines: Deadlines::default() };
    DolphinProvider::new(setup).map_err(ServeError::Provider)
}

fn chromium(config: &Config, state_dir: &Path) -> Result<ChromiumProvider, ServeError> {
    if let Some(socket) = &config.browser.host_socket {
        return Ok(ChromiumProvider::connect(socket.clone()));
    }
    let executable = std::env::current_exe().map_err(ServeError::Executable)?;
    remove_old_host_sockets(state_dir);
    let options = HostOptions {
        // A name of its own: the host of a daemon that was killed may still be closing its browsers, and
        // must not be taken for the new one.
        socket: Some(state_dir.join(format!("{HOST_SOCKET}{}{SOCKET_ENDING}", std::process::id()))),
        profiles_dir: state_dir.join("profiles"),
        chromium: config.browser.chromium.clone(),
        sandbox: config.browser.sandbox,
        until_stdin_ends: true,
    };
    ChromiumProvider::spawn_child(&executable, options).map_err(ServeError::Provider)
}

/// Sockets of hosts whose daemon is gone; a host that still closes its browsers needs its own no more.
fn remove_old_host_sockets(state_dir: &Path) {
    let Ok(entries) = std::fs::read_dir(state_dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(HOST_SOCKET)
            && name.ends_with(SOCKET_ENDING)
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            tracing::warn!(path = %entry.path().display(), %error, "an old socket stays behind");
        }
    }
}
