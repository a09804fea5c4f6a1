//! Keys: pressed and released, each sent once, with the modifiers that are held.
//!
//! What a key's name means is the recording's to say ([`stroke`]), so that the check refuses an unknown one
//! and no attempt gets as far as the commit point with it.

use chromiumoxide::cdp::browser_protocol::input::{DispatchKeyEventParams, DispatchKeyEventType};

use super::Run;
use super::act::failed;
use crate::model::flow::{KeyStroke, stroke};
use crate::model::{Failure, FailureCode};

/// CDP's bits.
fn modifier(key: &str) -> i64 {
    match key {
        "Alt" => 1,
        "Control" => 2,
        "Meta" => 4,
        "Shift" => 8,
        _ => 0,
    }
}

impl Run<'_> {
    pub(super) async fn key_down(&mut self, key: &str) -> Result<(), Failure> {
        self.modifiers |= modifier(key);
        let stroke = known(key)?;
        // With Control, Alt or Meta held a character is a command and not text.
        let text = stroke.text.clone().filter(|_| self.modifiers & !modifier("Shift") == 0);
        let kind = if text.is_some() { DispatchKeyEventType::KeyDown } else { DispatchKeyEventType::RawKeyDown };
        self.key(kind, stroke, text).await
    }

    pub(super) async fn key_up(&mut self, key: &str) -> Result<(), Failure> {
        self.modifiers &= !modifier(key);
        self.key(DispatchKeyEventType::KeyUp, known(key)?, None).await
    }

    async fn key(&self, kind: DispatchKeyEventType, stroke: KeyStroke, text: Option<String>) -> Result<(), Failure> {
        let mut params = DispatchKeyEventParams::new(kind);
        params.modifiers = Some(self.modifiers);
        params.unmodified_text.clone_from(&text);
        params.text = text;
        params.key = Some(stroke.key);
        params.code = Some(stroke.code);
        params.windows_virtual_key_code = Some(stroke.windows);
        let sent = self.tab.call(params).await;
        sent.map(drop).map_err(|trouble| failed(trouble, FailureCode::ElementNotActionable, "the keyboard"))
    }
}

pub(super) fn known(key: &str) -> Result<KeyStroke, Failure> {
    stroke(key).ok_or_else(|| Failure::new(FailureCode::FlowInvalid, format!("no key is called `{key}`")))
}
