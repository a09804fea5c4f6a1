//! Finding the element that a step means, and waiting until it can be acted on.
//!
//! All alternatives of a step are tried in each round until the deadline; the first that resolves wins. A
//! chain searches within what the part before it found, through open shadow roots. `aria/` goes through
//! the browser's own accessibility tree; the rest through a function in the page. Called by the steps;
//! nothing is dispatched here.

use std::collections::BTreeMap;
use std::time::Duration;

use chromiumoxide::cdp::browser_protocol::accessibility::QueryAxTreeParams;
use chromiumoxide::cdp::browser_protocol::dom::ResolveNodeParams;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::cdp::{Handle, Tab, Trouble};
use crate::model::flow::{Selector, Selectors};
use crate::model::{Failure, FailureCode};

const QUERY: &str = include_str!("locate/query.js");
const ACTIONABLE: &str = include_str!("locate/actionable.js");
const MATCHES: &str = include_str!("locate/matches.js");

/// Between two rounds.
const ROUND: Duration = Duration::from_millis(60);
/// Elements of one selector that a count looks at.
const MAX_COUNTED: usize = 1_000;
/// Of an accessibility query; each costs a call.
const MAX_RESOLVED: usize = 100;

/// An element, and the alternative that found it.
pub struct Found {
    pub handle: Handle,
    /// As it is shown in the trace.
    pub selector: String,
}

/// Where an element can be acted on, in CSS pixels of the viewport.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    pub x: f64,
    pub y: f64,
}

/// Alternatives with their templates filled in.
pub struct Wanted {
    alternatives: Vec<Vec<Selector>>,
    shown: Vec<String>,
}

impl Wanted {
    pub fn render(selectors: &Selectors, values: &BTreeMap<String, String>) -> Result<Self, Failure> {
        let invalid = |message: String| Failure::new(FailureCode::FlowInvalid, message);
        let mut wanted = Self { alternatives: Vec::new(), shown: Vec::new() };
        for chain in &selectors.0 {
            let texts: Vec<_> =
                chain.iter().map(|part| part.render(values)).collect::<Result<_, _>>().map_err(invalid)?;
            let parts = texts.iter().map(|text| Selector::parse(text)).collect::<Result<_, _>>();
            wanted.alternatives.push(parts.map_err(|message| invalid(format!("{}: {message}", texts.join(" >>> "))))?);
            wanted.shown.push(texts.join(" >>> "));
        }
        Ok(wanted)
    }

    pub fn describe(&self) -> String {
        self.shown.join(" | ")
    }

    /// One round: the first alternative that resolves.
    async fn look(&self, tab: &Tab) -> Result<Option<Found>, Trouble> {
        let document = tab.document().await?;
        for at in 0..self.alternatives.len() {
            if let Some(found) = self.resolve(tab, &document, at).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn resolve(&self, tab: &Tab, document: &Handle, at: usize) -> Result<Option<Found>, Trouble> {
        match find_chain(tab, document, &self.alternatives[at]).await {
            Ok(found) => Ok(found.map(|handle| Found { handle, selector: self.shown[at].clone() })),
            Err(lost @ Trouble::Lost(_)) => Err(lost),
            // The page changed under the query, or cannot read this alternative: the others count.
            Err(error) => {
                tracing::debug!(alternative = at, %error, "an alternative was not looked for");
                Ok(None)
            }
        }
    }

    /// One round: the first alternative whose element can be acted on, or why the first that was found cannot.
    async fn aim(&self, tab: &Tab, offset: Option<(f64, f64)>) -> Result<Aimed, Trouble> {
        let document = tab.document().await?;
        let mut aimed = Aimed::Nothing;
        for at in 0..self.alternatives.len() {
            let Some(found) = self.resolve(tab, &document, at).await? else { continue };
            match point(tab, &found.handle, offset).await {
                Ok(Ok(point)) => return Ok(Aimed::At(found, point)),
                Ok(Err(reason)) => {
                    if matches!(aimed, Aimed::Nothing) {
                        aimed = Aimed::Not(found.selector, reason);
                    }
                }
                Err(lost @ Trouble::Lost(_)) => return Err(lost),
                Err(error) => tracing::debug!(%error, "an element could not be looked at"),
            }
        }
        Ok(aimed)
    }
}

/// What one round of aiming found.
enum Aimed {
    At(Found, Point),
    /// The alternative, and what keeps its element from being acted on.
    Not(String, String),
    Nothing,
}

async fn find_chain(tab: &Tab, document: &Handle, chain: &[Selector]) -> Result<Option<Handle>, Trouble> {
    let mut root = document.clone();
    for part in chain {
        match find_all(tab, &root, part, 1).await?.into_iter().next() {
            Some(found) => root = found,
            None => return Ok(None),
        }
    }
    Ok(Some(root))
}

/// What the page's own function takes; `aria/` goes through the browser.
const fn in_page(selector: &Selector) -> Option<(&'static str, &String)> {
    match selector {
        Selector::Aria { .. } => None,
        Selector::Css(text) => Some(("css", text)),
        Selector::Text(text) => Some(("text", text)),
        Selector::XPath(text) => Some(("xpath", text)),
        Selector::Pierce(text) => Some(("pierce", text)),
    }
}

async fn find_all(tab: &Tab, root: &Handle, selector: &Selector, limit: usize) -> Result<Vec<Handle>, Trouble> {
    if let Selector::Aria { name, role } = selector {
        return find_aria(tab, root, name, role.as_deref(), limit).await;
    }
    let Some((kind, text)) = in_page(selector) else { return Ok(Vec::new()) };
    if limit == 1 {
        let one = format!("function (kind, text) {{ return ({QUERY}).call(this, kind, text, 1)[0] ?? null; }}");
        return Ok(tab.handle_of(root, &one, &[json!(kind), json!(text)]).await?.into_iter().collect());
    }
    let Some(list) = tab.handle_of(root, QUERY, &[json!(kind), json!(text), json!(limit)]).await? else {
        return Ok(Vec::new());
    };
    let count = tab.value_of(&list, "function () { return this.length; }", &[]).await?.as_u64().unwrap_or_default();
    let mut handles = Vec::new();
    for at in 0..count {
        handles.extend(tab.handle_of(&list, "function (at) { return this[at]; }", &[json!(at)]).await?);
    }
    Ok(handles)
}

/// By accessible name and role, as a screen reader finds it.
async fn find_aria(
    tab: &Tab,
    root: &Handle,
    name: &str,
    role: Option<&str>,
    limit: usize,
) -> Result<Vec<Handle>, Trouble> {
    let query = QueryAxTreeParams {
        object_id: Some(root.0.clone()),
        accessible_name: (!name.is_empty()).then(|| name.to_owned()),
        role: role.map(str::to_owned),
        ..QueryAxTreeParams::default()
    };
    let mut handles = Vec::new();
    for node in tab.call(query).await?.nodes {
        let role = node.role.as_ref().and_then(|role| role.value.as_ref()).and_then(Value::as_str);
        let is_text = role.is_some_and(|role| role == "StaticText" || role == "InlineTextBox");
        let Some(backend) = node.backend_dom_node_id.filter(|_| !node.ignored && !is_text) else { continue };
        let resolve = ResolveNodeParams { backend_node_id: Some(backend), ..ResolveNodeParams::default() };
        // A node that went away since the query is no match.
        let Ok(resolved) = tab.call(resolve).await else { continue };
        handles.extend(resolved.object.object_id.map(Handle));
        if handles.len() >= limit.min(MAX_RESOLVED) {
            break;
        }
    }
    Ok(handles)
}

/// Waits for an element, whatever its looks: a file input may be hidden.
pub async fn attached(tab: &Tab, wanted: &Wanted, until: Instant) -> Result<Found, Failure> {
    loop {
        match wanted.look(tab).await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(Trouble::Lost(why)) => return Err(lost(&why)),
            Err(error) => tracing::debug!(%error, "a round of looking failed"),
        }
        if Instant::now() >= until {
            let detail = format!("nothing matches {}", wanted.describe());
            return Err(Failure::new(FailureCode::ElementNotFound, detail));
        }
        sleep(ROUND).await;
    }
}

/// Waits until an element can be acted on; answers where.
pub async fn actionable(
    tab: &Tab,
    wanted: &Wanted,
    offset: Option<(f64, f64)>,
    until: Instant,
) -> Result<(Found, Point), Failure> {
    let mut why = None;
    loop {
        match wanted.aim(tab, offset).await {
            Ok(Aimed::At(found, point)) => return Ok((found, point)),
            Ok(Aimed::Not(selector, reason)) => why = Some((selector, reason)),
            Ok(Aimed::Nothing) => {}
            Err(Trouble::Lost(reason)) => return Err(lost(&reason)),
            Err(error) => tracing::debug!(%error, "a round of looking failed"),
        }
        if Instant::now() >= until {
            return Err(match why {
                Some((selector, reason)) => {
                    Failure::new(FailureCode::ElementNotActionable, format!("{selector}: {reason}"))
                }
                None => {
                    let detail = format!("nothing matches {}", wanted.describe());
                    Failure::new(FailureCode::ElementNotFound, detail)
                }
            });
        }
        sleep(ROUND).await;
    }
}

/// Where this element can be acted on now, or why it cannot.
pub async fn point(tab: &Tab, element: &Handle, offset: Option<(f64, f64)>) -> Result<Result<Point, String>, Trouble> {
    let offset = offset.map_or(Value::Null, |(x, y)| json!([x, y]));
    let answer = tab.value_of(element, ACTIONABLE, &[offset, json!(false)]).await?;
    if answer["ok"] == true {
        let side = |name: &str| answer[name].as_f64().unwrap_or_default();
        return Ok(Ok(Point { x: side("x"), y: side("y") }));
    }
    Ok(Err(answer["why"].as_str().unwrap_or("it cannot be acted on").to_owned()))
}

/// What a waitForElement asks of each element.
pub struct Asked {
    pub visible: bool,
    pub attributes: Value,
    pub properties: Value,
}

/// How many elements fit, by the alternative with the most.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    pub most: u32,
    /// Every alternative was counted, on a page that has been read to its end. Only then does a small number
    /// mean that there are no more.
    pub whole: bool,
}

/// Counts on the page that is shown; the browser's own error page has nothing to count.
pub async fn count(tab: &Tab, wanted: &Wanted, asked: &Asked) -> Result<Counted, Trouble> {
    let document = tab.document().await?;
    let state = "function () { return [this.location.protocol, this.readyState]; }";
    let state = tab.value_of(&document, state, &[]).await?;
    if state[0] == "chrome-error:" {
        return Err(Trouble::Refused("the browser shows its error page".to_owned()));
    }
    let mut whole = state[1] != "loading";
    let arguments = [json!(asked.visible), asked.attributes.clone(), asked.properties.clone()];
    let mut most = 0;
    for chain in &wanted.alternatives {
        let Some((last, ancestors)) = chain.split_last() else { continue };
        let root = match find_chain(tab, &document, ancestors).await {
            Ok(Some(root)) => root,
            Err(lost @ Trouble::Lost(_)) => return Err(lost),
            Ok(None) => continue,
            Err(error) => {
                tracing::debug!(%error, "the ancestors of an alternative were not looked for");
                whole = false;
                continue;
            }
        };
        let fitting = match fitting(tab, &root, last, &arguments).await {
            Ok(fitting) => fitting,
            Err(lost @ Trouble::Lost(_)) => return Err(lost),
            Err(error) => {
                tracing::debug!(%error, "an alternative was not counted");
                whole = false;
                continue;
            }
        };
        most = most.max(fitting);
    }
    Ok(Counted { most, whole })
}

async fn fitting(tab: &Tab, root: &Handle, selector: &Selector, arguments: &[Value; 3]) -> Result<u32, Trouble> {
    let Some((kind, text)) = in_page(selector) else {
        let mut fitting = 0;
        for handle in find_all(tab, root, selector, MAX_RESOLVED).await? {
            fitting += u32::from(tab.value_of(&handle, MATCHES, arguments).await? == true);
        }
        return Ok(fitting);
    };
    let counted = format!(
        "function (kind, text, ...asked) {{ const fits = {MATCHES}; \
         return ({QUERY}).call(this, kind, text, {MAX_COUNTED}).filter((element) => fits.apply(element, asked)).length; }}"
    );
    let all = [json!(kind), json!(text), arguments[0].clone(), arguments[1].clone(), arguments[2].clone()];
    let count = tab.value_of(root, &counted, &all).await?.as_u64().unwrap_or_default();
    Ok(u32::try_from(count).unwrap_or(u32::MAX))
}

/// The page's address, and which of `wanted` is visible on it: one evaluation, save for what goes through the
/// accessibility tree. An alternative that cannot be looked for is not there.
pub async fn visible(tab: &Tab, wanted: &[&Wanted]) -> Result<(String, Vec<bool>), Trouble> {
    let chains: Vec<Vec<Vec<_>>> = wanted
        .iter()
        .map(|wanted| wanted.alternatives.iter().filter_map(|chain| chain.iter().map(in_page).collect()).collect())
        .collect();
    let looked = format!(
        "(() => {{ const query = {QUERY}; const fits = {MATCHES};
        const seen = (chain) => {{
          let root = document;
          for (const [kind, text] of chain.slice(0, -1)) {{
            root = query.call(root, kind, text, 1)[0];
            if (!root) return false;
          }}
          const [kind, text] = chain.at(-1);
          return query.call(root, kind, text, {MAX_COUNTED}).some((element) => fits.call(element, true, {{}}, {{}}));
        }};
        const any = (chains) => chains.some((chain) => {{ try {{ return seen(chain); }} catch {{ return false; }} }});
        return [location.href, {}.map(any)]; }})()",
        json!(chains)
    );
    let answer = tab.evaluate(&looked).await?;
    let mut visible = Vec::new();
    for (at, wanted) in wanted.iter().enumerate() {
        visible.push(answer[1][at] == true || visible_to_readers(tab, wanted).await?);
    }
    Ok((answer[0].as_str().unwrap_or_default().to_owned(), visible))
}

/// The alternatives that name what a screen reader would.
async fn visible_to_readers(tab: &Tab, wanted: &Wanted) -> Result<bool, Trouble> {
    let asked = Asked { visible: true, attributes: json!({}), properties: json!({}) };
    let aria = |chain: &&Vec<Selector>| chain.iter().any(|part| in_page(part).is_none());
    let alternatives: Vec<_> = wanted.alternatives.iter().filter(aria).cloned().collect();
    if alternatives.is_empty() {
        return Ok(false);
    }
    let readers = Wanted { alternatives, shown: Vec::new() };
    Ok(count(tab, &readers, &asked).await?.most > 0)
}

pub fn lost(why: &str) -> Failure {
    Failure::new(FailureCode::BrowserLost, format!("the browser closed or crashed: {why}"))
}
