//! A client that remembers: what it sent, what was answered, and what must be there afterwards.
//!
//! Every request has something in it that no other has, so that whatever it made can be told: nothing that
//! was answered is missing, nothing is there twice, nothing by halves. What had no answer may be there or
//! not; sent again with its key it is there once.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::rig::{ATELIER, Daemon};

pub const PROFILES: [&str; 3] = ["anna", "boris", "clara"];

#[derive(Clone, Debug)]
pub enum Kind {
    /// Some items with one caption. The caption is the request's own.
    Submit {
        caption: String,
        items: usize,
        key: Option<String>,
        idempotency: Option<String>,
    },
    /// The same Idempotency-Key and body once more; `task` is what it made.
    Again {
        caption: String,
        items: usize,
        key: Option<String>,
        idempotency: String,
        task: String,
    },
    Cancel {
        task: String,
    },
    Pause,
    Resume,
    Profile {
        name: String,
    },
    Flow {
        name: String,
        version: u64,
    },
    DeleteFlow {
        name: String,
    },
    Upload {
        content: String,
    },
    // Acquire, refresh and release of outside programs' locks belong here, with what they promise: into
    // `Client::send` (the request), `Client::next` (the load) and `compare` (the model).
}

#[derive(Clone, Debug)]
pub struct Sent {
    pub kind: Kind,
    /// None: no answer came.
    pub answer: Option<(u16, Value)>,
}

/// Everything that was sent, in the order in which it was sent.
#[derive(Clone, Default)]
pub struct Memory {
    pub sent: Vec<Sent>,
    serial: u64,
}

#[derive(Clone)]
pub struct Client {
    base: String,
    http: reqwest::Client,
    film: String,
    memory: Arc<Mutex<Memory>>,
}

pub fn recording(version: u64) -> String {
    ATELIER.replace("Atelier: publish a video", &format!("version {version}"))
}

impl Memory {
    /// That had an answer.
    pub fn requests(&self) -> u64 {
        self.sent.iter().filter(|sent| sent.answer.is_some()).count() as u64
    }
}

impl Client {
    pub fn new(daemon: &Daemon, memory: &Arc<Mutex<Memory>>) -> Self {
        let film = daemon.folder.path().join("media/1.mp4").display().to_string();
        Self { base: daemon.base.clone(), http: daemon.client.clone(), film, memory: memory.clone() }
    }

    fn serial(&self) -> u64 {
        let mut memory = self.memory.lock().unwrap();
        memory.serial += 1;
        memory.serial
    }

    /// Sends until the daemon is gone.
    pub async fn load(self, worker: usize, mut dice: fastrand::Rng) {
        loop {
            let kind = self.next(worker, &mut dice);
            if self.remember_and_send(kind).await.is_none() {
                return;
            }
        }
    }

    /// The same requests in the same order each time. False: the daemon was gone before the last one.
    pub async fn fixed_work(&self, name: &str) -> bool {
        let mut tasks: Vec<String> = Vec::new();
        for profile in PROFILES {
            let profile = Kind::Profile { name: format!("{profile}-{name}") };
            if self.remember_and_send(profile).await.is_none() {
                return false;
            }
        }
        for step in 0..16 {
            let caption = format!("{name} {step}");
            let of_step = [
                Kind::Submit {
                    caption: caption.clone(),
                    items: 1 + step % 3,
                    key: (step % 3 == 0).then(|| format!("key {caption}")),
                    idempotency: (step % 2 == 0).then(|| format!("request-{name}-{step}")),
                },
                match step % 4 {
                    0 => Kind::Flow { name: format!("flow-{name}"), version: step as u64 },
                    1 => Kind::Pause,
                    2 => Kind::Resume,
                    _ => Kind::Upload { content: caption },
                },
            ];
            let cancel = tasks.get(step / 2).filter(|_| step % 5 == 4).cloned().map(|task| Kind::Cancel { task });
            for kind in of_step.into_iter().chain(cancel) {
                let Some((_, body)) = self.remember_and_send(kind).await else { return false };
                tasks.extend(body["task_id"].as_str().map(str::to_owned));
            }
        }
        self.remember_and_send(Kind::DeleteFlow { name: format!("flow-{name}") }).await.is_some()
    }

    /// None: no answer.
    async fn remember_and_send(&self, kind: Kind) -> Option<(u16, Value)> {
        let place = {
            let mut memory = self.memory.lock().unwrap();
            memory.sent.push(Sent { kind: kind.clone(), answer: None });
            memory.sent.len() - 1
        };
        let answered = self.send(&kind).await;
        if let Some((status, body)) = &answered {
            check_answer(&kind, *status, body);
        }
        self.memory.lock().unwrap().sent[place].answer.clone_from(&answered);
        answered
    }

    fn next(&self, worker: usize, dice: &mut fastrand::Rng) -> Kind {
        let serial = self.serial();
        let memory = self.memory.lock().unwrap();
        let accepted = |sent: &&Sent| sent.answer.as_ref().is_some_and(|(status, _)| *status == 202);
        let task_of = |sent: &Sent| sent.answer.as_ref().unwrap().1["task_id"].as_str().unwrap().to_owned();
        let recent: Vec<&Sent> = memory.sent.iter().rev().take(200).filter(accepted).collect();
        let submits: Vec<&Sent> = recent.into_iter().filter(|sent| matches!(sent.kind, Kind::Submit { .. })).collect();
        let one = (!submits.is_empty()).then(|| submits[dice.usize(..submits.len())]);
        match (dice.u8(..100), one) {
            (60..=69, Some(sent)) => Kind::Cancel { task: task_of(sent) },
            (70..=76, Some(sent)) => match &sent.kind {
                Kind::Submit { caption, items, key, idempotency: Some(idempotency) } => Kind::Again {
                    caption: caption.clone(),
                    items: *items,
                    key: key.clone(),
                    idempotency: idempotency.clone(),
                    task: task_of(sent),
                },
                _ => Kind::Cancel { task: task_of(sent) },
            },
            // One worker alone, so that the last answer says how it stands.
            (77..=80, _) if worker == 0 => Kind::Pause,
            (81..=88, _) if worker == 0 => Kind::Resume,
            (89..=90, _) => Kind::Profile { name: format!("p{serial}") },
            (91..=94, _) => Kind::Flow { name: format!("flow-{worker}"), version: serial },
            (95, _) => Kind::DeleteFlow { name: format!("flow-{worker}") },
            (96..=98, _) => Kind::Upload { content: format!("upload {serial}") },
            _ => Kind::Submit {
                caption: format!("caption {serial}"),
                items: dice.usize(1..4),
                key: (dice.u8(..3) == 0).then(|| format!("key-{}", dice.u8(..30))),
                idempotency: dice.bool().then(|| format!("request-{serial}")),
            },
        }
    }

    fn start(
        &self,
        caption: &str,
        items: usize,
        key: Option<&str>,
        idempotency: Option<&str>,
    ) -> reqwest::RequestBuilder {
        let item = |n: usize| {
            let profile = PROFILES[n % PROFILES.len()];
            let inputs =
                json!({"site": "http://127.0.0.1:9", "account": profile, "video": self.film, "caption": caption});
            json!({"profile": profile, "inputs": inputs, "key": key.filter(|_| n == 0)})
        };
        let body = json!({"flow": "atelier", "items": (0..items).map(item).collect::<Vec<_>>(), "max_attempts": 2});
        let request = self.http.post(format!("{}/api/v1/bulk-upload/start", self.base)).json(&body);
        match idempotency {
            Some(idempotency) => request.header("idempotency-key", idempotency),
            None => request,
        }
    }

    /// None: the daemon was gone before it answered in full, or its disk failed and nobody knows.
    async fn send(&self, kind: &Kind) -> Option<(u16, Value)> {
        let url = |path: &str| format!("{}/api/v1/{path}", self.base);
        let request = match kind {
            Kind::Submit { caption, items, key, idempotency } => {
                self.start(caption, *items, key.as_deref(), idempotency.as_deref())
            }
            Kind::Again { caption, items, key, idempotency, .. } => {
                self.start(caption, *items, key.as_deref(), Some(idempotency))
            }
            Kind::Cancel { task } => self.http.post(url(&format!("tasks/{task}/cancel"))),
            Kind::Pause => self.http.post(url("pause")),
            Kind::Resume => self.http.post(url("resume")),
            Kind::Profile { name } => self.http.post(url("profiles")).json(&json!({"name": name})),
            Kind::Flow { name, version } => {
                let put = self.http.put(url(&format!("flows/{name}"))).header("content-type", "application/json");
                put.body(recording(*version))
            }
            Kind::DeleteFlow { name } => self.http.delete(url(&format!("flows/{name}"))),
            Kind::Upload { content } => self.http.post(url("media")).body(content.clone()),
        };
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let bytes = answer.bytes().await.ok()?;
        if [503, 507].contains(&status) {
            return None;
        }
        Some((status, serde_json::from_slice(&bytes).unwrap_or_default()))
    }

    /// Everything whose answer is missing and that may be sent again, is; then it is known.
    pub async fn ask_again(&self) {
        let unknown: Vec<(usize, Kind)> = {
            let memory = self.memory.lock().unwrap();
            let open = memory.sent.iter().enumerate().filter(|(_, sent)| sent.answer.is_none());
            open.map(|(place, sent)| (place, sent.kind.clone())).collect()
        };
        for (place, kind) in unknown {
            let repeatable =
                matches!(kind, Kind::Submit { idempotency: Some(_), .. } | Kind::Again { .. } | Kind::Upload { .. });
            if repeatable {
                let answered = self.send(&kind).await;
                let (status, body) = answered.clone().expect("the daemon runs");
                check_answer(&kind, status, &body);
                self.memory.lock().unwrap().sent[place].answer = answered;
            }
        }
    }
}

/// Answers that are wrong whatever happened before.
fn check_answer(kind: &Kind, status: u16, body: &Value) {
    let fits = match kind {
        Kind::Submit { items, .. } => status == 409 || (status == 202 && body["items"] == json!(items)),
        Kind::Again { task, .. } => status == 202 && body["task_id"] == json!(task),
        Kind::Cancel { .. } | Kind::Pause | Kind::Resume => status == 202,
        Kind::Profile { .. } | Kind::Upload { .. } => status == 201,
        Kind::Flow { .. } => status == 201 || status == 200,
        Kind::DeleteFlow { .. } => status == 204 || status == 404,
    };
    assert!(fits, "{kind:?}: {status} {body}");
}
