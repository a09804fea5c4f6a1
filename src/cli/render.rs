//! What a person reads: tables and lines made of the API's JSON. With `--json` none of it is used.

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

/// A plain table that fits the terminal.
#[must_use]
pub fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(head.iter().map(|name| name.to_uppercase()));
    table.add_rows(rows);
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// A member as text; empty where it is missing or null.
#[must_use]
pub fn text(value: &Value, name: &str) -> String {
    match &value[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A time to the second.
#[must_use]
pub fn time(value: &Value, name: &str) -> String {
    let time = text(value, name);
    match time.split_once('.') {
        Some((seconds, _)) => format!("{}Z", seconds.replace('T', " ")),
        None => time.replace('T', " "),
    }
}

/// Why an item is where it is: its reason to wait with the time, or its error.
#[must_use]
pub fn why(item: &Value) -> String {
    let error = &item["error"];
    let reason = match (text(item, "wait_reason"), time(item, "wait_until")) {
        (reason, until) if until.is_empty() => reason,
        (reason, until) if reason.ends_with("_until") => format!("{reason} {until}"),
        (reason, until) => format!("{reason} until {until}"),
    };
    let reason = match text(item, "wait_detail") {
        more if more.is_empty() => reason,
        more => format!("{reason} ({more})"),
    };
    let state = text(item, "state");
    // Of a try before this one.
    let old = ["queued", "running"].contains(&state.as_str());
    match (reason.as_str(), error.is_object() && !old) {
        ("", true) => format!("{}: {}", text(error, "code"), text(error, "message")),
        (_, true) => format!("{reason}; {}: {}", text(error, "code"), text(error, "message")),
        _ => reason,
    }
}

/// How far a task is, on one line: `3 succeeded, 1 running, 2 queued`.
#[must_use]
pub fn counts(task: &Value) -> String {
    let counts = task["counts"].as_object();
    let parts = counts.into_iter().flatten().filter(|(_, count)| count.as_u64() != Some(0));
    parts.map(|(state, count)| format!("{count} {state}")).collect::<Vec<_>>().join(", ")
}

#[must_use]
pub fn tasks(tasks: &[Value]) -> String {
    let rows = tasks.iter().map(|task| {
        let state = text(task, "state");
        let state = if task["rehearsal"] == true { format!("{state} (rehearsal)") } else { state };
        vec![text(task, "id"), text(task, "flow"), state, counts(task), time(task, "created_at")]
    });
    table(&["id", "flow", "state", "items", "created"], rows)
}

#[must_use]
pub fn items(items: &[Value]) -> String {
    let rows = items.iter().map(|item| {
        let url = text(item, "url");
        let last = if url.is_empty() || text(item, "state") != "succeeded" { why(item) } else { url };
        let state = text(item, "state");
        let state = if item["rehearsal"] == true { format!("{state} (rehearsal)") } else { state };
        vec![text(item, "id"), text(item, "profile"), state, text(item, "attempts"), last]
    });
    table(&["id", "profile", "state", "attempts", "why, or where"], rows)
}

#[must_use]
pub fn snapshots(rows: &[Value]) -> String {
    let rows = rows.iter().map(|row| {
        let damage = text(row, "damage");
        let verified = match (row["verified"] == true, damage.is_empty()) {
            (true, _) => time(row, "verified_at"),
            (false, true) => "no".to_owned(),
            (false, false) => damage,
        };
        vec![text(row, "name"), text(row, "bytes"), time(row, "created_at"), verified]
    });
    table(&["name", "bytes", "created", "verified"], rows)
}

/// One item, all of it that a person wants.
#[must_use]
pub fn item(item: &Value) -> String {
    let mut lines = Vec::new();
    let names = [
        "id",
        "task_id",
        "profile",
        "state",
        "resolution",
        "attempts",
        "key",
        "url",
        "not_before",
        "not_after",
        "started_at",
        "finished_at",
    ];
    for name in names {
        let value = text(item, name);
        if !value.is_empty() {
            lines.push(format!("{name:<12} {value}"));
        }
    }
    let why = why(item);
    if !why.is_empty() {
        lines.push(format!("{:<12} {why}", "why"));
        let help = text(&item["error"], "help");
        if !help.is_empty() {
            lines.push(format!("{:<12} {help}", "what to do"));
        }
    }
    for part in ["inputs", "result"] {
        for (name, value) in item[part].as_object().into_iter().flatten() {
            lines.push(format!(
                "{part:<12} {name} = {}",
                value.as_str().map_or_else(|| value.to_string(), str::to_owned)
            ));
        }
    }
    for file in item["evidence"].as_array().into_iter().flatten() {
        let facts = (text(file, "attempt"), text(file, "bytes"), text(file, "url"));
        lines.push(format!("{:<12} attempt {} {} bytes {}", "evidence", facts.0, facts.1, facts.2));
    }
    if text(item, "state") == "outcome_unknown" {
        lines.extend(question(item));
    }
    lines.join("\n")
}

/// What a retry did.
#[must_use]
pub fn retried(task: &Value) -> String {
    let mut lines = vec![format!("{} items queued again", text(task, "retried"))];
    for skipped in task["skipped"].as_array().into_iter().flatten() {
        lines.push(format!("{} left alone: {}", text(skipped, "item_id"), text(skipped, "reason")));
    }
    lines.join("\n")
}

/// The question that an unknown outcome is, with the pictures to look at beside it (fence.md rule 14): those of the
/// attempt that was armed last, which is the last one that counts.
fn question(item: &Value) -> Vec<String> {
    let picture = |name: &str| {
        let files = item["evidence"].as_array().into_iter().flatten();
        let asked = files.filter(|file| file["file"] == name && file["attempt"] == item["attempts"]);
        asked.map(|file| text(file, "url")).next_back()
    };
    let mut lines = vec!["was it published? look at the site and at these:".to_owned()];
    for (what, name) in [("before", "before.png"), ("after", "after.png")] {
        lines.push(format!("  {what:<10} {}", picture(name).unwrap_or_else(|| "no picture".to_owned())));
    }
    lines.push(format!("then: cove items resolve {} published | not-published | give-up", text(item, "id")));
    lines
}

#[must_use]
pub fn events(events: &[Value]) -> String {
    let rows = events
        .iter()
        .map(|event| vec![time(event, "at"), text(event, "item"), text(event, "kind"), text(event, "detail")]);
    table(&["at", "item", "what", "detail"], rows)
}

/// Who is told, how far that is, and each delivery that has not arrived.
#[must_use]
pub fn webhook(webhook: &Value, deliveries: &[Value]) -> String {
    let count = |state: &str| deliveries.iter().filter(|delivery| delivery["state"] == state).count();
    let counts = ["delivered", "pending", "given_up"].map(|state| format!("{} {state}", count(state)));
    let mut lines = vec![format!("webhook {}: {}", text(webhook, "url"), counts.join(", "))];
    for delivery in deliveries.iter().filter(|delivery| delivery["state"] != "delivered") {
        let names = ["id", "item", "event", "state", "wait_reason"].map(|name| text(delivery, name));
        let names: Vec<_> = names.into_iter().filter(|name| !name.is_empty()).collect();
        let next = match time(delivery, "next_at") {
            next if next.is_empty() => next,
            next => format!(", next at {next}"),
        };
        let tries = text(delivery, "attempts");
        lines.push(format!("  {}{next}, {tries} tries: {}", names.join(" "), text(delivery, "last_error")));
    }
    lines.join("\n")
}

#[must_use]
pub fn profiles(profiles: &[Value]) -> String {
    let rows = profiles.iter().map(|profile| {
        let holder = ["held_by", "item"].map(|name| text(profile, name));
        let holder = holder.into_iter().find(|holder| !holder.is_empty()).unwrap_or_default();
        let needs = match (text(profile, "needs_human"), time(profile, "rate_limited_until")) {
            (needs, until) if needs.is_empty() && !until.is_empty() => format!("rests until {until}"),
            (needs, until) if !until.is_empty() => format!("{needs}; rests until {until}"),
            (needs, _) => needs,
        };
        let state = text(profile, "state");
        // Nothing runs in it, and nothing will before then.
        let rests = state == "idle" && profile["rate_limited_until"].is_string();
        let state = if rests { "resting".to_owned() } else { state };
        vec![text(profile, "id"), text(profile, "name"), state, holder, needs]
    });
    table(&["id", "name", "state", "held by", "needs"], rows)
}

#[must_use]
pub fn tokens(tokens: &[Value]) -> String {
    let rows = tokens.iter().map(|token| {
        let scopes: Vec<&str> = token["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let times = ["created_at", "expires_at", "last_used_at"].map(|name| time(token, name));
        let [created, expires, used] = times;
        vec![text(token, "id"), text(token, "name"), scopes.join(" "), text(token, "state"), created, expires, used]
    });
    table(&["id", "name", "scopes", "state", "created", "expires", "last used"], rows)
}

#[must_use]
pub fn locks(locks: &[Value]) -> String {
    let rows = locks.iter().map(|lock| {
        let expires = match (time(lock, "expires_at"), lock["expired"] == true) {
            (at, true) => format!("{at} (expired)"),
            (at, false) => at,
        };
        vec![text(lock, "kind"), text(lock, "key"), text(lock, "owner"), text(lock, "fence"), expires]
    });
    table(&["kind", "key", "owner", "fence", "expires"], rows)
}

#[must_use]
pub fn sessions(sessions: &[Value]) -> String {
    let rows = sessions.iter().map(|session| {
        let names = ["session_id", "profile", "owner", "state", "connections"];
        names.iter().map(|name| text(session, name)).chain([time(session, "expires_at")]).collect()
    });
    table(&["id", "profile", "owner", "state", "connections", "expires"], rows)
}

/// What a cleanup of locks did or would do.
#[must_use]
pub fn cleanup(answer: &Value) -> String {
    let rows = |name: &str| answer[name].as_array().filter(|rows| !rows.is_empty()).map(|rows| locks(rows));
    let done = if answer["dry_run"] == true { ("would remove", "would ask") } else { ("removed", "asked") };
    let mut lines = vec![format!("{} {}", done.0, text(answer, "removed"))];
    lines.extend(rows("locks"));
    if let Some(stopping) = rows("stopping") {
        lines.push(format!(
            "{} the holders of these to stop; each is freed when its browser is closed, or a minute later where it is a worker's",
            done.1
        ));
        lines.push(stopping);
    }
    lines.join("\n")
}

#[must_use]
pub fn flows(flows: &[Value]) -> String {
    let rows = flows.iter().map(|flow| {
        let hash: String = text(flow, "hash").chars().take(12).collect();
        vec![text(flow, "name"), hash, text(flow, "bytes"), time(flow, "updated_at")]
    });
    table(&["name", "hash", "bytes", "updated"], rows)
}

#[must_use]
pub fn status(status: &Value) -> String {
    let resources = &status["resource_usage"];
    let slots = &status["slots"];
    let provider = &status["provider"];
    let queue = status["queue"].as_object().into_iter().flatten();
    let queue = queue.filter(|(_, count)| count.is_u64()).map(|(state, count)| format!("{state} {count}"));
    let queue = queue.collect::<Vec<_>>().join(", ");
    let mut lines = vec![
        format!("state      {}", text(status, "state")),
        format!("version    {}, up {} s", text(status, "version"), text(status, "uptime_seconds")),
        format!("slots      {} of {} busy", text(slots, "busy"), text(slots, "total")),
        format!("queue      {queue}"),
        format!("provider   {} {} {}", text(provider, "kind"), text(provider, "status"), text(provider, "reason")),
        format!(
            "resources  {} MB memory{}, {} MB disk free",
            text(resources, "memory_mb"),
            cpu(resources),
            text(resources, "disk_free_mb")
        ),
    ];
    if resources["held_back"].is_object() {
        let held = &resources["held_back"];
        lines.push(format!("held back  {}: {}", text(held, "wait_reason"), text(held, "reason")));
    }
    if status["pause"].is_object() {
        lines.insert(1, format!("pause      {}", pause(&status["pause"])));
    }
    for (reason, wait) in status["queue"]["wait_reasons"].as_object().into_iter().flatten() {
        let until = time(wait, "until");
        let until = if until.is_empty() { until } else { format!(", the first until {until}") };
        lines.push(format!("waiting    {reason} {}{until}", text(wait, "items")));
    }
    let breakers = status["breakers"].as_array().into_iter().flatten();
    for breaker in breakers.filter(|breaker| breaker["state"] != "closed") {
        let until = time(breaker, "open_until");
        let until = if until.is_empty() { until } else { format!(" until {until}") };
        let facts = ["name", "state", "failures_in_a_row", "last_error"].map(|name| text(breaker, name));
        let [name, state, failures, error] = facts;
        lines.push(format!("breaker    {name} {state}{until}, {failures} failures in a row: {error}"));
    }
    for session in resources["sessions"].as_array().into_iter().flatten() {
        let facts = (text(session, "profile"), text(session, "memory_mb"), cpu(session));
        lines.push(format!("session    {} {} MB{}", facts.0, facts.1, facts.2));
    }
    lines.iter().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// A rate needs two looks: after the first there is none.
fn cpu(usage: &Value) -> String {
    usage["cpu_percent"].as_f64().map_or_else(String::new, |percent| format!(", {percent} % cpu"))
}

/// Why nothing is started, and what to do.
fn pause(pause: &Value) -> String {
    let what = match text(pause, "kind").as_str() {
        "restored" if pause["blind"] == true => "restored blind: no ledger says what went out since".to_owned(),
        "restored" => "restored: what is not finished is held".to_owned(),
        "ledger_damaged" => format!("ledger damaged: {}", text(pause, "what")),
        _ => "by a person".to_owned(),
    };
    format!("{what} (since {}). {}", time(pause, "since"), text(pause, "help"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{cleanup, counts, item, items, locks, profiles, status, time, webhook, why};

    #[test]
    fn a_waiting_item_says_why_and_until_when() {
        let item = json!({"state": "retry_wait", "wait_reason": "retry_backoff", "wait_until": "2026-12-01T09:00:00.000Z",
            "error": {"code": "element_not_found", "message": "no button"}});
        assert_eq!(why(&item), "retry_backoff until 2026-12-01 09:00:00Z; element_not_found: no button");
        let breaker =
            json!({"state": "queued", "wait_reason": "breaker_open_until", "wait_until": "2026-12-01T09:00:00.000Z"});
        assert_eq!(why(&breaker), "breaker_open_until 2026-12-01 09:00:00Z");
        let handed_back = json!({"state": "queued", "wait_reason": "no_slot", "error": {"code": "daemon_stopped"}});
        assert_eq!(why(&handed_back), "no_slot");
        let refused = json!({"state": "queued", "wait_reason": "provider_down", "wait_detail": "402: on free plan",
            "wait_until": "2026-12-01T09:00:00.000Z"});
        assert_eq!(why(&refused), "provider_down until 2026-12-01 09:00:00Z (402: on free plan)");
        assert_eq!(why(&json!({"state": "running", "error": {"code": "c", "message": "of the try before"}})), "");
        assert_eq!(why(&json!({"state": "failed", "error": {"code": "c", "message": "m"}})), "c: m");
    }

    #[test]
    fn rule_14_the_question_of_an_unknown_outcome_stands_beside_its_pictures() {
        let file = |attempt: u32, name: &str| json!({"attempt": attempt, "file": name, "bytes": 9, "url": format!("/{name}?{attempt}")});
        let mut shown = json!({"id": "i7", "state": "outcome_unknown", "attempts": 2,
            "evidence": [file(1, "before.png"), file(1, "after.png"), file(2, "before.png"), file(2, "after.png")]});
        let asked = |shown: &serde_json::Value| {
            let lines = item(shown);
            let at = lines.find("was it published?").unwrap_or_else(|| panic!("{lines}"));
            lines[at..].to_owned()
        };
        let told = asked(&shown);
        assert!(told.contains("before     /before.png?2\n") && told.contains("after      /after.png?2\n"), "{told}");
        assert!(told.ends_with("cove items resolve i7 published | not-published | give-up"), "{told}");
        // A picture of an attempt that was settled long ago answers nothing.
        shown["evidence"].as_array_mut().unwrap().pop();
        let told = asked(&shown);
        assert!(told.contains("after      no picture\n"), "{told}");
        shown["state"] = json!("succeeded");
        assert!(!item(&shown).contains("was it published?"));
    }

    #[test]
    fn locks_and_what_a_cleanup_did_are_told() {
        let lock = json!({"kind": "task", "key": "7", "owner": "w", "fence": "f3", "expired": true,
            "expires_at": "2026-12-01T09:00:00.250Z"});
        let of_ours = json!({"kind": "profile", "key": "anna", "owner": "item i1", "fence": "f4", "expires_at": null});
        assert!(locks(std::slice::from_ref(&lock)).ends_with("2026-12-01 09:00:00Z (expired)"));
        let answer = json!({"removed": 1, "locks": [lock], "stopping": [of_ours], "dry_run": false});
        let told = cleanup(&answer);
        assert!(
            told.starts_with("removed 1\n") && told.contains("asked the holders") && told.contains("item i1"),
            "{told}"
        );
        assert_eq!(cleanup(&json!({"removed": 0, "locks": [], "stopping": [], "dry_run": true})), "would remove 0");
    }

    #[test]
    fn what_was_not_told_yet_says_why() {
        let deliveries = [
            json!({"id": "h3", "event": "task.finished", "state": "pending", "wait_reason": "retry_backoff",
                "next_at": "2026-12-01T09:00:00.000Z", "attempts": 2, "last_error": "no connection: refused"}),
            json!({"id": "h2", "item": "i1", "event": "item.failed", "state": "delivered"}),
        ];
        let shown = webhook(&json!({"url": "https://host/x?***"}), &deliveries);
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(lines[0], "webhook https://host/x?***: 1 delivered, 1 pending, 0 given_up");
        let told =
            "  h3 task.finished pending retry_backoff, next at 2026-12-01 09:00:00Z, 2 tries: no connection: refused";
        assert_eq!(lines[1..], [told]);
    }

    #[test]
    fn a_profile_says_who_has_it_and_a_figure_that_is_not_known_is_left_out() {
        let rows = [
            json!({"id": "anna", "name": "Anna", "state": "running", "held_by": "worker w1", "item": null}),
            json!({"id": "boris", "name": "Boris", "state": "idle", "rate_limited_until": "2026-12-01T09:00:00.000Z"}),
        ];
        let shown = profiles(&rows);
        assert!(shown.contains("HELD BY") && shown.contains("worker w1"), "{shown}");
        assert!(shown.contains("rests until 2026-12-01 09:00:00Z"), "{shown}");
        assert!(shown.contains("resting") && !shown.contains("idle"), "{shown}");
        let usage = |cpu| status(&json!({"resource_usage": {"memory_mb": 7.5, "cpu_percent": cpu, "disk_free_mb": 9}}));
        assert!(usage(json!(null)).contains("resources  7.5 MB memory, 9 MB disk free"));
        assert!(usage(json!(1.5)).contains("resources  7.5 MB memory, 1.5 % cpu, 9 MB disk free"));
    }

    #[test]
    fn a_pause_is_told_with_what_to_do() {
        let shown = |pause| status(&json!({"state": "restored", "pause": pause}));
        assert!(!shown(json!(null)).contains("pause"));
        let help = "Look; then `cove resume --accept-duplicates`.";
        let since = "2026-12-01T09:00:00.000Z";
        let blind = shown(json!({"kind": "restored", "blind": true, "since": since, "help": help}));
        let line = blind.lines().find(|line| line.starts_with("pause")).unwrap();
        assert!(line.starts_with("pause      restored blind: ") && line.ends_with(help), "{line}");
        let damaged = shown(json!({"kind": "ledger_damaged", "what": "line 3: no text", "since": since, "help": help}));
        assert!(
            damaged.contains("pause      ledger damaged: line 3: no text (since 2026-12-01 09:00:00Z)"),
            "{damaged}"
        );
    }

    #[test]
    fn an_open_breaker_is_in_the_status_and_a_closed_one_is_not() {
        let breakers = json!([{"name": "webhook https://a", "state": "open", "failures_in_a_row": 5,
                "open_until": "2026-12-01T09:00:00.000Z", "last_error": "no answer"},
            {"name": "dolphin", "state": "half_open", "failures_in_a_row": 6, "last_error": "no connection"},
            {"name": "webhook https://b", "state": "closed"}]);
        let shown = status(&json!({"breakers": breakers}));
        let open = "breaker    webhook https://a open until 2026-12-01 09:00:00Z, 5 failures in a row: no answer";
        assert!(shown.contains(open), "{shown}");
        assert!(shown.contains("breaker    dolphin half_open, 6 failures in a row: no connection"), "{shown}");
        assert!(!shown.contains("https://b"), "{shown}");
    }

    #[test]
    fn only_what_is_there_is_counted() {
        assert_eq!(counts(&json!({"counts": {"queued": 0, "running": 2, "failed": 1}})), "2 running, 1 failed");
        assert_eq!(time(&json!({"at": "2026-12-01T09:00:00.250Z"}), "at"), "2026-12-01 09:00:00Z");
        let table =
            items(&[json!({"id": "i1", "profile": "anna", "state": "succeeded", "attempts": 1, "url": "http://x"})]);
        assert!(table.contains("http://x") && table.starts_with(" ID"), "{table}");
    }
}
