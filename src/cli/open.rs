//! `cove profiles open`: a profile shown to a person, for signing in.
//!
//! A window where there is a display, else a DevTools link through the daemon. The command stays until
//! Ctrl-C or until the window is closed, and then closes the profile, so that its items go on.

use std::time::Duration;

use serde_json::{Value, json};

use super::remote::{Client, encoded};
use super::{Global, exit, load, print, render};

const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) async fn open(client: &Client, global: &Global, name: &str, headless: bool) -> anyhow::Result<u8> {
    let display = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
    let headless = headless || !display;
    let path = format!("/api/v1/profiles/{}", encoded(name));
    client.post(&format!("{path}/open"), &json!({"headless": headless})).await?;
    let shown = tokio::select! {
        shown = show(client, global, &path, headless) => shown,
        interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| exit::OK).map_err(Into::into),
    };
    // Closed already where the window was: that is as good.
    if let Err(error) = client.post(&format!("{path}/close"), &json!({})).await
        && error.exit_code() != exit::REFUSED
    {
        eprintln!("cove: {error}");
    }
    shown
}

/// Until the window is closed.
async fn show(client: &Client, global: &Global, path: &str, headless: bool) -> anyhow::Result<u8> {
    let mut told = false;
    loop {
        let profile = client.get(path).await?;
        if profile["state"] != "in_use_by_operator" {
            let error = render::text(&profile, "open_error");
            if !told && !error.is_empty() {
                eprintln!("cove: {error}");
                return Ok(exit::FAILED);
            }
            if told {
                print("closed");
                return Ok(exit::OK);
            }
        }
        if !told && profile["opened"]["ready"] == true {
            print(&where_it_is(global, &profile, headless));
            print("Sign in, then close the window or press Ctrl-C; its items wait until then.");
            told = true;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn where_it_is(global: &Global, profile: &Value, headless: bool) -> String {
    let Some(link) = profile["devtools_url"].as_str().filter(|_| headless) else {
        return "The profile's window is open.".to_owned();
    };
    format!("The profile is open at {}{link}", address(global))
}

/// The daemon's own address, for a link that a browser opens.
fn address(global: &Global) -> String {
    if let Some(url) = &global.url {
        return url.trim_end_matches('/').to_owned();
    }
    let listen = load(global.config.clone(), None)
        .ok()
        .and_then(|loaded| std::fs::read_to_string(loaded.config.state_dir().join("listen")).ok());
    listen.map(|address| format!("http://{}", address.trim())).unwrap_or_default()
}
