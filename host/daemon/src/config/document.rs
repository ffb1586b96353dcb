//! The configuration file as it was written: values with their places, and the keys that nobody knows.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Problem, Source};
use super::keys::{CHECKER_ROWS, ROWS, Row};
use super::kind::nearest;

/// A value in an error message is cut here: it is shown to be recognised, not to be read.
const VALUE_SHOWN: usize = 60;

/// The tree of a file that could be parsed.
pub(super) struct Document<'a> {
    path: &'a Path,
    text: &'a str,
    root: DeTable<'a>,
}

impl<'a> Document<'a> {
    /// Parses a file, or says everything that keeps it from being TOML.
    pub(super) fn parse(path: &'a Path, text: &'a str) -> Result<Self, Vec<Problem>> {
        let (root, errors) = DeTable::parse_recoverable(text);
        let document = Self { path, text, root: root.into_inner() };
        if errors.is_empty() {
            return Ok(document);
        }
        Err(errors
            .iter()
            .map(|error| Problem {
                place: document.source(&error.span().unwrap_or_default()),
                message: error.message().to_owned(),
            })
            .collect())
    }

    /// The value at a path.
    pub(super) fn at(&self, path: &[&str]) -> Option<&Spanned<DeValue<'a>>> {
        let (last, parents) = path.split_last()?;
        let mut table = &self.root;
        for parent in parents {
            table = table.get(*parent)?.get_ref().as_table()?;
        }
        table.get(*last)
    }

    /// The place of a span.
    pub(super) fn source(&self, span: &Range<usize>) -> Source {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Source::File {
            path: self.path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
        }
    }

    /// A value as it was written, in one short line.
    pub(super) fn excerpt(&self, span: &Range<usize>) -> String {
        let written = self.text.get(span.clone()).unwrap_or_default();
        let line = written.lines().next().unwrap_or_default();
        let mut excerpt: String = line.chars().take(VALUE_SHOWN).collect();
        if excerpt.len() < written.len() {
            excerpt.push('…');
        }
        excerpt
    }

    /// The names of the checkers that have a table, valid ones only.
    pub(super) fn checkers(&self) -> Vec<String> {
        let table = self.at(&["checker"]).and_then(|value| value.get_ref().as_table());
        let names = table.into_iter().flat_map(|table| table.keys()).map(|name| name.get_ref().to_string());
        names.filter(|name| is_checker_name(name)).collect()
    }

    /// Every key that is not a setting, and every value where a table should be.
    pub(super) fn strangers(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.walk(&self.root, &[], &known(), &mut problems);
        problems
    }

    fn walk(&self, table: &DeTable<'a>, parents: &[&str], known: &[Known], problems: &mut Vec<Problem>) {
        for (key, value) in table {
            let path: Vec<&str> = parents.iter().copied().chain([key.get_ref().as_ref()]).collect();
            let under: Vec<Known> = known.iter().filter(|row| row.begins_with(&path)).cloned().collect();
            let place = self.source(&key.span());
            if under.is_empty() {
                problems.push(Problem { place, message: unknown(&path, known) });
            } else if let Some(secret) = under.iter().find(|row| row.row.secret() && row.path.len() == path.len()) {
                let name = secret.row.env().unwrap_or_default();
                let message = format!("{} is a secret and belongs in the environment, as {name}", path.join("."));
                problems.push(Problem { place, message });
            } else if under.iter().any(|row| row.path.len() == path.len()) {
                // A value; whoever asks for it looks at it.
            } else if let DeValue::Table(table) = value.get_ref() {
                self.walk(table, &path, &under, problems);
            } else {
                let message =
                    format!("{0} is {1}; accepted: a table, [{0}]", path.join("."), self.excerpt(&value.span()));
                problems.push(Problem { place: self.source(&value.span()), message });
            }
        }
    }
}

/// Whether a plugin can have this name (`supervision` 4.11).
pub(super) fn is_checker_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 63 && name.starts_with(plain) && name.ends_with(plain) && name.chars().all(|c| plain(c) || c == '-')
}

/// A setting where the file may have it.
#[derive(Clone)]
struct Known {
    path: Vec<&'static str>,
    row: &'static dyn Row,
}

/// Stands for the name of a checker.
const ANY: &str = "<name>";

impl Known {
    fn new(table: &[&'static str], row: &'static dyn Row) -> Self {
        Self { path: table.iter().copied().chain(row.path().split('.')).collect(), row }
    }

    fn begins_with(&self, path: &[&str]) -> bool {
        let fits = |(known, key): (&&str, &&str)| known == key || (*known == ANY && is_checker_name(key));
        path.len() <= self.path.len() && self.path.iter().zip(path).all(fits)
    }
}

fn known() -> Vec<Known> {
    let of = |table: &'static [&'static str]| CHECKER_ROWS.iter().map(move |row| Known::new(table, *row));
    let common = of(&["checkers", "defaults"]).filter(|known| known.row.path() != "settings");
    ROWS.iter().map(|row| Known::new(&[], *row)).chain(common).chain(of(&["checker", ANY])).collect()
}

/// What to say of a key that no setting has. `siblings` are the settings in the same table.
fn unknown(path: &[&str], siblings: &[Known]) -> String {
    let (last, parents) = match path.split_last() {
        Some((last, parents)) => (*last, parents),
        None => ("", path),
    };
    let full = path.join(".");
    if parents == ["checker"] {
        let bundled = [("NodeReady", "ready"), ("DiskPressure", "disk"), ("CiliumAgent", "cilium"), ("GPU", "gpu")];
        let meant = bundled.iter().find(|(shown, _)| *shown == last);
        return match meant {
            Some((_, key)) => format!("no checker can be called {last}; did you mean [checker.{key}]?"),
            None => format!("no checker can be called {last}; accepted: letters a to z, digits and '-', at most 63"),
        };
    }
    let names = siblings.iter().filter_map(|known| known.path.get(parents.len())).copied();
    let nearest_sibling = nearest(last, names.filter(|name| *name != ANY))
        .map(|name| parents.iter().copied().chain([name.as_str()]).collect::<Vec<_>>().join("."));
    let elsewhere = || {
        let same = |known: &&Known| known.path.last() == Some(&last) || known.path.starts_with(&[last]);
        known().iter().find(same).map(|known| known.path.join("."))
    };
    match nearest_sibling.or_else(elsewhere) {
        Some(key) => format!("unknown key {full}; did you mean {key}?"),
        None if parents == ["checkers"] => format!("unknown key {full}; a checker's own table is [checker.{last}]"),
        None => format!("unknown key {full}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let problems = match Document::parse(Path::new("a.toml"), text) {
            Ok(document) => document.strangers(),
            Err(problems) => problems,
        };
        assert_eq!(problems.iter().map(Problem::to_string).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn r_75_an_unknown_key_is_refused_with_the_nearest_one() {
        check(
            "[recovery]\nmax_rebots = 3\n",
            &["a.toml:2:1: unknown key recovery.max_rebots; did you mean recovery.max_reboots?"],
        );
        check("[recvery]\n", &["a.toml:1:2: unknown key recvery; did you mean recovery?"]);
        check("[metrics]\n  prot = 1\n", &["a.toml:2:3: unknown key metrics.prot; did you mean metrics.port?"]);
        check("zzz = 1", &["a.toml:1:1: unknown key zzz"]);
    }

    #[test]
    fn a_key_in_the_wrong_table_is_shown_the_right_one() {
        check("max_reboots = 3", &["a.toml:1:1: unknown key max_reboots; did you mean recovery.max_reboots?"]);
        check(
            "[gate]\nmonitor_only = true",
            &["a.toml:2:1: unknown key gate.monitor_only; did you mean recovery.monitor_only?"],
        );
        check("[checkers.gpu]", &["a.toml:1:11: unknown key checkers.gpu; a checker's own table is [checker.gpu]"]);
    }

    #[test]
    fn keys_of_a_checker_are_known_under_any_name_it_can_have() {
        check("[checker.my-1]\nlimits = { memory = \"1MiB\" }\nsettings = { a.b = 1 }", &[]);
        check(
            "[checker.gpu]\nlimits = { memry = \"1MiB\" }",
            &["a.toml:2:12: unknown key checker.gpu.limits.memry; did you mean checker.gpu.limits.memory?"],
        );
        check("[checker.GPU]", &["a.toml:1:10: no checker can be called GPU; did you mean [checker.gpu]?"]);
        check(
            "[checker.a_b]",
            &["a.toml:1:10: no checker can be called a_b; accepted: letters a to z, digits and '-', at most 63"],
        );
    }

    #[test]
    fn the_defaults_of_checkers_have_no_settings() {
        check("[checkers.defaults]\nrequired = true\nlimits.memory = \"1MiB\"", &[]);
        check(
            "[checkers.defaults]\nsettings = {}",
            &["a.toml:2:1: unknown key checkers.defaults.settings; did you mean checker.<name>.settings?"],
        );
    }

    #[test]
    fn a_value_in_the_place_of_a_table_is_refused() {
        check("recovery = 3", &["a.toml:1:12: recovery is 3; accepted: a table, [recovery]"]);
        check("[[checker]]", &["a.toml:1:1: checker is [[checker]]; accepted: a table, [checker]"]);
    }

    #[test]
    fn a_secret_in_the_file_is_refused_and_not_shown() {
        check(
            "[executor.civo]\napi_key = \"hunter2\"",
            &["a.toml:2:1: executor.civo.api_key is a secret and belongs in the environment, as CIVO_API_KEY"],
        );
    }

    #[test]
    fn columns_count_characters() {
        check("\"ä\" = 1\n\"ü\".b = 1", &["a.toml:1:1: unknown key ä", "a.toml:2:1: unknown key ü"]);
        check("recovery.\"ä\" = 1", &["a.toml:1:10: unknown key recovery.ä"]);
    }
}
