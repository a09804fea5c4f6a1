//! `cove run` and `cove flows run`: one flow, one item a profile, submitted and followed; the exit code is the
//! outcome.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::remote::{Client, encoded};
use super::{exit, follow, print, print_json, render, tell};

pub const EXAMPLES: &str = "Examples:
  cove run atelier --profile anna --input video=/srv/media/1.mp4 --input caption='Good morning'
  cove run atelier --profile anna --profile boris --input video=./1.mp4 --no-follow";

#[derive(clap::Args)]
pub struct RunArgs {
    /// The flow's name
    flow: String,
    /// Profile to run it in; several give one item each
    #[arg(long = "profile", required = true, value_name = "PROFILE")]
    profiles: Vec<String>,
    /// An input of the flow; a file by its path
    #[arg(long = "input", value_name = "NAME=VALUE", value_parser = parse_input)]
    inputs: Vec<(String, String)>,
    /// Names the thing that is published: the same key never goes out twice (one profile alone)
    #[arg(long)]
    key: Option<String>,
    /// The same key and the same request give the same task
    #[arg(long)]
    idempotency_key: Option<String>,
    /// Higher goes first
    #[arg(long, allow_hyphen_values = true)]
    priority: Option<i32>,
    #[arg(long)]
    max_attempts: Option<u32>,
    /// RFC 3339: not before this time
    #[arg(long, value_name = "TIME")]
    not_before: Option<String>,
    /// Submit and return
    #[arg(long)]
    no_follow: bool,
    /// Print the task (and its items) as JSON
    #[arg(long)]
    json: bool,
}

fn parse_input(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("an input is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// What the flow declares of each input: its type.
fn types(flow: &Value) -> BTreeMap<String, String> {
    let inputs = flow["cove"]["inputs"].as_object().into_iter().flatten();
    inputs.map(|(name, spec)| (name.clone(), render::text(spec, "type"))).collect()
}

/// A value as the flow's type wants it; what does not fit is left to the daemon to refuse.
fn value(kind: Option<&str>, text: &str) -> Value {
    match kind {
        Some("number") => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
        Some("bool") => match text {
            "true" | "yes" | "1" => true.into(),
            "false" | "no" | "0" => false.into(),
            other => other.into(),
        },
        Some("file") if !text.starts_with('/') && !text.starts_with("sha256:") => {
            std::path::absolute(Path::new(text)).map_or_else(|_| text.into(), |path| path.display().to_string().into())
        }
        _ => text.into(),
    }
}

fn request(args: &RunArgs, types: &BTreeMap<String, String>) -> Value {
    let inputs: Map<String, Value> = args
        .inputs
        .iter()
        .map(|(name, text)| (name.clone(), value(types.get(name).map(String::as_str), text)))
        .collect();
    let items: Vec<_> = args
        .profiles
        .iter()
        .map(|profile| {
            let mut item = json!({"profile": profile, "inputs": inputs});
            if let Some(key) = &args.key {
                item["key"] = json!(key);
            }
            if let Some(not_before) = &args.not_before {
                item["not_before"] = json!(not_before);
            }
            item
        })
        .collect();
    let mut request = json!({"items": items});
    if let Some(priority) = args.priority {
        request["priority"] = json!(priority);
    }
    if let Some(max_attempts) = args.max_attempts {
        request["max_attempts"] = json!(max_attempts);
    }
    request
}

pub async fn run(client: &Client, args: RunArgs) -> anyhow::Result<u8> {
    let mut request = request_of(client, &args).await?;
    request["flow"] = json!(args.flow);
    submit(client, args, "/api/v1/bulk-upload/start", &request).await
}

/// `cove flows run`: every step before the commit point, and nothing is published.
pub async fn rehearse(client: &Client, args: RunArgs) -> anyhow::Result<u8> {
    let path = format!("/api/v1/flows/{}/run", encoded(&args.flow));
    let request = request_of(client, &args).await?;
    submit(client, args, &path, &request).await
}

/// All but the flow, which a rehearsal names in its path.
async fn request_of(client: &Client, args: &RunArgs) -> anyhow::Result<Value> {
    let flow = client.get(&format!("/api/v1/flows/{}", encoded(&args.flow))).await?;
    Ok(request(args, &types(&flow)))
}

async fn submit(client: &Client, args: RunArgs, path: &str, request: &Value) -> anyhow::Result<u8> {
    let headers: Vec<_> = args.idempotency_key.iter().map(|key| ("idempotency-key", key.as_str())).collect();
    let made = client.post_with(path, request, &headers).await?;
    for warning in made["warnings"].as_array().into_iter().flatten() {
        let facts = (render::text(warning, "code"), render::text(warning, "item_id"));
        tell(&format!("warning: {}: the same was submitted as {}", facts.0, facts.1));
    }
    let id = render::text(&made, "task_id");
    if args.no_follow {
        if args.json {
            print_json(&made);
        } else {
            print(&id);
        }
        return Ok(exit::OK);
    }
    let task = follow::follow(client, &id, args.json).await?;
    let items = follow::items(client, &id).await?;
    if args.json {
        print_json(&json!({"task": task, "items": items}));
    } else {
        print(&items.iter().map(render::item).collect::<Vec<_>>().join("\n\n"));
    }
    Ok(follow::exit_code(&task))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{types, value};

    #[test]
    fn values_follow_the_flows_types() {
        let types = types(&json!({"cove": {"inputs": {"n": {"type": "number"}, "v": {"type": "file"}}}}));
        let of = |name: &str, text: &str| value(types.get(name).map(String::as_str), text);
        assert_eq!(of("n", "2.5"), json!(2.5));
        assert_eq!(of("n", "many"), json!("many"));
        assert_eq!(of("v", "/x.mp4"), json!("/x.mp4"));
        assert!(of("v", "x.mp4").as_str().is_some_and(|path| path.starts_with('/') && path.ends_with("/x.mp4")));
        assert_eq!(of("other", "true"), json!("true"));
        assert_eq!(value(Some("bool"), "yes"), json!(true));
    }
}
