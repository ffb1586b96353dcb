//! The watch around a run of guest code. It measures what the guest used, what it waited for and what it was kept
//! waiting for, and ends a run that no tick can end: one that sits in an import.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use crate::clock;
use crate::host::Meter;

/// Wall limits after which a run is ended, however little of the time it was given: a permit is not held for ever.
const PATIENCE: u32 = 3;

/// How long a run may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    /// From start to end.
    pub(crate) wall: Duration,
    /// In imports, all waits together.
    pub(crate) waiting: Duration,
}

/// Where the time of a run went.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    /// Guest code and the host code it called.
    pub(crate) guest: Duration,
    /// In imports.
    pub(crate) waiting: Duration,
    /// Able to run, but not run: the host's doing.
    pub(crate) starved: Duration,
}

/// How a run ended.
pub(crate) enum Ended<T> {
    /// By itself.
    Returned(T),
    /// Cut off while it waited in an import.
    WaitedTooLong,
    /// Cut off by the wall clock.
    TookTooLong,
    /// An import of ours panicked.
    Panicked(String),
}

enum Pause {
    /// It was told to let others run.
    Yield,
    /// It waits for something.
    Import,
    /// It waits for a server, which has a limit of its own.
    Server,
}

/// The future around a run.
pub(crate) struct Watch<'a, F> {
    run: Pin<&'a mut F>,
    meter: &'a Meter,
    allowance: Allowance,
    started: Instant,
    spent: Spent,
    paused: Option<(Instant, Pause)>,
    // Made only once a run pauses: most never do.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<'a, F> Watch<'a, F> {
    pub(crate) fn new(run: Pin<&'a mut F>, meter: &'a Meter, allowance: Allowance, started: Instant) -> Self {
        Self { run, meter, allowance, started, spent: Spent::default(), paused: None, alarm: None }
    }

    fn resume(&mut self, now: Instant) -> Option<Pause> {
        let (since, pause) = self.paused.take()?;
        let gap = now.saturating_duration_since(since);
        match pause {
            Pause::Yield => self.spent.starved += gap,
            Pause::Import => self.spent.waiting += gap,
            Pause::Server => {}
        }
        Some(pause)
    }

    fn wake_at(&mut self, deadline: Instant, cx: &mut Context<'_>) {
        let deadline = tokio::time::Instant::from_std(deadline);
        let alarm = match &mut self.alarm {
            Some(alarm) => {
                alarm.as_mut().reset(deadline);
                alarm
            }
            None => self.alarm.insert(Box::pin(tokio::time::sleep_until(deadline))),
        };
        if alarm.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

impl<F: Future> Future for Watch<'_, F> {
    type Output = (Ended<F::Output>, Spent);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut now = this.started;
        if this.paused.is_some() {
            now = clock::now();
            let pause = this.resume(now);
            // Waiting for a turn is not the guest's: among many that spin each is to meet its own deadline first.
            let elapsed = now.saturating_duration_since(this.started);
            let overdue = elapsed.saturating_sub(this.spent.starved) >= this.allowance.wall
                || elapsed >= this.allowance.wall * PATIENCE;
            let waited_too_long = match pause {
                Some(Pause::Import) => overdue || this.spent.waiting >= this.allowance.waiting,
                Some(Pause::Server) => overdue,
                Some(Pause::Yield) | None => false,
            };
            if waited_too_long {
                return Poll::Ready((Ended::WaitedTooLong, this.spent));
            }
            if overdue {
                return Poll::Ready((Ended::TookTooLong, this.spent));
            }
        }
        let polled = catch_unwind(AssertUnwindSafe(|| this.run.as_mut().poll(cx)));
        let after = clock::now();
        this.spent.guest += after.saturating_duration_since(now);
        match polled {
            Ok(Poll::Ready(output)) => Poll::Ready((Ended::Returned(output), this.spent)),
            Ok(Poll::Pending) if this.meter.take_yielded() => {
                this.paused = Some((after, Pause::Yield));
                Poll::Pending
            }
            Ok(Poll::Pending) => {
                let wall = this.started + this.allowance.wall;
                let (pause, deadline) = if this.meter.asking() {
                    (Pause::Server, wall)
                } else {
                    let patience = this.allowance.waiting.saturating_sub(this.spent.waiting);
                    (Pause::Import, (after + patience).min(wall))
                };
                this.paused = Some((after, pause));
                this.wake_at(deadline, cx);
                Poll::Pending
            }
            Err(panic) => Poll::Ready((Ended::Panicked(said(&*panic)), this.spent)),
        }
    }
}

/// The text of a panic, as far as it has one.
pub(crate) fn said(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without text".to_owned())
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    const ALLOWANCE: Allowance = Allowance { wall: Duration::from_secs(1), waiting: Duration::from_millis(20) };

    async fn watch<T>(run: impl Future<Output = T>) -> (Ended<T>, Spent) {
        let meter = Meter::default();
        let run = pin!(run);
        Watch::new(run, &meter, ALLOWANCE, clock::now()).await
    }

    #[tokio::test]
    async fn a_run_that_waits_is_ended_while_it_waits() {
        let (ended, spent) = watch(std::future::pending::<()>()).await;
        assert!(matches!(ended, Ended::WaitedTooLong));
        assert!(spent.waiting >= ALLOWANCE.waiting);
        assert!(spent.waiting < ALLOWANCE.wall);
    }

    #[tokio::test]
    async fn short_waits_add_up() {
        let (ended, _) = watch(async {
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        assert!(matches!(ended, Ended::WaitedTooLong));
    }

    #[tokio::test]
    async fn a_panic_ends_the_run_and_nothing_else() {
        let (ended, _) = watch(async { panic!("an import of ours") }).await;
        assert!(matches!(ended, Ended::<()>::Panicked(text) if text == "an import of ours"));
    }
}
