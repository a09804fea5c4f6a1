//! One line of `cove doctor`: what was looked at, how it is, what was found, and what to do.
//!
//! Every check makes its lines here and nowhere else, so that a line which is not `ok` cannot be made
//! without saying what to do. Names are words that a script can rely on.

use serde_json::{Value, json};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    Ok,
    /// cove works; something will hurt, or cannot be told from here.
    Warning,
    /// Something that cove needs does not work.
    Error,
}

impl Status {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub name: &'static str,
    pub status: Status,
    pub found: String,
    /// What to do; None exactly where the status is ok.
    pub help: Option<String>,
}

impl Line {
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, found: found.into(), help: None }
    }

    pub fn warning(name: &'static str, found: impl Into<String>, help: impl Into<String>) -> Self {
        Self { name, status: Status::Warning, found: found.into(), help: Some(help.into()) }
    }

    pub fn error(name: &'static str, found: impl Into<String>, help: impl Into<String>) -> Self {
        Self { name, status: Status::Error, found: found.into(), help: Some(help.into()) }
    }

    /// What several looks at one thing found together: the worst decides, and only what is not ok is told.
    /// `well`: what is said where all is.
    pub fn together(name: &'static str, found: &[Self], well: impl FnOnce() -> String) -> Self {
        let Some(worst) = found.iter().map(|line| line.status).max().filter(|worst| *worst != Status::Ok) else {
            return Self::ok(name, well());
        };
        let bad = || found.iter().filter(|line| line.status != Status::Ok);
        let text = bad().map(|line| line.found.as_str()).collect::<Vec<_>>().join("; ");
        let mut help: Vec<&str> = bad().filter_map(|line| line.help.as_deref()).collect();
        help.dedup();
        Self { name, status: worst, found: text, help: Some(help.join("; ")) }
    }

    /// As a person reads it.
    pub fn text(&self) -> String {
        let first = format!("{:<8} {:<16} {}", self.status.name(), self.name, self.found.replace('\n', " "));
        match &self.help {
            Some(help) => format!("{first}\n{:<25} -> {}", "", help.replace('\n', " ")),
            None => first,
        }
    }

    pub fn json(&self) -> Value {
        let mut json = json!({"name": self.name, "status": self.status.name(), "found": self.found});
        if let Some(help) = &self.help {
            json["help"] = json!(help);
        }
        json
    }
}

/// `1 file`, `2 files`.
pub fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Line, Status, counted};

    #[test]
    fn a_line_is_told_to_people_and_to_scripts() {
        let good = Line::ok("clock", "synchronised");
        assert_eq!(good.text(), "ok       clock            synchronised");
        assert_eq!(good.json(), json!({"name": "clock", "status": "ok", "found": "synchronised"}));
        let bad = Line::error("clock", "1970", "set it");
        assert_eq!(bad.text(), format!("error    clock            1970\n{} -> set it", " ".repeat(25)));
        assert_eq!(bad.json(), json!({"name": "clock", "status": "error", "found": "1970", "help": "set it"}));
    }

    #[test]
    fn the_worst_of_several_decides_and_the_good_are_not_told() {
        let lines = [Line::ok("x", "a"), Line::warning("x", "b", "do"), Line::error("x", "c", "do")];
        let together = Line::together("x", &lines, || unreachable!());
        assert_eq!((together.status, together.found.as_str()), (Status::Error, "b; c"));
        assert_eq!(together.help.as_deref(), Some("do"));
        assert_eq!(Line::together("x", &lines[..1], || "all".to_owned()), Line::ok("x", "all"));
        assert_eq!((counted(1, "file"), counted(2, "file")), ("1 file".to_owned(), "2 files".to_owned()));
    }
}
