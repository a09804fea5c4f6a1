//! Reads `src/**.rs` and fails where the layout that `src/lib.rs` draws is breached.
//!
//! Each rule is a function of one file's path (below `src/`) and text, and has a negative control: a
//! made-up breach that it must find. Comments and literals are set aside first, so that a rule speaks of
//! code. What the rules do not see: names made by macros, and paths through `pub use`.

use std::path::{Path, PathBuf};

/// A room, and what it may name: every room of a lower rank.
const RANKS: [(&str, u8); 13] = [
    ("model", 0),
    ("breaker", 1),
    ("config", 1),
    ("meter", 1),
    ("outbound", 1),
    ("telemetry", 2),
    ("store", 2),
    ("browser", 2),
    ("engine", 3),
    ("ops", 4),
    ("api", 5),
    ("daemon", 6),
    ("cli", 7),
];

/// A crate, and the only places that may name it: a module is its file and the folder beside it.
const CRATES: [(&str, &[&str]); 11] = [
    ("redb", &["store"]),
    ("bincode", &["store/codec"]),
    ("zstd", &["store/snapshot/container"]),
    ("tar", &["store/snapshot/container"]),
    ("chromiumoxide", &["browser"]),
    ("async_tungstenite", &["browser/cdp"]),
    ("hyper", &["api", "cli/practice"]),
    ("hyper_util", &["api", "cli/practice"]),
    ("http_body_util", &["api", "cli/practice"]),
    ("rustls", &["outbound"]),
    ("rustls_native_certs", &["outbound"]),
];

/// What the words of the model are free of.
const NOT_IN_MODEL: [&str; 8] =
    ["tokio", "tokio_util", "redb", "bincode", "hyper", "reqwest", "chromiumoxide", "async_trait"];

const MAX_LINES: usize = 500;
const NAMES_THAT_SAY_NOTHING: [&str; 8] = ["util", "utils", "helper", "helpers", "common", "manager", "misc", "impl"];

type Rule = fn(path: &str, text: &str) -> Vec<String>;

const RULES: [(&str, Rule); 7] = [
    ("ranks", ranks),
    ("crates", crates),
    ("head", head),
    ("length", length),
    ("names", names),
    ("pure decisions", pure_decisions),
    ("pure words", pure_words),
];

#[test]
fn the_sources_keep_every_rule() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = sources(&root);
    assert!(files.len() > 20, "only {} files found under {}", files.len(), root.display());
    let mut breaches = Vec::new();
    for file in files {
        let path = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        for (name, rule) in RULES {
            breaches.extend(rule(&path, &text).into_iter().map(|breach| format!("src/{path}: {name}: {breach}")));
        }
    }
    assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

// The rules.

/// A module names only modules of lower rank; equal ranks never name each other.
fn ranks(path: &str, text: &str) -> Vec<String> {
    let modules = modules_of(path);
    let Some(room) = modules.first() else { return Vec::new() };
    let Some(rank) = rank_of(room) else { return vec![format!("the room {room} has no rank")] };
    let named = rooms_named(&modules, &tokens(&code(text)));
    let wrong = named.into_iter().filter(|other| other != room);
    wrong
        .filter_map(|other| match rank_of(&other) {
            Some(lower) if lower < rank => None,
            Some(higher) => Some(format!("{room} (rank {rank}) names {other} (rank {higher})")),
            None => Some(format!("names {other}, which has no rank")),
        })
        .collect()
}

/// Crates that one room hides from the others.
fn crates(path: &str, text: &str) -> Vec<String> {
    let tokens = tokens(&code(text));
    let wrong = CRATES.iter().filter(|(name, places)| names_crate(&tokens, name) && !is_in(path, places));
    wrong.map(|(name, places)| format!("names {name}, which belongs to {}", places.join(" and "))).collect()
}

/// A file says at its head what it is.
fn head(_: &str, text: &str) -> Vec<String> {
    if text.starts_with("//! ") { Vec::new() } else { vec!["does not begin with `//! `".to_owned()] }
}

/// A file can be read in one sitting; its tests are not counted.
fn length(path: &str, text: &str) -> Vec<String> {
    let lines = if path.ends_with("/tests.rs") { 0 } else { before_tests(text).lines().count() };
    if lines > MAX_LINES { vec![format!("{lines} lines without its tests, at most {MAX_LINES}")] } else { Vec::new() }
}

/// No `mod.rs`, and no name that says nothing.
fn names(path: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if path == "mod.rs" || path.ends_with("/mod.rs") {
        wrong.push("a module's file is named after it, not mod.rs".to_owned());
    }
    let tokens = tokens(&code(text));
    let inline = tokens.windows(2).filter(|pair| pair[0] == "mod").map(|pair| pair[1].clone());
    for name in modules_of(path).into_iter().chain(inline) {
        if NAMES_THAT_SAY_NOTHING.contains(&name.as_str()) {
            wrong.push(format!("{name} says nothing about what is in it"));
        }
    }
    wrong
}

/// `engine::state`, `engine::admission` and `breaker` are synchronous and pure: time and ids enter as arguments.
fn pure_decisions(path: &str, text: &str) -> Vec<String> {
    let decides = path.starts_with("engine/state") || is_in(path, &["engine/admission", "breaker"]);
    if !decides {
        return Vec::new();
    }
    let tokens = tokens(&code(text));
    let mut wrong: Vec<String> = ["await", "async", "Instant", "SystemTime", "SystemClock"]
        .iter()
        .filter(|word| tokens.iter().any(|token| token == *word))
        .map(|word| format!("holds `{word}`"))
        .collect();
    if names_crate(&tokens, "tokio") {
        wrong.push("names tokio".to_owned());
    }
    wrong
}

/// The model is words alone.
fn pure_words(path: &str, text: &str) -> Vec<String> {
    if !is_in(path, &["model"]) {
        return Vec::new();
    }
    let tokens = tokens(&code(text));
    NOT_IN_MODEL.iter().filter(|name| names_crate(&tokens, name)).map(|name| format!("names {name}")).collect()
}

// What the rules read.

fn rank_of(room: &str) -> Option<u8> {
    RANKS.iter().find(|(name, _)| *name == room).map(|(_, rank)| *rank)
}

/// `cli/practice/board.rs` is `[cli, practice, board]`; `lib.rs` and `main.rs` are the root itself.
fn modules_of(path: &str) -> Vec<String> {
    let stem = path.trim_end_matches(".rs").trim_end_matches("/mod");
    if matches!(stem, "lib" | "main") { Vec::new() } else { stem.split('/').map(str::to_owned).collect() }
}

/// Whether the file is one of these modules or lies in one.
fn is_in(path: &str, modules: &[&str]) -> bool {
    let stem = path.trim_end_matches(".rs");
    modules.iter().any(|module| stem == *module || stem.strip_prefix(module).is_some_and(|rest| rest.starts_with('/')))
}

fn before_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod tests {").map_or(text, |place| &text[..=place])
}

/// A crate is named where its name begins a path, or is used or renamed as a whole.
fn names_crate(tokens: &[String], name: &str) -> bool {
    tokens.iter().enumerate().any(|(place, token)| {
        let before = place.checked_sub(1).map_or("", |place| tokens[place].as_str());
        // `::name` is the crate too, where no path precedes it.
        let inside_a_path = before == "::" && place >= 2 && is_word(&tokens[place - 2]) && tokens[place - 2] != "use";
        let after = tokens.get(place + 1).map_or("", String::as_str);
        let whole = matches!(before, "use" | "crate") && matches!(after, ";" | "as");
        token == name && before != "." && !inside_a_path && (after == "::" || whole)
    })
}

/// Every top-level module that a path through `crate` or `super` reaches.
fn rooms_named(modules: &[String], tokens: &[String]) -> Vec<String> {
    let mut named = Vec::new();
    // Where each inline module that is open now was opened, as the depth of its brace.
    let mut inline: Vec<usize> = Vec::new();
    let mut depth = 0;
    let mut place = 0;
    while place < tokens.len() {
        match tokens[place].as_str() {
            "{" => {
                depth += 1;
                if place >= 2 && tokens[place - 2] == "mod" {
                    inline.push(depth);
                }
            }
            "}" => {
                if inline.last() == Some(&depth) {
                    inline.pop();
                }
                depth = depth.saturating_sub(1);
            }
            "crate" => named.extend(heads(&tokens[place + 1..])),
            "super" => {
                let mut up = 1;
                while tokens.get(place + 1).is_some_and(|token| token == "::")
                    && tokens.get(place + 2).is_some_and(|token| token == "super")
                {
                    up += 1;
                    place += 2;
                }
                if up == modules.len() + inline.len() {
                    named.extend(heads(&tokens[place + 1..]));
                }
            }
            _ => {}
        }
        place += 1;
    }
    named
}

/// The names right after a root: of `::a::b` it is a, of `::{a::{b, c}, d}` they are a and d.
fn heads(tokens: &[String]) -> Vec<String> {
    match tokens {
        [colons, name, ..] if colons == "::" && is_word(name) => vec![name.clone()],
        [colons, brace, rest @ ..] if colons == "::" && brace == "{" => {
            let mut found = Vec::new();
            let (mut depth, mut expects_head) = (0, true);
            for token in rest {
                match token.as_str() {
                    "{" => depth += 1,
                    "}" if depth == 0 => break,
                    "}" => depth -= 1,
                    "," if depth == 0 => expects_head = true,
                    name if depth == 0 && expects_head && is_word(name) => {
                        expects_head = false;
                        // `{self, a}` at the root: self is the root.
                        found.extend((name != "self").then(|| name.to_owned()));
                    }
                    _ => {}
                }
            }
            found
        }
        _ => Vec::new(),
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Words, `::`, and every other character that is not blank.
fn tokens(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let length = if is_word(rest) {
            rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(length);
        if !token.trim().is_empty() {
            found.push(token.to_owned());
        }
        rest = after;
    }
    found
}

/// The text without comments and without what stands in literals.
fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut previous = ' ';
    while let Some(first) = rest.chars().next() {
        let in_word = previous.is_alphanumeric() || previous == '_';
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest).filter(|_| !in_word) {
            length
        } else if first == '"' {
            quoted(rest, '"')
        } else if first == '\'' && is_character(rest) {
            quoted(rest, '\'')
        } else {
            out.push(first);
            previous = first;
            rest = &rest[first.len_utf8()..];
            continue;
        };
        out.push(' ');
        previous = ' ';
        rest = &rest[skipped..];
    }
    out
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut place) = (0, 0);
    while place < text.len() {
        let rest = &text[place..];
        if rest.starts_with("/*") {
            depth += 1;
            place += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            place += 2;
            if depth == 0 {
                return place;
            }
        } else {
            place += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length of a raw string that begins here.
fn raw_string(text: &str) -> Option<usize> {
    let after = ["r", "br", "cr"].iter().find_map(|prefix| {
        let rest = text.strip_prefix(prefix)?;
        rest.trim_start_matches('#').starts_with('"').then_some(rest)
    })?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let begin = text.len() - after.len() + hashes + 1;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(text[begin..].find(&end).map_or(text.len(), |place| begin + place + end.len()))
}

fn quoted(text: &str, mark: char) -> usize {
    let mut escaped = false;
    for (place, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == mark => return place + 1,
            _ => {}
        }
    }
    text.len()
}

/// A character literal, and not a lifetime or a label.
fn is_character(text: &str) -> bool {
    let mut after = text.chars().skip(1);
    match (after.next(), after.next()) {
        (Some('\\'), _) => true,
        (Some(_), Some(second)) => second == '\'',
        _ => false,
    }
}

// Negative controls: each rule finds a made-up breach, and lets pass what only looks like one.

#[test]
fn ranks_finds_every_way_to_name_a_higher_or_equal_room() {
    for (path, text) in [
        ("store.rs", "use crate::browser::Session;"),
        ("browser/cdp.rs", "fn f() { crate::store::open(); }"),
        ("model/item.rs", "use crate::{model::Fence, engine::{View, State}};"),
        ("engine.rs", "use crate::{\n    model::Item,\n    api,\n};"),
        ("engine/state.rs", "use super::super::api::Context;"),
        ("store/queue.rs", "mod tests { use super::super::super::cli; }"),
        ("config.rs", "use super::telemetry;"),
        ("model.rs", "pub(in crate::cli) struct A;"),
        ("cellar.rs", ""),
        ("api.rs", "use crate::cellar::Wine;"),
    ] {
        assert_eq!(ranks(path, text).len(), 1, "{path}: {text}: {:?}", ranks(path, text));
    }
    for (path, text) in [
        ("engine/attempt.rs", "use crate::{browser::{self, Session}, model::Item, store::Store};"),
        ("engine/state.rs", "use super::View; mod tests { use super::super::View; }"),
        ("store/queue.rs", "// crate::api\nconst A: &str = \"crate::api\"; /* crate::cli */"),
        ("cli/demo.rs", "use super::remote::Client; use crate::cli::practice::Post; use crate::daemon;"),
        ("lib.rs", "pub mod api; pub mod model;"),
        ("main.rs", "use crate::cli;"),
        ("model/id.rs", "macro_rules! id { ($name:ident) => { pub(crate) struct $name; } }"),
    ] {
        assert_eq!(ranks(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}

#[test]
fn crates_finds_a_crate_outside_its_room() {
    for (path, text) in [
        ("engine.rs", "use redb::Database;"),
        ("store/tables.rs", "bincode::encode_to_vec(value, config)"),
        ("api/tasks.rs", "use chromiumoxide as browser;"),
        ("cli/remote.rs", "use {hyper::Request, std::io};"),
        ("daemon.rs", "let a = ::hyper_util::rt::TokioIo::new(b);"),
        ("storeroom.rs", "use redb;"),
    ] {
        assert_eq!(crates(path, text).len(), 1, "{path}: {text}");
    }
    for (path, text) in [
        ("store.rs", "use redb::Database;"),
        ("store/codec.rs", "bincode::encode_to_vec(value, config)"),
        ("cli/practice/server.rs", "use hyper::server;"),
        ("engine.rs", "// redb::Database\nlet redb = 1; self.redb.open(); model::redb::x(); let s = 'r'; \"redb::a\";"),
    ] {
        assert_eq!(crates(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}

#[test]
fn head_finds_a_file_that_does_not_introduce_itself() {
    assert_eq!(head("a.rs", "use std::io;\n").len(), 1);
    assert_eq!(head("a.rs", "// A comment.\n").len(), 1);
    assert!(head("a.rs", "//! What it owns.\n").is_empty());
}

#[test]
fn length_counts_code_and_not_the_tests() {
    let long = "//! x\n".repeat(MAX_LINES + 1);
    let tail = format!("//! x\n\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
    assert_eq!(length("a.rs", &long).len(), 1);
    assert!(length("a.rs", &tail).is_empty());
    let declared = format!("//! x\n\n#[cfg(test)]\nmod tests;\n{long}");
    assert_eq!(length("a.rs", &declared).len(), 1, "tests in a file of their own hide nothing behind their name");
    assert!(length("cli/practice/tests.rs", &long).is_empty());
}

#[test]
fn names_finds_mod_rs_and_names_that_say_nothing() {
    assert_eq!(names("store/mod.rs", "").len(), 1);
    assert_eq!(names("store/utils.rs", "").len(), 1);
    assert_eq!(names("common/time.rs", "").len(), 1);
    assert_eq!(names("api.rs", "pub mod helpers;").len(), 1);
    assert!(names("api/modules.rs", "// mod utils\nmod tests {} let common = 1;").is_empty());
}

#[test]
fn pure_decisions_finds_waiting_in_what_decides() {
    for (path, text) in [
        ("engine/state.rs", "let a = b.await;"),
        ("engine/state/apply.rs", "use tokio::sync::Notify;"),
        ("engine/admission.rs", "fn now() { std::time::Instant::now(); }"),
        ("breaker/board.rs", "use tokio::sync::Mutex;"),
    ] {
        assert!(!pure_decisions(path, text).is_empty(), "{path}: {text}");
    }
    assert!(pure_decisions("engine/attempt.rs", "b.await; tokio::spawn(c);").is_empty());
    assert!(pure_decisions("engine/state.rs", "/// Never `.await`s; knows no tokio::anything.\nfn a() {}").is_empty());
}

#[test]
fn pure_words_finds_the_outside_world_in_the_model() {
    assert_eq!(pure_words("model/lock.rs", "use tokio::time::Instant;").len(), 1);
    assert_eq!(pure_words("model.rs", "fn a(b: redb::Error) {}").len(), 1);
    assert!(pure_words("model/lock.rs", "//! Knows no tokio::time.\nuse serde::Serialize;").is_empty());
    assert!(pure_words("store.rs", "use tokio::time::Instant;").is_empty());
}

#[test]
fn literals_and_comments_are_set_aside_and_nothing_else() {
    let text = "a /* b /* c */ d */ e // f\n\"g \\\" h\" i 'j' '\\'' k<'l> r#\"m \" n\"# br\"o\" for_r\"p\" q";
    assert_eq!(tokens(&code(text)), ["a", "e", "i", "k", "<", "'", "l", ">", "for_r", "q"]);
}
