//! The log of one process: set up once, at the start of a long-running command.
//!
//! `auto` is human text on a terminal, journald under systemd, JSON otherwise. Everything goes to stderr
//! (or the journal); nothing secret is logged anywhere, so nothing is filtered here.

use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;

use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use crate::config::{Log, LogFormat};

/// Chatter of libraries that says nothing about cove.
const QUIET: [&str; 3] = ["chromiumoxide=off", "tungstenite=off", "hyper=info"];

/// # Errors
/// When the level is no filter, the journal cannot be reached, or a log is set up already.
pub fn init(log: &Log) -> Result<(), String> {
    let mut filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .parse(&log.level)
        .map_err(|error| format!("log.level = {}: {error}", log.level))?;
    for directive in QUIET {
        filter = filter.add_directive(directive.parse().map_err(|error| format!("{directive}: {error}"))?);
    }
    let registry = tracing_subscriber::registry().with(layer(log.format)?.with_filter(filter));
    registry.try_init().map_err(|error| format!("the log cannot be set up: {error}"))
}

fn layer(format: LogFormat) -> Result<Box<dyn Layer<Registry> + Send + Sync>, String> {
    let terminal = std::io::stderr().is_terminal();
    Ok(match format {
        LogFormat::Journald => journal()?,
        LogFormat::Auto if is_journal() => journal()?,
        LogFormat::Text => text(terminal),
        LogFormat::Auto if terminal => text(true),
        LogFormat::Auto | LogFormat::Json => {
            tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed()
        }
    })
}

fn text(colour: bool) -> Box<dyn Layer<Registry> + Send + Sync> {
    tracing_subscriber::fmt::layer().with_ansi(colour).with_writer(std::io::stderr).boxed()
}

fn journal() -> Result<Box<dyn Layer<Registry> + Send + Sync>, String> {
    let layer = tracing_journald::layer().map_err(|error| format!("the journal cannot be reached: {error}"))?;
    Ok(layer.with_syslog_identifier("cove".to_owned()).boxed())
}

/// Whether stderr is the stream that systemd connected to the journal: its device and inode are in the
/// environment.
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = std::fs::metadata("/proc/self/fd/2") else { return false };
    stream == format!("{}:{}", stderr.dev(), stderr.ino())
}
