//! `cove profiles open`: a profile shown to a person, for signing in.
//!
//! A window where there is a display, else a DevTools link through the daemon. The command stays until
//! Ctrl-C or until the window is closed, and then closes the profile, so that its items go on.

use anyhow::Context as _;
use serde_json::{Value, json};

use super::follow::Pace;
use super::remote::{Client, RemoteError, encoded};
use super::{Global, exit, load, print, render, tell};

pub(super) async fn open(client: &Client, global: &Global, name: &str, headless: bool) -> anyhow::Result<u8> {
    let display = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
    let headless = headless || !display;
    let path = format!("/api/v1/profiles/{}", encoded(name));
    client.post(&format!("{path}/open"), &json!({"headless": headless})).await?;
    let shown = tokio::select! {
        shown = show(client, global, &path, headless) => shown,
        interrupted = interrupted() => interrupted.map(|()| exit::OK).map_err(Into::into),
    };
    // Closed already where the window was: that is as good.
    if let Err(error) = client.post(&format!("{path}/close"), &json!({})).await
        && !matches!(error, RemoteError::Refused(_))
    {
        tell(&format!("cove: {error}"));
    }
    shown
}

/// Until the window is closed.
async fn show(client: &Client, global: &Global, path: &str, headless: bool) -> anyhow::Result<u8> {
    let (mut told, mut pace) = (false, Pace::default());
    loop {
        let profile = client.look(path).await?;
        if profile["opened"].is_null() {
            let error = render::text(&profile, "open_error");
            if !told && !error.is_empty() {
                tell(&format!("cove: {error}"));
                return Ok(exit::FAILED);
            }
            if told {
                print("closed");
                return Ok(exit::OK);
            }
        }
        if !told && profile["opened"]["ready"] == true {
            print(&where_it_is(global, &profile, headless)?);
            print("Sign in, then close the window or press Ctrl-C; its items wait until then.");
            told = true;
        }
        tokio::time::sleep(pace.after(1)).await;
    }
}

fn where_it_is(global: &Global, profile: &Value, headless: bool) -> anyhow::Result<String> {
    let Some(link) = profile["devtools_url"].as_str().filter(|_| headless) else {
        return Ok("The profile's window is open.".to_owned());
    };
    Ok(format!("The profile is open at {}{link}", address(global)?))
}

/// The daemon's own address, for a link that a browser opens.
fn address(global: &Global) -> anyhow::Result<String> {
    if let Some(url) = global.url() {
        return Ok(url.trim_end_matches('/').to_owned());
    }
    // The mistakes themselves were printed.
    let loaded = load(global.config.clone(), None)
        .map_err(|_| anyhow::anyhow!("the configuration does not say where the daemon listens; give --url"))?;
    let file = loaded.config.state_dir().join("listen");
    let listen = std::fs::read_to_string(&file).with_context(|| {
        format!(
            "{} does not say where the daemon listens; give --url, for example http://127.0.0.1:8088",
            file.display()
        )
    })?;
    Ok(format!("http://{}", listen.trim()))
}

/// Ctrl-C, SIGTERM, or the end of the terminal: the profile is closed whichever it is.
async fn interrupted() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
        _ = hangup.recv() => Ok(()),
    }
}
