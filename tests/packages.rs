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
