//! Commands that need no daemon: the daemon itself, its browser host, the configuration, a flow's check.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;

use super::{exit, load, print, print_json, tell};
use crate::browser::host::{self, HostOptions};
use crate::config::{Log, Sources};
use crate::daemon::{self, Passed};
use crate::model::flow::{Flow, Severity};
use crate::telemetry;

#[derive(Subcommand)]
pub enum ConfigCommand {
    /// Report every mistake, or nothing
    Check {
        /// The file to check (default: the one in force)
        file: Option<PathBuf>,
    },
    /// Print what is in force, and where it comes from
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub async fn serve(file: Option<PathBuf>, state_dir: Option<PathBuf>) -> u8 {
    let sources = Sources::from_process(file.clone(), state_dir.clone());
    let mut loaded = match load(file, state_dir) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    // First: who may be let in depends on where the daemon really listens.
    let (passed, mut refused) = match Passed::take(&mut loaded) {
        Ok(passed) => (passed, Vec::new()),
        Err(errors) => (Passed::default(), errors),
    };
    refused.extend(loaded.check_serve());
    if !refused.is_empty() {
        for error in refused {
            tell(&format!("cove: {error}"));
        }
        return exit::CONFIG;
    }
    if let Err(why) = telemetry::init(&loaded.config.log) {
        tell(&format!("cove: {why}"));
        return exit::CONFIG;
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let ended = match daemon::serve(loaded.config, sources, passed).await {
        Ok(()) => exit::OK,
        Err(error) => {
            // On a terminal the log may be elsewhere; under systemd this line is the status.
            tracing::error!(%error, "the daemon ends");
            tell(&format!("cove: {error}"));
            error.exit_code()
        }
    };
    telemetry::end();
    ended
}

pub async fn browser_host(file: Option<PathBuf>, options: HostOptions) -> anyhow::Result<u8> {
    // The host needs nothing of the settings but how to log; as a child it is given everything else.
    let log = load(file, Some(options.profiles_dir.clone())).map(|loaded| loaded.config.log).unwrap_or_default();
    // The file is the daemon's, and one process alone rotates it.
    telemetry::init(&Log { file: None, ..log }).map_err(anyhow::Error::msg)?;
    host::run(options).await?;
    Ok(exit::OK)
}

pub fn config(command: &ConfigCommand, file: Option<PathBuf>) -> u8 {
    match command {
        ConfigCommand::Check { file: given } => {
            let loaded = match load(given.clone().or(file), None) {
                Ok(loaded) => loaded,
                Err(code) => return code,
            };
            for warning in &loaded.warnings {
                tell(&format!("cove: warning: {warning}"));
            }
            let refused = loaded.check_serve();
            for error in &refused {
                tell(&format!("cove: {error}"));
            }
            if !refused.is_empty() {
                return exit::CONFIG;
            }
            let file = loaded.file.map_or("no file, the defaults".to_owned(), |file| file.display().to_string());
            print(&format!("ok: {file}"));
        }
        ConfigCommand::Show { json } => {
            let loaded = match load(file, None) {
                Ok(loaded) => loaded,
                Err(code) => return code,
            };
            let config = &loaded.config;
            if *json {
                print_json(&json!({"config": config, "origins": loaded.origins, "file": loaded.file,
                    "state_dir": config.state_dir(), "socket": config.socket_path()}));
                return exit::OK;
            }
            print(config.to_toml().trim_end());
            print(&format!("\n# state directory: {}", config.state_dir().display()));
            print(&format!("# unix socket: {}", config.socket_path().display()));
            for (key, origin) in &loaded.origins {
                print(&format!("# {key}: from {origin}"));
            }
        }
    }
    exit::OK
}

/// Every problem of a recording, without a daemon.
pub fn check_flow(file: &Path, as_json: bool) -> anyhow::Result<u8> {
    let recording = std::fs::read(file).map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
    let (problems, good) = match Flow::parse(&recording) {
        Ok((_, warnings)) => (warnings, true),
        Err(problems) => (problems, false),
    };
    if as_json {
        print_json(&json!({"ok": good, "problems": problems}));
    } else {
        for problem in &problems {
            let severity = if problem.severity == Severity::Error { "error" } else { "warning" };
            let step = problem.step.map_or("flow".to_owned(), |step| format!("step {step}"));
            print(&format!("{step}  {}  {severity}: {}", problem.pointer, problem.message));
        }
        if good {
            print(&format!("ok: {}", file.display()));
        }
    }
    Ok(if good { exit::OK } else { exit::FAILED })
}
