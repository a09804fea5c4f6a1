//! `cove maintenance`: the jobs of a running daemon, and a run by hand.
//!
//! A run is followed to its end, so that a script has its result as an exit code; the daemon does it all.

use std::time::Duration;

use clap::Subcommand;
use serde_json::Value;

use super::remote::{Client, encoded};
use super::{exit, print, print_json, render};

/// Between two looks at a job that runs.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Subcommand)]
pub enum MaintenanceCommand {
    /// Jobs: when they run, and how the last run ended
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Run one now and wait for its end; exit 1 when it fails
    Run {
        /// As `list` shows it
        job: String,
        /// Only begin it
        #[arg(long)]
        no_wait: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

fn show(job: &Value, json: bool) {
    if json {
        print_json(job);
    } else {
        print(&table(std::slice::from_ref(job)));
    }
}

fn table(jobs: &[Value]) -> String {
    let rows = jobs.iter().map(|job| {
        let result = if job["running"] == true { "running".to_owned() } else { render::text(job, "last_result") };
        let schedule = job["schedule"].as_str().unwrap_or("off").to_owned();
        let (last, next) = (render::time(job, "last_run_at"), render::time(job, "next_run_at"));
        let seconds = job["last_duration_seconds"].as_f64().map(|seconds| format!("{seconds:.1}"));
        let seconds = seconds.unwrap_or_default();
        vec![render::text(job, "name"), schedule, last, seconds, result, next, render::text(job, "last_detail")]
    });
    render::table(&["job", "schedule", "last run", "seconds", "result", "next run", "what was done, or why not"], rows)
}

pub async fn run(client: &Client, command: MaintenanceCommand) -> anyhow::Result<u8> {
    match command {
        MaintenanceCommand::List { json } => {
            let answer = client.get("/api/v1/maintenance").await?;
            if json {
                print_json(&serde_json::json!({"jobs": answer["jobs"]}));
            } else {
                print(&table(answer["jobs"].as_array().map_or(&[], Vec::as_slice)));
            }
            Ok(exit::OK)
        }
        MaintenanceCommand::Run { job, no_wait, json } => {
            let path = format!("/api/v1/maintenance/{}/run", encoded(&job));
            let mut found = client.post(&path, &serde_json::json!({})).await?;
            while found["running"] == true && !no_wait {
                tokio::time::sleep(LOOK_EVERY).await;
                let answer = client.look("/api/v1/maintenance").await?;
                let jobs = answer["jobs"].as_array();
                found = jobs.into_iter().flatten().find(|one| one["name"] == job.as_str()).cloned().unwrap_or_default();
            }
            show(&found, json);
            let failed = !no_wait && found["last_result"] == "failure";
            Ok(if failed { exit::FAILED } else { exit::OK })
        }
    }
}
