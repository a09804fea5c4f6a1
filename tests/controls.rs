//! Keeps the negative controls of the publish fence whole, in a second: `tests/controls.sh` runs them, before a
//! release.
//!
//! Each numbered rule has a test with its number in its name and at least one patch in `tests/controls` that
//! switches it off; each patch still applies to these sources, says what it switches off, and names test binaries
//! that hold a test of its rule. Whether those tests notice is for the script to find out. The checks have made-up
//! breaches of their own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

const RULES: std::ops::RangeInclusive<u32> = 1..=24;
const SOURCES: &str = "src";
const CONTROLS: &str = "tests/controls";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file with this ending below `folder`.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|found| found == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The rules that the name of a test bears: `rule_7_and_8_x` is of both.
fn rules_in(name: &str) -> BTreeSet<u32> {
    let mut rules = BTreeSet::new();
    let mut words = name.split('_').peekable();
    if words.next() != Some("rule") {
        return rules;
    }
    while let Some(rule) = words.next().and_then(|word| word.parse().ok()) {
        rules.insert(rule);
        if words.next() != Some("and") {
            break;
        }
    }
    rules
}

/// The rules that the tests of a source text bear in their names.
fn tested(text: &str) -> BTreeSet<u32> {
    let mut rules = BTreeSet::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            is_test = true;
        } else if let Some((_, name)) = line.split_once("fn ").filter(|_| !line.starts_with("//"))
            && std::mem::take(&mut is_test)
        {
            let end = name.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(name.len());
            rules.extend(rules_in(&name[..end]));
        }
    }
    rules
}

/// By test binary, as `cargo test` names it, the rules that its tests bear.
fn tested_by_binary() -> BTreeMap<String, BTreeSet<u32>> {
    let read = |path: PathBuf| tested(&std::fs::read_to_string(path).unwrap());
    let mut found =
        BTreeMap::from([("lib".to_owned(), files(&root().join(SOURCES), "rs").into_iter().flat_map(read).collect())]);
    for entry in std::fs::read_dir(root().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let Some(name) = path.file_stem().map(|name| name.to_str().unwrap().to_owned()) else { continue };
        if path.extension().is_some_and(|ending| ending == "rs") || path.join("main.rs").exists() {
            let mut sources = if path.is_dir() { files(&path, "rs") } else { vec![path.clone()] };
            let beside = root().join("tests").join(&name);
            if !path.is_dir() && beside.is_dir() {
                sources.extend(files(&beside, "rs"));
            }
            found.entry(name).or_insert_with(BTreeSet::new).extend(sources.into_iter().flat_map(read));
        }
    }
    found
}

struct Control {
    name: String,
    rule: u32,
    text: String,
}

fn controls() -> Vec<Control> {
    let control = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let number = name.strip_prefix("rule_").map(|rest| rest.trim_end_matches(|c: char| c.is_ascii_lowercase()));
        let rule = number.filter(|number| number.len() == 2).and_then(|number| number.parse().ok());
        let rule = rule.unwrap_or_else(|| panic!("{name} is not called after a rule, as rule_07 or rule_07b"));
        Control { rule, text: std::fs::read_to_string(&path).unwrap(), name }
    };
    files(&root().join(CONTROLS), "patch").into_iter().map(control).collect()
}

/// What is wrong with the words before the patch.
fn head(control: &Control, tested: &BTreeMap<String, BTreeSet<u32>>) -> Vec<String> {
    let Some((head, patch)) = control.text.split_once("\ndiff --git ") else {
        return vec!["it holds no patch".to_owned()];
    };
    let mut wrong = Vec::new();
    if !head.lines().next().is_some_and(|sentence| sentence.ends_with('.')) {
        wrong.push("its first line is no sentence that says what is switched off".to_owned());
    }
    let binaries: Vec<_> =
        head.lines().filter_map(|line| line.strip_prefix("Tests: ")).flat_map(str::split_whitespace).collect();
    if binaries.is_empty() {
        wrong.push("it has no line `Tests: ` with test binaries".to_owned());
    }
    for binary in binaries {
        if !tested.get(binary).is_some_and(|rules| rules.contains(&control.rule)) {
            wrong.push(format!("the test binary `{binary}` has no test of rule {}", control.rule));
        }
    }
    let changed = patch.lines().filter_map(|line| line.strip_prefix("+++ b/"));
    if changed.clone().count() == 0 || !changed.clone().all(|path| path.starts_with("src/")) {
        wrong.push("it does not change src alone".to_owned());
    }
    wrong
}

/// Git's word where it does not apply here.
fn unappliable(patch: &Path) -> Option<String> {
    let mut git = Command::new("git");
    // A copy without a repository of its own is not taken for a folder of one that lies around it.
    git.current_dir(root()).env("GIT_CEILING_DIRECTORIES", root().parent().unwrap_or(root()));
    let checked = git.args(["apply", "--check"]).arg(patch).output().expect("git is installed");
    (!checked.status.success()).then(|| String::from_utf8_lossy(&checked.stderr).into_owned())
}

#[test]
fn each_rule_has_a_numbered_test_and_a_control() {
    let tested: BTreeSet<u32> = tested_by_binary().into_values().flatten().collect();
    let controlled: BTreeSet<u32> = controls().iter().map(|control| control.rule).collect();
    let rules: BTreeSet<u32> = RULES.collect();
    assert_eq!(tested, rules, "left: rules with a numbered test");
    assert_eq!(controlled, rules, "left: rules with a patch in {CONTROLS}");
}

#[test]
fn each_control_applies_to_these_sources_and_names_tests_of_its_rule() {
    let tested = tested_by_binary();
    let mut wrong = Vec::new();
    for control in controls() {
        wrong.extend(head(&control, &tested).into_iter().map(|what| format!("{}: {what}", control.name)));
        let path = root().join(CONTROLS).join(format!("{}.patch", control.name));
        wrong.extend(unappliable(&path).map(|what| format!("{}: {what}", control.name)));
    }
    assert!(wrong.is_empty(), "{} problems:\n{}", wrong.len(), wrong.join("\n"));
}

// The checks find made-up breaches.

#[test]
fn numbers_are_read_from_names_of_tests_alone() {
    assert_eq!(rules_in("rule_7_and_8_x"), BTreeSet::from([7, 8]));
    assert_eq!(rules_in("rule_12_and_more"), BTreeSet::from([12]));
    for none in ["rule_x", "a_rule_7_x", "rules_7_x"] {
        assert_eq!(rules_in(none), BTreeSet::new(), "{none}");
    }
    let text = "#[test]\nfn rule_1_a() {}\nfn rule_2_a() {}\n#[tokio::test(flavor = \"x\")]\nasync fn rule_3_and_4_b() {}\n\
        // #[test]\n// fn rule_5_c() {}\n#[test]\n#[ignore]\nfn rule_6_d() {}";
    assert_eq!(tested(text), BTreeSet::from([1, 3, 4, 6]));
}

#[test]
fn a_control_without_its_words_or_for_other_tests_is_noticed() {
    let tested = BTreeMap::from([("store".to_owned(), BTreeSet::from([7])), ("it".to_owned(), BTreeSet::from([8]))]);
    let patch = "diff --git a/src/a.rs b/src/a.rs\n--- a/src/a.rs\n+++ b/src/a.rs\n@@ -1 +1 @@\n-a\n+b\n";
    let problems =
        |text: &str| head(&Control { name: "rule_07".to_owned(), rule: 7, text: text.to_owned() }, &tested).len();
    assert_eq!(problems(&format!("It is off.\nTests: store\n{patch}")), 0);
    assert_eq!(problems(&format!("It is off.\n{patch}")), 1);
    assert_eq!(problems(&format!("\nTests: store\n{patch}")), 1);
    assert_eq!(problems(&format!("It is off.\nTests: it nothing\n{patch}")), 2);
    assert_eq!(problems(&format!("It is off.\nTests: store\n{}", patch.replace("src/a", "tests/a"))), 1);
    assert_eq!(problems("It is off.\nTests: store\n"), 1);
}

#[test]
fn a_patch_of_other_sources_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let patch = folder.path().join("rule_01.patch");
    let of = |line: &str| {
        let begin = "diff --git a/src/lib.rs b/src/lib.rs\n--- a/src/lib.rs\n+++ b/src/lib.rs\n@@ -1,2 +1,1 @@\n";
        format!("It is off.\nTests: lib\n{begin}-{line}\n //!\n")
    };
    let first = std::fs::read_to_string(root().join("src/lib.rs")).unwrap().lines().next().unwrap().to_owned();
    std::fs::write(&patch, of(&first)).unwrap();
    assert_eq!(unappliable(&patch), None);
    std::fs::write(&patch, of("//! Something else.")).unwrap();
    assert!(unappliable(&patch).is_some_and(|why| why.contains("src/lib.rs")));
}
