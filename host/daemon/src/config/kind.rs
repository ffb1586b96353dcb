//! The kinds of value a setting can have: each reads the file's form and the text form of variables and flags,
//! says what it accepts, and spells a value as the file would.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use apgar_core::policy::ConcurrentLimit;
use apgar_engine::Allowed;
use apgar_engine::limits::HTTP_ALLOW as SERVERS_MAX;
use apgar_engine::signature::PublicKey;
use serde_json::{Value as Json, json};
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::selector::is_label_value;
use super::units::{parse_size, parse_span, show_size, show_span};

/// A value that is not accepted.
#[derive(Default)]
pub(super) struct Refused {
    /// What was probably meant, spelt so that it is accepted.
    pub(super) hint: Option<String>,
    /// The part of the value that is at fault, if it is not all of it.
    pub(super) part: Option<Range<usize>>,
}

impl Refused {
    fn hint(hint: Option<String>) -> Self {
        Self { hint, part: None }
    }

    fn part(part: &Spanned<DeValue<'_>>) -> Self {
        Self { hint: None, part: Some(part.span()) }
    }
}

/// A kind of value, with its range and its default.
pub(super) trait Kind: Copy + Sync + 'static {
    /// What a value becomes.
    type Value: Clone;
    /// The value if nobody sets one.
    fn default(&self) -> Self::Value;
    /// The same for a checker of the profile `interpreted`.
    fn interpreted(&self) -> Self::Value {
        self.default()
    }
    /// Whether not to be set is a value of its own, and the default.
    fn may_be_unset(&self) -> bool {
        false
    }
    /// The default, or a possible value where that is to be unset.
    fn example(&self) -> Self::Value {
        self.default()
    }
    /// Reads the file's form.
    fn read(&self, value: &DeValue<'_>) -> Result<Self::Value, Refused>;
    /// Reads the form of variables and flags.
    fn parse(&self, text: &str) -> Option<Self::Value>;
    /// What `read` accepts.
    fn accepted(&self) -> String;
    /// What `parse` accepts.
    fn accepted_as_text(&self) -> String {
        self.accepted()
    }
    /// The value as the file would spell it.
    fn show(&self, value: &Self::Value) -> String;
    /// The JSON schema of the file's form.
    fn schema(&self) -> Json;
}

/// A duration. As text: an integer of `unit`s, as the agent that Apgar replaces reads it.
#[derive(Clone, Copy)]
pub(super) struct Span {
    default: Duration,
    interpreted: Duration,
    min: Duration,
    max: Duration,
    unit: Unit,
}

/// What a bare number in the place of a duration probably means.
#[derive(Clone, Copy)]
pub(super) enum Unit {
    Milliseconds,
    Seconds,
    Minutes,
}

impl Unit {
    const fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Milliseconds => ("ms", "milliseconds"),
            Self::Seconds => ("s", "seconds"),
            Self::Minutes => ("m", "minutes"),
        }
    }

    const fn ms(self) -> u64 {
        match self {
            Self::Milliseconds => 1,
            Self::Seconds => 1000,
            Self::Minutes => 60_000,
        }
    }
}

impl Span {
    pub(super) const fn new(default: Duration, min: Duration, max: Duration, unit: Unit) -> Self {
        Self { default, interpreted: default, min, max, unit }
    }

    pub(super) const fn interpreted(self, interpreted: Duration) -> Self {
        Self { interpreted, ..self }
    }

    fn in_range(&self, span: Duration) -> Option<Duration> {
        (self.min..=self.max).contains(&span).then_some(span)
    }

    fn in_units(&self, count: u64) -> Option<Duration> {
        self.in_range(Duration::from_millis(count.checked_mul(self.unit.ms())?))
    }
}

impl Kind for Span {
    type Value = Duration;

    fn default(&self) -> Duration {
        self.default
    }

    fn interpreted(&self) -> Duration {
        self.interpreted
    }

    fn read(&self, value: &DeValue<'_>) -> Result<Duration, Refused> {
        if let Some(number) = value.as_integer() {
            let meant = integer(number).and_then(|n| u64::try_from(n).ok()).and_then(|n| self.in_units(n));
            return Err(Refused::hint(meant.map(|span| quoted(&show_span(span)))));
        }
        value.as_str().and_then(parse_span).and_then(|span| self.in_range(span)).ok_or_else(Refused::default)
    }

    fn parse(&self, text: &str) -> Option<Duration> {
        self.in_units(u64::try_from(signed(text)?).ok()?)
    }

    fn accepted(&self) -> String {
        if self.min == Duration::from_millis(1) {
            return format!("a duration above 0, at most {}", show_span(self.max));
        }
        format!("a duration from {} to {}", show_span(self.min), show_span(self.max))
    }

    fn accepted_as_text(&self) -> String {
        let unit = u128::from(self.unit.ms());
        let (min, max) = (self.min.as_millis().div_ceil(unit), self.max.as_millis() / unit);
        format!("an integer from {min} to {max}, in {}", self.unit.name().1)
    }

    fn show(&self, value: &Duration) -> String {
        quoted(&show_span(*value))
    }

    fn schema(&self) -> Json {
        json!({"type": "string", "pattern": r"^(?=.)(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?$"})
    }
}

/// An integer. As text with an optional sign and leading zeros.
#[derive(Clone, Copy)]
pub(super) struct Count<N> {
    pub(super) default: N,
    pub(super) min: N,
    pub(super) max: N,
}

impl<N: Copy + Ord + TryFrom<i64>> Count<N> {
    fn in_range(&self, number: i64) -> Option<N> {
        N::try_from(number).ok().filter(|number| (self.min..=self.max).contains(number))
    }
}

impl<N: Copy + Ord + TryFrom<i64> + fmt::Display + Into<u64> + Sync + 'static> Kind for Count<N> {
    type Value = N;

    fn default(&self) -> N {
        self.default
    }

    fn read(&self, value: &DeValue<'_>) -> Result<N, Refused> {
        let meant = value.as_str().and_then(|text| self.parse(text.trim())).map(|number| number.to_string());
        value.as_integer().and_then(integer).and_then(|n| self.in_range(n)).ok_or(Refused::hint(meant))
    }

    fn parse(&self, text: &str) -> Option<N> {
        self.in_range(signed(text)?)
    }

    fn accepted(&self) -> String {
        format!("{} to {}", self.min, self.max)
    }

    fn accepted_as_text(&self) -> String {
        format!("an integer from {} to {}", self.min, self.max)
    }

    fn show(&self, value: &N) -> String {
        value.to_string()
    }

    fn schema(&self) -> Json {
        json!({"type": "integer", "minimum": self.min.into(), "maximum": self.max.into()})
    }
}

/// A size in bytes. No variable and no flag has this kind; as text it is spelt as in the file.
#[derive(Clone, Copy)]
pub(super) struct Size {
    default: u64,
    interpreted: u64,
    min: u64,
    max: u64,
}

impl Size {
    pub(super) const fn new(default: u64, min: u64, max: u64) -> Self {
        Self { default, interpreted: default, min, max }
    }

    pub(super) const fn interpreted(self, interpreted: u64) -> Self {
        Self { interpreted, ..self }
    }

    fn in_range(&self, size: u64) -> Option<u64> {
        (self.min..=self.max).contains(&size).then_some(size)
    }
}

impl Kind for Size {
    type Value = u64;

    fn default(&self) -> u64 {
        self.default
    }

    fn interpreted(&self) -> u64 {
        self.interpreted
    }

    fn read(&self, value: &DeValue<'_>) -> Result<u64, Refused> {
        if let Some(number) = value.as_integer() {
            let meant = integer(number).and_then(|n| u64::try_from(n).ok()).and_then(|n| self.in_range(n));
            return Err(Refused::hint(meant.map(|size| quoted(&show_size(size)))));
        }
        value.as_str().and_then(|text| self.parse(text)).ok_or_else(Refused::default)
    }

    fn parse(&self, text: &str) -> Option<u64> {
        parse_size(text).and_then(|size| self.in_range(size))
    }

    fn accepted(&self) -> String {
        format!("a size from {} to {}, in B, KiB, MiB or GiB", show_size(self.min), show_size(self.max))
    }

    fn show(&self, value: &u64) -> String {
        quoted(&show_size(*value))
    }

    fn schema(&self) -> Json {
        json!({"type": "string", "pattern": r"^\d+(B|KiB|MiB|GiB)$"})
    }
}

/// Yes or no. As text in the spellings of Go, which the agent that Apgar replaces reads.
#[derive(Clone, Copy)]
pub(super) struct Switch {
    pub(super) default: bool,
}

impl Kind for Switch {
    type Value = bool;

    fn default(&self) -> bool {
        self.default
    }

    fn read(&self, value: &DeValue<'_>) -> Result<bool, Refused> {
        let meant = match value.as_str() {
            Some("true") => Some("true".to_owned()),
            Some("false") => Some("false".to_owned()),
            Some(_) | None => None,
        };
        value.as_bool().ok_or(Refused::hint(meant))
    }

    fn parse(&self, text: &str) -> Option<bool> {
        match text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
            _ => None,
        }
    }

    fn accepted(&self) -> String {
        "true or false".to_owned()
    }

    fn accepted_as_text(&self) -> String {
        "1 t T TRUE true True or 0 f F FALSE false False".to_owned()
    }

    fn show(&self, value: &bool) -> String {
        value.to_string()
    }

    fn schema(&self) -> Json {
        json!({"type": "boolean"})
    }
}

/// One of a few words.
#[derive(Clone, Copy)]
pub(super) struct Word<T: 'static> {
    pub(super) default: T,
    pub(super) words: &'static [(&'static str, T)],
}

impl<T: Copy + PartialEq + Sync + 'static> Kind for Word<T> {
    type Value = T;

    fn default(&self) -> T {
        self.default
    }

    fn read(&self, value: &DeValue<'_>) -> Result<T, Refused> {
        let text = value.as_str().unwrap_or_default();
        let names = self.words.iter().map(|(name, _)| *name);
        self.parse(text).ok_or_else(|| Refused::hint(nearest(text, names).map(|name| quoted(&name))))
    }

    fn parse(&self, text: &str) -> Option<T> {
        self.words.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
    }

    fn accepted(&self) -> String {
        one_of(self.words)
    }

    fn show(&self, value: &T) -> String {
        quoted(self.words.iter().find(|(_, known)| known == value).map_or("", |(name, _)| *name))
    }

    fn schema(&self) -> Json {
        json!({"enum": self.words.iter().map(|(name, _)| *name).collect::<Vec<_>>()})
    }
}

/// A list of words, each once, in the order of `T`. None by default.
#[derive(Clone, Copy)]
pub(super) struct Words<T: 'static> {
    pub(super) words: &'static [(&'static str, T)],
}

impl<T: Copy + Ord + Sync + 'static> Kind for Words<T> {
    type Value = Vec<T>;

    fn default(&self) -> Vec<T> {
        Vec::new()
    }

    fn read(&self, value: &DeValue<'_>) -> Result<Vec<T>, Refused> {
        let word = |text: &str| self.words.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if let Some(text) = value.as_str() {
            return Err(Refused::hint(word(text).map(|_| format!("[{}]", quoted(text)))));
        }
        let names = || self.words.iter().map(|(name, _)| *name);
        let mut words =
            items(value, |text| word(text).ok_or_else(|| nearest(text, names()).map(|name| quoted(&name))))?;
        words.sort();
        words.dedup();
        Ok(words)
    }

    fn parse(&self, _text: &str) -> Option<Vec<T>> {
        None
    }

    fn accepted(&self) -> String {
        format!("a list of {}", one_of(self.words))
    }

    fn show(&self, value: &Vec<T>) -> String {
        list(self.words.iter().filter(|(_, word)| value.contains(word)).map(|(name, _)| *name))
    }

    fn schema(&self) -> Json {
        json!({"type": "array", "items": {"enum": self.words.iter().map(|(name, _)| *name).collect::<Vec<_>>()}})
    }
}

/// A text with a meaning.
pub(super) struct Text<T: 'static> {
    pub(super) default: fn() -> T,
    pub(super) parse: fn(&str) -> Option<T>,
    pub(super) show: fn(&T) -> String,
    pub(super) accepted: &'static str,
}

// By hand: derived, it would ask the same of `T`.
impl<T> Copy for Text<T> {}
impl<T> Clone for Text<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Clone + 'static> Kind for Text<T> {
    type Value = T;

    fn default(&self) -> T {
        (self.default)()
    }

    fn read(&self, value: &DeValue<'_>) -> Result<T, Refused> {
        value.as_str().and_then(self.parse).ok_or_else(Refused::default)
    }

    fn parse(&self, text: &str) -> Option<T> {
        (self.parse)(text)
    }

    fn accepted(&self) -> String {
        self.accepted.to_owned()
    }

    fn show(&self, value: &T) -> String {
        quoted(&(self.show)(value))
    }

    fn schema(&self) -> Json {
        json!({"type": "string"})
    }
}

/// The values of a label, in the given order, each once. As text a comma list, in which nothing is forgiven:
/// what of a variable is dropped, and with which warning, is the business of `environment`.
#[derive(Clone, Copy)]
pub(super) struct LabelValues;

impl Kind for LabelValues {
    type Value = Vec<String>;

    fn default(&self) -> Vec<String> {
        Vec::new()
    }

    fn read(&self, value: &DeValue<'_>) -> Result<Vec<String>, Refused> {
        if let Some(text) = value.as_str() {
            return Err(Refused::hint(self.parse(text).map(|values| self.show(&values))));
        }
        items(value, |text| if is_label_value(text) { Ok(text) } else { Err(None) }).map(each_once)
    }

    fn parse(&self, text: &str) -> Option<Vec<String>> {
        let values: Vec<_> = text.split(',').map(str::trim).collect();
        values.iter().all(|value| is_label_value(value)).then(|| each_once(values))
    }

    fn accepted(&self) -> String {
        "a list of label values: letters, digits, '-', '_' and '.', at most 63, a letter or digit at both ends"
            .to_owned()
    }

    fn accepted_as_text(&self) -> String {
        format!("{}, separated by commas", self.accepted())
    }

    fn show(&self, value: &Vec<String>) -> String {
        list(value.iter().map(String::as_str))
    }

    fn schema(&self) -> Json {
        json!({"type": "array", "items": {"type": "string"}})
    }
}

/// In the given order, without repetitions.
pub(super) fn each_once<'a>(values: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut kept = Vec::<String>::new();
    for value in values {
        if !kept.iter().any(|known| known == value) {
            kept.push(value.to_owned());
        }
    }
    kept
}

/// Servers that a checker may ask, in the given order, each once. None by default.
#[derive(Clone, Copy)]
pub(super) struct Servers;

impl Kind for Servers {
    type Value = Vec<Allowed>;

    fn default(&self) -> Vec<Allowed> {
        Vec::new()
    }

    fn read(&self, value: &DeValue<'_>) -> Result<Vec<Allowed>, Refused> {
        if let Some(text) = value.as_str() {
            return Err(Refused::hint(text.parse().ok().map(|server| self.show(&vec![server]))));
        }
        let mut servers: Vec<Allowed> = Vec::new();
        for server in items(value, |text| text.parse().map_err(|_| None))? {
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        if servers.len() <= SERVERS_MAX { Ok(servers) } else { Err(Refused::default()) }
    }

    fn parse(&self, _text: &str) -> Option<Vec<Allowed>> {
        None
    }

    fn accepted(&self) -> String {
        format!("a list of at most {SERVERS_MAX} servers: {}", Allowed::ACCEPTED)
    }

    fn show(&self, value: &Vec<Allowed>) -> String {
        let texts: Vec<String> = value.iter().map(Allowed::to_string).collect();
        list(texts.iter().map(String::as_str))
    }

    fn schema(&self) -> Json {
        json!({"type": "array", "items": {"type": "string"}, "maxItems": SERVERS_MAX})
    }
}

/// Minisign public keys. No variable and no flag has this kind.
#[derive(Clone, Copy)]
pub(super) struct PublicKeys;

impl Kind for PublicKeys {
    type Value = Vec<PublicKey>;

    fn default(&self) -> Self::Value {
        Vec::new()
    }

    fn read(&self, value: &DeValue<'_>) -> Result<Self::Value, Refused> {
        // All of a .pub file, or with space around it: what was meant is in there.
        let meant = |text: &str| text.split_whitespace().find(|word| word.parse::<PublicKey>().is_ok()).map(quoted);
        if let Some(text) = value.as_str() {
            return Err(Refused::hint(meant(text).map(|key| format!("[{key}]"))));
        }
        items(value, |text| text.parse().map_err(|_| meant(text)))
    }

    fn parse(&self, _text: &str) -> Option<Self::Value> {
        None
    }

    fn accepted(&self) -> String {
        "a list of minisign public keys: the second line of each .pub file, 56 characters, the first two of which are RW"
            .to_owned()
    }

    fn show(&self, value: &Self::Value) -> String {
        let keys: Vec<_> = value.iter().map(ToString::to_string).collect();
        list(keys.iter().map(String::as_str))
    }

    fn schema(&self) -> Json {
        json!({"type": "array", "items": {"type": "string", "pattern": "^RW[A-Za-z0-9+/]{54}$"}})
    }
}

/// A table that only the checker understands.
#[derive(Clone, Copy)]
pub(super) struct Table;

impl Kind for Table {
    type Value = serde_json::Map<String, Json>;

    fn default(&self) -> Self::Value {
        Self::Value::new()
    }

    fn read(&self, value: &DeValue<'_>) -> Result<Self::Value, Refused> {
        value.as_table().ok_or_else(Refused::default).and_then(object_of)
    }

    fn parse(&self, _text: &str) -> Option<Self::Value> {
        None
    }

    fn accepted(&self) -> String {
        "a table, without dates and without infinite numbers".to_owned()
    }

    fn show(&self, value: &Self::Value) -> String {
        spelt(&Json::Object(value.clone()))
    }

    fn schema(&self) -> Json {
        json!({"type": "object"})
    }
}

/// A limit on actions in flight.
#[derive(Clone, Copy)]
pub(super) struct Concurrent {
    pub(super) max: u32,
}

impl Kind for Concurrent {
    type Value = ConcurrentLimit;

    fn default(&self) -> ConcurrentLimit {
        ConcurrentLimit::PerHundredNodes
    }

    fn read(&self, value: &DeValue<'_>) -> Result<ConcurrentLimit, Refused> {
        let number = |n: i64| u32::try_from(n).ok().filter(|n| (1..=self.max).contains(n));
        match value.as_str() {
            Some("auto") => Ok(ConcurrentLimit::PerHundredNodes),
            Some("off") => Ok(ConcurrentLimit::Off),
            Some(text) => Err(Refused::hint(signed(text).and_then(number).map(|n| n.to_string()))),
            None => {
                let limit = value.as_integer().and_then(integer).and_then(number);
                limit.map(ConcurrentLimit::Fixed).ok_or_else(Refused::default)
            }
        }
    }

    fn parse(&self, _text: &str) -> Option<ConcurrentLimit> {
        None
    }

    fn accepted(&self) -> String {
        format!("1 to {}, \"auto\" (one per 100 nodes, rounded up) or \"off\" (no limit)", self.max)
    }

    fn show(&self, value: &ConcurrentLimit) -> String {
        match value {
            ConcurrentLimit::PerHundredNodes => quoted("auto"),
            ConcurrentLimit::Off => quoted("off"),
            ConcurrentLimit::Fixed(n) => n.to_string(),
        }
    }

    fn schema(&self) -> Json {
        json!({"oneOf": [{"type": "integer", "minimum": 1, "maximum": self.max}, {"enum": ["auto", "off"]}]})
    }
}

/// A setting that is not set by default.
#[derive(Clone, Copy)]
pub(super) struct Maybe<K>(pub(super) K);

impl<K: Kind> Kind for Maybe<K> {
    type Value = Option<K::Value>;

    fn default(&self) -> Self::Value {
        None
    }

    fn interpreted(&self) -> Self::Value {
        None
    }

    fn may_be_unset(&self) -> bool {
        true
    }

    fn example(&self) -> Self::Value {
        Some(self.0.default())
    }

    fn read(&self, value: &DeValue<'_>) -> Result<Self::Value, Refused> {
        self.0.read(value).map(Some)
    }

    fn parse(&self, text: &str) -> Option<Self::Value> {
        self.0.parse(text).map(Some)
    }

    fn accepted(&self) -> String {
        self.0.accepted()
    }

    fn accepted_as_text(&self) -> String {
        self.0.accepted_as_text()
    }

    fn show(&self, value: &Self::Value) -> String {
        value.as_ref().map_or_else(|| "unset".to_owned(), |value| self.0.show(value))
    }

    fn schema(&self) -> Json {
        self.0.schema()
    }
}

/// The one of these words that a misspelt one is nearest to, if it is near at all.
pub(super) fn nearest<'a>(text: &str, words: impl Iterator<Item = &'a str>) -> Option<String> {
    let distance = |word: &str| strsim::damerau_levenshtein(&text.to_lowercase(), &word.to_lowercase());
    let near = |word: &str| distance(word) <= (word.chars().count() / 3).max(1);
    words.filter(|word| near(word)).min_by_key(|word| distance(word)).map(str::to_owned)
}

/// A text as TOML and JSON both spell it.
pub(super) fn quoted(text: &str) -> String {
    Json::from(text).to_string()
}

fn list<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", texts.map(quoted).collect::<Vec<_>>().join(", "))
}

fn one_of<T>(words: &[(&'static str, T)]) -> String {
    words.iter().map(|(name, _)| quoted(name)).collect::<Vec<_>>().join(", ")
}

/// An optional sign and decimal digits, leading zeros included.
fn signed(text: &str) -> Option<i64> {
    text.parse().ok()
}

fn integer(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// The items of a list of texts, each as `read` makes it or refuses it with a hint.
fn items<'a, T>(
    value: &'a DeValue<'_>,
    read: impl Fn(&'a str) -> Result<T, Option<String>>,
) -> Result<Vec<T>, Refused> {
    let items = value.as_array().ok_or_else(Refused::default)?;
    let read = |item: &'a Spanned<DeValue<'_>>| {
        let text = item.get_ref().as_str().ok_or_else(|| Refused::part(item))?;
        read(text).map_err(|hint| Refused { hint, part: Some(item.span()) })
    };
    items.iter().map(read).collect()
}

fn json_of(value: &Spanned<DeValue<'_>>) -> Result<Json, Refused> {
    let json = match value.get_ref() {
        DeValue::String(text) => Some(Json::from(text.as_ref())),
        DeValue::Integer(number) => integer(number).map(Json::from),
        DeValue::Float(number) => number.as_str().parse().ok().and_then(serde_json::Number::from_f64).map(Json::Number),
        DeValue::Boolean(yes) => Some(Json::from(*yes)),
        DeValue::Datetime(_) => None,
        DeValue::Array(items) => Some(Json::Array(items.iter().map(json_of).collect::<Result<_, _>>()?)),
        DeValue::Table(table) => Some(Json::Object(object_of(table)?)),
    };
    json.ok_or_else(|| Refused::part(value))
}

fn object_of(table: &DeTable<'_>) -> Result<serde_json::Map<String, Json>, Refused> {
    table.iter().map(|(key, value)| Ok((key.get_ref().to_string(), json_of(value)?))).collect()
}

/// JSON as an inline TOML value.
fn spelt(value: &Json) -> String {
    match value {
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => value.to_string(),
        Json::Array(items) => format!("[{}]", items.iter().map(spelt).collect::<Vec<_>>().join(", ")),
        Json::Object(table) if table.is_empty() => "{}".to_owned(),
        Json::Object(table) => {
            let pairs = table.iter().map(|(key, value)| format!("{} = {}", spelt_key(key), spelt(value)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
    }
}

fn spelt_key(key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if bare { key.to_owned() } else { quoted(key) }
}
