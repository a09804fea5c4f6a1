//! Tokens: what is revoked stays so, also after a restore (fence.md rule 18).

use std::path::Path;
use std::time::Duration;

use cove::model::{Scopes, Token, TokenHash};
use cove::store::{CreateTokenError, LEDGER_FILE, NewToken, STATE_FILE, Store};

use super::{NOW, open};

fn hash(text: &str) -> TokenHash {
    TokenHash::of(text)
}

async fn make(store: &Store, text: &str) -> Token {
    let new =
        NewToken { hash: hash(text), name: text.to_owned(), scopes: Scopes::ADMIN, expires_at: None, imported: false };
    store.create_token(new, NOW).await.unwrap()
}

async fn revoked(store: &Store, text: &str) -> Option<bool> {
    let tokens = store.tokens().await.unwrap();
    tokens.iter().find(|(held, _)| *held == hash(text)).map(|(_, token)| token.revoked_at.is_some())
}

/// `kept` and `later` are made; the state is saved between them; then `kept`, if asked, and `later` are revoked.
async fn lived(folder: &Path, revoke: bool) {
    let opened = open(folder);
    let kept = make(&opened.store, "kept").await;
    opened.close().await;
    std::fs::copy(folder.join(STATE_FILE), folder.join("saved")).unwrap();
    let opened = open(folder);
    let later = make(&opened.store, "later").await;
    if revoke {
        for token in [&kept, &later] {
            let gone = opened.store.revoke_token(token.id, NOW).await.unwrap().unwrap();
            assert_eq!(gone.revoked_at, Some(NOW));
        }
    }
    opened.close().await;
    std::fs::copy(folder.join("saved"), folder.join(STATE_FILE)).unwrap();
}

#[tokio::test]
async fn rule_18_tokens_revoked_since_are_revoked_again_by_the_ledger() {
    let folder = tempfile::tempdir().unwrap();
    lived(folder.path(), true).await;
    let opened = open(folder.path());
    assert!(opened.report.restored);
    assert_eq!(revoked(&opened.store, "kept").await, Some(true));
    assert_eq!(revoked(&opened.store, "later").await, Some(true), "this state never saw it");
    let new =
        NewToken { hash: hash("later"), name: "x".into(), scopes: Scopes::ADMIN, expires_at: None, imported: true };
    assert!(matches!(opened.store.create_token(new, NOW).await, Err(CreateTokenError::Exists)), "nor imported again");
    opened.close().await;
}

#[tokio::test]
async fn rule_18_tokens_that_nobody_revoked_go_on_after_a_restore() {
    let folder = tempfile::tempdir().unwrap();
    lived(folder.path(), false).await;
    let opened = open(folder.path());
    assert!(opened.report.restored);
    assert_eq!(revoked(&opened.store, "kept").await, Some(false));
    assert_eq!(revoked(&opened.store, "later").await, None);
    opened.close().await;
}

#[tokio::test]
async fn rule_18_without_a_ledger_every_token_is_revoked() {
    let folder = tempfile::tempdir().unwrap();
    lived(folder.path(), false).await;
    std::fs::remove_file(folder.path().join(LEDGER_FILE)).unwrap();
    let opened = open(folder.path());
    assert!(opened.report.restored);
    assert_eq!(revoked(&opened.store, "kept").await, Some(true));
    opened.close().await;
}

#[tokio::test]
async fn rule_18_a_revocation_is_durable_before_its_commit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let opened = open(path);
    let token = make(&opened.store, "a").await;
    opened.close().await;
    let before = std::fs::read(path.join(STATE_FILE)).unwrap();
    let ledger = std::fs::read(path.join(LEDGER_FILE)).unwrap();
    let opened = open(path);
    opened.store.revoke_token(token.id, NOW).await.unwrap();
    opened.close().await;
    // As a crash between the two leaves it: the line of the ledger, and no commit.
    let lines = std::fs::read_to_string(path.join(LEDGER_FILE)).unwrap();
    let line = lines.lines().find(|line| line.contains("token_revoked")).expect("a line of the ledger");
    std::fs::write(path.join(STATE_FILE), before).unwrap();
    std::fs::write(path.join(LEDGER_FILE), [ledger, format!("{line}\n").into_bytes()].concat()).unwrap();
    let opened = open(path);
    assert!(!opened.report.restored, "an ordinary crash");
    assert_eq!(revoked(&opened.store, "a").await, Some(true));
    opened.close().await;
}

#[tokio::test]
async fn a_use_is_noted_and_never_moves_back() {
    let folder = tempfile::tempdir().unwrap();
    let opened = open(folder.path());
    make(&opened.store, "a").await;
    let (later, earlier) = (NOW.plus(Duration::from_secs(9)), NOW.plus(Duration::from_secs(3)));
    for at in [later, earlier] {
        opened.store.note_token_uses(vec![(hash("a"), at), (hash("nobody's"), at)]).await.unwrap();
    }
    let tokens = opened.store.tokens().await.unwrap();
    assert_eq!((tokens.len(), tokens[0].1.last_used_at), (1, Some(later)));
    assert!(opened.store.dump().await.unwrap().contains("token "), "a dump shows every record");
    opened.close().await;
}
