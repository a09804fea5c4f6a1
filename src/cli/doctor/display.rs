//! A display: needed by visible browsers and by Dolphin Anty's window, and welcome for signing in.
//!
//! What counts is the environment of whoever starts browsers; where it cannot be read, ours stands for it and
//! the line says whose it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::line::Line;
use crate::config::ProviderKind;

/// The display that an environment names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Display {
    None,
    /// Named, and its socket is there, or is on another machine and not ours to try.
    There(String),
    /// Named, and nothing is there.
    Gone(String),
}

/// Whose environment was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Of whoever runs the browsers.
    Theirs,
    Ours,
}

/// The variables of a process, or our own where they may not be read.
pub fn variables(pid: Option<u32>) -> (BTreeMap<String, String>, Whose) {
    let text = pid.and_then(|pid| std::fs::read(format!("/proc/{pid}/environ")).ok()).filter(|text| !text.is_empty());
    match text {
        Some(text) => (parse(&text), Whose::Theirs),
        None => {
            let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
            (std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect(), Whose::Ours)
        }
    }
}

fn parse(environ: &[u8]) -> BTreeMap<String, String> {
    let variables = environ.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    variables.filter_map(|line| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))).collect()
}

/// `is_there`: whether a socket of this path is open (also one that has no file).
pub fn find(variables: &BTreeMap<String, String>, is_there: &dyn Fn(&Path) -> bool) -> Display {
    let set = |name: &str| variables.get(name).filter(|value| !value.is_empty());
    let mut named = Vec::new();
    if let Some(wayland) = set("WAYLAND_DISPLAY") {
        let runtime = set("XDG_RUNTIME_DIR").map_or("/run", String::as_str);
        // A path that is absolute replaces the folder.
        named.push((format!("WAYLAND_DISPLAY={wayland}"), Some(PathBuf::from(runtime).join(wayland))));
    }
    if let Some(display) = set("DISPLAY") {
        let local = display.strip_prefix(':').or_else(|| display.strip_prefix("unix:"));
        let socket = local.map(|rest| {
            let number = rest.split('.').next().unwrap_or_default();
            PathBuf::from(format!("/tmp/.X11-unix/X{number}"))
        });
        named.push((format!("DISPLAY={display}"), socket));
    }
    let usable = |(_, socket): &&(String, Option<PathBuf>)| socket.as_deref().is_none_or(is_there);
    match (named.iter().find(usable), named.first()) {
        (Some((name, _)), _) => Display::There(name.clone()),
        (None, Some((name, _))) => Display::Gone(name.clone()),
        (None, None) => Display::None,
    }
}

/// A socket file, or one of the abstract names that X also listens on.
pub fn socket_is_there(path: &Path) -> bool {
    let abstract_name = format!("@{}", path.display());
    let listed = || std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    path.exists() || listed().lines().any(|line| line.ends_with(&abstract_name))
}

/// `running`: Dolphin Anty answers, so it has its display.
pub fn judge(display: &Display, whose: Whose, provider: ProviderKind, headless: bool, running: bool) -> Line {
    const NAME: &str = "display";
    let of = match whose {
        Whose::Theirs => "of the browsers' service",
        Whose::Ours => "of this shell",
    };
    let found = match display {
        Display::There(name) => return Line::ok(NAME, format!("{name}, in the environment {of}")),
        Display::Gone(name) => format!("{name} {of} names a display that is not there"),
        Display::None => format!("the environment {of} names none (DISPLAY, WAYLAND_DISPLAY)"),
    };
    match provider {
        ProviderKind::Dolphin if running => Line::ok(NAME, "Dolphin Anty runs, so it has one"),
        ProviderKind::Dolphin => Line::warning(
            NAME,
            format!("{found}, and Dolphin Anty does not start without one"),
            "give it one: `sudo apt-get install xvfb`, then `xvfb-run -a dolphin_anty`, or a remote desktop",
        ),
        ProviderKind::Chromium if !headless => Line::error(
            NAME,
            format!("{found}, and [browser] headless = false needs one"),
            "set DISPLAY for the service, or [browser] headless = true",
        ),
        // As on any bare server.
        ProviderKind::Chromium => Line::ok(
            NAME,
            format!("{found}, and none is needed: to sign in there is the link that `cove profiles open NAME` prints"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::line::Status;

    #[test]
    fn the_socket_of_a_display_is_looked_for_where_it_should_be() {
        let find = |variables: &[(&str, &str)], there: &str| {
            let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            find(&variables, &|path| path.to_str() == Some(there))
        };
        assert_eq!(find(&[("DISPLAY", "")], "/tmp/.X11-unix/X0"), Display::None);
        assert_eq!(find(&[("DISPLAY", ":0.1")], "/tmp/.X11-unix/X0"), Display::There("DISPLAY=:0.1".to_owned()));
        assert_eq!(find(&[("DISPLAY", ":1")], "/tmp/.X11-unix/X0"), Display::Gone("DISPLAY=:1".to_owned()));
        assert_eq!(find(&[("DISPLAY", "desk:0")], ""), Display::There("DISPLAY=desk:0".to_owned()));
        let wayland = [("WAYLAND_DISPLAY", "wayland-0"), ("XDG_RUNTIME_DIR", "/run/user/5")];
        assert_eq!(find(&wayland, "/run/user/5/wayland-0"), Display::There("WAYLAND_DISPLAY=wayland-0".to_owned()));
        let both = [wayland[0], wayland[1], ("DISPLAY", ":0")];
        assert_eq!(find(&both, "/tmp/.X11-unix/X0"), Display::There("DISPLAY=:0".to_owned()));
        assert!(!socket_is_there(Path::new("/nonexistent/X0")));
    }

    #[test]
    fn who_needs_a_display_decides() {
        use ProviderKind::{Chromium, Dolphin};
        let status = |display: Display, provider, headless, running| {
            judge(&display, Whose::Ours, provider, headless, running).status
        };
        assert_eq!(status(Display::There("x".to_owned()), Chromium, false, false), Status::Ok);
        assert_eq!(status(Display::None, Chromium, true, false), Status::Ok);
        assert_eq!(status(Display::None, Chromium, false, false), Status::Error);
        assert_eq!(status(Display::Gone("x".to_owned()), Chromium, false, false), Status::Error);
        assert_eq!(status(Display::None, Dolphin, false, true), Status::Ok);
        assert_eq!(status(Display::None, Dolphin, true, false), Status::Warning);
    }

    #[test]
    fn an_environment_is_that_of_the_process_or_ours() {
        assert_eq!(parse(b"A=1\0B=x=y\0\0bad\0")["B"], "x=y");
        assert_eq!(variables(Some(std::process::id())).1, Whose::Theirs);
        let (ours, whose) = variables(None);
        assert!(whose == Whose::Ours && ours.contains_key("PATH"));
    }
}
