//! The whole screen, renewed in place.
//!
//! The terminal stays in its ordinary mode, so that Ctrl-C is the signal that it always is; only
//! the alternate screen is taken, and is restored when the view is dropped.

use std::io::{self, Stdout, stdout};

use ratatui::{
    Frame, Terminal,
    backend::CrosstermBackend,
    crossterm::{
        cursor::{Hide, Show},
        execute,
        terminal::{EnterAlternateScreen, LeaveAlternateScreen},
    },
    layout::{Constraint, Layout, Rect},
    style::{Style, Stylize},
    text::Line,
    widgets::{Block, Gauge, Paragraph, Row, Table},
};

use super::super::{
    STRATEGIES,
    moment::{EngineRow, Moment},
    outcome::Outcome,
};

/// Columns of a bar.
const BAR: usize = 16;

/// The screen, until it is dropped.
pub(crate) struct Live {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

impl Live {
    /// Takes the screen.
    pub(crate) fn open() -> io::Result<Self> {
        let terminal = Terminal::new(CrosstermBackend::new(stdout()))?;
        execute!(stdout(), EnterAlternateScreen, Hide)?;
        Ok(Self { terminal })
    }

    /// Draws the moment.
    pub(crate) fn show(&mut self, moment: &Moment) -> io::Result<()> {
        self.terminal
            .draw(|frame| draw(frame, moment))
            .map(|_completed| ())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // A terminal that is gone has nothing to be given back.
        let _gone = execute!(stdout(), LeaveAlternateScreen, Show);
    }
}

fn draw(frame: &mut Frame<'_>, moment: &Moment) {
    let engines = u16::try_from(moment.engines.len()).unwrap_or(u16::MAX);
    let heights =
        [2, 3, engines.saturating_add(3), STRATEGIES.len() as u16 + 3].map(Constraint::Length);
    let [title, progress, engines, outcomes] = Layout::vertical(heights).areas(frame.area());
    let head = vec![
        Line::from("Hermes: the same chats, three ways to choose an engine".bold()),
        Line::from(
            format!(
                "{} chooses among four simulated engines; Ctrl-C ends it early",
                moment.router
            )
            .dim(),
        ),
    ];
    frame.render_widget(Paragraph::new(head), title);
    draw_progress(frame, progress, moment);
    frame.render_widget(engine_table(&moment.engines), engines);
    frame.render_widget(outcome_table(&moment.outcomes), outcomes);
}

fn draw_progress(frame: &mut Frame<'_>, area: Rect, moment: &Moment) {
    let label = format!("{}, {:.0} s", moment.strategy, moment.elapsed.as_secs_f64());
    let gauge = Gauge::default()
        .block(Block::bordered())
        .gauge_style(Style::new().cyan());
    frame.render_widget(
        gauge.label(label).ratio(moment.progress.clamp(0.0, 1.0)),
        area,
    );
}

fn engine_table(engines: &[EngineRow]) -> Table<'static> {
    let row = |engine: &EngineRow| {
        Row::new([
            engine.name.clone(),
            format!("{:.1}", engine.speed),
            format!("{:>9}", engine.in_flight),
            format!("{:>7.0} %", engine.kv_usage * 100.0),
            format!("{:>7.0} %", engine.hit_rate * 100.0),
            format!("{:>3.0} % {}", engine.share * 100.0, bar(engine.share)),
        ])
    };
    let widths = [22, 6, 10, 10, 10, 24].map(Constraint::Length);
    Table::new(engines.iter().map(row), widths)
        .header(
            Row::new([
                "engine",
                "speed",
                "in flight",
                " KV usage",
                " hit rate",
                "share of requests",
            ])
            .bold(),
        )
        .block(Block::bordered())
}

fn outcome_table(outcomes: &[Outcome]) -> Table<'static> {
    let row = |outcome: &Outcome| {
        let Outcome { strategy, report } = outcome;
        Row::new([
            (*strategy).to_owned(),
            format!("{:>6.0} ms", report.ttft.p50_ms),
            format!("{:>6.0} ms", report.ttft.p99_ms),
            format!("{:>7.0} %", outcome.hit_percent()),
            format!("{:>8}", report.ok),
            format!("{:>6}", outcome.errors()),
        ])
    };
    let widths = [22, 10, 10, 10, 9, 7].map(Constraint::Length);
    Table::new(outcomes.iter().map(row), widths)
        .header(
            Row::new([
                "strategy",
                " TTFT p50",
                " TTFT p99",
                " hit rate",
                " answers",
                "errors",
            ])
            .bold(),
        )
        .block(Block::bordered())
}

fn bar(share: f64) -> String {
    let filled = (share.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    "█".repeat(filled)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hermes_bench::load::{Report, Summary};
    use ratatui::backend::TestBackend;

    use super::*;

    fn moment() -> Moment {
        let engine = |name: &str, share| EngineRow {
            name: name.to_owned(),
            speed: 0.5,
            in_flight: 7,
            kv_usage: 0.42,
            hit_rate: 0.87,
            share,
        };
        let ttft = Summary {
            count: 1,
            p50_ms: 123.0,
            p99_ms: 4_567.0,
            ..Summary::default()
        };
        let report = Report {
            requests: 90,
            ok: 88,
            ttft,
            hit_rate: Some(0.31),
            ..Report::default()
        };
        Moment {
            strategy: "kv-aware",
            elapsed: Duration::from_secs(12),
            progress: 0.75,
            router: "http://127.0.0.1:8000".to_owned(),
            engines: vec![engine("127.0.0.1:1", 0.5), engine("127.0.0.1:2", 0.5)],
            outcomes: vec![Outcome {
                strategy: "round-robin",
                report,
            }],
        }
    }

    fn drawn(width: u16, height: u16) -> String {
        let mut terminal =
            Terminal::new(TestBackend::new(width, height)).expect("a screen in memory");
        terminal
            .draw(|frame| draw(frame, &moment()))
            .expect("a screen in memory");
        terminal.backend().to_string()
    }

    #[test]
    fn a_usual_terminal_shows_engines_and_results() {
        let screen = drawn(90, 24);
        for part in [
            "kv-aware, 12 s",
            "127.0.0.1:2",
            "42 %",
            "87 %",
            "50 % ████████",
            "round-robin",
            "123 ms",
            "4567 ms",
            "31 %",
        ] {
            assert!(screen.contains(part), "{part} in\n{screen}");
        }
    }

    #[test]
    fn a_screen_too_small_for_everything_is_no_failure() {
        assert!(!drawn(10, 3).is_empty());
        assert!(!drawn(1, 1).is_empty());
    }
}
