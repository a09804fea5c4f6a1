//! What each step does in the page. Every wait ends with its step's timeout; whoever runs the steps
//! interrupts them. An input is dispatched once, wherever it stands.

use std::path::Path;

use chromiumoxide::cdp::browser_protocol::dom::SetFileInputFilesParams;
use chromiumoxide::cdp::browser_protocol::emulation::{
    ScreenOrientation, ScreenOrientationType, SetDeviceMetricsOverrideParams, SetTouchEmulationEnabledParams,
};
use chromiumoxide::cdp::browser_protocol::input::{
    DispatchMouseEventParams, DispatchMouseEventType, MouseButton as CdpButton,
};
use chromiumoxide::cdp::browser_protocol::page::CloseParams;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Run;
use crate::browser::cdp::Trouble;
use crate::browser::locate::{self, Point, Wanted};
use crate::model::flow::{Action, ExtractFrom, MouseButton, Selectors, Step, Template};
use crate::model::{Failure, FailureCode};

/// Longest value that is kept of the page.
const MAX_EXTRACT_CHARACTERS: usize = 10_000;
/// CDP's bit for each button.
const fn button_bit(button: MouseButton) -> i64 {
    match button {
        MouseButton::Primary => 1,
        MouseButton::Secondary => 2,
        MouseButton::Auxiliary => 4,
        MouseButton::Back => 8,
        MouseButton::Forward => 16,
    }
}

const fn cdp_button(button: MouseButton) -> CdpButton {
    match button {
        MouseButton::Primary => CdpButton::Left,
        MouseButton::Secondary => CdpButton::Right,
        MouseButton::Auxiliary => CdpButton::Middle,
        MouseButton::Back => CdpButton::Back,
        MouseButton::Forward => CdpButton::Forward,
    }
}

/// A call that failed, in the words of the step.
pub(super) fn failed(trouble: Trouble, code: FailureCode, what: &str) -> Failure {
    match trouble {
        Trouble::Lost(why) => locate::lost(&why),
        other => Failure::new(code, format!("{what}: {other}")),
    }
}

impl Run<'_> {
    pub(super) fn render(&self, template: &Template) -> Result<String, Failure> {
        template.render(self.values).map_err(|message| Failure::new(FailureCode::FlowInvalid, message))
    }

    pub(super) async fn perform(
        &mut self,
        step: &Step,
        until: Instant,
        selector: &mut Option<String>,
    ) -> Result<(), Failure> {
        if let Some(wait) = self.wait_of(&step.action)? {
            return self.wait_for(&wait, until, selector).await;
        }
        match &step.action {
            Action::SetViewport { width, height, device_scale_factor, is_mobile, has_touch, is_landscape } => {
                let size = (*width, *height);
                self.set_viewport(size, *device_scale_factor, *is_mobile, *has_touch, *is_landscape).await
            }
            Action::Navigate { url } => self.navigate(url, until).await,
            Action::Click { selectors, button, offset, count } => {
                let point = self.find(selectors, *offset, until, selector).await?;
                self.click(point, *button, *count).await
            }
            Action::Hover { selectors } => {
                let point = self.find(selectors, None, until, selector).await?;
                self.mouse(DispatchMouseEventType::MouseMoved, point, None, 0).await
            }
            Action::Change { selectors, value } => {
                let value = self.render(value)?;
                self.change(selectors, &value, until, selector).await
            }
            Action::KeyDown { key } => self.key_down(key).await,
            Action::KeyUp { key } => self.key_up(key).await,
            Action::Scroll { selectors, x, y } => self.scroll(selectors.as_ref(), *x, *y, until, selector).await,
            Action::Close => {
                let closed = self.tab.call(CloseParams::default()).await;
                closed.map(drop).map_err(|trouble| failed(trouble, FailureCode::BrowserLost, "the page was not closed"))
            }
            Action::Upload { selectors, files } => self.upload(selectors, files, until, selector).await,
            Action::Extract { name, from } => self.extract(name, from, until, selector).await,
            Action::Screenshot { name } => self.keep_named(name).await,
            Action::StopIf(stop) => self.put_in_force(stop),
            Action::WaitForElement { .. } | Action::WaitForExpression { .. } | Action::Optional { .. } => {
                Err(Failure::new(FailureCode::Internal, "a step that is done elsewhere"))
            }
        }
    }

    /// Waits until the element can be acted on; notes the alternative that won.
    async fn find(
        &self,
        selectors: &Selectors,
        offset: Option<(f64, f64)>,
        until: Instant,
        selector: &mut Option<String>,
    ) -> Result<Point, Failure> {
        let wanted = Wanted::render(selectors, self.values)?;
        let (found, point) = self.looking(locate::actionable(self.tab, &wanted, offset, until)).await?;
        *selector = Some(found.selector);
        Ok(point)
    }

    async fn set_viewport(
        &self,
        (width, height): (u32, u32),
        factor: f64,
        mobile: bool,
        touch: bool,
        landscape: bool,
    ) -> Result<(), Failure> {
        let mut params = SetDeviceMetricsOverrideParams::new(i64::from(width), i64::from(height), factor, mobile);
        let (kind, angle) = if landscape {
            (ScreenOrientationType::LandscapePrimary, 90)
        } else {
            (ScreenOrientationType::PortraitPrimary, 0)
        };
        params.screen_orientation = Some(ScreenOrientation { r#type: kind, angle });
        let refused = |trouble| failed(trouble, FailureCode::FlowInvalid, "the viewport");
        self.tab.call(params).await.map_err(refused)?;
        self.tab.call(SetTouchEmulationEnabledParams::new(touch)).await.map(drop).map_err(refused)
    }

    /// Moved, pressed, released: each sent once.
    pub(super) async fn click(&mut self, point: Point, button: MouseButton, count: u32) -> Result<(), Failure> {
        self.mouse(DispatchMouseEventType::MouseMoved, point, None, 0).await?;
        for number in 1..=i64::from(count) {
            self.mouse(DispatchMouseEventType::MousePressed, point, Some(button), number).await?;
            self.mouse(DispatchMouseEventType::MouseReleased, point, Some(button), number).await?;
        }
        Ok(())
    }

    async fn mouse(
        &self,
        kind: DispatchMouseEventType,
        point: Point,
        button: Option<MouseButton>,
        count: i64,
    ) -> Result<(), Failure> {
        let pressed = matches!(kind, DispatchMouseEventType::MousePressed);
        let mut params = DispatchMouseEventParams::new(kind, point.x, point.y);
        params.modifiers = Some(self.modifiers);
        params.button = Some(button.map_or(CdpButton::None, cdp_button));
        params.buttons = Some(button.filter(|_| pressed).map_or(0, button_bit));
        params.click_count = Some(count);
        let sent = self.tab.call(params).await;
        sent.map(drop).map_err(|trouble| failed(trouble, FailureCode::ElementNotActionable, "the mouse"))
    }

    async fn scroll(
        &self,
        selectors: Option<&Selectors>,
        x: f64,
        y: f64,
        until: Instant,
        selector: &mut Option<String>,
    ) -> Result<(), Failure> {
        let refused = |trouble| failed(trouble, FailureCode::ElementNotActionable, "scrolling");
        match selectors {
            Some(selectors) => {
                let wanted = Wanted::render(selectors, self.values)?;
                let found = self.looking(locate::attached(self.tab, &wanted, until)).await?;
                *selector = Some(found.selector);
                let scroll = "function (x, y) { this.scrollLeft = x; this.scrollTop = y; }";
                self.tab.value_of(&found.handle, scroll, &[json!(x), json!(y)]).await.map(drop).map_err(refused)
            }
            None => self.tab.evaluate(&format!("window.scroll({x}, {y})")).await.map(drop).map_err(refused),
        }
    }

    /// Puts local files into a file input by path: no size cap, no streaming. The input may be hidden.
    async fn upload(
        &self,
        selectors: &Selectors,
        files: &[Template],
        until: Instant,
        selector: &mut Option<String>,
    ) -> Result<(), Failure> {
        let files: Vec<_> = files.iter().map(|file| self.render(file)).collect::<Result<_, _>>()?;
        let files: Vec<_> = files.into_iter().filter(|file| !file.is_empty()).collect();
        let wanted = Wanted::render(selectors, self.values)?;
        let found = self.looking(locate::attached(self.tab, &wanted, until)).await?;
        *selector = Some(found.selector.clone());
        let refused = |trouble| failed(trouble, FailureCode::UploadRefused, &found.selector);
        let is_input = "function () { return this instanceof HTMLInputElement && this.type === 'file'; }";
        if self.tab.value_of(&found.handle, is_input, &[]).await.map_err(refused)? != true {
            let detail = format!("{} is not a file input", found.selector);
            return Err(Failure::new(FailureCode::UploadRefused, detail));
        }
        // Every file of the step is an optional input that the item does not give.
        if files.is_empty() {
            return Ok(());
        }
        // The page may take the files at once and empty its input: what it saw is counted as it sees it.
        let listen = "function () { \
            const seen = (event) => { this.__coveFiles = [...event.target.files].map((file) => file.name); }; \
            this.addEventListener('input', seen, { once: true, capture: true }); }";
        self.tab.value_of(&found.handle, listen, &[]).await.map_err(refused)?;
        let mut params = SetFileInputFilesParams::new(files.clone());
        params.object_id = Some(found.handle.0.clone());
        self.tab.call(params).await.map_err(refused)?;
        let read = "function () { const seen = this.__coveFiles; delete this.__coveFiles; \
            const now = [...this.files].map((file) => file.name); return now.length ? now : seen ?? []; }";
        let taken = self.tab.value_of(&found.handle, read, &[]).await.map_err(refused)?;
        let name = |file: &String| Path::new(file).file_name().map(|name| name.to_string_lossy().into_owned());
        let names: Vec<_> = files.iter().filter_map(name).collect();
        if taken == json!(names) {
            return Ok(());
        }
        let detail = format!("{} took the files {taken} and not {}", found.selector, json!(names));
        Err(Failure::new(FailureCode::UploadRefused, detail))
    }

    async fn extract(
        &mut self,
        name: &str,
        from: &ExtractFrom,
        until: Instant,
        selector: &mut Option<String>,
    ) -> Result<(), Failure> {
        let refused = |trouble| failed(trouble, FailureCode::ExpressionFailed, name);
        let value = match from {
            ExtractFrom::Element { selectors, attribute } => {
                let wanted = Wanted::render(selectors, self.values)?;
                let found = self.looking(locate::attached(self.tab, &wanted, until)).await?;
                *selector = Some(found.selector);
                // An address is given whole: `href` as the browser resolves it.
                let read = "function (name) { if (name === null) return this.innerText ?? this.textContent; \
                    const whole = ['href', 'src', 'action'].includes(name) && typeof this[name] === 'string'; \
                    return whole && this.hasAttribute(name) ? this[name] : this.getAttribute(name); }";
                self.tab.value_of(&found.handle, read, &[json!(attribute)]).await.map_err(refused)?
            }
            ExtractFrom::Expression(expression) => {
                self.tab.evaluate(&self.render(expression)?).await.map_err(refused)?
            }
        };
        let text = match value {
            Value::String(text) => text.trim().to_owned(),
            Value::Null => {
                let detail = format!("{name}: the page has no such value");
                return Err(Failure::new(FailureCode::ExpressionFailed, detail));
            }
            other => other.to_string(),
        };
        self.result.insert(name.to_owned(), text.chars().take(MAX_EXTRACT_CHARACTERS).collect());
        Ok(())
    }
}
