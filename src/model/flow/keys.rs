//! Keys as the Recorder names them: single characters, and the names of the DOM's `KeyboardEvent.key`.
//!
//! The check asks whether a name is a key, the replay what to tell the browser of it: one table for both, so
//! that a flow which was stored cannot fail at a key, least of all at the commit point. How a key is sent
//! is not known here.

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
    ("AltGraph", "AltRight", 225, None),
    ("NumLock", "NumLock", 144, None),
    ("ScrollLock", "ScrollLock", 145, None),
    ("Pause", "Pause", 19, None),
    ("PrintScreen", "PrintScreen", 44, None),
];

/// What a browser is told of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyStroke {
    /// As `KeyboardEvent.key`.
    pub key: String,
    /// As `KeyboardEvent.code`; empty where no key of a US keyboard has the character.
    pub code: String,
    /// The Windows virtual key code; 0 where there is none.
    pub windows: i64,
    /// What it types.
    pub text: Option<String>,
}

/// The key that a recording names; None for a name that is no key.
#[must_use]
pub fn stroke(key: &str) -> Option<KeyStroke> {
    let name = if key == "Space" { " " } else { key };
    if let Some((name, code, windows, text)) = NAMED.iter().find(|(known, ..)| *known == name) {
        let text = text.map(str::to_owned);
        return Some(KeyStroke { key: (*name).to_owned(), code: (*code).to_owned(), windows: *windows, text });
    }
    if let Some(number) = key.strip_prefix('F').and_then(|number| number.parse::<i64>().ok())
        && (1..=24).contains(&number)
    {
        return Some(KeyStroke { key: key.to_owned(), code: key.to_owned(), windows: 111 + number, text: None });
    }
    let mut characters = key.chars();
    let (Some(character), None) = (characters.next(), characters.next()) else { return None };
    let upper = character.to_ascii_uppercase();
    let (code, windows) = match upper {
        'A'..='Z' => (format!("Key{upper}"), i64::from(u32::from(upper))),
        '0'..='9' => (format!("Digit{upper}"), i64::from(u32::from(upper))),
        _ => (String::new(), 0),
    };
    Some(KeyStroke { key: key.to_owned(), code, windows, text: Some(key.to_owned()) })
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
        for unknown in ["Entr", "", "F25", "F0", "ab"] {
            assert!(stroke(unknown).is_none(), "{unknown}");
        }
    }
}
