//! The command line: one binary, `cove`.
//!
//! This file has the tree of commands and says which file carries each out. `local` needs no daemon,
//! `online` talks to one (its commands stand in `words`), `submit` is `cove run`. It uses nothing of the
//! daemon but its HTTP API, as any user would; `anyhow` is for messages here and nowhere below.

pub mod demo;
mod doctor;
pub mod exit;
mod follow;
mod local;
mod maintenance;
mod online;
mod open;
mod papers;
pub mod practice;
pub mod remote;
mod render;
mod snapshots;
mod submit;
mod tokens;
mod words;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};

use crate::browser::host::HostOptions;
use crate::config::{Config, Loaded, Sources};
use crate::model::token::why_mistyped;
use remote::{Client, RemoteError};

/// Publishes your own media through your own browser profiles, unattended and never twice.
#[derive(Parser)]
#[command(name = "cove", version, after_help = exit::HELP, propagate_version = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Args)]
struct Global {
    /// Configuration file (default: /etc/cove/cove.toml, or cove/cove.toml in the user's configuration)
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Talk to the daemon at this address instead of its unix socket
    #[arg(long, global = true, env = "COVE_URL", value_name = "URL", value_parser = parse_url)]
    url: Option<String>,
    /// The daemon's unix socket
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// File with a bearer token (or the token itself in `COVE_TOKEN`)
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Global {
    /// An empty `COVE_URL` is one that is not set.
    fn url(&self) -> Option<&str> {
        self.url.as_deref().filter(|url| !url.is_empty())
    }
}

fn parse_url(text: &str) -> Result<String, String> {
    let known = |url: &reqwest::Url| matches!(url.scheme(), "http" | "https");
    let base = |url: &reqwest::Url| known(url) && url.has_host() && url.query().is_none();
    if text.is_empty() || reqwest::Url::parse(text).is_ok_and(|url| base(&url)) {
        return Ok(text.to_owned());
    }
    Err("allowed is an http or https address, for example http://127.0.0.1:8088 or https://cove.example.org".to_owned())
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon
    Serve {
        /// Keep all state here, whatever the configuration says
        #[arg(long, value_name = "DIR")]
        state_dir: Option<PathBuf>,
    },
    /// Publish six files to a practice site on this machine and show the evidence
    Demo(demo::DemoArgs),
    /// The only part that starts Chromium; the daemon runs it
    BrowserHost(HostOptions),
    /// A site to try flows on, on this machine; the demo and the tests publish to it
    PracticeSite(practice::PracticeArgs),
    /// Submit one flow, follow it, exit by its outcome
    #[command(after_help = submit::EXAMPLES)]
    Run(submit::RunArgs),
    /// Tasks: what was asked
    #[command(subcommand)]
    Tasks(words::TasksCommand),
    /// Items: one flow, one profile, one set of inputs
    #[command(subcommand)]
    Items(words::ItemsCommand),
    /// Locks: who holds what
    #[command(subcommand)]
    Locks(words::LocksCommand),
    /// Sessions: browsers that programs drive through cove
    #[command(subcommand)]
    Sessions(words::SessionsCommand),
    /// Browser profiles
    #[command(subcommand)]
    Profiles(words::ProfilesCommand),
    /// Flows: recordings of Chrome DevTools Recorder
    #[command(subcommand)]
    Flows(words::FlowsCommand),
    /// Snapshots: backups of the whole state, each one file
    #[command(subcommand)]
    Snapshots(snapshots::SnapshotsCommand),
    /// Maintenance: jobs that keep the house clean
    #[command(subcommand)]
    Maintenance(maintenance::MaintenanceCommand),
    /// What the daemon does now
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Start nothing more until `cove resume`
    Pause,
    /// Go on after a pause
    Resume {
        /// After a restore or a damaged ledger: go on although something may be published twice
        #[arg(long)]
        accept_duplicates: bool,
    },
    /// Look at everything that cove needs, and say what to do where something is wrong
    #[command(after_help = doctor::HELP)]
    Doctor(doctor::DoctorArgs),
    /// Tokens: who may call the API over TCP
    #[command(subcommand)]
    Tokens(tokens::TokensCommand),
    /// The configuration
    #[command(subcommand)]
    Config(local::ConfigCommand),
    /// Print what completes commands in a shell: bash, zsh, fish, elvish or powershell
    Completions(papers::CompletionsArgs),
    /// Print the manual page, or write those of all commands
    Man(papers::ManArgs),
}

/// For threads that nobody waits for any more.
const LAST_GRACE: Duration = Duration::from_secs(2);

impl Command {
    /// The daemon serves several browsers; everything else waits for one thing at a time.
    const fn wants_threads(&self) -> bool {
        matches!(self, Self::Serve { .. } | Self::Demo(_) | Self::BrowserHost(_) | Self::PracticeSite(_))
    }
}

/// Parses the command line, carries it out, answers with the exit code.
#[must_use]
pub fn main() -> u8 {
    let cli = Cli::parse();
    let mut runtime = if cli.command.wants_threads() {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    let runtime = match runtime.worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cove: the runtime cannot be started: {error}");
            return exit::FAILED;
        }
    };
    let code = match runtime.block_on(run(cli)) {
        Ok(code) => code,
        Err(error) => {
            tell(&format!("cove: {error:#}"));
            error.downcast_ref::<RemoteError>().map_or(exit::FAILED, RemoteError::exit_code)
        }
    };
    // All that matters has ended; the look-up of a name that was given up may go on for half a minute.
    runtime.shutdown_timeout(LAST_GRACE);
    code
}

async fn run(cli: Cli) -> anyhow::Result<u8> {
    let Cli { global, command } = cli;
    match command {
        Command::Serve { state_dir } => Ok(local::serve(global.config, state_dir).await),
        Command::Demo(args) => demo::run(args).await,
        Command::BrowserHost(options) => local::browser_host(global.config, options).await,
        Command::PracticeSite(args) => practice::run(args).await,
        Command::Doctor(args) => doctor::run(&global, args).await,
        Command::Tokens(command) => tokens::run(&global, command).await,
        Command::Snapshots(command) => snapshots::run(&global, command).await,
        Command::Config(command) => Ok(local::config(&command, global.config)),
        Command::Completions(args) => Ok(papers::completions(&args)),
        Command::Man(args) => papers::man(&args),
        Command::Flows(words::FlowsCommand::Check { file, json }) => local::check_flow(&file, json),
        command => {
            let client = match connect(&global)? {
                Ok(client) => client,
                Err(code) => return Ok(code),
            };
            online(&client, &global, command).await
        }
    }
}

async fn online(client: &Client, global: &Global, command: Command) -> anyhow::Result<u8> {
    match command {
        Command::Run(args) => submit::run(client, args).await,
        Command::Tasks(command) => online::tasks(client, command).await,
        Command::Items(command) => online::items(client, command).await,
        Command::Locks(command) => online::locks(client, command).await,
        Command::Sessions(command) => online::sessions(client, command).await,
        Command::Flows(command) => online::flows(client, command).await,
        Command::Profiles(words::ProfilesCommand::Open { name, headless }) => {
            open::open(client, global, &name, headless).await
        }
        Command::Profiles(command) => online::profiles(client, command).await,
        Command::Maintenance(command) => maintenance::run(client, command).await,
        Command::Status { json } => online::status(client, json).await,
        Command::Pause => online::pause(client).await,
        Command::Resume { accept_duplicates } => online::resume(client, accept_duplicates).await,
        Command::Serve { .. }
        | Command::Demo(_)
        | Command::BrowserHost(_)
        | Command::PracticeSite(_)
        | Command::Doctor(_)
        | Command::Tokens(_)
        | Command::Snapshots(_)
        | Command::Completions(_)
        | Command::Man(_)
        | Command::Config(_) => unreachable!("carried out without a daemon"),
    }
}

/// The settings; every mistake is printed.
fn load(file: Option<PathBuf>, state_dir: Option<PathBuf>) -> Result<Loaded, u8> {
    Config::load(&Sources::from_process(file, state_dir)).map_err(|errors| {
        for error in &errors {
            tell(&format!("cove: {error}"));
        }
        exit::CONFIG
    })
}

/// `--url`, else `--socket`, else the socket of the configuration.
fn connect(global: &Global) -> anyhow::Result<Result<Client, u8>> {
    let client = match (global.url(), &global.socket) {
        // A flag wins over COVE_URL in the environment.
        (_, Some(socket)) => Client::unix(socket)?,
        (Some(url), None) => Client::url(url)?,
        (None, None) => match load(global.config.clone(), None) {
            Ok(loaded) => Client::unix(&loaded.config.socket_path())?,
            Err(code) => return Ok(Err(code)),
        },
    };
    Ok(token(global)?.map(|token| client.with_token(token)).map_err(|mistyped| {
        tell(&mistyped);
        exit::USAGE
    }))
}

/// The bearer token: of the file, else of the environment. Or why it is not one, which then is not to be sent.
fn token(global: &Global) -> anyhow::Result<Result<Option<String>, String>> {
    let token = match &global.token_file {
        Some(file) => {
            let token = std::fs::read_to_string(file);
            Some(token.with_context(|| format!("--token-file {}", file.display()))?.trim().to_owned())
        }
        None => std::env::var("COVE_TOKEN").ok().filter(|token| !token.is_empty()),
    };
    let Some(why) = token.as_deref().and_then(why_mistyped) else { return Ok(Ok(token)) };
    let from = global.token_file.as_ref().map_or("COVE_TOKEN".to_owned(), |file| file.display().to_string());
    Ok(Err(format!("cove: the token of {from} is mistyped, and was not sent: {why}")))
}

/// Prints to stdout. A reader that has gone away (`| head`) has what it wanted: the command goes on to its
/// own exit code, which a script may rely on. Output that is lost otherwise (a full disk) is a failure.
fn print(text: &str) {
    use std::io::{ErrorKind, Write};
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            tell(&format!("cove: the output cannot be written: {error}"));
            std::process::exit(i32::from(exit::FAILED));
        }
        _ => {}
    }
}

/// Says something on stderr; when nobody can read it, there is nobody left to tell (`eprintln!` would
/// panic, and hide the exit code).
fn tell(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

fn print_json(value: &serde_json::Value) {
    print(&serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string()));
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::Cli;

    #[test]
    fn the_tree_of_commands_is_sound() {
        Cli::command().debug_assert();
    }

    /// clap would give the value to both.
    #[test]
    fn no_command_has_a_flag_of_the_same_name_as_one_of_all_commands() {
        fn walk(command: &clap::Command, globals: &[&str]) {
            // The browser host talks to no daemon: `--socket` is its own there.
            for sub in command.get_subcommands().filter(|sub| sub.get_name() != "browser-host") {
                for arg in sub.get_arguments().filter(|arg| !arg.is_global_set()) {
                    let long = arg.get_long().unwrap_or_default();
                    assert!(!globals.contains(&long), "{} --{long}", sub.get_name());
                }
                walk(sub, globals);
            }
        }
        let cli = Cli::command();
        let globals = cli.get_arguments().filter(|arg| arg.is_global_set()).filter_map(clap::Arg::get_long);
        walk(&cli, &globals.collect::<Vec<_>>());
    }

    #[test]
    fn every_command_and_every_flag_is_explained() {
        fn walk(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some() || command.is_hide_set(), "{path}");
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                assert!(arg.get_help().is_some_and(|help| !help.to_string().is_empty()), "{path} {}", arg.get_id());
            }
            command.get_subcommands().filter(|sub| !sub.is_hide_set()).for_each(|sub| walk(sub, &path));
        }
        walk(&Cli::command(), "");
    }

    #[test]
    fn commands_are_understood() {
        for line in [
            "cove serve --state-dir /tmp/x --config /etc/cove.toml",
            "cove run atelier --profile anna --profile boris --input caption=a=b --input video=/x.mp4 --no-follow",
            "cove tasks list --state running --json",
            "cove tasks watch t1",
            "cove items show i1 --json",
            "cove profiles open anna",
            "cove locks list --kind task --owner w --json --limit 7",
            "cove locks list --kind task --key 7",
            "cove locks cleanup --dry-run",
            "cove locks cleanup --owner w --force --json",
            "cove sessions list --json",
            "cove sessions close s7",
            "cove flows add atelier flow.json",
            "cove flows check flow.json --json",
            "cove config show",
            "cove completions fish",
            "cove man",
            "cove man --dir /tmp/man",
            "cove tokens create ci --scope read --scope submit --expires-days 90 --json",
            "cove tokens list --json",
            "cove tokens revoke k7",
            "cove snapshots create --no-wait --json",
            "cove snapshots list --json",
            "cove snapshots verify cove-20261130T142200Z-3-17.snapshot --json",
            "cove snapshots restore /srv/backup/x.snapshot",
            "cove maintenance list --json",
            "cove maintenance run lock_cleanup --no-wait --json",
            "cove doctor --json",
            "cove doctor --profile anna --config /etc/cove.toml",
            "cove --url http://127.0.0.1:8088 status",
            "cove flows show atelier --json",
            "cove resume --accept-duplicates",
            "cove --url https://h status",
            "cove tasks retry t1",
            "cove tasks pause t1",
            "cove items resolve i1 published --published-url http://x --note seen",
            "cove items resolve i1 not-published",
            "cove profiles unpark anna",
            "cove flows run atelier --profile anna --input caption=a --publish",
            "cove browser-host --profiles-dir /x --socket /y --sandbox false --until-stdin-ends",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "cove",
            "cove --url foo status",
            "cove --url ftp://h status",
            "cove run atelier",
            "cove tasks show",
            "cove locks list --key 7",
            "cove locks cleanup --force",
            "cove tokens create ci",
            "cove tokens create ci --scope everything",
            "cove run atelier --profile a --input caption",
        ] {
            assert_eq!(Cli::try_parse_from(line.split(' ')).err().map(|error| error.exit_code()), Some(2), "{line}");
        }
    }
}
