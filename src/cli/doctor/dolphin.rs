//! The provider `dolphin`: does its Local API answer, is a user signed in, does the token open the cloud?
//!
//! Judgments of what [`dolphin::look`](crate::browser::dolphin::look) heard. No token is ever shown.

use super::line::{Line, counted};
use super::machine;
use crate::browser::dolphin::{Look, Meaning, Said};
use crate::browser::processes::Listener;

const API: &str = "dolphin";
const SIGNED_IN: &str = "dolphin_signed_in";
const PROFILES: &str = "dolphin_profiles";
const NEW_TOKEN: &str = "make a new token in Dolphin Anty's web panel, and put it where the old one is";

/// The application is there and answers as it should, be it that nobody is signed in.
pub fn answers(look: &Look) -> bool {
    match &look.running {
        Said::Yes(_) => true,
        Said::No(refusal) => refusal.meaning == Meaning::SignedOut,
        Said::Nothing(_) => false,
    }
}

pub fn reachable(look: &Look, api_host: &str, listener: Option<&Listener>) -> Line {
    let who = listener.map_or(String::new(), |listener| format!(": {}", machine::told(listener)));
    let start = "start Dolphin Anty on this machine; its port is shown in Settings > Health and belongs into [dolphin] api_host";
    match &look.running {
        Said::Yes(count) => Line::ok(API, format!("{api_host} answers, {} open{who}", counted(*count, "profile"))),
        Said::No(refusal) if refusal.meaning == Meaning::SignedOut => Line::ok(API, format!("{api_host} answers{who}")),
        Said::No(refusal) => {
            Line::error(API, format!("{api_host} answers, but not as Dolphin Anty does ({refusal}){who}"), start)
        }
        Said::Nothing(why) => Line::error(API, format!("{api_host}: {why}{who}"), start),
    }
}

pub fn signed_in(look: &Look) -> Line {
    let sign_in = "sign in to Dolphin Anty's window on this machine";
    if !answers(look) {
        return Line::error(SIGNED_IN, "it does not answer, so nobody knows", "see the line `dolphin`");
    }
    if let Some(Said::No(refusal)) = &look.list
        && refusal.text.to_lowercase().contains("refresh")
    {
        let help = "refresh Dolphin Anty's window, or sign in again";
        return Line::error(SIGNED_IN, format!("the application is stuck with its own session ({refusal})"), help);
    }
    match &look.sign_in {
        Some(Said::Yes(())) => Line::ok(SIGNED_IN, "the application accepted cove's token"),
        Some(Said::No(refusal)) if matches!(refusal.status, 401 | 403) => {
            Line::error(SIGNED_IN, format!("the application refuses cove's token ({refusal})"), NEW_TOKEN)
        }
        Some(Said::No(refusal)) => {
            Line::warning(SIGNED_IN, format!("a sign-in with cove's token did not end well ({refusal})"), sign_in)
        }
        Some(Said::Nothing(why)) => Line::warning(SIGNED_IN, format!("a sign-in with cove's token: {why}"), sign_in),
        None if !matches!(look.running, Said::Yes(_)) => Line::error(SIGNED_IN, "nobody is", sign_in),
        None if matches!(look.list, Some(Said::Yes(()))) => Line::ok(SIGNED_IN, "a user is"),
        None => Line::warning(
            SIGNED_IN,
            "the application answers, and without a token it does not tell who is signed in",
            "set [dolphin] api_token_file, or try a profile: `cove doctor --profile NAME`",
        ),
    }
}

/// Where the names of profiles come from, as it shows from here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    There,
    /// It was configured, and is not there; why.
    Broken(String),
    /// None is configured, or only the daemon has it (a credential of its service, its environment).
    None,
}

/// `named`: profiles that the configuration lists; `daemon`: how many a daemon that runs knows.
pub fn profiles(look: &Look, token: &Token, named: usize, daemon: Option<usize>, cloud_host: &str) -> Line {
    match (token, daemon) {
        (Token::Broken(why), _) => {
            let help = "[dolphin] api_token_file names a file whose first line is the token";
            return Line::error(PROFILES, why.clone(), help);
        }
        (Token::None, _) if named > 0 => {
            return Line::ok(PROFILES, format!("{} named in the configuration; no token", counted(named, "profile")));
        }
        (Token::None, Some(count)) if count > 0 => {
            return Line::ok(PROFILES, format!("the daemon knows {}", counted(count, "profile")));
        }
        (Token::None, _) => {
            return Line::error(
                PROFILES,
                "cove knows no profile: there is no token to ask for them, and the configuration names none",
                "set [dolphin] api_token_file (a token of Dolphin Anty's web panel), or list ids in [dolphin] profiles",
            );
        }
        (Token::There, _) => {}
    }
    let network =
        format!("see whether this machine reaches {cloud_host}; Dolphin Anty needs it to start and stop profiles, too");
    match &look.cloud {
        Some(Said::Yes(Some(0))) => {
            Line::error(PROFILES, "the token sees no profile", "make one in Dolphin Anty, or a token of the right user")
        }
        Some(Said::Yes(count)) => {
            let count = count.map_or("profiles".to_owned(), |count| {
                counted(usize::try_from(count).unwrap_or(usize::MAX), "profile")
            });
            let named = if named > 0 { format!(", the configuration names {named}") } else { String::new() };
            Line::ok(PROFILES, format!("the token sees {count}{named}"))
        }
        Some(Said::No(refusal)) if matches!(refusal.status, 401 | 403) => {
            Line::error(PROFILES, format!("{cloud_host} refuses cove's token ({refusal})"), NEW_TOKEN)
        }
        Some(Said::No(refusal)) if refusal.status == 429 => {
            Line::warning(PROFILES, format!("{cloud_host} says that it is asked too often"), "try again in a minute")
        }
        Some(Said::No(refusal)) => {
            Line::error(PROFILES, format!("{cloud_host} gives no profiles ({refusal})"), network)
        }
        Some(Said::Nothing(why)) => Line::error(PROFILES, format!("{cloud_host}: {why}"), network),
        None => Line::error(PROFILES, format!("{cloud_host} was not asked"), network),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::browser::dolphin::Refusal;
    use crate::browser::processes::Holder;
    use crate::cli::doctor::line::Status;

    fn no<T>(status: u16, meaning: Meaning, text: &str) -> Said<T> {
        Said::No(Refusal { meaning, status, code: None, text: text.to_owned() })
    }

    fn nothing<T>() -> Said<T> {
        Said::Nothing("no connection: refused".to_owned())
    }

    fn heard(running: Said<usize>, list: Option<Said<()>>, sign_in: Option<Said<()>>) -> Look {
        Look { running, list, sign_in, cloud: None }
    }

    #[test]
    fn an_application_answers_is_something_else_or_is_away() {
        let judge = |running| reachable(&heard(running, None, None), "http://h", None);
        let listener = Listener { uid: 77, holder: Holder::Hidden };
        let line = reachable(&heard(Said::Yes(1), None, None), "http://h", Some(&listener));
        assert_eq!(line, Line::ok(API, "http://h answers, 1 profile open: a process of user 77"));
        assert_eq!(judge(no(401, Meaning::SignedOut, "")).status, Status::Ok);
        assert_eq!(judge(no(404, Meaning::NotTheApi, "<html>")).status, Status::Error);
        let away = judge(nothing());
        assert!(away.status == Status::Error && away.help.unwrap().contains("Settings > Health"));
    }

    #[test]
    fn who_is_signed_in_shows_by_the_token_or_not_at_all() {
        let up = || Said::Yes(0);
        let guarded = || Some(no(401, Meaning::SignedOut, "invalid session token"));
        let status = |running, list, sign_in| signed_in(&heard(running, list, sign_in)).status;
        assert_eq!(status(up(), guarded(), Some(Said::Yes(()))), Status::Ok);
        assert_eq!(status(up(), guarded(), Some(no(401, Meaning::SignedOut, ""))), Status::Error);
        assert_eq!(status(up(), guarded(), Some(no(500, Meaning::Failed, ""))), Status::Warning);
        assert_eq!(status(up(), guarded(), Some(nothing())), Status::Warning);
        assert_eq!(status(up(), guarded(), None), Status::Warning);
        assert_eq!(status(up(), Some(Said::Yes(())), None), Status::Ok);
        let stuck = Some(no(401, Meaning::SignedOut, "token refresh timeout"));
        assert_eq!(status(up(), stuck, Some(Said::Yes(()))), Status::Error);
        assert_eq!(status(no(401, Meaning::SignedOut, ""), guarded(), None), Status::Error);
        assert_eq!(status(nothing(), None, None), Status::Error);
    }

    #[test]
    fn the_profiles_come_from_the_cloud_from_the_daemon_or_from_the_configuration() {
        let look = |cloud| Look { cloud, ..heard(Said::Yes(0), None, None) };
        let status = |cloud| profiles(&look(Some(cloud)), &Token::There, 0, None, "https://c").status;
        let found = profiles(&look(Some(Said::Yes(Some(12)))), &Token::There, 2, None, "https://c");
        assert_eq!(found, Line::ok(PROFILES, "the token sees 12 profiles, the configuration names 2"));
        assert_eq!(status(Said::Yes(None)), Status::Ok);
        assert_eq!(status(Said::Yes(Some(0))), Status::Error);
        assert_eq!(status(no(401, Meaning::SignedOut, "")), Status::Error);
        assert_eq!(status(no(429, Meaning::TooManyLaunches, "")), Status::Warning);
        assert_eq!(status(no(500, Meaning::Failed, "")), Status::Error);
        assert_eq!(status(nothing()), Status::Error);
        let without = |token, named, daemon| profiles(&look(None), &token, named, daemon, "https://c").status;
        assert_eq!(without(Token::None, 2, None), Status::Ok);
        assert_eq!(without(Token::None, 0, Some(3)), Status::Ok);
        assert_eq!(without(Token::None, 0, Some(0)), Status::Error);
        assert_eq!(without(Token::None, 0, None), Status::Error);
        assert_eq!(without(Token::Broken("empty".to_owned()), 2, Some(3)), Status::Error);
    }
}
