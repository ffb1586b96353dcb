//! What the demo shows: a live table on a terminal, plain lines elsewhere, and the summary.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use apgar_sim::{Cloud, Running};

use super::story::{Observed, Role, Story};
use crate::cli::table;

/// Lines of news that stay below the live table.
const NEWS: usize = 12;

/// Where the demo writes.
#[derive(Debug)]
pub(crate) struct Screen {
    live: bool,
    patients: Vec<(String, &'static str)>,
    news: Vec<String>,
    drawn: usize,
}

impl Screen {
    pub(crate) fn new(story: &Story) -> Self {
        let live = std::io::stdout().is_terminal();
        println!(
            "apgar demo: {} simulated nodes, {} of them about to fall ill; about a minute.\n",
            story.infos.len(),
            story.patients.len()
        );
        let patients = story.patients.iter().map(|p| (p.node.clone(), p.trouble)).collect();
        Self { live, patients, news: Vec::new(), drawn: 0 }
    }

    /// A line of news.
    pub(crate) fn say(&mut self, at: Duration, line: &str) {
        let line = format!("{:5.1}s  {line}", at.as_secs_f64());
        if self.live {
            self.news.push(line);
        } else {
            println!("{line}");
        }
    }

    /// The live table, in the place of the one before.
    pub(crate) fn draw(&mut self, at: Duration, observed: &Observed) {
        if !self.live {
            return;
        }
        let counts = observed.counts().into_iter().map(|(phase, count)| format!("{count} {phase}"));
        let mut lines =
            vec![format!("{:5.1}s  {}", at.as_secs_f64(), counts.collect::<Vec<_>>().join(", ")), String::new()];
        let mut table = table::table(&["NODE", "TROUBLE", "PHASE", "FOUND BY"]);
        for (node, trouble) in &self.patients {
            let failing = observed.failed_by(node);
            table.add_row([node.as_str(), trouble, observed.phase(node), &failing]);
        }
        lines.extend(table.to_string().lines().map(str::to_owned));
        lines.push(String::new());
        let skipped = self.news.len().saturating_sub(NEWS);
        lines.extend(self.news.iter().skip(skipped).cloned());
        // Up to the first line of the last drawing, and everything below it cleared.
        let up = if self.drawn == 0 { String::new() } else { format!("\x1b[{}A\x1b[J", self.drawn) };
        self.drawn = lines.len();
        let mut out = std::io::stdout().lock();
        if writeln!(out, "{up}{}", lines.join("\n")).and_then(|()| out.flush()).is_err() {
            self.live = false;
        }
    }

    /// What was sick, what was done, how long it took, what was never touched. True if all of it is as told.
    pub(crate) fn summary(&self, story: &Story, observed: &Observed, fleet: &Running, cloud: &Cloud) -> bool {
        let reboots = fleet.reboots();
        let of = |node: &str| reboots.get(node).copied().unwrap_or(0);
        println!("\nWhat was sick, and what was done\n");
        let mut table = table::table(&[
            "NODE",
            "TROUBLE",
            "FOUND BY",
            "REBOOTS",
            "SICK → SEEN",
            "SEEN → ACTED",
            "ACTED → WELL",
            "NOW",
        ]);
        for patient in &story.patients {
            let node = patient.node.as_str();
            let seen = observed.moment(node, "Unhealthy");
            let acted = observed.moment(node, "WaitingReboot");
            let well = observed.healed(node).filter(|_| acted.is_some());
            table.add_row([
                node,
                patient.trouble,
                &observed.failed_by(node),
                &of(node).to_string(),
                &between(Some(patient.at), seen),
                &between(seen, acted),
                &between(acted, well),
                observed.phase(node),
            ]);
        }
        println!("{table}");
        println!(
            "\nSEEN → ACTED holds each checker's threshold (3 s here) and the gate: at most 2 nodes in repair at once."
        );

        let patients: Vec<&str> = story.patients.iter().map(|p| p.node.as_str()).collect();
        let bystanders = story.infos.iter().filter(|info| !patients.contains(&info.name.as_str()));
        let (mut all, mut touched) = (0, 0);
        for bystander in bystanders {
            all += 1;
            touched += of(&bystander.name);
        }
        let calls_for = |instance: &str| {
            cloud.requests().iter().filter(|call| call.method == "POST" && call.path.contains(instance)).count()
        };
        let role = |role: Role| story.patients.iter().filter(move |p| p.role == role);
        let claims = [
            (
                "every curable node was rebooted exactly once and is Healthy".to_owned(),
                role(Role::Cured).all(|p| of(&p.node) == 1 && observed.phase(&p.node) == "Healthy"),
            ),
            (
                "the incurable node was rebooted exactly twice, then given up".to_owned(),
                role(Role::Incurable).all(|p| of(&p.node) == 2 && observed.phase(&p.node) == "Failed"),
            ),
            (
                "the cloud turned one call away (503), and it was made again later".to_owned(),
                story.busy_instance().map(calls_for) == Some(2),
            ),
            (
                "a trouble shorter than its threshold led to nothing".to_owned(),
                role(Role::Blip).all(|p| of(&p.node) == 0 && observed.phase(&p.node) == "Healthy"),
            ),
            (
                "the node marked apgar.dev/exclude was left alone".to_owned(),
                role(Role::Excluded).all(|p| of(&p.node) == 0),
            ),
            (format!("{all} healthy nodes were never touched"), touched == 0),
            (
                "pool-memory was added, and disk swapped, without a restart".to_owned(),
                observed.generations("pool-memory") >= 1 && observed.generations("disk") == 2,
            ),
            (
                format!(
                    "a bad pool-memory was rolled back and given up ({}); the one before answered all the time",
                    observed.marker("pool-memory")
                ),
                observed.given_up("pool-memory") && observed.held_on("pool-memory"),
            ),
        ];
        println!("\nAs told?\n");
        for (claim, holds) in &claims {
            println!("  {} {claim}", if *holds { "yes" } else { "NO " });
        }
        claims.iter().all(|(_, holds)| *holds)
    }
}

fn between(from: Option<Duration>, to: Option<Duration>) -> String {
    match (from, to) {
        (Some(from), Some(to)) => format!("{:.1}s", to.saturating_sub(from).as_secs_f64()),
        _ => "-".to_owned(),
    }
}
