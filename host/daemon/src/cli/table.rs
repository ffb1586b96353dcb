//! Tables as kubectl prints them: columns apart by spaces, no lines, colour only on a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use comfy_table::{Cell, Color, Table, presets};

/// A table with these headings.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(headings.iter().copied());
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    if !std::io::stdout().is_terminal() {
        table.force_no_tty();
    }
    table
}

/// A verdict, coloured for who looks at it.
pub(crate) fn verdict(result: &str) -> Cell {
    match result {
        "pass" => Cell::new(result).fg(Color::Green),
        "fail" => Cell::new(result).fg(Color::Red),
        _ => Cell::new(result).fg(Color::Yellow),
    }
}

/// A length of time for people, as in `1h 30m` or `250ms`.
pub(crate) fn span(span: Duration) -> String {
    let span = jiff::SignedDuration::try_from(span).unwrap_or(jiff::SignedDuration::MAX);
    // Above ten seconds the milliseconds are noise.
    let span = if span.as_secs() >= 10 { jiff::SignedDuration::from_secs(span.as_secs()) } else { span };
    format!("{span:#}")
}
