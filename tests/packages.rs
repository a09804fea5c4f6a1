//! What the packages are made of, as far as it can be judged without building them: the units, and the papers that
//! the binary prints. `packaging/test-packages.sh` installs the real packages in a booted system.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// In tenths, as `systemd-analyze security --threshold` takes them.
const BOUNDS: [(&str, u32); 2] = [("cove.service", 12), ("cove-browser.service", 20)];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn has_systemd_analyze() -> bool {
    let there = Command::new("systemd-analyze").arg("--version").output().is_ok();
    if !there {
        println!("skipped: systemd-analyze is not installed");
    }
    there
}

/// The units in a folder of their own, with this build's binary in the place of the installed one.
fn units(folder: &Path) -> Vec<PathBuf> {
    let mut units = Vec::new();
    for entry in std::fs::read_dir(root().join("systemd")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "service" || kind == "socket") {
            let text = std::fs::read_to_string(&path).unwrap();
            let copy = folder.join(path.file_name().unwrap());
            std::fs::write(&copy, text.replace("/usr/bin/cove", env!("CARGO_BIN_EXE_cove"))).unwrap();
            units.push(copy);
        }
    }
    assert_eq!(units.len(), 4, "{units:?}");
    units
}

/// Whether the exposure is within the bound, and what was said.
fn exposure(unit: &Path, tenths: u32) -> (bool, String) {
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", &format!("--threshold={tenths}")])
        .arg(unit)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let overall = told.lines().find(|line| line.contains("Overall exposure")).unwrap_or_default().to_owned();
    assert!(!overall.is_empty(), "{told}{}", String::from_utf8_lossy(&output.stderr));
    (output.status.success(), overall)
}

#[test]
fn the_units_are_sound() {
    if !has_systemd_analyze() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let verify = |units: &[PathBuf]| {
        let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(units).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let units = units(folder.path());
    let (sound, told) = verify(&units);
    assert!(sound && told.is_empty(), "{told}");
    let wrong = folder.path().join("cove-wrong.service");
    std::fs::write(&wrong, "[Service]\nExecStart=/nonexistent/cove serve\n").unwrap();
    assert!(!verify(&[wrong]).0, "the control: a unit whose binary is missing is found");
}

#[test]
fn the_exposure_of_the_units_stays_within_its_bounds() {
    if !has_systemd_analyze() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let units = units(folder.path());
    for (name, tenths) in BOUNDS {
        let unit = units.iter().find(|unit| unit.ends_with(name)).unwrap();
        let (within, told) = exposure(unit, tenths);
        println!("{told}");
        assert!(within, "{told}, at most {}.{}", tenths / 10, tenths % 10);
        let text = std::fs::read_to_string(unit).unwrap();
        let looser = folder.path().join(format!("looser-{name}"));
        std::fs::write(&looser, text.replace("NoNewPrivileges=yes\n", "").replace("ProtectHome=yes\n", "")).unwrap();
        assert!(!exposure(&looser, tenths).0, "the control: a looser {name} is found");
    }
}

/// The places of the files that a package is made of, by its table of assets; a star stands for what lies there.
fn assets(package: &str) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = toml::from_str(&text).unwrap();
    let assets = manifest["package"]["metadata"][package]["assets"].as_array().unwrap();
    let word = |asset: &toml::Value, index: usize, name: &str| {
        asset.get(index).or_else(|| asset.get(name)).and_then(toml::Value::as_str).unwrap().to_owned()
    };
    let place = |asset: &toml::Value| word(asset, 1, "dest").trim_start_matches('/').to_owned();
    assets.iter().map(|asset| (word(asset, 0, "source"), place(asset))).collect()
}

/// What issue and README promise, as it lies in the repository or in what `packaging/build.sh` makes first.
const PROMISED: [&str; 25] = [
    "target/package/cove",
    "target/package/man/*.gz",
    "target/package/completions/bash",
    "target/package/completions/zsh",
    "target/package/completions/fish",
    "target/package/NEWS.gz",
    "systemd/cove.service",
    "systemd/cove.socket",
    "systemd/cove-browser.service",
    "systemd/cove-browser.socket",
    "systemd/cove.sysusers",
    "systemd/cove.tmpfiles",
    "systemd/examples/*",
    "packaging/cove.toml",
    "packaging/etc/default",
    "packaging/etc/ufw",
    "packaging/etc/nginx.conf",
    "packaging/flows/*.json",
    "packaging/examples/*",
    "packaging/grafana/cove.json",
    "packaging/prometheus/alerts.yml",
    "packaging/prometheus/scrape.yml",
    "packaging/deb/copyright",
    "packaging/deb/lintian-overrides",
    "LICENSE*",
];

#[test]
fn the_packages_hold_all_that_is_promised_and_each_file_is_there() {
    let of_one_kind = ["packaging/deb/copyright", "packaging/deb/lintian-overrides", "LICENSE*"];
    let [deb, rpm] = ["deb", "generate-rpm"].map(assets);
    for (package, wanted) in [(&deb, [true, true, false]), (&rpm, [false, false, true])] {
        for promised in PROMISED {
            let special = of_one_kind.iter().position(|one| *one == promised);
            let expected = special.is_none_or(|index| wanted[index]);
            assert_eq!(package.iter().any(|(source, _)| source == promised), expected, "{promised}");
        }
        for (source, _) in package {
            assert!(PROMISED.contains(&source.as_str()), "{source} is promised nowhere");
            let (folder, _) = source.split_once('*').unwrap_or((source, ""));
            let made_first = source.starts_with("target/package/");
            assert!(made_first || root().join(folder).exists() || source == "LICENSE*", "{source} is not there");
        }
    }
    // The same place in both, but where the systems differ.
    for (source, place) in &rpm {
        let of_deb = deb.iter().find(|(other, _)| other == source).map(|(_, place)| place);
        let differs = source.ends_with("/zsh") || source == "LICENSE*";
        assert!(differs || of_deb == Some(place), "{source}: {place} and {of_deb:?}");
    }
    // The tarball holds folders as they are.
    let build = std::fs::read_to_string(root().join("packaging/build.sh")).unwrap();
    let (_, tarball) = build.split_once("if wanted tar").unwrap();
    for part in
        ["/cove\"", "/man\"", "/completions\"", "systemd", "packaging/cove.toml", "packaging/etc", "packaging/flows"]
    {
        assert!(tarball.contains(part), "the tarball lacks {part}");
    }
    for part in
        ["packaging/examples", "packaging/grafana", "packaging/prometheus", "README.md", "CHANGELOG.md", "LICENSE"]
    {
        assert!(tarball.contains(part), "the tarball lacks {part}");
    }
}

/// `+` takes a command out of the sandbox, as root: the two that are meant to be, and no other.
#[test]
fn nothing_but_the_check_and_the_first_token_runs_as_root() {
    let mut bare = Vec::new();
    for unit in ["cove.service", "cove-browser.service"] {
        let text = std::fs::read_to_string(root().join("systemd").join(unit)).unwrap();
        let commands = text.lines().filter_map(|line| line.strip_prefix("Exec")?.split_once('='));
        let prefixed = commands.filter(|(_, command)| command.starts_with(|c: char| !matches!(c, '/')));
        bare.extend(prefixed.map(|(when, command)| format!("{when} {command}")));
    }
    let token = "StartPost -+/usr/bin/cove --socket /run/cove/cove.sock tokens first /etc/cove/admin-token";
    assert_eq!(bare, ["StartPre +/usr/bin/cove config check", token]);
}

#[test]
fn the_scripts_can_be_read_by_bash() {
    let folder = root().join("packaging");
    let scripts = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let scripts: Vec<_> = scripts.filter(|path| path.extension().is_some_and(|kind| kind == "sh")).collect();
    assert!(scripts.len() > 4, "{scripts:?}");
    let reads = |path: &Path| Command::new("bash").arg("-n").arg(path).output().unwrap();
    for script in scripts {
        let output = reads(&script);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let wrong = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(wrong.path(), "if true; then\n").unwrap();
    assert!(!reads(wrong.path()).status.success(), "the control: half a script is found");
}

#[test]
fn no_package_restarts_the_browsers() {
    for script in ["deb/postinst", "deb/prerm", "deb/postrm", "rpm/post", "rpm/preun", "rpm/postun"] {
        let text = std::fs::read_to_string(root().join("packaging").join(script)).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let wrong: Vec<_> = code.filter(|line| line.contains("restart") && line.contains("cove-browser")).collect();
        assert!(wrong.is_empty(), "{script}: {wrong:?}");
    }
    let service = std::fs::read_to_string(root().join("systemd/cove.service")).unwrap();
    for bond in ["Requires=cove-browser", "BindsTo=cove-browser", "PartOf=cove-browser"] {
        assert!(!service.contains(bond), "a restart of the daemon would go over to its browsers: {bond}");
    }
}

#[test]
fn the_binary_prints_its_manual_and_completions_and_twice_the_same() {
    let cove = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_cove")).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for (shell, part) in [("bash", "complete -F"), ("zsh", "#compdef cove"), ("fish", "complete -c cove")] {
        let script = cove(&["completions", shell]);
        assert!(script.contains(part) && script == cove(&["completions", shell]), "{shell}");
    }
    assert!(cove(&["man"]).contains(".TH cove 1"));
    let folder = tempfile::tempdir().unwrap();
    cove(&["man", "--dir", folder.path().to_str().unwrap()]);
    for page in ["cove.1", "cove-serve.1", "cove-browser-host.1", "cove-tasks-list.1"] {
        assert!(folder.path().join(page).metadata().unwrap().len() > 200, "{page}");
    }
}
