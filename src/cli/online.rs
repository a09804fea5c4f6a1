//! Commands that ask a running daemon. Listings follow its pages up to `--limit`; `--json` prints what the
//! API says.

use serde_json::{Value, json};

use super::remote::{Client, RemoteError, encoded};
use super::words::{FlowsCommand, ItemsCommand, LocksCommand, OneTask, ProfilesCommand, SessionsCommand, TasksCommand};
use super::{exit, follow, print, print_json, render, tell};

/// Rows asked for at a time: the API's most, since every page spends one request of the limit.
const PAGE: usize = 1_000;

/// Follows the pages of a listing.
async fn pages(
    client: &Client,
    path: &str,
    filters: &[(&str, &Option<String>)],
    noun: &str,
    limit: usize,
) -> Result<Vec<Value>, RemoteError> {
    let filters: String = filters
        .iter()
        .filter_map(|(name, value)| value.as_ref().map(|value| format!("&{name}={}", encoded(value))))
        .collect();
    let mut rows = Vec::new();
    let mut cursor = String::new();
    while rows.len() < limit {
        let page = (limit - rows.len()).min(PAGE);
        let answer = client.get(&format!("{path}?limit={page}{filters}{cursor}")).await?;
        rows.extend(answer[noun].as_array().into_iter().flatten().cloned());
        match answer["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", encoded(next)),
            None => break,
        }
    }
    Ok(rows)
}

fn rows_of<'a>(answer: &'a Value, noun: &str) -> &'a [Value] {
    answer[noun].as_array().map_or(&[], Vec::as_slice)
}

fn show(rows: &[Value], noun: &str, json: bool, table: fn(&[Value]) -> String) {
    if json {
        print_json(&json!({noun: rows}));
    } else if rows.is_empty() {
        tell(&format!("no {noun}"));
    } else {
        print(&table(rows));
    }
}

async fn ask_of(client: &Client, asked: &OneTask, verb: &str) -> Result<(), RemoteError> {
    let task = client.post(&format!("/api/v1/tasks/{}/{verb}", encoded(&asked.id)), &json!({})).await?;
    if asked.json {
        print_json(&task);
    } else {
        print(&render::tasks(std::slice::from_ref(&task)));
    }
    Ok(())
}

pub async fn tasks(client: &Client, command: TasksCommand) -> anyhow::Result<u8> {
    match command {
        TasksCommand::List { state, flow, profile, listing } => {
            let filters = [("state", &state), ("flow", &flow), ("profile", &profile)];
            let rows = pages(client, "/api/v1/tasks", &filters, "tasks", listing.limit).await?;
            show(&rows, "tasks", listing.json, render::tasks);
        }
        TasksCommand::Show { id, json } => {
            let path = format!("/api/v1/tasks/{}", encoded(&id));
            let task = client.get(&path).await?;
            let items = pages(client, &format!("{path}/items"), &[], "items", usize::MAX).await?;
            let events = pages(client, &format!("{path}/events"), &[], "events", usize::MAX).await?;
            let told = task["webhook"].is_object();
            let most = if told { usize::MAX } else { 0 };
            let deliveries = pages(client, &format!("{path}/webhooks"), &[], "deliveries", most).await?;
            if json {
                print_json(&json!({"task": task, "items": items, "events": events, "deliveries": deliveries}));
            } else {
                print(&render::tasks(std::slice::from_ref(&task)));
                if told {
                    print(&format!("\n{}", render::webhook(&task["webhook"], &deliveries)));
                }
                print(&format!("\n{}", render::items(&items)));
                print(&format!("\n{}", render::events(&events)));
            }
        }
        TasksCommand::Watch { id } => {
            let task = follow::follow(client, &id, false).await?;
            print(&render::tasks(std::slice::from_ref(&task)));
            return Ok(follow::exit_code(&task));
        }
        TasksCommand::Cancel(task) => ask_of(client, &task, "cancel").await?,
        TasksCommand::Pause(task) => ask_of(client, &task, "pause").await?,
        TasksCommand::Resume(task) => ask_of(client, &task, "resume").await?,
        TasksCommand::Retry { id, json } => {
            let task = client.post(&format!("/api/v1/tasks/{}/retry", encoded(&id)), &json!({})).await?;
            if json {
                print_json(&task);
            } else {
                print(&render::retried(&task));
            }
        }
    }
    Ok(exit::OK)
}

pub async fn items(client: &Client, command: ItemsCommand) -> anyhow::Result<u8> {
    match command {
        ItemsCommand::List { state, task, profile, listing } => {
            let filters = [("state", &state), ("task", &task), ("profile", &profile)];
            let rows = pages(client, "/api/v1/items", &filters, "items", listing.limit).await?;
            show(&rows, "items", listing.json, render::items);
        }
        ItemsCommand::Show { id, json } => {
            let item = client.get(&format!("/api/v1/items/{}", encoded(&id))).await?;
            if json {
                print_json(&item);
            } else {
                print(&render::item(&item));
            }
        }
        ItemsCommand::Resolve { id, outcome, published_url, note, json } => {
            let asked = json!({"outcome": outcome.name(), "url": published_url, "note": note});
            let item = client.post(&format!("/api/v1/items/{}/resolve", encoded(&id)), &asked).await?;
            if json {
                print_json(&item);
            } else {
                print(&render::items(std::slice::from_ref(&item)));
            }
        }
    }
    Ok(exit::OK)
}

pub async fn profiles(client: &Client, command: ProfilesCommand) -> anyhow::Result<u8> {
    match command {
        ProfilesCommand::List { json } => {
            let answer = client.get("/api/v1/profiles").await?;
            show(rows_of(&answer, "profiles"), "profiles", json, render::profiles);
        }
        ProfilesCommand::Add { name, json: true } => {
            print_json(&client.post("/api/v1/profiles", &json!({"name": name})).await?);
        }
        ProfilesCommand::Add { name, json: false } => {
            let made = client.post("/api/v1/profiles", &json!({"name": name})).await?;
            print(&format!("{}  {}", render::text(&made, "id"), render::text(&made, "name")));
        }
        ProfilesCommand::Close { name } => {
            client.post(&format!("/api/v1/profiles/{}/close", encoded(&name)), &json!({})).await?;
            print("closed");
        }
        ProfilesCommand::Unpark { name, json } => {
            let profile = client.post(&format!("/api/v1/profiles/{}/unpark", encoded(&name)), &json!({})).await?;
            if json {
                print_json(&profile);
            } else {
                print(&format!("{}  {}", render::text(&profile, "id"), render::text(&profile, "state")));
            }
        }
        ProfilesCommand::Open { .. } => unreachable!("has a file of its own"),
    }
    Ok(exit::OK)
}

pub async fn locks(client: &Client, command: LocksCommand) -> anyhow::Result<u8> {
    match command {
        LocksCommand::List { kind, key, owner, listing } => {
            let filters = [("kind", &kind), ("key", &key), ("owner", &owner)];
            let rows = pages(client, "/api/v1/locks", &filters, "locks", listing.limit).await?;
            show(&rows, "locks", listing.json, render::locks);
        }
        LocksCommand::Cleanup { owner, dry_run, force, json } => {
            let asked = json!({"owner": owner, "dry_run": dry_run, "force": force});
            let answer = client.post("/api/v1/locks/cleanup", &asked).await?;
            if json {
                print_json(&answer);
            } else {
                print(&render::cleanup(&answer));
            }
        }
    }
    Ok(exit::OK)
}

pub async fn sessions(client: &Client, command: SessionsCommand) -> anyhow::Result<u8> {
    match command {
        SessionsCommand::List { json } => {
            let answer = client.get("/api/v1/sessions").await?;
            show(rows_of(&answer, "sessions"), "sessions", json, render::sessions);
        }
        SessionsCommand::Close { id } => {
            client.delete(&format!("/api/v1/sessions/{}", encoded(&id))).await?;
            print("closing: its profile is free when its browser is stopped");
        }
    }
    Ok(exit::OK)
}

pub async fn flows(client: &Client, command: FlowsCommand) -> anyhow::Result<u8> {
    match command {
        FlowsCommand::Add { name, file, json } => {
            let recording = std::fs::read(&file).map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
            let put = client.put_bytes(&format!("/api/v1/flows/{}", encoded(&name)), recording).await?;
            if json {
                print_json(&put);
                return Ok(exit::OK);
            }
            for warning in put["warnings"].as_array().into_iter().flatten() {
                let facts = (render::text(warning, "pointer"), render::text(warning, "message"));
                tell(&format!("warning: {}: {}", facts.0, facts.1));
            }
            print(&format!("{}  {}", render::text(&put, "name"), render::text(&put, "hash")));
        }
        FlowsCommand::List { json } => {
            let answer = client.get("/api/v1/flows").await?;
            show(rows_of(&answer, "flows"), "flows", json, render::flows);
        }
        FlowsCommand::Show { name, json: _ } => {
            print_json(&client.get(&format!("/api/v1/flows/{}", encoded(&name))).await?);
        }
        FlowsCommand::Delete { name } => {
            client.delete(&format!("/api/v1/flows/{}", encoded(&name))).await?;
            print("deleted");
        }
        FlowsCommand::Run { args, publish: true } => return super::submit::run(client, args).await,
        FlowsCommand::Run { args, publish: false } => return super::submit::rehearse(client, args).await,
        FlowsCommand::Check { .. } => unreachable!("needs no daemon"),
    }
    Ok(exit::OK)
}

pub async fn status(client: &Client, json: bool) -> anyhow::Result<u8> {
    let status = client.get("/api/v1/status").await?;
    if json {
        print_json(&status);
    } else {
        print(&render::status(&status));
    }
    Ok(exit::OK)
}

pub async fn pause(client: &Client) -> anyhow::Result<u8> {
    client.post("/api/v1/pause", &json!({})).await?;
    print("paused: what runs goes on, nothing more is started");
    Ok(exit::OK)
}

pub async fn resume(client: &Client, accept_duplicates: bool) -> anyhow::Result<u8> {
    client.post("/api/v1/resume", &json!({"accept_duplicates": accept_duplicates})).await?;
    print("running");
    Ok(exit::OK)
}
