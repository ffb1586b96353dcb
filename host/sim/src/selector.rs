//! Label selectors in the full grammar of Kubernetes, and field selectors as far as the real server supports them.
//! Pure. A selector that cannot be read is refused, never widened.

use serde_json::Value;

use crate::object::{Labels, Object, name_of, namespace_of};
use crate::refusal::Refusal;
use crate::resource::Resource;

/// What a list or watch asks for: both selectors and the namespace.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    pub(crate) namespace: Option<String>,
    pub(crate) labels: LabelSelector,
    pub(crate) fields: FieldSelector,
}

impl Filter {
    pub(crate) fn matches(&self, resource: &Resource, object: &Object) -> bool {
        let in_namespace = self.namespace.as_deref().is_none_or(|wanted| namespace_of(&object.key) == Some(wanted));
        in_namespace && self.labels.matches(&object.labels) && self.fields.matches(resource, object)
    }

    /// Whether objects are left out for another reason than their namespace.
    pub(crate) fn selects(&self) -> bool {
        !self.labels.0.is_empty() || !self.fields.0.is_empty()
    }
}

/// Requirements that all must hold; none selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct LabelSelector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operator {
    Exists,
    Missing,
    In(Vec<String>),
    NotIn(Vec<String>),
    Above(i64),
    Below(i64),
}

impl LabelSelector {
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let tokens = tokens(text);
        let mut parser = Parser { text, tokens: &tokens };
        let mut requirements = Vec::new();
        if tokens.is_empty() {
            return Ok(Self(requirements));
        }
        loop {
            requirements.push(parser.requirement()?);
            match parser.next() {
                None => return Ok(Self(requirements)),
                Some(Token::Comma) => {}
                Some(other) => {
                    return Err(parser.refuse(&format!("found '{other}', expected: ',' or 'end of string'")));
                }
            }
        }
    }

    /// From the `matchLabels` and `matchExpressions` of an object such as a disruption budget.
    pub(crate) fn of_object(selector: &Value) -> Self {
        let mut requirements = Vec::new();
        let labels = selector.get("matchLabels").and_then(Value::as_object);
        for (key, value) in labels.into_iter().flatten() {
            requirements.push(Requirement {
                key: key.clone(),
                operator: Operator::In(vec![value.as_str().unwrap_or_default().to_owned()]),
            });
        }
        let expressions = selector.get("matchExpressions").and_then(Value::as_array);
        for expression in expressions.into_iter().flatten() {
            let text = |field: &str| expression.get(field).and_then(Value::as_str);
            let values = || {
                let values = expression.get("values").and_then(Value::as_array);
                let values = values.into_iter().flatten().filter_map(Value::as_str);
                values.map(str::to_owned).collect()
            };
            let operator = match text("operator") {
                Some("In") => Operator::In(values()),
                Some("NotIn") => Operator::NotIn(values()),
                Some("Exists") => Operator::Exists,
                _ => Operator::Missing,
            };
            let key = text("key").unwrap_or_default().to_owned();
            requirements.push(Requirement { key, operator });
        }
        Self(requirements)
    }

    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match &requirement.operator {
                Operator::Exists => value.is_some(),
                Operator::Missing => value.is_none(),
                Operator::In(values) => value.is_some_and(|v| values.iter().any(|w| w == v)),
                Operator::NotIn(values) => value.is_none_or(|v| values.iter().all(|w| w != v)),
                Operator::Above(limit) => number(value).is_some_and(|n| n > *limit),
                Operator::Below(limit) => number(value).is_some_and(|n| n < *limit),
            }
        })
    }
}

fn number(value: Option<&str>) -> Option<i64> {
    value.and_then(|v| v.parse().ok())
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Equals,
    Differs,
    Above,
    Below,
    Not,
    Open,
    Close,
    Comma,
}

impl std::fmt::Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Word(word) => word,
            Self::Equals => "=",
            Self::Differs => "!=",
            Self::Above => ">",
            Self::Below => "<",
            Self::Not => "!",
            Self::Open => "(",
            Self::Close => ")",
            Self::Comma => ",",
        })
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let token = match c {
            c if c.is_whitespace() => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            ',' => Token::Comma,
            '>' => Token::Above,
            '<' => Token::Below,
            '=' => {
                chars.next_if_eq(&'=');
                Token::Equals
            }
            '!' if chars.next_if_eq(&'=').is_some() => Token::Differs,
            '!' => Token::Not,
            c => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|c| !c.is_whitespace() && !"(),><=!".contains(*c)) {
                    word.push(c);
                }
                Token::Word(word)
            }
        };
        tokens.push(token);
    }
    tokens
}

struct Parser<'a> {
    text: &'a str,
    tokens: &'a [Token],
}

impl Parser<'_> {
    fn next(&mut self) -> Option<Token> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first.clone())
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.first()
    }

    fn refuse(&self, why: &str) -> Refusal {
        Refusal::bad_request(format!("unable to parse requirement in label selector \"{}\": {why}", self.text))
    }

    fn requirement(&mut self) -> Result<Requirement, Refusal> {
        let negated = self.peek() == Some(&Token::Not);
        if negated {
            self.next();
        }
        let key = match self.next() {
            Some(Token::Word(key)) => key,
            found => return Err(self.refuse(&format!("{}, expected: identifier", shown(found)))),
        };
        if !valid_key(&key) {
            return Err(self.refuse(&format!("'{key}' is not a label key")));
        }
        let operator = if negated { Operator::Missing } else { self.operator()? };
        Ok(Requirement { key, operator })
    }

    fn operator(&mut self) -> Result<Operator, Refusal> {
        match self.peek() {
            None | Some(Token::Comma) => return Ok(Operator::Exists),
            Some(_) => {}
        }
        match self.next() {
            Some(Token::Equals) => Ok(Operator::In(vec![self.value()?])),
            Some(Token::Differs) => Ok(Operator::NotIn(vec![self.value()?])),
            Some(Token::Above) => Ok(Operator::Above(self.integer()?)),
            Some(Token::Below) => Ok(Operator::Below(self.integer()?)),
            Some(Token::Word(word)) if word == "in" => Ok(Operator::In(self.values()?)),
            Some(Token::Word(word)) if word == "notin" => Ok(Operator::NotIn(self.values()?)),
            found => Err(self.refuse(&format!("{}, expected: in, notin, =, ==, !=, gt, lt", shown(found)))),
        }
    }

    /// `key=` is a comparison with the empty value.
    fn value(&mut self) -> Result<String, Refusal> {
        match self.peek() {
            None | Some(Token::Comma | Token::Close) => Ok(String::new()),
            Some(_) => match self.next() {
                Some(Token::Word(value)) if valid_value(&value) => Ok(value),
                found => Err(self.refuse(&format!("{}, expected: a label value", shown(found)))),
            },
        }
    }

    fn integer(&mut self) -> Result<i64, Refusal> {
        let value = self.value()?;
        value
            .parse()
            .map_err(|_| self.refuse(&format!("'{value}': for 'Gt', 'Lt' operators, the value must be an integer")))
    }

    fn values(&mut self) -> Result<Vec<String>, Refusal> {
        if self.next() != Some(Token::Open) {
            return Err(self.refuse("expected: '('"));
        }
        let mut values = Vec::new();
        loop {
            values.push(self.value()?);
            match self.next() {
                Some(Token::Comma) => {}
                Some(Token::Close) => return Ok(values),
                found => {
                    return Err(self.refuse(&format!("{}, expected: ',' or ')'", shown(found))));
                }
            }
        }
    }
}

fn shown(token: Option<Token>) -> String {
    token.map_or_else(|| "found end of string".to_owned(), |t| format!("found '{t}'"))
}

/// `[prefix/]name`: the prefix a DNS subdomain, the name as a value but not empty.
pub(crate) fn valid_key(key: &str) -> bool {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    prefix.is_none_or(valid_subdomain) && !name.is_empty() && valid_value(name)
}

/// Up to 63 of letters, digits, `-`, `_`, `.`, beginning and ending with a letter or digit; or empty.
pub(crate) fn valid_value(value: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    value.len() <= 63
        && edge(value.chars().next())
        && edge(value.chars().next_back())
        && value.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// A DNS subdomain, as object names must be.
pub(crate) fn valid_subdomain(name: &str) -> bool {
    let good = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    name.len() <= 253 && name.split('.').all(good)
}

/// Comparisons of single fields, all of which must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct FieldSelector(Vec<(String, bool, String)>);

impl FieldSelector {
    pub(crate) fn parse(text: &str, resource: &Resource) -> Result<Self, Refusal> {
        let mut terms = Vec::new();
        for term in text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
            let (field, equal, value) = if let Some((field, value)) = term.split_once("!=") {
                (field, false, value)
            } else if let Some((field, value)) = term.split_once("==") {
                (field, true, value)
            } else if let Some((field, value)) = term.split_once('=') {
                (field, true, value)
            } else {
                return Err(Refusal::bad_request(format!(
                    "invalid field selector \"{text}\": can't understand '{term}'"
                )));
            };
            let known =
                ["metadata.name", "metadata.namespace"].contains(&field) || resource.fields.iter().any(|f| f == field);
            if !known {
                return Err(Refusal::bad_request(format!(
                    "Unable to find \"{}\" that match label selector \"\", field selector \"{text}\": field label not supported: {field}",
                    resource.plural
                )));
            }
            terms.push((field.to_owned(), equal, value.to_owned()));
        }
        Ok(Self(terms))
    }

    /// The one name asked for, which saves a walk over all objects.
    pub(crate) fn name(&self) -> Option<&str> {
        self.0.iter().find_map(|(field, equal, value)| (*equal && field == "metadata.name").then_some(value.as_str()))
    }

    fn matches(&self, resource: &Resource, object: &Object) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let deep = self.0.iter().any(|(field, ..)| !field.starts_with("metadata."));
        let parsed = deep.then(|| object.value(resource));
        self.0.iter().all(|(field, equal, wanted)| {
            let found = match field.as_str() {
                "metadata.name" => name_of(&object.key).to_owned(),
                "metadata.namespace" => namespace_of(&object.key).unwrap_or_default().to_owned(),
                path => parsed.as_ref().map(|v| field_text(v, path)).unwrap_or_default(),
            };
            (found == *wanted) == *equal
        })
    }
}

fn field_text(value: &Value, path: &str) -> String {
    let pointer = format!("/{}", path.replace('.', "/"));
    match value.pointer(&pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(b)) => b.to_string(),
        Some(Value::Number(n)) => n.to_string(),
        // An absent boolean selects like `false`, as in the real server.
        _ if path == "spec.unschedulable" => "false".to_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(selector: &str, labels: &[(&str, &str)], expected: bool) {
        let parsed = LabelSelector::parse(selector).expect("a selector");
        let labels = Labels::from_pairs(labels);
        assert_eq!(parsed.matches(&labels), expected, "{selector}");
    }

    #[track_caller]
    fn refused(selector: &str) {
        let refusal = LabelSelector::parse(selector).expect_err("a refusal");
        assert_eq!(refusal.code, 400, "{selector}");
    }

    #[test]
    fn each_operator_selects_what_kubernetes_selects() {
        let web = [("app", "web"), ("tier", "")];
        check("", &web, true);
        check("app", &web, true);
        check("!app", &web, false);
        check("! zone", &web, true);
        check("app=web", &web, true);
        check("app == web", &web, true);
        check("app!=web", &web, false);
        check("tier=", &web, true);
        check("tier!=", &web, false);
        check("app in (db, web)", &web, true);
        check("app in (db)", &web, false);
        check("app notin (db,mail)", &web, true);
        check("app notin (web)", &web, false);
        check("tier in (,a)", &web, true);
        check("app=web,tier=,!zone", &web, true);
        check("app=web,zone", &web, false);
    }

    #[test]
    fn an_absent_label_satisfies_only_the_negative_operators() {
        check("zone!=a", &[], true);
        check("zone notin (a,b)", &[], true);
        check("zone=a", &[], false);
        check("zone in (a)", &[], false);
        check("zone>1", &[], false);
    }

    #[test]
    fn numbers_compare_as_integers() {
        check("cores>4", &[("cores", "16")], true);
        check("cores<4", &[("cores", "16")], false);
        check("cores>4", &[("cores", "many")], false);
    }

    #[test]
    fn a_label_named_in_is_a_label() {
        check("in in (in)", &[("in", "in")], true);
        check("notin", &[("notin", "1")], true);
    }

    #[test]
    fn prefixed_keys_are_keys() {
        let labels = [("kubernetes.civo.com/civo-node-pool", "a")];
        check("kubernetes.civo.com/civo-node-pool in (a,b)", &labels, true);
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for bad in [
            "app in",
            "app in (",
            "app in (a",
            "app in a",
            "=web",
            "app=web tier=x",
            "app=web,",
            ",",
            "app>x",
            "a/b/c=d",
            "app=-x",
            "!",
            "app~web",
            "(a)",
        ] {
            refused(bad);
        }
    }
}
