//! The log of one process: one subscriber, on standard error and where asked in a file, set once.
//!
//! Called by the command line before anything else runs, and at its end. `auto` is text for a human on a terminal, the
//! journal where systemd connected standard error to it, and JSON lines otherwise. Invariant: nothing of
//! chromiumoxide is logged, whatever the filter says: its messages quote whole commands, and those hold what
//! was typed into pages. What fails there is told by the rooms that use it.
//! Not here: rotation of the journal, and metrics.

mod file;
mod repeats;

use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::time::Instant;

use tracing::Metadata;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::{EnvFilter, FilterFn, filter_fn};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::{Registry, fmt, reload};

use crate::config::{Log, LogFormat};
use file::Lines;
use repeats::{Repeated, Repeats};

/// Of the fields of an event and of what it happened in: `COVE_TASK`, `COVE_ITEM`, `COVE_REQUEST_ID`.
const JOURNAL_PREFIX: &str = "COVE";
/// Targets that begin with this are never logged.
const SILENCED: &str = "chromiumoxide";

type SetLevel = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

static LEVEL: OnceLock<SetLevel> = OnceLock::new();
static FILE: OnceLock<Lines> = OnceLock::new();
static REPEATS: OnceLock<Repeats> = OnceLock::new();

/// Where and how lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Text { colour: bool },
    Json,
    Journal,
}

/// What is known of standard error.
struct StandardError {
    is_terminal: bool,
    is_journal: bool,
}

/// Sets the log of this process. The message says what is wrong and what to do.
pub fn init(log: &Log) -> Result<(), String> {
    let filter = EnvFilter::builder().parse(&log.level).map_err(|error| format!("[log] level: {error}"))?;
    let standard_error =
        StandardError { is_terminal: std::io::stderr().is_terminal(), is_journal: standard_error_is_the_journal() };
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let output = choose(log.format, &standard_error, no_colour);
    let (filter, handle) = reload::Layer::new(filter);
    let mut layers = vec![layer(output, log.format)?];
    let lines = log
        .file
        .as_ref()
        .map(|path| Lines::open(log, path).map_err(|error| format!("[log] file = \"{}\": {error}", path.display())));
    let lines = lines.transpose()?;
    layers.extend(lines.clone().map(|lines| in_file(lines, log.format)));
    let repeats = Repeats::default();
    let subscriber = Registry::default().with(layers).with(repeats.clone()).with(filter).with(silence());
    // Set once, as the subscriber is.
    drop(REPEATS.set(repeats));
    if let Some(lines) = lines {
        drop(FILE.set(lines));
    }
    drop(LEVEL.set(Box::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))));
    tracing::subscriber::set_global_default(subscriber).map_err(|_| "the log of this process is set already".to_owned())
}

/// Another filter from now on; `level` is that of the settings.
///
/// # Errors
/// What is wrong with it; the one in force stays.
pub fn set_level(level: &str) -> Result<(), String> {
    let filter = EnvFilter::builder().parse(level).map_err(|error| format!("[log] level: {error}"))?;
    LEVEL.get().map_or_else(|| Err("the log of this process is not set".to_owned()), |set| set(filter))
}

/// Tells how often was said what is not said any more; to be called about every minute.
pub fn tell_repeats() {
    tell(false);
}

/// Before the process ends: the last lines and counts.
pub fn end() {
    tell(true);
    if let Some(lines) = FILE.get() {
        lines.end();
    }
}

fn tell(all: bool) {
    let counted = REPEATS.get().map(|repeats| repeats.take(Instant::now(), all)).unwrap_or_default();
    for Repeated { target, times, message } in counted {
        tracing::warn!(of = target, times, "repeated {times} times: {message}");
    }
}

fn choose(format: LogFormat, standard_error: &StandardError, no_colour: bool) -> Output {
    let text = Output::Text { colour: standard_error.is_terminal && !no_colour };
    match format {
        LogFormat::Text => text,
        LogFormat::Journald => Output::Journal,
        LogFormat::Auto if standard_error.is_terminal => text,
        LogFormat::Auto if standard_error.is_journal => Output::Journal,
        LogFormat::Json | LogFormat::Auto => Output::Json,
    }
}

/// A journal that cannot be reached is an error where it was asked for by name; `auto` then writes JSON
/// lines, which reach the journal by standard error all the same.
fn layer(output: Output, format: LogFormat) -> Result<Box<dyn Layer<Registry> + Send + Sync>, String> {
    match output {
        Output::Text { colour } => Ok(fmt::layer().with_writer(std::io::stderr).with_ansi(colour).boxed()),
        Output::Json => Ok(json()),
        Output::Journal => match tracing_journald::layer() {
            Ok(journal) => {
                let journal = journal.with_field_prefix(Some(JOURNAL_PREFIX.to_owned()));
                Ok(journal.with_syslog_identifier("cove".to_owned()).boxed())
            }
            Err(_) if format == LogFormat::Auto => Ok(json()),
            Err(error) => Err(format!(
                "[log] format = \"journald\": the journal cannot be reached ({error}); use \"auto\", \"text\" or \"json\""
            )),
        },
    }
}

fn in_file(lines: Lines, format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    match format {
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(lines).boxed(),
        _ => fmt::layer().with_ansi(false).fmt_fields(Plain(DefaultFields::new())).with_writer(lines).boxed(),
    }
}

/// The fields of spans without colour: a layer that has the same formatter as another gets what that one made.
struct Plain(DefaultFields);

impl<'writer> FormatFields<'writer> for Plain {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> std::fmt::Result {
        self.0.format_fields(writer, fields)
    }
}

fn json() -> Box<dyn Layer<Registry> + Send + Sync> {
    fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed()
}

fn silence() -> FilterFn {
    fn is_heard(metadata: &Metadata<'_>) -> bool {
        !metadata.target().starts_with(SILENCED)
    }
    filter_fn(is_heard as fn(&Metadata<'_>) -> bool)
}

fn standard_error_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(std::io::stderr()).is_ok_and(|stat| names(&stream, stat.st_dev, stat.st_ino))
}

/// systemd writes `device:inode`, both decimal, of the stream it connected; a shell that was started
/// below a service inherits the variable and not the stream.
fn names(stream: &str, device: u64, inode: u64) -> bool {
    let parsed = stream.split_once(':').and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    parsed == Some((device, inode))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::{EnvFilter, Registry, fmt};

    use super::{Output, StandardError, choose, init, names, silence};
    use crate::config::{Log, LogFormat};

    #[test]
    fn auto_is_text_on_a_terminal_the_journal_under_systemd_and_json_otherwise() {
        let chosen = |format, is_terminal, is_journal, no_colour| {
            choose(format, &StandardError { is_terminal, is_journal }, no_colour)
        };
        assert_eq!(chosen(LogFormat::Auto, true, false, false), Output::Text { colour: true });
        assert_eq!(chosen(LogFormat::Auto, true, false, true), Output::Text { colour: false });
        assert_eq!(chosen(LogFormat::Auto, false, true, false), Output::Journal);
        assert_eq!(chosen(LogFormat::Auto, false, false, false), Output::Json);
        assert_eq!(chosen(LogFormat::Text, false, true, false), Output::Text { colour: false });
        assert_eq!(chosen(LogFormat::Json, true, true, false), Output::Json);
        assert_eq!(chosen(LogFormat::Journald, true, false, false), Output::Journal);
    }

    #[test]
    fn the_journals_stream_is_told_by_device_and_inode() {
        assert!(names("8:1234", 8, 1234));
        for other in ["8:1235", "9:1234", "8", "", "8:", "a:b", "8:1234:5"] {
            assert!(!names(other, 8, 1234), "{other}");
        }
    }

    #[derive(Clone, Default)]
    pub(super) struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Lines {
        pub(super) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_chromiumoxide_says_is_never_logged_whatever_the_filter_says() {
        let lines = Lines::default();
        let writer = lines.clone();
        let filter = EnvFilter::builder().parse("trace,chromiumoxide=trace").unwrap();
        let layer = fmt::layer().with_writer(move || writer.clone());
        tracing::subscriber::with_default(Registry::default().with(layer).with(filter).with(silence()), || {
            tracing::error!(target: "chromiumoxide::cmd", "Command typed-password exceeded deadline");
            tracing::trace!(target: "cove::engine", "heard");
        });
        let text = lines.text();
        assert!(text.contains("heard") && !text.contains("typed-password"), "{text}");
    }

    #[test]
    fn a_second_call_and_a_broken_filter_are_errors() {
        let quiet = Log { level: "off".to_owned(), format: LogFormat::Text, ..Log::default() };
        assert_eq!(init(&quiet), Ok(()));
        assert!(init(&quiet).unwrap_err().contains("set already"));
        let broken = Log { level: "cove=loud".to_owned(), ..quiet };
        assert!(init(&broken).unwrap_err().starts_with("[log] level"));
    }
}
