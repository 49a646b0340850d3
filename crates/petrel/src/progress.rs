//! How far is the start? One line with a bar for each part; plain lines where there is no terminal.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::Write;
use std::time::{Duration, Instant};

/// The parts of a start, in order.
pub(crate) struct Steps {
    bars: MultiProgress,
    plain: bool,
    quiet: bool,
}

/// One part.
pub(crate) struct Step<'s> {
    steps: &'s Steps,
    name: String,
    bar: ProgressBar,
    started: Instant,
}

impl Steps {
    pub(crate) fn new(quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bars = MultiProgress::with_draw_target(target);
        Self { plain: bars.is_hidden(), bars, quiet }
    }

    /// Opens a part of `length` pieces.
    pub(crate) fn step(&self, name: &str, length: u64) -> Step<'_> {
        let bar = self.bars.add(ProgressBar::new(length));
        if let Ok(style) = ProgressStyle::with_template("  {bar:16.cyan/dim} {prefix:<14} {msg}") {
            bar.set_style(style.progress_chars("━━─"));
        }
        bar.set_prefix(name.to_string());
        bar.tick();
        Step { steps: self, name: name.to_string(), bar, started: Instant::now() }
    }

    /// The line that shows the running job; it replaces itself.
    pub(crate) fn live_line(&self) -> ProgressBar {
        let bar = self.bars.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("  {spinner:.cyan} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        bar
    }

    /// Prints a line above the bars.
    pub(crate) fn say(&self, line: &str) {
        if self.quiet {
            return;
        }
        if self.plain {
            let _nobody_reads = writeln!(std::io::stderr(), "{line}");
        } else {
            let _no_terminal_left = self.bars.println(line);
        }
    }
}

impl Step<'_> {
    pub(crate) fn advance(&self) {
        self.bar.inc(1);
    }

    pub(crate) fn message(&self, text: impl Into<String>) {
        self.bar.set_message(text.into());
    }

    /// Fills the bar and leaves the line standing with `text`.
    pub(crate) fn done(self, text: impl Into<String>) {
        let took = self.started.elapsed();
        self.done_after(took, text);
    }

    /// The same for a part that took its time before its line was opened.
    pub(crate) fn done_after(self, took: Duration, text: impl Into<String>) {
        let text = format!("{} ({:.2} s)", text.into(), took.as_secs_f64());
        if self.steps.plain {
            self.steps.say(&format!("  {:<14} {text}", self.name));
        }
        if let Some(length) = self.bar.length() {
            self.bar.set_position(length);
        }
        self.bar.finish_with_message(text);
    }
}
