//! What the table of settings says to people and to editors: the reference file and the JSON schema.

use serde_json::{Value as Json, json};

use super::keys::{CHECKER_ROWS, ROWS, Row};

const HEADER: &str = "\
# Every setting of Apgar with its default. Flags come before variables, variables before this file.
# To set one, remove the # before its key. Durations are \"1h30m\", sizes \"64MiB\".
#
# Generated from host/daemon/src/config/keys.rs: UPDATE_GOLDEN=1 cargo test -p apgar config::reference
";

/// What a plugin can be called.
const CHECKER_NAME: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";

/// A configuration file with every setting, commented out, with its default and what it is for.
#[must_use]
pub fn reference() -> String {
    let mut text = HEADER.to_owned();
    let mut table = "";
    for row in ROWS {
        let (parent, key) = row.path().rsplit_once('.').unwrap_or(("", row.path()));
        section(&mut text, &mut table, parent);
        setting(&mut text, *row, key);
    }
    for row in CHECKER_ROWS.iter().filter(|row| row.path() != "settings") {
        let (parent, key) = match row.path().split_once('.') {
            Some((_, key)) => ("checkers.defaults.limits", key),
            None => ("checkers.defaults", row.path()),
        };
        section(&mut text, &mut table, parent);
        setting(&mut text, *row, key);
    }
    text.push_str(
        "\n# One checker by its name, which is that of its file: any key of [checkers.defaults], and settings.\n",
    );
    text.push_str("[checker.gpu]\n");
    for row in CHECKER_ROWS.iter().filter(|row| row.path() == "settings") {
        setting(&mut text, *row, row.path());
    }
    text
}

fn section(text: &mut String, table: &mut &'static str, parent: &'static str) {
    if *table != parent {
        *table = parent;
        text.push_str(&format!("\n[{parent}]\n"));
    }
}

fn setting(text: &mut String, row: &dyn Row, key: &str) {
    text.push_str(&format!("\n# {}\n", row.doc()));
    if !row.secret() {
        text.push_str(&format!("# Accepted: {}.\n", row.accepted()));
    }
    if let Some(interpreted) = row.interpreted() {
        text.push_str(&format!("# With the profile interpreted: {interpreted}.\n"));
    }
    let sources: Vec<_> = [("Variable", row.env()), ("Flag", row.flag())]
        .into_iter()
        .filter_map(|(what, name)| Some(format!("{what}: {}.", name?)))
        .collect();
    if !sources.is_empty() {
        text.push_str(&format!("# {}\n", sources.join(" ")));
    }
    if !row.secret() {
        let unset = if row.may_be_unset() { "  # not set by default" } else { "" };
        text.push_str(&format!("#{key} = {}{unset}\n", row.example()));
    }
}

/// The JSON schema of the configuration file.
#[must_use]
pub fn schema() -> Json {
    let mut checker = object();
    for row in CHECKER_ROWS {
        insert(&mut checker, row.path(), leaf(*row));
    }
    let mut schema = object();
    for row in ROWS.iter().filter(|row| !row.secret()) {
        insert(&mut schema, row.path(), leaf(*row));
    }
    for row in CHECKER_ROWS.iter().filter(|row| row.path() != "settings") {
        insert(&mut schema, &format!("checkers.defaults.{}", row.path()), leaf(*row));
    }
    let checkers =
        json!({"type": "object", "additionalProperties": false, "patternProperties": {CHECKER_NAME: checker}});
    insert(&mut schema, "checker", checkers);
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        schema.insert("title".to_owned(), json!("The configuration of Apgar"));
    }
    schema
}

fn object() -> Json {
    json!({"type": "object", "additionalProperties": false, "properties": {}})
}

fn insert(table: &mut Json, path: &str, what: Json) {
    let Some(properties) = table.get_mut("properties").and_then(Json::as_object_mut) else {
        return;
    };
    match path.split_once('.') {
        Some((first, rest)) => insert(properties.entry(first).or_insert_with(object), rest, what),
        None => {
            properties.insert(path.to_owned(), what);
        }
    }
}

fn leaf(row: &dyn Row) -> Json {
    let mut schema = row.schema();
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("description".to_owned(), json!(format!("{} Accepted: {}.", row.doc(), row.accepted())));
        if let (false, Ok(default)) = (row.may_be_unset(), serde_json::from_str(&row.example())) {
            schema.insert("default".to_owned(), default);
        }
    }
    schema
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};

    use super::super::{ConfigError, Flags, Settings, Source, Sources, Warning, load};
    use super::*;

    fn example(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/config").join(name)
    }

    fn load_text(text: String, env: &[(&str, &str)]) -> Result<(Settings, Vec<Warning>), ConfigError> {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        load(Sources { file: Some((PathBuf::from("a.toml"), text)), env, flags: Flags::default() })
    }

    #[test]
    fn the_reference_file_is_up_to_date() {
        let path = example("reference.toml");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, reference()).unwrap();
        }
        let hint = "UPDATE_GOLDEN=1 cargo test -p apgar config::reference brings it up to date";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), reference(), "{hint}");
    }

    #[test]
    fn the_reference_says_what_holds_without_a_file() {
        let is_set = |line: &&str| !line.contains("# not set by default");
        let uncomment = |line: &str| match line.strip_prefix('#') {
            Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting.to_owned(),
            Some(_) | None => line.to_owned(),
        };
        let text: Vec<_> = reference().lines().filter(is_set).map(uncomment).collect();
        assert!(text.contains(&"tick = \"10s\"".to_owned()));

        let (mut written, warnings) = load_text(text.join("\n"), &[]).unwrap();
        let (mut default, _) = load_text("[checker.gpu]".to_owned(), &[]).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        let values = |settings: &Settings| -> BTreeMap<_, _> {
            settings.shown.iter().map(|shown| (shown.key.clone(), shown.value.clone())).collect()
        };
        assert_eq!(values(&written), values(&default));
        written.shown.clear();
        default.shown.clear();
        written.kubeconfig = default.kubeconfig.clone();
        written.checkers.dir_given = false;
        assert_eq!(written, default);
    }

    #[test]
    fn the_reference_as_it_is_changes_nothing() {
        let (settings, warnings) = load_text(reference(), &[]).unwrap();
        assert_eq!(warnings, []);
        assert!(settings.show().iter().all(|shown| shown.source == Source::Default));
    }

    #[test]
    fn every_setting_is_shown_in_the_order_of_the_table() {
        let (settings, _) = load_text("[checker.gpu]".to_owned(), &[]).unwrap();
        let common = CHECKER_ROWS.iter().filter(|row| row.path() != "settings");
        let common = common.map(|row| format!("checkers.defaults.{}", row.path()));
        let own = CHECKER_ROWS.iter().map(|row| format!("checker.gpu.{}", row.path()));
        let expected: Vec<_> = ROWS.iter().map(|row| row.path().to_owned()).chain(common).chain(own).collect();
        assert_eq!(settings.show().iter().map(|shown| shown.key.clone()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_examples_are_accepted() {
        let account = [("CIVO_API_KEY", "k"), ("CIVO_API_URL", "https://api.civo.com"), ("CIVO_CLUSTER_ID", "c")];
        for name in ["minimal.toml", "active-civo.toml", "compat.toml"] {
            let text = std::fs::read_to_string(example(name)).unwrap();
            let (_, warnings) = load_text(text, &account).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(warnings, [], "{name}");
        }
    }

    #[test]
    fn the_schema_knows_every_key() {
        let schema = schema();
        let at = |pointer: &str| schema.pointer(pointer).unwrap_or_else(|| panic!("{pointer}")).clone();
        assert_eq!(at("/properties/recovery/properties/max_reboots/maximum"), 2_147_483_647);
        assert_eq!(at("/properties/recovery/properties/tick/default"), "10s");
        assert_eq!(at("/properties/checkers/properties/defaults/properties/limits/properties/memory/default"), "64MiB");
        assert_eq!(at("/properties/checkers/additionalProperties"), false);
        assert!(schema.pointer("/properties/executor/properties/civo/properties/api_key").is_none());
        assert!(schema.pointer("/properties/executor/properties/kind/default").is_none());
    }
}
