//! SIGHUP: the settings are read again; what can change while the daemon runs changes, and what cannot is said.
//!
//! Called from the loop that waits for signals. Invariant: settings with any mistake in them change nothing; what
//! waits for a restart is told at every reload, not only at the first.

use tokio::sync::watch;

use super::Limiter;
use crate::config::{Config, Resources, Sources};
use crate::telemetry;

/// Keys that change in a running daemon; `limits.` stands for all of its section.
const LIVE: [&str; 3] = ["log.level", "limits.", "resources."];
/// Save this one, which the disk guard and others have from the start.
const DISK_RESERVE: &str = "resources.disk_reserve_mb";

/// What takes new settings over.
pub(super) struct Live {
    pub limits: Limiter,
    pub resources: watch::Sender<Resources>,
}

pub(super) struct Reloader {
    sources: Sources,
    in_force: Config,
    /// Then the settings say what was passed.
    sockets_were_passed: bool,
    live: Live,
}

impl Reloader {
    pub fn new(sources: Sources, in_force: Config, sockets_were_passed: bool, live: Live) -> Self {
        Self { sources, in_force, sockets_were_passed, live }
    }

    pub fn reload(&mut self) {
        let mut loaded = match Config::load(&self.sources) {
            Ok(loaded) => loaded,
            Err(errors) => return refuse(&errors),
        };
        if self.sockets_were_passed {
            loaded.config.server.listen = self.in_force.server.listen;
            loaded.config.server.socket.clone_from(&self.in_force.server.socket);
        }
        let refused = loaded.check_serve();
        if !refused.is_empty() {
            return refuse(&refused);
        }
        let (live, waiting) =
            changed(&self.in_force, &loaded.config).into_iter().partition::<Vec<_>, _>(|key| is_live(key));
        if live.iter().any(|key| key == "log.level") {
            match telemetry::set_level(&loaded.config.log.level) {
                Ok(()) => self.in_force.log.level.clone_from(&loaded.config.log.level),
                Err(why) => tracing::error!(why, "SIGHUP: the log keeps its level"),
            }
        }
        self.in_force.limits = loaded.config.limits.clone();
        self.live.limits.set(loaded.config.limits);
        let disk_reserve_mb = self.in_force.resources.disk_reserve_mb;
        self.in_force.resources = Resources { disk_reserve_mb, ..loaded.config.resources };
        self.live.resources.send_replace(self.in_force.resources.clone());
        let changed = live.join(", ");
        tracing::info!(changed, "SIGHUP: the settings were read again");
        if !waiting.is_empty() {
            let keys = waiting.join(", ");
            tracing::warn!(keys, "SIGHUP: these take effect at the next start");
        }
    }
}

fn refuse(errors: &[impl std::fmt::Display]) {
    for error in errors {
        tracing::error!("SIGHUP: {error}");
    }
    tracing::error!("SIGHUP: nothing was changed; `cove config check` tells the same");
}

fn is_live(key: &str) -> bool {
    key != DISK_RESERVE
        && LIVE.iter().any(|live| if live.ends_with('.') { key.starts_with(live) } else { key == *live })
}

/// `section.key` of what differs.
fn changed(before: &Config, after: &Config) -> Vec<String> {
    let table =
        |config: &Config| toml::from_str::<toml::Table>(&config.to_toml()).expect("what was written can be read");
    let (before, after) = (table(before), table(after));
    let mut keys = Vec::new();
    for (section, values) in &after {
        let old = before.get(section).and_then(toml::Value::as_table);
        for (name, value) in values.as_table().into_iter().flatten() {
            if old.and_then(|old| old.get(name)) != Some(value) {
                keys.push(format!("{section}.{name}"));
            }
        }
        // A key that is not set any more.
        let gone = old.into_iter().flatten().map(|(name, _)| name).filter(|name| values.get(name).is_none());
        keys.extend(gone.map(|name| format!("{section}.{name}")));
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_told_by_its_key() {
        let before = Config::default();
        let mut after = before.clone();
        assert_eq!(changed(&before, &after), Vec::<String>::new());
        after.limits.requests += 1;
        after.engine.slots += 1;
        after.browser.chromium = Some("/opt/chromium".into());
        let mut keys = changed(&before, &after);
        keys.sort();
        assert_eq!(keys, ["browser.chromium", "engine.slots", "limits.requests"]);
        assert_eq!(changed(&after, &before).len(), 3, "also what is not set any more");
        assert!(is_live("resources.cpu_threshold_percent") && !is_live("resources.disk_reserve_mb"));
        assert!(
            is_live("limits.requests") && is_live("log.level") && !is_live("log.format") && !is_live("engine.slots")
        );
    }
}
