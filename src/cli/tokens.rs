//! `cove tokens`: over the API of a running daemon, or on the state file while none runs.
//!
//! Without a daemon the state is opened as a start opens it, so a restore is noticed here, too. Invariants:
//! the state is touched only as the user whom its folder belongs to, since files of another user would
//! shut the daemon out; a token goes to stdout once, alone on its line, and what is said about it to stderr.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Value, json};

use super::remote::{Client, RemoteError, encoded};
use super::{Global, connect, exit, load, print, print_json, render, tell};
use crate::api::tokens::{is_name, random_text, token_json};
use crate::model::token::MAX_TOKEN_NAME_BYTES;
use crate::model::{Clock as _, Scope, SystemClock, Timestamp, TokenId};
use crate::store::{NewToken, OpenError, Store};

const DAY_SECONDS: u64 = 24 * 60 * 60;

#[derive(Subcommand)]
pub enum TokensCommand {
    /// Make a token; it is shown once (needs no daemon)
    Create {
        /// What it is for, for people
        name: String,
        /// What it may do: read, submit, locks, sessions, or admin, which is everything (can be repeated)
        #[arg(long = "scope", required = true, value_name = "SCOPE", value_parser = parse_scope)]
        scopes: Vec<Scope>,
        /// Good for so many days (default: until it is revoked)
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(1..=3_650))]
        expires_days: Option<u64>,
        /// Print the token with all about it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Tokens and what they may do, never their text (needs no daemon)
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Where no token was ever made: make one that may do everything, into a file that its owner alone can read
    First {
        /// Where to; the package's service does it with /etc/cove/admin-token
        file: PathBuf,
    },
    /// Shut a token at once, and for ever (needs no daemon)
    Revoke {
        /// As `list` shows it
        id: String,
    },
}

fn parse_scope(text: &str) -> Result<Scope, String> {
    text.parse().map_err(|error: crate::model::token::UnknownScope| error.to_string())
}

pub async fn run(global: &Global, command: TokensCommand) -> anyhow::Result<u8> {
    let client = match connect(global)? {
        Ok(client) => client,
        Err(code) => return Ok(code),
    };
    if let TokensCommand::First { file } = &command {
        return first(&client, file).await;
    }
    let asked = online(&client, &command).await;
    let somewhere_else = global.url().is_some() || global.socket.is_some();
    let answer = match asked {
        Err(RemoteError::Unreachable { .. }) if !somewhere_else => match offline(global, &command).await? {
            Ok(answer) => answer,
            Err(code) => return Ok(code),
        },
        asked => asked?,
    };
    show(&command, &answer);
    Ok(exit::OK)
}

async fn online(client: &Client, command: &TokensCommand) -> Result<Value, RemoteError> {
    match command {
        TokensCommand::Create { name, scopes, expires_days, .. } => {
            let scopes: Vec<&str> = scopes.iter().map(|scope| scope.name()).collect();
            let seconds = expires_days.map(|days| days * DAY_SECONDS);
            let asked = json!({"name": name, "scopes": scopes, "expires_in_seconds": seconds});
            client.post("/api/v1/tokens", &asked).await
        }
        TokensCommand::List { .. } => client.get("/api/v1/tokens").await,
        TokensCommand::Revoke { id } => client.delete(&format!("/api/v1/tokens/{}", encoded(id))).await,
        TokensCommand::First { .. } => unreachable!("carried out by `first`"),
    }
}

/// The file is there before the token is, so that no token is made whose text has nowhere to go.
async fn first(client: &Client, file: &Path) -> anyhow::Result<u8> {
    let made = client.get("/api/v1/tokens").await?;
    if made["tokens"].as_array().is_none_or(|tokens| !tokens.is_empty()) {
        tell("There is a token already: `cove tokens list` shows it, `cove tokens create` makes another.");
        return Ok(exit::OK);
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = || format!("{} cannot be written, so no token was made", file.display());
    // Mode 0600, as all of its kind.
    let mut draft = tempfile::NamedTempFile::new_in(folder).with_context(failed)?;
    let answer = client.post("/api/v1/tokens", &json!({"name": "admin", "scopes": [Scope::Admin.name()]})).await?;
    let mut keep = || {
        writeln!(draft, "{}", render::text(&answer, "token"))?;
        draft.as_file().sync_all()
    };
    let kept = keep().and_then(|()| draft.persist(file).map(drop).map_err(|error| error.error));
    if let Err(error) = kept {
        let id = render::text(&answer, "id");
        client.delete(&format!("/api/v1/tokens/{}", encoded(&id))).await?;
        return Err(anyhow::Error::new(error).context(format!("{}: the token was revoked again", file.display())));
    }
    tell(&format!("A token that may do everything is in {}.", file.display()));
    Ok(exit::OK)
}

/// The inner error is an exit code, and was told.
async fn offline(global: &Global, command: &TokensCommand) -> anyhow::Result<Result<Value, u8>> {
    let loaded = match load(global.config.clone(), None) {
        Ok(loaded) => loaded,
        Err(code) => return Ok(Err(code)),
    };
    let folder = loaded.config.state_dir();
    check_owner(&folder)?;
    make_private(&folder)?;
    let moment = SystemClock.moment();
    let at = folder.clone();
    let opened = tokio::task::spawn_blocking(move || Store::open(&at, moment)).await?;
    let (store, writer, _) = opened.map_err(|error| match error {
        OpenError::Held(_) => anyhow::anyhow!(
            "a daemon holds {} and does not answer on {}: say where it is with --socket or --url",
            folder.display(),
            loaded.config.socket_path().display()
        ),
        other => anyhow::Error::new(other),
    })?;
    let done = on_store(&store, command, moment.wall).await;
    drop(store);
    tokio::task::spawn_blocking(|| writer.join()).await?;
    Ok(Ok(done?))
}

fn check_owner(folder: &Path) -> anyhow::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    match std::fs::metadata(folder) {
        Ok(facts) if facts.uid() != own => anyhow::bail!(
            "no daemon answers, and {} belongs to another user: start the daemon, or run this as that user \
             (sudo -u '#{}' cove tokens ...)",
            folder.display(),
            facts.uid()
        ),
        _ => Ok(()),
    }
}

fn make_private(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| anyhow::anyhow!("{}: {error}", folder.display()))
}

async fn on_store(store: &Store, command: &TokensCommand, now: Timestamp) -> anyhow::Result<Value> {
    match command {
        TokensCommand::Create { name, scopes, expires_days, .. } => {
            anyhow::ensure!(
                is_name(name),
                "a name has 1 to {MAX_TOKEN_NAME_BYTES} bytes, no space at its ends and no control characters"
            );
            let text = random_text().map_err(|_| anyhow::anyhow!("the kernel gives no random bytes"))?;
            let expires_at = expires_days.map(|days| now.plus(std::time::Duration::from_secs(days * DAY_SECONDS)));
            let scopes = scopes.iter().copied().collect();
            let new = NewToken { hash: text.hash(), name: name.clone(), scopes, expires_at, imported: false };
            let mut json = token_json(&store.create_token(new, now).await?, now);
            json["token"] = text.reveal().into();
            Ok(json)
        }
        TokensCommand::List { .. } => {
            let mut tokens = store.tokens().await?;
            tokens.sort_by_key(|(_, token)| std::cmp::Reverse(token.id));
            let tokens: Vec<Value> = tokens.iter().map(|(_, token)| token_json(token, now)).collect();
            Ok(json!({"tokens": tokens, "next_cursor": null}))
        }
        TokensCommand::Revoke { id } => {
            let missing = || anyhow::anyhow!("there is no token with the id {id}; `cove tokens list` shows them");
            let id: TokenId = id.parse().map_err(|_| missing())?;
            store.revoke_token(id, now).await?.ok_or_else(missing)?;
            Ok(Value::Null)
        }
        TokensCommand::First { .. } => unreachable!("carried out by `first`"),
    }
}

fn show(command: &TokensCommand, answer: &Value) {
    match command {
        TokensCommand::Create { json: true, .. } => print_json(answer),
        TokensCommand::Create { .. } => {
            let id = render::text(answer, "id");
            tell(&format!("Token {id}. It is shown this once; `cove tokens revoke {id}` shuts it."));
            print(&render::text(answer, "token"));
        }
        TokensCommand::List { json: true } => print_json(&json!({"tokens": answer["tokens"]})),
        TokensCommand::List { .. } => print(&render::tokens(answer["tokens"].as_array().map_or(&[], Vec::as_slice))),
        TokensCommand::Revoke { .. } => print("revoked"),
        TokensCommand::First { .. } => unreachable!("carried out by `first`"),
    }
}
