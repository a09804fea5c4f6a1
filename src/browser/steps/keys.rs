//! Keys as the Recorder names them: single characters, and the names of the DOM's `KeyboardEvent.key`.

use chromiumoxide::cdp::browser_protocol::input::{DispatchKeyEventParams, DispatchKeyEventType};

use super::Run;
use super::act::failed;
use crate::model::{Failure, FailureCode};

/// (name, code, Windows key code, text it types)
const NAMED: &[(&str, &str, i64, Option<&str>)] = &[
    ("Enter", "Enter", 13, Some("\r")),
    ("Tab", "Tab", 9, None),
    ("Escape", "Escape", 27, None),
    ("Backspace", "Backspace", 8, None),
    ("Delete", "Delete", 46, None),
    ("Insert", "Insert", 45, None),
    ("Home", "Home", 36, None),
    ("End", "End", 35, None),
    ("PageUp", "PageUp", 33, None),
    ("PageDown", "PageDown", 34, None),
    ("ArrowLeft", "ArrowLeft", 37, None),
    ("ArrowUp", "ArrowUp", 38, None),
    ("ArrowRight", "ArrowRight", 39, None),
    ("ArrowDown", "ArrowDown", 40, None),
    ("Shift", "ShiftLeft", 16, None),
    ("Control", "ControlLeft", 17, None),
    ("Alt", "AltLeft", 18, None),
    ("Meta", "MetaLeft", 91, None),
    ("CapsLock", "CapsLock", 20, None),
    ("ContextMenu", "ContextMenu", 93, None),
    (" ", "Space", 32, Some(" ")),
];

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

/// What CDP wants to know of a key.
struct Stroke {
    key: String,
    code: String,
    windows: i64,
    text: Option<String>,
}

fn stroke(key: &str) -> Option<Stroke> {
    let name = if key == "Space" { " " } else { key };
    if let Some((name, code, windows, text)) = NAMED.iter().find(|(known, ..)| *known == name) {
        let text = text.map(str::to_owned);
        return Some(Stroke { key: (*name).to_owned(), code: (*code).to_owned(), windows: *windows, text });
    }
    if let Some(number) = key.strip_prefix('F').and_then(|number| number.parse::<i64>().ok())
        && (1..=24).contains(&number)
    {
        return Some(Stroke { key: key.to_owned(), code: key.to_owned(), windows: 111 + number, text: None });
    }
    let mut characters = key.chars();
    let (Some(character), None) = (characters.next(), characters.next()) else { return None };
    let upper = character.to_ascii_uppercase();
    let (code, windows) = match upper {
        'A'..='Z' => (format!("Key{upper}"), i64::from(u32::from(upper))),
        '0'..='9' => (format!("Digit{upper}"), i64::from(u32::from(upper))),
        _ => (String::new(), 0),
    };
    Some(Stroke { key: key.to_owned(), code, windows, text: Some(key.to_owned()) })
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

    async fn key(&self, kind: DispatchKeyEventType, stroke: Stroke, text: Option<String>) -> Result<(), Failure> {
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

fn known(key: &str) -> Result<Stroke, Failure> {
    stroke(key).ok_or_else(|| Failure::new(FailureCode::FlowInvalid, format!("no key is called `{key}`")))
}

#[cfg(test)]
mod tests {
    use super::stroke;

    #[test]
    fn keys_are_found_by_name_and_by_character() {
        for (key, code, windows) in [("Enter", "Enter", 13), ("a", "KeyA", 65), ("7", "Digit7", 55), ("F5", "F5", 116)]
        {
            let stroke = stroke(key).unwrap();
            assert_eq!((stroke.code.as_str(), stroke.windows), (code, windows));
        }
        assert_eq!(stroke("ж").unwrap().text.as_deref(), Some("ж"));
        assert!(stroke("Entr").is_none());
    }
}
