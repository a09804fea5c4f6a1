//! What each route is for: its name, its parameters, what it reads and what it answers.
//!
//! One row a route of [`crate::api::routes::ROUTES`]; a test compares the two tables. Errors that every route
//! of a kind can answer (guards, limits, the daemon's own state) are added by [`super`]; here are those that are
//! the route's own.

#[allow(clippy::enum_glob_use, reason = "a table of nothing but codes")]
use crate::api::error::Code::{self, *};

/// What an answer holds.
#[derive(Clone, Copy)]
pub enum Holds {
    Nothing,
    /// JSON of this schema.
    Json(&'static str),
    /// Anything of this content type.
    Bytes(&'static str),
}

pub struct Operation {
    pub method: &'static str,
    pub path: &'static str,
    /// Its name in programs that are made from the description.
    pub id: &'static str,
    pub summary: &'static str,
    pub query: &'static [&'static str],
    /// The schema of the JSON that it reads.
    pub body: Option<&'static str>,
    pub answers: &'static [(u16, Holds)],
    pub errors: &'static [Code],
}

macro_rules! operations {
    ($($method:ident $path:literal $id:ident $summary:literal [$($query:literal)*] $body:expr; [$($status:literal $holds:expr),+] [$($error:ident)*];)+) => {
        pub const OPERATIONS: &[Operation] = &[$(Operation {
            method: stringify!($method),
            path: $path,
            id: stringify!($id),
            summary: $summary,
            query: &[$($query),*],
            body: $body,
            answers: &[$(($status, $holds)),+],
            errors: &[$($error),*],
        }),+];
    };
}

const fn json(schema: &'static str) -> Holds {
    Holds::Json(schema)
}

const NOTHING: Holds = Holds::Nothing;
const HTML: Holds = Holds::Bytes("text/html; charset=utf-8");
const FILE: Holds = Holds::Bytes("*/*");

operations! {
    GET "/" home "The page for people." [] None; [200 HTML, 304 NOTHING] [];
    GET "/devtools/{token}/" enterDevtools "DevTools of a profile that a person opened." [] None; [302 NOTHING, 200 FILE] [NotFound BadGateway];
    GET "/devtools/{token}/{*rest}" devtools "A file or the WebSocket of DevTools." [] None; [200 FILE, 101 NOTHING] [NotFound BadGateway NotReady UpgradeRequired];
    HEAD "/api/v1/bulk-upload/start" startLimits "What is left of the limit of task starts; spends nothing." [] None; [200 NOTHING] [];
    POST "/api/v1/bulk-upload/start" start "Accept a task: items that are published once each." [] Some("Start"); [202 json("Started")]
        [UnknownFlow UnknownProfile AmbiguousProfile InvalidInput DuplicateKey InvalidMedia MediaOutsideRoots MediaNotFound MediaEmpty MediaTooLarge MediaUnreadable FlowInvalid FlowChanged IdempotencyConflict KeyTaken MediaFailed];
    GET "/api/v1/tasks" listTasks "Tasks, newest first." ["state" "flow" "profile" "cursor" "limit"] None; [200 json("Tasks")] [UnknownProfile AmbiguousProfile];
    GET "/api/v1/tasks/{id}" getTask "One task, with its counts." [] None; [200 json("Task")] [NotFound];
    GET "/api/v1/tasks/{id}/items" listTaskItems "The items of a task." ["state" "profile" "cursor" "limit"] None; [200 json("Items")] [NotFound UnknownProfile AmbiguousProfile];
    GET "/api/v1/tasks/{id}/events" listTaskEvents "The log of a task, oldest first." ["cursor" "limit"] None; [200 json("TaskEvents")] [NotFound];
    POST "/api/v1/tasks/{id}/cancel" cancelTask "Cancel what has not been armed." [] None; [202 json("Task")] [NotFound];
    POST "/api/v1/tasks/{id}/retry" retryTask "Queue failed items again; what may have published is left alone." [] None; [202 json("Task")] [NotFound];
    POST "/api/v1/tasks/{id}/pause" pauseTask "Start nothing more of this task." [] None; [202 json("Task")] [NotFound];
    POST "/api/v1/tasks/{id}/resume" resumeTask "Go on with a paused task." [] None; [202 json("Task")] [NotFound];
    GET "/api/v1/tasks/{id}/webhooks" listDeliveries "What the task's webhook was told." ["cursor" "limit"] None; [200 json("Deliveries")] [NotFound];
    POST "/api/v1/tasks/{id}/webhooks/{delivery}/retry" retryDelivery "Try a delivery again that was given up." [] None; [202 json("Delivery")] [NotFound DeliveryNotGivenUp];
    GET "/api/v1/items" listItems "Items of all tasks." ["state" "task" "profile" "cursor" "limit"] None; [200 json("Items")] [UnknownProfile AmbiguousProfile];
    GET "/api/v1/items/{id}" getItem "One item, and why it waits." [] None; [200 json("Item")] [NotFound];
    POST "/api/v1/items/{id}/resolve" resolveItem "Say what became of an unknown outcome." [] Some("Resolve"); [200 json("Item")] [NotFound NotUnknown];
    GET "/api/v1/items/{id}/evidence" listEvidence "What the attempts of an item left." [] None; [200 json("EvidenceFiles")] [NotFound];
    GET "/api/v1/items/{id}/evidence/{file}" getEvidence "One file of it: a picture, or text." ["attempt" "fence"] None; [200 FILE] [NotFound];
    GET "/api/v1/profiles" listProfiles "Profiles and their state." [] None; [200 json("Profiles")] [];
    POST "/api/v1/profiles" createProfile "Make a profile of the chromium provider." [] Some("NewProfile"); [201 json("Profile")] [ProfileExists NotSupported];
    GET "/api/v1/profiles/{id}" getProfile "One profile." [] None; [200 json("Profile")] [NotFound];
    POST "/api/v1/profiles/{id}/open" openProfile "Show a profile to a person, for signing in." [] Some("OpenProfile"); [202 json("Profile")] [NotFound ProfileBusy];
    POST "/api/v1/profiles/{id}/close" closeProfile "Close what was opened." [] None; [202 json("Profile")] [NotFound ProfileNotOpen];
    POST "/api/v1/profiles/{id}/unpark" unparkProfile "A person did what the site asked for: go on." [] None; [200 json("Profile")] [NotFound];
    GET "/api/v1/locks" listLocks "Locks, running profiles included; with `kind` and `key` that one, where it is held." ["kind" "key" "owner" "cursor" "limit"] None; [200 json("Locks")] [];
    POST "/api/v1/locks/acquire" acquireLock "Take a lock, or hear who has it." [] Some("LockAcquire"); [200 json("Acquired")] [UnknownProfile AmbiguousProfile Restored];
    POST "/api/v1/locks/refresh" refreshLock "Hold it longer." [] Some("LockRefresh"); [200 json("Refreshed")] [UnknownProfile AmbiguousProfile StaleFence NotHeld];
    POST "/api/v1/locks/release" releaseLock "Give it back." [] Some("LockRelease"); [200 json("Released")] [UnknownProfile AmbiguousProfile StaleFence NotHeld];
    POST "/api/v1/locks/cleanup" cleanUpLocks "Remove expired locks; with `force` all of one owner." [] Some("LockCleanup"); [200 json("CleanedUp")] [];
    POST "/api/v1/claims" claimItem "An outside worker takes an item; waits for one." [] Some("ClaimRequest"); [200 json("Claim"), 204 NOTHING] [TooManyWaiting ProfileBusy SessionsFull ProviderDown NoMemory NoCpu Restored];
    POST "/api/v1/claims/{id}/refresh" refreshClaim "Keep it longer, unless its task was canceled and it is not armed: give up then, with `fail`." [] Some("ClaimRefresh"); [200 json("ClaimRefreshed")] [NotFound StaleFence NotHeld Canceled];
    POST "/api/v1/claims/{id}/arm" armClaim "Right before the click: may it be made?" [] Some("ClaimArm"); [200 json("Armed")] [NotFound StaleFence NotHeld AlreadyArmed Canceled SessionEnded MediaMismatch];
    POST "/api/v1/claims/{id}/complete" completeClaim "It was published. One that was never armed is taken all the same, with a warning." [] Some("ClaimComplete"); [200 json("Item")] [NotFound StaleFence NotHeld];
    POST "/api/v1/claims/{id}/fail" failClaim "It was not, or nobody knows." [] Some("ClaimFail"); [200 json("Item")] [NotFound StaleFence NotHeld];
    POST "/api/v1/sessions" createSession "Lend a profile's browser to a program." [] Some("NewSession"); [201 json("Session")] [UnknownProfile AmbiguousProfile ProfileBusy SessionsFull ProviderDown NoMemory NoCpu Restored];
    GET "/api/v1/sessions" listSessions "Browsers that are lent." [] None; [200 json("Sessions")] [];
    GET "/api/v1/sessions/{id}" getSession "One of them." [] None; [200 json("Session")] [NotFound];
    DELETE "/api/v1/sessions/{id}" deleteSession "End it: the browser is stopped and the profile is free." [] None; [204 NOTHING] [NotFound AlreadyArmed];
    POST "/api/v1/sessions/{id}/refresh" refreshSession "Keep it longer." [] Some("SessionRefresh"); [200 json("Session")] [NotFound StaleFence NotHeld];
    GET "/api/v1/sessions/{id}/cdp/{token}" connectSession "The browser itself: a WebSocket of CDP." [] None; [101 NOTHING] [NotFound TokenRevoked SessionEnded NotReady BadGateway UpgradeRequired];
    GET "/api/v1/sessions/{id}/cdp/{token}/json/version" sessionVersion "What clients of CDP ask first." [] None; [200 json("BrowserVersion")] [NotFound TokenRevoked SessionEnded NotReady BadGateway];
    GET "/api/v1/sessions/{id}/cdp/{token}/json/version/" sessionVersionSlash "The same, as some clients write it." [] None; [200 json("BrowserVersion")] [NotFound TokenRevoked SessionEnded NotReady BadGateway];
    POST "/api/v1/media" uploadMedia "Store a file; its hash names it." [] None; [201 json("Media")] [MediaEmpty MediaFailed];
    GET "/api/v1/flows" listFlows "Stored flows." [] None; [200 json("Flows")] [];
    GET "/api/v1/flows/{name}" getFlow "The recording, as it was put." [] None; [200 json("FlowRecording")] [NotFound];
    PUT "/api/v1/flows/{name}" putFlow "Check and store a recording." [] Some("Recording"); [200 json("FlowPut"), 201 json("FlowPut")] [FlowInvalid];
    DELETE "/api/v1/flows/{name}" deleteFlow "Forget a flow that nothing uses." [] None; [204 NOTHING] [NotFound FlowInUse];
    POST "/api/v1/flows/{name}/run" rehearseFlow "Replay every step before the commit point." [] Some("Rehearsal"); [202 json("Started")]
        [NotFound UnknownProfile AmbiguousProfile InvalidInput DuplicateKey InvalidMedia MediaOutsideRoots MediaNotFound MediaEmpty MediaTooLarge MediaUnreadable FlowInvalid FlowChanged IdempotencyConflict KeyTaken MediaFailed];
    POST "/api/v1/flows/{name}/check" checkFlow "The problems of the recording in the body, or of the stored one." [] Some("AnyJson"); [200 json("FlowChecked")] [NotFound];
    GET "/api/v1/health/simple" healthSimple "Whether the daemon answers." [] None; [200 json("Simple")] [];
    GET "/api/v1/health" health "Each part, and why it is not well." [] None; [200 json("Health"), 503 json("Health")] [];
    GET "/api/v1/status" status "What runs, what waits, what is used." [] None; [200 json("Status")] [];
    GET "/api/v1/metrics" metrics "Counters, gauges, histograms and timers." [] None; [200 json("Metrics")] [];
    GET "/api/v1/metrics/history" metricsHistory "What a gauge or counter was: minute by minute for a day, then coarser for 30 days." ["name" "from" "to" "step"] None; [200 json("MetricsHistory")] [];
    GET "/metrics" prometheus "The same as Prometheus text." [] None; [200 Holds::Bytes("text/plain; version=0.0.4; charset=utf-8")] [];
    GET "/api/v1/events" listenToEvents "What happens, as server-sent events." ["task"] None; [200 Holds::Bytes("text/event-stream")] [TooManyListeners];
    GET "/api/v1/snapshots" listSnapshots "Snapshots, newest first, and the one that is being made." ["cursor" "limit"] None; [200 json("Snapshots")] [SnapshotFailed];
    POST "/api/v1/snapshots" createSnapshot "Make one; what was answered before is in it. It is listed when it is whole." [] None; [202 json("SnapshotBegun")] [SnapshotRunning SnapshotDamaged SnapshotFailed];
    GET "/api/v1/snapshots/{name}" getSnapshot "The file." [] None; [200 Holds::Bytes("application/zstd")] [NotFound SnapshotFailed];
    POST "/api/v1/snapshots/{name}/verify" verifySnapshot "Unpack it, open it, and look at everything in it; answers when that is done." [] None; [200 json("Snapshot")] [NotFound SnapshotRunning SnapshotDamaged SnapshotFailed];
    GET "/api/v1/maintenance" listJobs "Jobs that keep the house clean: when, and how the last run ended." [] None; [200 json("Jobs")] [];
    POST "/api/v1/maintenance/{job}/run" runJob "Run one now; its schedule stays as it is." [] None; [202 json("Job")] [NotFound JobRunning];
    POST "/api/v1/pause" pause "Start nothing more." [] None; [202 json("State")] [];
    POST "/api/v1/resume" resume "Go on, also after a restore." [] Some("Resume"); [202 json("State")] [ResumeRefused];
    GET "/api/v1/tokens" listTokens "Tokens, without their texts." [] None; [200 json("Tokens")] [];
    POST "/api/v1/tokens" createToken "Make a token; its text is shown once." [] Some("NewToken"); [201 json("Token")] [TooManyTokens];
    DELETE "/api/v1/tokens/{id}" revokeToken "Refuse a token from now on." [] None; [204 NOTHING] [NotFound];
    GET "/api/v1/openapi.json" openapi "This description." [] None; [200 json("Document"), 304 NOTHING] [];
    GET "/api/v1/docs" docs "A page that shows it." [] None; [200 HTML, 304 NOTHING] [];
    GET "/api/v1/docs/{file}" docsFile "A file of that page." [] None; [200 FILE, 304 NOTHING] [NotFound];
}
