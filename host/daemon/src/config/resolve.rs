//! Flag, then environment, then file, then default: one setting after another, each with the place that decided
//! it. What is wrong is collected, so that one start tells an operator everything.

use std::collections::BTreeMap;

use apgar_engine::Profile;

use super::Flags;
use super::document::Document;
use super::error::{Problem, Shown, Source, Warning};
use super::keys::Key;
use super::kind::{Kind, Refused};

/// A value and where it came from.
#[derive(Clone)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) source: Source,
}

/// Whose setting is asked for.
#[derive(Clone, Copy)]
pub(super) struct Checker<'a> {
    /// None: that of the checkers without a table of their own.
    pub(super) name: Option<&'a str>,
    pub(super) profile: Profile,
}

impl Checker<'_> {
    /// The full path of one of its settings.
    pub(super) fn path(&self, key: &str) -> String {
        match self.name {
            Some(name) => format!("checker.{name}.{key}"),
            None => format!("checkers.defaults.{key}"),
        }
    }
}

/// The sources, and what came of asking them.
pub(super) struct Resolver<'a> {
    pub(super) document: Option<Document<'a>>,
    env: &'a BTreeMap<String, String>,
    flags: &'a Flags,
    pub(super) shown: Vec<Shown>,
    pub(super) warnings: Vec<Warning>,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(document: Option<Document<'a>>, env: &'a BTreeMap<String, String>, flags: &'a Flags) -> Self {
        let problems = document.as_ref().map(Document::strangers).unwrap_or_default();
        Self { document, env, flags, shown: Vec::new(), warnings: Vec::new(), problems }
    }

    /// A setting of the daemon.
    pub(super) fn get<K: Kind>(&mut self, key: &Key<K>) -> Found<K::Value> {
        let by_env = self.by_env(key);
        self.settle(key, by_env)
    }

    /// The same where the environment has rules of its own: its answer is handed in.
    pub(super) fn settle<K: Kind>(&mut self, key: &Key<K>, by_env: Option<Found<K::Value>>) -> Found<K::Value> {
        let found = self.ask(key, by_env);
        self.show(key.path.to_owned(), key, &found);
        found
    }

    /// The same without a line in `config show`.
    pub(super) fn ask<K: Kind>(&mut self, key: &Key<K>, by_env: Option<Found<K::Value>>) -> Found<K::Value> {
        let by_flag = self.by_flag(key);
        let by_file = self.by_file(key, &[]);
        let default = || Found { value: key.kind.default(), source: Source::Default };
        by_flag.or(by_env).or(by_file).unwrap_or_else(default)
    }

    /// A setting of a checker: from its own table, else from `[checkers.defaults]`, else what its profile has.
    pub(super) fn of_checker<K: Kind>(&mut self, key: &Key<K>, of: Checker<'_>) -> Found<K::Value> {
        let found = self.ask_checker(key, of);
        self.show(of.path(key.path), key, &found);
        found
    }

    /// The same without a line in `config show`.
    pub(super) fn ask_checker<K: Kind>(&mut self, key: &Key<K>, of: Checker<'_>) -> Found<K::Value> {
        let own = of.name.and_then(|name| self.by_file(key, &["checker", name]));
        let common = self.by_file(key, &["checkers", "defaults"]);
        let default = || match of.profile {
            Profile::Native => key.kind.default(),
            Profile::Interpreted => key.kind.interpreted(),
        };
        own.or(common).unwrap_or_else(|| Found { value: default(), source: Source::Default })
    }

    /// A line for `config show`.
    pub(super) fn show<K: Kind>(&mut self, path: String, key: &Key<K>, found: &Found<K::Value>) {
        let value = match (key.secret, &found.source) {
            (true, Source::Default) => "unset".to_owned(),
            (true, Source::File { .. } | Source::Env(_) | Source::Flag(_)) => "***".to_owned(),
            (false, _) => key.kind.show(&found.value),
        };
        self.shown.push(Shown { key: path, value, source: found.source.clone() });
    }

    /// A variable, trimmed; none if it is not set or empty.
    pub(super) fn variable(&self, name: &str) -> Option<&'a str> {
        self.env.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// A warning about a variable.
    pub(super) fn warn(&mut self, about: &str, message: String) {
        self.warnings.push(Warning { about: about.to_owned(), message });
    }

    /// A reason not to start.
    pub(super) fn refuse(&mut self, place: Source, message: String) {
        self.problems.push(Problem { place, message });
    }

    fn by_flag<K: Kind>(&mut self, key: &Key<K>) -> Option<Found<K::Value>> {
        let flag = key.flag?;
        let text = (flag.value)(self.flags)?;
        let source = Source::Flag(flag.name);
        let value = key.kind.parse(&text);
        if value.is_none() {
            self.refuse(source.clone(), format!("{text:?} is not accepted; accepted: {}", key.kind.accepted_as_text()));
        }
        Some(Found { value: value?, source })
    }

    /// What a variable says; an invalid one leaves the decision to the next source, with a warning.
    pub(super) fn by_env<K: Kind>(&mut self, key: &Key<K>) -> Option<Found<K::Value>> {
        let name = key.env?;
        let text = self.variable(name)?;
        let value = key.kind.parse(text);
        if value.is_none() {
            self.warn(name, format!("{text:?} is ignored; accepted: {}", key.kind.accepted_as_text()));
        }
        Some(Found { value: value?, source: Source::Env(name) })
    }

    fn by_file<K: Kind>(&mut self, key: &Key<K>, table: &[&str]) -> Option<Found<K::Value>> {
        if key.secret {
            return None;
        }
        let document = self.document.as_ref()?;
        let path: Vec<&str> = table.iter().copied().chain(key.path.split('.')).collect();
        let written = document.at(&path)?;
        match key.kind.read(written.get_ref()) {
            Ok(value) => Some(Found { value, source: document.source(&written.span()) }),
            Err(Refused { hint, part }) => {
                let verb = if part.is_some() { "contains" } else { "is" };
                let span = part.unwrap_or_else(|| written.span());
                let hint = hint.map(|hint| format!("; did you mean {hint}?")).unwrap_or_default();
                let (path, excerpt, accepted) = (path.join("."), document.excerpt(&span), key.kind.accepted());
                let message = format!("{path} {verb} {excerpt}; accepted: {accepted}{hint}");
                self.refuse(document.source(&span), message);
                None
            }
        }
    }
}
