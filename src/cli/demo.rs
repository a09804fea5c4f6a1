//! `cove demo`: the whole job once, on this machine, from one command.
//!
//! In a temporary folder it starts the daemon and the practice site, submits one bulk upload of six
//! items through the ordinary API, follows it, and then asks the site what it received. It believes the
//! site alone: exit code 0 means that each file arrived exactly once with its caption and its hash.
//!
//! It owns its two children and ends them on every way out, save with `--keep`. It uses nothing of the
//! daemon but its command line and its API, as any user would.

mod children;
mod follow;
pub(super) mod machine;
mod media;
mod plan;
mod report;
mod verdict;

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::practice::Post;
use super::remote::Client;
use children::Child;
use machine::Layout;
use report::Row;

/// Every file arrived exactly once.
pub const EXIT_PUBLISHED: u8 = 0;
/// Something is not as it should be; it was printed.
pub const EXIT_NOT_PUBLISHED: u8 = 1;
/// Ended by Ctrl-C or SIGTERM.
pub const EXIT_INTERRUPTED: u8 = 130;

/// For everything up to the verdict.
const DEADLINE: Duration = Duration::from_mins(5);
/// The daemon first closes its browsers and hands back what it runs.
const DAEMON_STOPS_WITHIN: Duration = Duration::from_secs(20);
const SITE_STOPS_WITHIN: Duration = Duration::from_secs(5);

/// Publishes six posts to a practice site on this machine, and shows the evidence.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// Leave the daemon and the practice site running, and print where they are.
    #[arg(long)]
    pub keep: bool,
}

/// What runs while the demo plays.
#[derive(Default)]
struct Stage {
    site: Option<Child>,
    daemon: Option<Child>,
}

/// How it went.
struct Outcome {
    rows: Vec<Row>,
    wrong: Vec<String>,
    api_url: String,
    site_url: String,
}

#[derive(Deserialize)]
struct Started {
    task_id: String,
}

#[derive(Deserialize)]
struct Posts {
    posts: Vec<Post>,
}

/// Plays the demo; the exit code is one of the constants here.
pub async fn run(args: DemoArgs) -> anyhow::Result<u8> {
    let browser = find_browser()?;
    let dir = tempfile::Builder::new().prefix("cove-demo-").tempdir().context("cannot make a temporary folder")?.keep();
    let layout = Layout { dir };
    println!("Everything of this demo is in {}", layout.dir.display());

    let mut stage = Stage::default();
    let played = tokio::select! {
        played = play(&layout, &browser, &mut stage) => Some(played),
        stopped = interrupted() => stopped.err().map(Err),
    };
    let told = match played {
        Some(Ok(outcome)) => tell(&layout, &outcome).map(|code| (code, Some(outcome))),
        Some(Err(error)) => Err(error),
        None => {
            println!("Interrupted.");
            Ok((EXIT_INTERRUPTED, None))
        }
    };
    match told {
        Ok((code, Some(outcome))) if args.keep => {
            keep(stage, &outcome);
            Ok(code)
        }
        told => {
            clear(stage, &layout).await;
            let (code, _) =
                told.with_context(|| format!("the demo failed; its logs are in {}", layout.dir.display()))?;
            Ok(code)
        }
    }
}

fn find_browser() -> anyhow::Result<std::path::PathBuf> {
    machine::find_browser(&std::env::var_os("PATH").unwrap_or_default()).with_context(|| {
        let system = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        format!("no Chromium or Chrome was found: {}", machine::how_to_install(&system))
    })
}

async fn interrupted() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

async fn play(layout: &Layout, browser: &Path, stage: &mut Stage) -> anyhow::Result<Outcome> {
    let deadline = Instant::now() + DEADLINE;
    let no_sandbox = machine::why_no_sandbox(browser).await;
    if let Some(why) = no_sandbox {
        println!("Chromium's own sandbox is off in this demo: {why}.");
    }
    let text = layout.configuration(browser, no_sandbox.is_none(), plan::PROFILES.len())?;
    std::fs::write(layout.config(), text).with_context(|| format!("cannot write {}", layout.config().display()))?;
    let expected = plan::make(&layout.videos())?;

    let (site_url, api_url) = start(layout, stage).await?;
    println!("The daemon listens on {api_url}, the practice site on {site_url}");
    let (api, site) = (Client::url(&api_url)?, Client::url(&site_url)?);

    let flow = format!("/api/v1/flows/{}", plan::FLOW);
    follow::bounded(api.put_bytes(&flow, plan::RECORDING.into())).await.context("storing the flow")?;
    for name in plan::PROFILES {
        let made = follow::bounded(api.post("/api/v1/profiles", &json!({ "name": name }))).await;
        made.with_context(|| format!("making the profile {name}"))?;
    }
    let request = plan::request(&expected, &site_url);
    let started = follow::bounded(api.post("/api/v1/bulk-upload/start", &request)).await.context("submitting")?;
    let task = serde_json::from_value::<Started>(started).context("the answer to the submit")?.task_id;
    println!("Task {task}: {} items, {} profiles", expected.len(), plan::PROFILES.len());

    let daemon = stage.daemon.as_mut().context("the daemon was started above")?;
    let last = follow::follow(&api, &task, daemon, deadline).await?;
    let items = follow::items(&api, &task).await?;
    let posts = follow::ask::<Posts>(&site, "/posts").await?.posts;

    let rows = report::rows(&expected, &items, &posts, layout);
    let mut wrong = verdict::compare(&expected, &posts);
    wrong.extend(rows.iter().filter_map(|row| {
        let why = row.trouble.as_ref()?;
        Some(format!("{} of {}: {why}", row.file, row.profile))
    }));
    wrong.extend(
        rows.iter()
            .filter(|row| row.evidence.is_none())
            .map(|row| format!("{} of {}: no evidence", row.file, row.profile)),
    );
    if Instant::now() >= deadline {
        wrong.push(format!("the task was still {} after {} s: {}", last.state, DEADLINE.as_secs(), last.line()));
    }
    Ok(Outcome { rows, wrong, api_url, site_url })
}

/// Starts both children; answers the site's and the daemon's URLs.
async fn start(layout: &Layout, stage: &mut Stage) -> anyhow::Result<(String, String)> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let site_args = ["practice-site".into(), "--dir".into(), layout.site()];
    std::fs::create_dir_all(layout.site()).with_context(|| format!("cannot make {}", layout.site().display()))?;
    let site = stage.site.insert(Child::start("practice site", &program, site_args, layout.log("site"))?);
    let daemon_args = ["serve".into(), "--config".into(), layout.config()];
    let daemon = stage.daemon.insert(Child::start("daemon", &program, daemon_args, layout.log("daemon"))?);
    let site_address = site.address(&layout.site().join("listen")).await?;
    let api_address = daemon.address(&layout.state().join("listen")).await?;
    Ok((format!("http://{site_address}"), format!("http://{api_address}")))
}

/// Prints the table and the verdict, and writes the report.
fn tell(layout: &Layout, outcome: &Outcome) -> anyhow::Result<u8> {
    println!("\n{}\n", report::table(&outcome.rows));
    println!("Evidence: in {}, at the paths in the table", layout.dir.display());
    println!("Report:   {}", report::write(layout, &outcome.rows, &outcome.wrong)?.display());
    if outcome.wrong.is_empty() {
        println!(
            "The site received each of the {} files exactly once, with the right caption and hash.",
            outcome.rows.len()
        );
        return Ok(EXIT_PUBLISHED);
    }
    println!("Not as it should be:");
    for line in &outcome.wrong {
        println!("  {line}");
    }
    Ok(EXIT_NOT_PUBLISHED)
}

fn keep(stage: Stage, outcome: &Outcome) {
    let children: Vec<Child> = [stage.daemon, stage.site].into_iter().flatten().collect();
    let pids: Vec<String> = children.iter().map(|child| child.pid.to_string()).collect();
    children.into_iter().for_each(Child::release);
    println!("\nStill running, as asked:");
    println!("  the daemon         {}/", outcome.api_url);
    println!("  the practice site  {}/ (what it received: {}/posts)", outcome.site_url, outcome.site_url);
    println!("  stop both with     kill {}", pids.join(" "));
}

/// Ends the children and removes what nobody needs afterwards: browser data, videos, the site's copies.
async fn clear(stage: Stage, layout: &Layout) {
    if let Some(daemon) = stage.daemon {
        daemon.stop(DAEMON_STOPS_WITHIN).await.into_iter().for_each(|trouble| eprintln!("{trouble}"));
    }
    if let Some(site) = stage.site {
        site.stop(SITE_STOPS_WITHIN).await.into_iter().for_each(|trouble| eprintln!("{trouble}"));
    }
    for folder in [layout.profiles(), layout.videos(), layout.site()] {
        match tokio::fs::remove_dir_all(&folder).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                eprintln!("cannot remove {}: {error}", folder.display());
            }
            _ => {}
        }
    }
    println!(
        "Stopped. Browser profiles and videos are removed; evidence, report and logs stay in {}",
        layout.dir.display()
    );
}
