//! Label values and label selectors as Kubernetes reads them. A selector that the API server would refuse must
//! stop the start: found later, it would leave the daemon without any node.

/// Whether a text is the value of a label, and not empty.
pub(super) fn is_label_value(text: &str) -> bool {
    let alphanumeric = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && alphanumeric(text.chars().next())
        && alphanumeric(text.chars().next_back())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// Whether a text is a list of requirements: `a`, `!a`, `a=b`, `a==b`, `a!=b`, `a>1`, `a<1`, `a in (b,c)`,
/// `a notin (b,c)`.
pub(super) fn is_selector(text: &str) -> bool {
    requirements(text).iter().all(|requirement| is_requirement(requirement.trim()))
}

/// Split at the commas outside parentheses.
fn requirements(text: &str) -> Vec<&str> {
    let mut inside = false;
    text.split(|c: char| {
        match c {
            '(' => inside = true,
            ')' => inside = false,
            _ => {}
        }
        c == ',' && !inside
    })
    .collect()
}

fn is_requirement(text: &str) -> bool {
    let is_value = |value: &str| value.trim().is_empty() || is_label_value(value.trim());
    if let Some(key) = text.strip_prefix('!') {
        return is_key(key.trim());
    }
    if let Some((left, values)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) {
        let Some((key, "in" | "notin")) = left.trim().rsplit_once(char::is_whitespace) else {
            return false;
        };
        return is_key(key.trim()) && values.split(',').all(is_value);
    }
    for operator in ["!=", "==", "="] {
        if let Some((key, value)) = text.split_once(operator) {
            return is_key(key.trim()) && is_value(value);
        }
    }
    if let Some((key, number)) = text.split_once(['<', '>']) {
        return is_key(key.trim()) && number.trim().parse::<i64>().is_ok();
    }
    is_key(text)
}

/// A label's key: a name, or a DNS name, a slash and a name.
fn is_key(key: &str) -> bool {
    let is_part = |part: &str| {
        !part.starts_with('-')
            && !part.ends_with('-')
            && !part.is_empty()
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    match key.split_once('/') {
        Some((domain, name)) => domain.len() <= 253 && domain.split('.').all(is_part) && is_label_value(name),
        None => is_label_value(key),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_takes_as_a_selector_is_one() {
        for text in [
            "tier=gold",
            "tier==gold",
            "tier!=gold",
            "tier = gold, zone",
            "!node-role.kubernetes.io/control-plane",
            "kubernetes.io/os in (linux, windows),tier notin (a)",
            "a in (b)",
            "cores>8,cores<64",
            "tier=",
        ] {
            assert!(is_selector(text), "{text}");
        }
    }

    #[test]
    fn what_kubernetes_refuses_is_none() {
        for text in [
            "",
            ",",
            "tier=gold,",
            "tier gold",
            "tier=gold silver",
            "=gold",
            "tier in gold",
            "tier in (a",
            "tier in a)",
            "tier within (a)",
            "tier=a b",
            "-tier",
            "Example.com/tier",
            "a/b/c",
            "cores>many",
            "a=b=c",
            "tier in (a),)",
        ] {
            assert!(!is_selector(text), "{text}");
        }
    }

    #[test]
    fn a_label_value_is_at_most_63_plain_characters() {
        for text in ["a", "A-b_c.9", &"x".repeat(63)] {
            assert!(is_label_value(text), "{text}");
        }
        for text in ["", "-a", "a-", "a b", "a/b", "ä", &"x".repeat(64)] {
            assert!(!is_label_value(text), "{text}");
        }
    }
}
