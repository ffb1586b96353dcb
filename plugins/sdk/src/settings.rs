//! The settings of a checker: its `settings` table of the configuration file, which arrives as JSON.

use serde::de::DeserializeOwned;

/// What a checker can be told. Derive `Deserialize` with `#[serde(default, deny_unknown_fields)]`: a
/// misspelt key must be refused, not ignored, and every setting needs a default.
pub trait Settings: Default + DeserializeOwned {
    /// What the types cannot say. An `Err` names the key and what would be accepted.
    fn validate(&self) -> Result<(), String> {
        Ok(())
    }
}

impl Settings for () {}

/// Reads settings. The text of an error names the key and what would be accepted.
pub fn parse<S: Settings>(text: &str) -> Result<S, String> {
    // Every check configures anew, and most checkers have no table: that case must cost nothing.
    if text == "{}" {
        return Ok(S::default());
    }
    let settings: S = serde_json::from_str(text).map_err(|error| {
        let message = without_position(&error);
        match wrong_key(text, &error) {
            Some(key) if !message.contains(key) => [key, ": ", &message].concat(),
            _ => message,
        }
    })?;
    settings.validate()?;
    Ok(settings)
}

/// Serde's message about a value leaves out the key it belongs to: the last one of the outer table that
/// was read before the error.
fn wrong_key<'a>(text: &'a str, error: &serde_json::Error) -> Option<&'a str> {
    let lines_before = text.split_inclusive('\n').take(error.line().saturating_sub(1));
    let read = lines_before.map(str::len).sum::<usize>() + error.column();
    let (mut depth, mut quote, mut escaped) = (0, None, false);
    let (mut string, mut key) = (None, None);
    for (at, byte) in text.bytes().enumerate().take(read) {
        match (quote, byte) {
            _ if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(start), b'"') => {
                string = text.get(start + 1..at);
                quote = None;
            }
            (Some(_), _) => {}
            (None, b'"') => quote = Some(at),
            (None, b'{' | b'[') => depth += 1,
            (None, b'}' | b']') => depth -= 1,
            (None, b':') if depth == 1 => key = string,
            (None, _) => {}
        }
    }
    key
}

/// The operator wrote TOML: a position in the JSON made of it would send them to the wrong place.
fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Example {
        taint: bool,
        keys: Vec<String>,
    }

    impl Settings for Example {
        fn validate(&self) -> Result<(), String> {
            if self.keys.len() > 1 { Err("keys: at most one".to_owned()) } else { Ok(()) }
        }
    }

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        assert_eq!(parse::<Example>(text), Err(expected.to_owned()));
    }

    #[test]
    fn what_is_not_set_has_its_default() {
        assert_eq!(parse("{}"), Ok(Example::default()));
        assert_eq!(parse(r#"{"taint":true}"#), Ok(Example { taint: true, keys: vec![] }));
    }

    #[test]
    fn an_error_says_which_key_and_what_is_accepted() {
        refused(r#"{"tant":true}"#, "unknown field `tant`, expected `taint` or `keys`");
        refused(r#"{"taint":"yes"}"#, r#"taint: invalid type: string "yes", expected a boolean"#);
        refused(r#"{"taint":true,"keys":[1]}"#, "keys: invalid type: integer `1`, expected a string");
        refused(r#"{"keys":["a","b"]}"#, "keys: at most one");
        refused(r#"{"keys":["\"a:{"],"taint":[]}"#, "taint: invalid type: sequence, expected a boolean");
        refused("{\n\"keys\":\n1\n,\n\"taint\":true}", "keys: invalid type: integer `1`, expected a sequence");
        refused("[]]", "trailing characters");
    }
}
