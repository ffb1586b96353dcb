//! Scenarios as text: what would Apgar do if…, as a script in and a story out, for golden files that can be
//! reviewed without reading Rust. The world of a script is small: checkers that say what the script says, an
//! executor that answers what the script says, a turn at every tick and deadline.
//!
//! ```text
//! policy active                      # or monitor
//! checker ready 5m
//! node n1 standard                   # or gpu
//! t+0s n1 ready fail                 # pass, fail, unknown
//! t+6m n1 boot b2                    # also: n1 gone, n1 exclude, n1 include
//! t+6m executor failed               # done, failed, refused, unconfirmed
//! t+6m watch dead                    # alive
//! t+20m                              # only lets time pass
//! report n1
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::decision::{Mode, Outcome, Refuser};
use crate::event::Event;
use crate::fleet::{Checker, Fleet, Input, Inputs, Turn};
use crate::node::{BootId, EXCLUDE_KEY, GPU_COUNT_LABEL, Node, NodeName, Uid};
use crate::policy::Policy;
use crate::time::{Time, human as span};
use crate::verdict::{CheckerKey, Judgement, Unknown, UnknownCause, Verdict};

/// A line of a script that cannot be followed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {what}")]
pub struct ScriptError {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

/// Follows a script and tells what happened.
///
/// # Errors
/// The first line that cannot be followed.
pub fn run(script: &str) -> Result<String, ScriptError> {
    let mut stage = Stage::new();
    for (at, text) in script.lines().enumerate() {
        let text = text.split('#').next().unwrap_or_default();
        let words: Vec<&str> = text.split_whitespace().collect();
        stage.follow(&words).map_err(|what| ScriptError { line: at + 1, what })?;
    }
    Ok(stage.story)
}

struct Stage {
    fleet: Fleet,
    policy: Policy,
    now: Time,
    next_tick: Time,
    checkers: BTreeMap<CheckerKey, Duration>,
    nodes: BTreeMap<NodeName, Node>,
    says: BTreeMap<(NodeName, CheckerKey), String>,
    answer: String,
    started: bool,
    story: String,
}

impl Stage {
    fn new() -> Self {
        let policy = Policy::default();
        Self {
            fleet: Fleet::new(policy.clone()),
            next_tick: Time::default() + policy.tick,
            policy,
            now: Time::default(),
            checkers: BTreeMap::new(),
            nodes: BTreeMap::new(),
            says: BTreeMap::new(),
            answer: "done".to_owned(),
            started: false,
            story: String::new(),
        }
    }

    fn follow(&mut self, words: &[&str]) -> Result<(), String> {
        match *words {
            [] => Ok(()),
            ["policy", mode] => self.prepare(|stage| {
                stage.policy.mode = match mode {
                    "active" => Mode::Active,
                    "monitor" => Mode::Monitor,
                    other => return Err(format!("`{other}` is no mode: active, monitor")),
                };
                Ok(())
            }),
            ["checker", key, threshold] => self.prepare(|stage| {
                stage.checkers.insert(CheckerKey::from(key), duration(threshold)?);
                Ok(())
            }),
            ["node", name, class] => self.prepare(|stage| {
                let node = node(name, class).ok_or_else(|| format!("`{class}` is no class: standard, gpu"))?;
                stage.nodes.insert(node.name.clone(), node);
                Ok(())
            }),
            ["report", name] => self.report(name),
            [at, ref what @ ..] => {
                let after = at.strip_prefix("t+").ok_or_else(|| format!("`{at}` begins no line"))?;
                self.start();
                self.pass_to(Time::default() + duration(after)?)?;
                let inputs = self.happen(what)?;
                self.settle(inputs);
                Ok(())
            }
        }
    }

    fn prepare(&mut self, change: impl FnOnce(&mut Self) -> Result<(), String>) -> Result<(), String> {
        if self.started {
            return Err("the world is set up before the first `t+`".to_owned());
        }
        change(self)
    }

    fn start(&mut self) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        self.fleet = Fleet::new(self.policy.clone());
        let serves = |key: &CheckerKey| {
            let (generation, reasons) = (Arc::from("1"), Vec::new());
            Input::CheckerServes(Checker {
                key: key.clone(),
                generation,
                reasons,
                inputs: Inputs::More { pods: false },
            })
        };
        let mut inputs: Vec<Input> = self.checkers.keys().map(serves).collect();
        inputs.push(Input::Evidence { live: true });
        inputs.push(Input::Listed(self.nodes.values().cloned().map(Arc::new).collect()));
        self.settle(inputs);
    }

    fn pass_to(&mut self, end: Time) -> Result<(), String> {
        if end < self.now {
            return Err("time goes forward".to_owned());
        }
        while self.now < end {
            let soon = self.now + Duration::from_millis(1);
            let deadline = self.fleet.next_deadline().map_or(end, |at| at.max(soon));
            self.now = end.min(self.next_tick).min(deadline);
            let mut inputs = Vec::new();
            if self.now >= self.next_tick {
                self.next_tick = self.now + self.policy.tick;
                inputs.push(Input::Tick);
            }
            self.settle(inputs);
        }
        Ok(())
    }

    fn happen(&mut self, what: &[&str]) -> Result<Vec<Input>, String> {
        match *what {
            [] => Ok(Vec::new()),
            ["executor", answer] => {
                self.answer = answer.to_owned();
                outcome(answer).map(|_| Vec::new()).ok_or_else(|| format!("`{answer}` is no outcome"))
            }
            ["watch", "alive"] => Ok(vec![Input::Evidence { live: true }]),
            ["watch", "dead"] => Ok(vec![Input::Evidence { live: false }]),
            [name, "gone"] => {
                self.nodes.remove(name);
                Ok(vec![Input::Deleted(NodeName::from(name))])
            }
            [name, "boot", boot_id] => self.apply(name, |node| node.boot_id = BootId::from(boot_id)),
            [name, "exclude"] => self.apply(name, |node| {
                node.annotations = Box::new([(Arc::from(EXCLUDE_KEY), Arc::from("true"))]);
            }),
            [name, "include"] => self.apply(name, |node| node.annotations = Box::default()),
            [name, key, say @ ("pass" | "fail" | "unknown")] => {
                let pair = (NodeName::from(name), CheckerKey::from(key));
                if !self.checkers.contains_key(&pair.1) {
                    return Err(format!("there is no checker `{key}`"));
                }
                self.says.insert(pair, say.to_owned());
                // The object shows something else, so that it is judged at once and not at the next tick.
                let rev = self.now.unix_ms().to_string();
                self.apply(name, |node| node.provider_id = Arc::from(format!("{rev}-{key}-{say}")))
            }
            _ => Err(format!("nothing is known of `{}`", what.join(" "))),
        }
    }

    fn apply(&mut self, name: &str, change: impl FnOnce(&mut Node)) -> Result<Vec<Input>, String> {
        let node = self.nodes.get_mut(name).ok_or_else(|| format!("there is no node `{name}`"))?;
        change(node);
        Ok(vec![Input::Applied(Arc::new(node.clone()))])
    }

    fn settle(&mut self, mut inputs: Vec<Input>) {
        loop {
            let turn = self.fleet.turn(self.now, inputs);
            inputs = self.answer(turn);
            if inputs.is_empty() {
                return;
            }
        }
    }

    /// Answers checks and decisions, and tells what happened.
    fn answer(&mut self, turn: Turn) -> Vec<Input> {
        for event in &turn.events {
            if let Some(line) = tell(event) {
                self.say_line(&line);
            }
        }
        let mut inputs = Vec::new();
        for decision in turn.decisions {
            self.say_line(&format!("decision {} {} ({})", decision.node, decision.step.as_str(), self.answer));
            let outcome = outcome(&self.answer).unwrap_or(Outcome::Done);
            inputs.push(Input::Outcome { attempt: decision.attempt, outcome });
        }
        for check in turn.checks {
            let (node, checker) = (check.node.name.clone(), check.checker);
            let verdict = self.verdict(&node, &checker);
            inputs.push(Input::Judged { check: check.id, node, checker, verdict, remember: true });
        }
        inputs
    }

    fn verdict(&self, node: &NodeName, checker: &CheckerKey) -> Verdict {
        let threshold = self.checkers.get(checker).copied().unwrap_or_default();
        let judgement = |reason| Judgement { reason: Arc::from(reason), threshold };
        match self.says.get(&(node.clone(), checker.clone())).map_or("pass", String::as_str) {
            "fail" => Verdict::Fail(judgement("Sick")),
            "unknown" => Verdict::Unknown(Unknown { cause: UnknownCause::Error, detail: Arc::from("no answer") }),
            _ => Verdict::Pass(judgement("Well")),
        }
    }

    fn report(&mut self, name: &str) -> Result<(), String> {
        self.start();
        let report = self.fleet.report(name, self.now).ok_or_else(|| format!("there is no node `{name}`"))?;
        let counts = report.incident.as_ref().map_or(String::new(), |incident| {
            format!(", {} attempts, {} failed calls", incident.attempts.values().sum::<u32>(), incident.failed_calls)
        });
        self.say_line(&format!("{name} is {} since {}{counts}", report.phase.as_str(), moment(report.since)));
        for checker in &report.checkers {
            let age = checker.age.map_or(String::new(), |age| {
                format!(" for {} of {}", span(age), checker.threshold.map_or("?".to_owned(), span))
            });
            let verdict = checker.verdict.unwrap_or("not asked");
            self.say_more(&format!("{} {verdict} {}{age}", checker.checker, checker.reason));
        }
        for hold in &report.holds {
            let until = hold.until.map_or(String::new(), |until| format!(" until {}", moment(until)));
            self.say_more(&format!("held by {}{until}: {}", hold.name.as_str(), hold.detail));
        }
        if let Some(step) = report.next_step {
            let earliest = report.earliest.map_or("unknown".to_owned(), moment);
            self.say_more(&format!("next {}, earliest {earliest}", step.as_str()));
        }
        Ok(())
    }

    fn say_line(&mut self, line: &str) {
        self.story.push_str(&format!("{:>8} {line}", moment(self.now)));
        self.story.push('\n');
    }

    fn say_more(&mut self, line: &str) {
        self.story.push_str("           ");
        self.story.push_str(line.trim_end());
        self.story.push('\n');
    }
}

/// An event as a line; none for those that only counters need.
fn tell(event: &Event) -> Option<String> {
    let name = event.node().map_or(String::new(), |node| format!(" {node}"));
    let detail = match event {
        Event::Outcome { .. } => return None,
        Event::Unhealthy { failed_checkers, .. } => failed_checkers.iter().map(|key| format!(" {key}")).collect(),
        Event::WaitingThreshold { elapsed, threshold, .. } => format!(" {} of {}", span(*elapsed), span(*threshold)),
        Event::Attempt { step, mode, count, .. } => format!(" {} {} {count}", mode.as_str(), step.as_str()),
        Event::WaitingReboot { wait, .. } => format!(" {}", span(*wait)),
        Event::CallFailed { outcome, next_call_in, .. } => format!(" {outcome}, next call in {}", span(*next_call_in)),
        Event::Verification { before, boot_id, .. } | Event::ForeignReboot { before, boot_id, .. } => {
            format!(" {before} -> {boot_id}")
        }
        Event::GaveUp { cause, .. } => format!(" {}", cause.as_str()),
        Event::Recovered { previous, attempts_kept, .. } => {
            format!(" from {}, {attempts_kept} attempts kept", previous.as_str())
        }
        Event::CheckerLeft { checker, .. } | Event::CheckerRemoved { checker } => format!(" {checker}"),
        Event::ReconcileError { reason, .. } => format!(" {}", reason.as_str()),
        Event::Forgiven { .. } | Event::NodeGone { .. } => String::new(),
    };
    Some(format!("{}{name}{detail}", event.kind()))
}

fn outcome(word: &str) -> Option<Outcome> {
    let why = || "the script says so".to_owned();
    match word {
        "done" => Some(Outcome::Done),
        "failed" => Some(Outcome::Failed { why: why(), retry_after: None }),
        "refused" => Some(Outcome::Refused { why: why(), by: Refuser::Executor }),
        "unconfirmed" => Some(Outcome::Unconfirmed { why: why() }),
        _ => None,
    }
}

fn node(name: &str, class: &str) -> Option<Node> {
    let mut node = Node::named(name);
    node.uid = Uid::from(format!("uid-{name}").as_str());
    node.boot_id = BootId::from("b1");
    node.system_uuid = Arc::from(format!("machine-{name}"));
    match class {
        "standard" => {}
        "gpu" => node.labels = Box::new([(Arc::from(GPU_COUNT_LABEL), Arc::from("8"))]),
        _ => return None,
    }
    Some(node)
}

/// Reads groups of integer and unit, as in `1h30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no duration like 90s or 1h30m");
    let (mut total, mut rest) = (Duration::ZERO, text);
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.len() - tail.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, tail) = tail.split_at(letters);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        total += match unit {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return Err(wrong()),
        };
        rest = tail;
    }
    Ok(total)
}

fn moment(at: Time) -> String {
    format!("t+{}", span(at.since(Time::default())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_tells_what_happened() {
        let story = run("policy active\n\
             checker ready 5m\n\
             node n1 standard\n\
             t+0s n1 ready fail   # the kubelet is gone\n\
             t+6m\n\
             report n1\n\
             t+8m n1 boot b2\n\
             t+8m n1 ready pass\n\
             t+18m\n")
        .unwrap();
        let expected = "    t+0s node_unhealthy n1 NodeReady\n    \
             t+0s waiting_threshold n1 0s of 5m\n    \
             t+5m decision n1 reboot (done)\n    \
             t+5m reboot_initiated n1 active reboot 1\n    \
             t+5m waiting_reboot n1 10m\n    \
             t+6m n1 is WaitingReboot since t+5m, 1 attempts, 0 failed calls\n           \
             NodeReady fail Sick for 6m of 5m\n           \
             held by Window until t+15m: the wait after reboot runs for 9m more\n           \
             next reboot, earliest t+15m\n    \
             t+8m reboot_verified n1 b1 -> b2\n    \
             t+8m node_recovered n1 from WaitingReboot, 1 attempts kept\n   \
             t+18m incident_forgiven n1\n";
        assert_eq!(story, expected);
    }

    #[test]
    fn a_line_that_makes_no_sense_is_named() {
        let error = run("checker ready 5m\nnode n1 standard\n\nt+1m n1 disk fail\n").unwrap_err();
        assert_eq!(error.to_string(), "line 4: there is no checker `disk`");
        assert_eq!(run("checker ready soon").unwrap_err().line, 1);
        assert_eq!(run("t+1m\nnode n2 gpu").unwrap_err().line, 2);
    }
}
