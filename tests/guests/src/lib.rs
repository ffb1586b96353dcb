//! A checker that misbehaves on demand: the name of the node says how. On every other node, that of the
//! self-check included, it is well, so that each behaviour starts from a checker that serves.
//!
//! What no kit would let through (a trap while it is loaded, an import nobody granted) is in `special.rs`,
//! which is built by the build script of the tests.

use std::hint::black_box;
use std::time::Duration;

use apgar_checker::{Checker, Description, Node, Verdict, log};

/// One table for the type, the list and the names: no behaviour can be in one and not in the others.
macro_rules! behaviours {
    ($($(#[$doc:meta])+ $behaviour:ident = $node:literal,)+) => {
        /// One way to misbehave. A test matches on it without a wildcard, so that a behaviour without a test
        /// does not compile.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Behaviour {
            $($(#[$doc])+ $behaviour,)+
        }

        impl Behaviour {
            /// All of them.
            pub const ALL: &[Behaviour] = &[$(Behaviour::$behaviour),+];

            /// The name of the node on which it happens.
            pub const fn node(self) -> &'static str {
                match self {
                    $(Behaviour::$behaviour => $node,)+
                }
            }
        }
    };
}

behaviours! {
    /// Is well, as on every node that names no behaviour.
    Healthy = "healthy",
    /// Finds the node sick.
    Unhealthy = "unhealthy",
    /// Cannot tell.
    Err = "err",
    /// Cannot tell, in 10 KB.
    BigErr = "big-err",
    /// Never returns.
    Spin = "spin",
    /// Allocates without end.
    Grow = "grow",
    /// Calls itself without end, with small frames: the host's limit on the stack.
    Recurse = "recurse",
    /// Calls itself without end, with large frames: its own stack.
    RecurseWide = "recurse-wide",
    /// Panics.
    Panic = "panic",
    /// Writes 10 000 lines of 2 KB.
    FloodLog = "flood-log",
    /// Writes lines that pretend to be others: line breaks, escape codes, NUL.
    ForgeLog = "forge-log",
    /// Asks a cheap question a million times.
    ManyCalls = "many-calls",
    /// Asks for 1 000 labels with keys of 900 KiB.
    BigKeys = "big-keys",
    /// Asks for one label with a key of 2 MiB.
    HugeKey = "huge-key",
    /// Gives a reason of 10 KB.
    BigReason = "big-reason",
    /// Gives a reason of 4 MiB.
    HugeReason = "huge-reason",
    /// Gives an empty reason.
    EmptyReason = "empty-reason",
    /// Gives a reason with line breaks, escape codes, NUL and quotes.
    ControlChars = "control-chars",
    /// Gives a reason that is not UTF-8.
    BadUtf8 = "bad-utf8",
    /// Gives another reason for every uid.
    ReasonPerUid = "reason-per-uid",
    /// Finds the node sick, to be repaired in 584 million years.
    ThresholdMax = "threshold-max",
    /// Finds the node sick, to be repaired at once.
    ThresholdZero = "threshold-zero",
}

/// What a forger writes: it must arrive as one harmless line or word.
pub const FORGED: &str = "Fine\nERROR forged\r\u{1b}[2J\u{1b}]0;owned\u{7}\0\u{202e}\"quoted\"\\";

/// The checker.
pub struct Guest;

impl Checker for Guest {
    type Settings = ();

    const DESCRIPTION: Description = Description {
        name: "Guest",
        version: "1.2.3",
        summary: "Misbehaves on nodes that are named after a behaviour.",
        reasons: &["Healthy", "Unhealthy"],
        default_threshold: Duration::from_secs(60),
    };

    fn judge(node: &impl Node, _: &()) -> Result<Verdict, String> {
        let name = node.name();
        let behaviour = Behaviour::ALL.iter().find(|behaviour| behaviour.node() == name);
        behave(behaviour.copied().unwrap_or(Behaviour::Healthy), node)
    }
}

apgar_checker::export!(Guest);

fn behave(behaviour: Behaviour, node: &impl Node) -> Result<Verdict, String> {
    Ok(match behaviour {
        Behaviour::Healthy => Verdict::pass("Healthy"),
        Behaviour::Unhealthy => Verdict::fail("Unhealthy"),
        Behaviour::Err => return Err("cannot tell".to_owned()),
        Behaviour::BigErr => return Err("x".repeat(10_000)),
        Behaviour::Spin => loop {
            black_box(());
        },
        Behaviour::Grow => loop {
            std::mem::forget(black_box(vec![1_u8; 1 << 20]));
        },
        Behaviour::Recurse => Verdict::pass(recurse(1).to_string()),
        Behaviour::RecurseWide => Verdict::pass(recurse_wide(1).to_string()),
        Behaviour::Panic => forbidden(),
        Behaviour::FloodLog => {
            let line = "x".repeat(2_000);
            for _ in 0..10_000 {
                log::info(&line);
            }
            Verdict::pass("Healthy")
        }
        Behaviour::ForgeLog => {
            log::warn(FORGED);
            Verdict::pass("Healthy")
        }
        Behaviour::ManyCalls => {
            for _ in 0..1_000_000 {
                black_box(node.unschedulable());
            }
            Verdict::pass("Healthy")
        }
        Behaviour::BigKeys => {
            let key = "x".repeat(900 << 10);
            for _ in 0..1_000 {
                black_box(node.label(&key));
            }
            Verdict::pass("Healthy")
        }
        Behaviour::HugeKey => {
            black_box(node.label(&"x".repeat(2 << 20)));
            Verdict::pass("Healthy")
        }
        Behaviour::BigReason => Verdict::fail("x".repeat(10_000)),
        Behaviour::HugeReason => Verdict::fail("x".repeat(4 << 20)),
        Behaviour::EmptyReason => Verdict::fail(""),
        Behaviour::ControlChars => Verdict::fail(FORGED),
        Behaviour::BadUtf8 => Verdict::fail(not_utf8()),
        Behaviour::ReasonPerUid => Verdict::fail("Reason".to_owned() + &node.uid()),
        Behaviour::ThresholdMax => Verdict::fail("Unhealthy").after(Duration::from_millis(u64::MAX)),
        Behaviour::ThresholdZero => Verdict::fail("Unhealthy").after(Duration::ZERO),
    })
}

/// Not in tail position, or the compiler makes a loop of it.
#[expect(unconditional_recursion, reason = "that is the point")]
#[inline(never)]
fn recurse(depth: u64) -> u64 {
    black_box(recurse(black_box(depth + 1))) + depth
}

#[expect(unconditional_recursion, reason = "that is the point")]
#[inline(never)]
fn recurse_wide(depth: u64) -> u64 {
    let frame = black_box([depth; 1_024]);
    black_box(recurse_wide(black_box(depth + 1))) + black_box(frame).iter().sum::<u64>()
}

#[expect(clippy::panic, reason = "that is the point")]
fn forbidden() -> ! {
    panic!("this checker panics on purpose");
}

#[expect(unsafe_code, reason = "a guest can hand out any bytes, whatever its language promises")]
fn not_utf8() -> String {
    // SAFETY: none. The text is only moved, never read, before it leaves the guest.
    unsafe { String::from_utf8_unchecked(vec![b'a', 0xff, 0xfe, b'z']) }
}
