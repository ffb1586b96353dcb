//! Reasons as label values (`recovery` 6.1): a checker's words come from outside, so both their characters
//! and their number are bounded before they reach a metric. The full text stays in logs and API.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The longest label value.
const MAX_CHARS: usize = 64;

/// Label values per checker, `Other` not counted: with 100 000 nodes every further one would be a series that
/// nobody aggregates.
pub const MAX_ADMITTED: usize = 16;

/// Raw reasons per checker that are shared between nodes and need no second sanitising. A checker that puts
/// numbers into its reasons must not fill the memory; past this its texts are kept one by one.
const MAX_KNOWN: usize = 64;

/// The label value of a reason that was not admitted.
pub const OTHER: &str = "Other";

/// The label value of a reason without any letter or digit.
const UNSPECIFIED: &str = "Unspecified";

/// Keeps ASCII letters and digits; drops the rest and raises the next letter; cuts; never empty.
#[must_use]
pub fn sanitise(reason: &str) -> String {
    let mut label = String::with_capacity(reason.len().min(MAX_CHARS));
    let mut raise = false;
    for c in reason.chars() {
        if label.len() == MAX_CHARS {
            break;
        }
        if c.is_ascii_digit() {
            label.push(c);
        } else if c.is_ascii_alphabetic() {
            label.push(if raise { c.to_ascii_uppercase() } else { c });
            raise = false;
        } else {
            raise = true;
        }
    }
    if label.is_empty() { UNSPECIFIED.to_owned() } else { label }
}

/// The reasons of one generation of a checker.
#[derive(Debug, Clone)]
pub struct Reasons {
    admitted: Vec<Arc<str>>,
    known: BTreeMap<Arc<str>, Arc<str>>,
    other: Arc<str>,
}

impl Reasons {
    /// A fresh set: those that the checker declares, as far as there is room.
    #[must_use]
    pub fn new(declared: &[Arc<str>]) -> Self {
        let mut reasons = Self { admitted: Vec::new(), known: BTreeMap::new(), other: Arc::from(OTHER) };
        for reason in declared {
            reasons.admit(&sanitise(reason));
        }
        reasons
    }

    /// The shared text of a reason and its label value; a new one is admitted while there is room.
    pub fn intern(&mut self, reason: &Arc<str>) -> (Arc<str>, Arc<str>) {
        if let Some((raw, label)) = self.known.get_key_value(reason) {
            return (raw.clone(), label.clone());
        }
        let label = self.admit(&sanitise(reason));
        if self.known.len() < MAX_KNOWN {
            self.known.insert(reason.clone(), label.clone());
        }
        (reason.clone(), label)
    }

    /// The label value of a reason that an earlier generation gave: it takes no room from the present one.
    #[must_use]
    pub fn foreign(&self, reason: &str) -> Arc<str> {
        self.find(&sanitise(reason)).unwrap_or_else(|| self.other.clone())
    }

    fn admit(&mut self, label: &str) -> Arc<str> {
        if let Some(found) = self.find(label) {
            return found;
        }
        if self.admitted.len() == MAX_ADMITTED {
            return self.other.clone();
        }
        let label: Arc<str> = Arc::from(label);
        self.admitted.push(label.clone());
        label
    }

    fn find(&self, label: &str) -> Option<Arc<str>> {
        self.admitted.iter().find(|known| &***known == label).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(reason: &str, expected: &str) {
        assert_eq!(sanitise(reason), expected);
    }

    #[test]
    fn a_label_is_letters_and_digits() {
        check("KubeletReady", "KubeletReady");
        check("Expected 8 but got 7", "Expected8ButGot7");
        check("snake_case", "snakeCase");
        check("über alles", "BerAlles");
        check("", "Unspecified");
        check("  \n\"", "Unspecified");
        check(&"x".repeat(300), &"x".repeat(64));
    }

    #[test]
    fn declared_reasons_come_first_and_the_seventeenth_is_other() {
        let declared: Vec<Arc<str>> = (0..15).map(|i| Arc::from(format!("D{i}"))).collect();
        let mut reasons = Reasons::new(&declared);
        assert_eq!(&*reasons.intern(&Arc::from("first")).1, "first");
        assert_eq!(&*reasons.intern(&Arc::from("second")).1, OTHER);
        assert_eq!(&*reasons.intern(&Arc::from("D14")).1, "D14");
        assert_eq!(&*reasons.intern(&Arc::from("first")).1, "first");
    }

    #[test]
    fn what_is_remembered_of_reasons_is_bounded() {
        let mut reasons = Reasons::new(&[]);
        for i in 0..10_000 {
            reasons.intern(&Arc::from(format!("r{i}")));
        }
        assert_eq!((reasons.admitted.len(), reasons.known.len()), (MAX_ADMITTED, MAX_KNOWN));
    }
}
