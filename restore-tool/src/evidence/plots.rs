//! Drills as plots: inline SVG that needs no script and no network, prints in grey, and reads without
//! colour. Pure.
//!
//! Each source has its own: RTO by phase, RPO and PITR error over time, a calendar of verdicts, and the
//! rungs that each drill proved. A drill whose record doesn't count is drawn hollow.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use tidemark_format::SourceName;

use super::drills::{self, Drill, Rung, RungState, Verdict};
use super::html::escaped;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 8.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 26.0;
/// The newest of a source that are drawn: more would be thinner than a line.
const DRAWN_MAX: usize = 240;
/// Dates under a plot.
const DATES_MAX: usize = 8;
/// Months in a calendar.
const MONTHS_MAX: usize = 15;
/// Side of a day in a calendar, and of a rung.
const CELL: f64 = 15.0;
/// Colours of phases, which then begin again.
const PHASE_COLOURS: [&str; 8] = [
    "#2f5d8a", "#7fb2d9", "#b5651d", "#e8b77a", "#4b7f52", "#a5cf9f", "#6b4c8c", "#bda9d1",
];

/// All plots of the drills given, by source.
#[must_use]
pub fn render(all: &[&Drill]) -> String {
    let sources: BTreeSet<&SourceName> = all
        .iter()
        .filter_map(|drill| drill.source.as_ref())
        .collect();
    let mut out = String::new();
    for source in sources {
        let own: Vec<&Drill> = all
            .iter()
            .copied()
            .filter(|drill| drill.source.as_ref() == Some(source))
            .collect();
        let first = own.len().saturating_sub(DRAWN_MAX);
        let own = own.get(first..).unwrap_or_default();
        out.push_str(&format!(
            "<h2>Drills of {}</h2>\n",
            escaped(source.as_str())
        ));
        figure(
            &mut out,
            "From declaration to the last check (RTO), by phase",
            &rto(own),
        );
        let rpo = |drill: &Drill| drill.rpo_seconds;
        let words = "What would have been lost (RPO), measured in the restored database";
        figure(&mut out, words, &points(own, rpo));
        let pitr = |drill: &Drill| drill.pitr_error_ms.map(|ms| ms / 1000.0);
        let words = "Distance from the instant asked for (PITR error)";
        figure(&mut out, words, &points(own, pitr));
        figure(&mut out, "Verdicts by day", &calendar(own));
        figure(&mut out, "Rungs that each drill proved", &rungs(own));
    }
    out
}

fn figure(out: &mut String, caption: &str, drawn: &str) {
    if drawn.is_empty() {
        out.push_str(&format!(
            "<p class=\"small\">{caption}: no drill has measured it yet.</p>\n"
        ));
        return;
    }
    out.push_str(&format!(
        "<figure><figcaption>{caption}</figcaption>\n{drawn}</figure>\n"
    ));
}

fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

fn day(drill: &Drill) -> Date {
    drill.at.to_zoned(TimeZone::UTC).date()
}

/// An SVG of that size around what was drawn.
fn svg(width: f64, height: f64, label: &str, body: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" role=\"img\" aria-label=\"{label}\">\n{body}</svg>\n"
    )
}

/// The plane of a plot over time: drills side by side, seconds upwards.
struct Plane {
    top: f64,
    drills: usize,
    body: String,
}

impl Plane {
    fn new(own: &[&Drill], largest: f64) -> Self {
        let top = round_up(largest);
        let mut plane = Self {
            top,
            drills: own.len().max(1),
            body: String::new(),
        };
        for part in [0.0, 0.5, 1.0] {
            let y = plane.y(top * part);
            let label = escaped(&drills::seconds(top * part));
            let label = if part == 0.0 { "0".to_owned() } else { label };
            plane.add(&format!(
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"axis\" \
                 text-anchor=\"end\" x=\"{:.0}\" y=\"{:.1}\">{label}</text>",
                WIDTH - RIGHT,
                LEFT - 5.0,
                y + 4.0
            ));
        }
        let every = own.len().div_ceil(DATES_MAX).max(1);
        for (place, drill) in own.iter().enumerate().step_by(every) {
            let x = plane.x(place);
            plane.add(&format!(
                "<text class=\"axis\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{:.0}\">{}</text>",
                HEIGHT - 8.0,
                day(drill).strftime("%m-%d")
            ));
        }
        plane
    }

    fn add(&mut self, element: &str) {
        self.body.push_str(element);
        self.body.push('\n');
    }

    fn step(&self) -> f64 {
        (WIDTH - LEFT - RIGHT) / count(self.drills)
    }

    fn x(&self, place: usize) -> f64 {
        (count(place) + 0.5).mul_add(self.step(), LEFT)
    }

    fn y(&self, value: f64) -> f64 {
        let part = (value / self.top).clamp(0.0, 1.0);
        (1.0 - part).mul_add(HEIGHT - TOP - BOTTOM, TOP)
    }
}

/// The next of 1, 2, 5, 10, 20, … that is not below.
fn round_up(value: f64) -> f64 {
    let mut top = 0.001;
    loop {
        for factor in [1.0, 2.0, 5.0] {
            let here = top * factor;
            if here >= value || !value.is_finite() {
                return here;
            }
        }
        top *= 10.0;
    }
}

/// Bars of phases on each other.
fn rto(own: &[&Drill]) -> String {
    let total = |drill: &Drill| -> f64 {
        let phases: f64 = drill.phases.iter().map(|phase| phase.seconds).sum();
        drill.rto_seconds.unwrap_or_default().max(phases)
    };
    let largest = own.iter().map(|drill| total(drill)).fold(0.0, f64::max);
    if largest <= 0.0 {
        return String::new();
    }
    let mut names: Vec<&str> = Vec::new();
    for phase in own.iter().flat_map(|drill| &drill.phases) {
        if !names.contains(&phase.name.as_str()) {
            names.push(&phase.name);
        }
    }
    let colour = |name: &str| {
        let place = names.iter().position(|known| *known == name).unwrap_or(0);
        PHASE_COLOURS[place % PHASE_COLOURS.len()]
    };
    let mut plane = Plane::new(own, largest);
    let wide = (plane.step() * 0.7).clamp(1.0, 40.0);
    for (place, drill) in own.iter().enumerate() {
        let x = plane.x(place) - wide / 2.0;
        let mut below = 0.0;
        for phase in &drill.phases {
            let (high, low) = (plane.y(below + phase.seconds), plane.y(below));
            plane.add(&format!(
                "<rect x=\"{x:.1}\" y=\"{high:.1}\" width=\"{wide:.1}\" height=\"{:.1}\" fill=\"{}\"><title>{} {}: {}</title></rect>",
                low - high,
                colour(&phase.name),
                day(drill),
                escaped(&phase.name),
                drills::seconds(phase.seconds)
            ));
            below += phase.seconds;
        }
        let whole = plane.y(total(drill));
        let class = if drill.proves() { "whole" } else { "hollow" };
        plane.add(&format!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{whole:.1}\" width=\"{wide:.1}\" height=\"{:.1}\"/>",
            plane.y(0.0) - whole
        ));
    }
    let drawn = svg(WIDTH, HEIGHT, "RTO by phase", &plane.body);
    let legend = names.iter().map(|name| {
        format!(
            "<span><i style=\"background:{}\"></i>{}</span> ",
            colour(name),
            escaped(name)
        )
    });
    format!(
        "{drawn}<p class=\"legend\">{}</p>\n",
        legend.collect::<String>()
    )
}

/// A dot for each drill that measured something.
fn points(own: &[&Drill], value: impl Fn(&Drill) -> Option<f64>) -> String {
    let measured = || own.iter().filter_map(|drill| value(drill));
    if measured().next().is_none() {
        return String::new();
    }
    let mut plane = Plane::new(own, measured().fold(0.001, f64::max));
    let mut before: Option<(f64, f64)> = None;
    for (place, drill) in own.iter().enumerate() {
        let Some(value) = value(drill) else {
            before = None;
            continue;
        };
        let (x, y) = (plane.x(place), plane.y(value));
        if let Some((from_x, from_y)) = before.replace((x, y)) {
            plane.add(&format!(
                "<line class=\"way\" x1=\"{from_x:.1}\" y1=\"{from_y:.1}\" x2=\"{x:.1}\" y2=\"{y:.1}\"/>"
            ));
        }
        let class = if drill.proves() { "dot" } else { "dot hollow" };
        plane.add(&format!(
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"><title>{}: {}</title></circle>",
            day(drill),
            drills::seconds(value)
        ));
    }
    svg(WIDTH, HEIGHT, "measured over time", &plane.body)
}

/// One letter for a day, the worst of it: without colour it must still read.
const fn letter(drill: &Drill) -> (&'static str, &'static str) {
    match (drill.verdict, drill.doubt.is_some()) {
        (_, true) | (None, _) => ("?", "day-unknown"),
        (Some(Verdict::Pass), _) => ("P", "day-pass"),
        (Some(Verdict::PassWithExceptions), _) => ("E", "day-exceptions"),
        (Some(Verdict::Inconclusive), _) => ("I", "day-unknown"),
        (Some(Verdict::Fail), _) => ("F", "day-fail"),
    }
}

/// Months side by side, weeks downwards.
fn calendar(own: &[&Drill]) -> String {
    let mut by_day: BTreeMap<Date, &Drill> = BTreeMap::new();
    for drill in own {
        let worst = by_day.entry(day(drill)).or_insert(drill);
        if drill.verdict > worst.verdict {
            *worst = drill;
        }
    }
    let Some((last, _)) = by_day.last_key_value() else {
        return String::new();
    };
    let mut months: Vec<Date> = Vec::new();
    let mut month = last.first_of_month();
    let first = by_day
        .first_key_value()
        .map_or(month, |(first, _)| first.first_of_month());
    while month >= first && months.len() < MONTHS_MAX {
        months.push(month);
        let Ok(before) = month.yesterday() else { break };
        month = before.first_of_month();
    }
    months.reverse();
    let mut body = String::new();
    // Six weeks at most, and a gap.
    let wide = CELL.mul_add(7.0, 14.0);
    let in_a_row = 6;
    for (place, month) in months.iter().enumerate() {
        let left = count(place % in_a_row) * wide;
        let top = count(place / in_a_row) * CELL.mul_add(7.0, 10.0);
        draw_month(&mut body, *month, (left, top), &by_day);
    }
    let rows = months.len().div_ceil(in_a_row);
    let columns = months.len().min(in_a_row);
    let drawn = svg(
        count(columns) * wide,
        count(rows) * CELL.mul_add(7.0, 10.0),
        "verdicts by day",
        &body,
    );
    format!(
        "{drawn}<p class=\"legend\">P passed, E passed with exceptions, F failed, I inconclusive, ? the record does not count</p>\n"
    )
}

fn draw_month(
    body: &mut String,
    month: Date,
    (left, top): (f64, f64),
    by_day: &BTreeMap<Date, &Drill>,
) {
    let title = month.strftime("%Y-%m");
    body.push_str(&format!(
        "<text class=\"axis\" x=\"{left:.0}\" y=\"{:.0}\">{title}</text>\n",
        top + CELL - 4.0
    ));
    let offset = usize::try_from(month.weekday().to_monday_zero_offset()).unwrap_or(0);
    let mut date = month;
    for place in offset.. {
        let (x, y) = (
            count(place % 7).mul_add(CELL, left),
            count(place / 7 + 1).mul_add(CELL, top),
        );
        let (letter, class) = by_day
            .get(&date)
            .map_or(("", "day-none"), |drill| letter(drill));
        body.push_str(&format!("<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{0:.1}\" height=\"{0:.1}\"><title>{date}</title></rect>\n",
            CELL - 1.5));
        if !letter.is_empty() {
            body.push_str(&format!("<text class=\"letter\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.1}\">{letter}</text>\n",
                x + (CELL - 1.5) / 2.0,
                y + CELL - 4.5));
        }
        match date.tomorrow() {
            Ok(next) if next.month() == month.month() => date = next,
            Ok(_) | Err(_) => break,
        }
    }
}

/// A column for each drill, a row for each rung, the highest on top.
fn rungs(own: &[&Drill]) -> String {
    if own.is_empty() {
        return String::new();
    }
    let step = ((WIDTH - LEFT - RIGHT) / count(own.len())).min(CELL);
    let mut body = String::new();
    for (row, rung) in Rung::ALL.iter().rev().enumerate() {
        let y = count(row) * CELL;
        body.push_str(&format!(
            "<text class=\"axis\" text-anchor=\"end\" x=\"{:.0}\" y=\"{:.1}\">{}</text>\n",
            LEFT - 5.0,
            y + CELL - 4.0,
            rung.name()
        ));
        for (place, drill) in own.iter().enumerate() {
            let state = drill.rungs.iter().find(|(of, _)| of == rung);
            let (class, sign) = match state.map(|(_, state)| *state) {
                Some(RungState::Proved) => ("rung-proved", ""),
                Some(RungState::Partial) => ("rung-partial", "·"),
                Some(RungState::Failed) => ("rung-failed", "×"),
                Some(RungState::Recorded) => ("rung-none", "·"),
                Some(RungState::NotRun) | None => ("rung-none", ""),
            };
            let x = count(place).mul_add(step, LEFT);
            body.push_str(&format!("<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{} {}</title></rect>\
                 <text class=\"letter\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{:.1}\">{sign}</text>\n",
                step - 1.0,
                CELL - 1.5,
                day(drill),
                rung.name(),
                x + step / 2.0,
                y + CELL - 4.5));
        }
    }
    let height = count(Rung::ALL.len()) * CELL;
    let drawn = svg(WIDTH, height, "rungs proved", &body);
    format!(
        "{drawn}<p class=\"legend\">filled: proved; with ·: in part; ×: failed; empty with ·: looked at, nothing compared; empty: not checked. The oldest drill is on the left.</p>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::drills::tests::chain;

    fn drawn(verdicts: &[&str]) -> String {
        let all = drills::all(&[chain(verdicts)]);
        render(&all.iter().collect::<Vec<_>>())
    }

    #[test]
    fn every_plot_is_there_and_nothing_comes_from_elsewhere() {
        let page = drawn(&["PASS", "FAIL", "INCONCLUSIVE", "PASS_WITH_EXCEPTIONS"]);
        assert_eq!(page.matches("<svg").count(), 5, "{page}");
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        for letter in [">P<", ">F<", ">I<", ">E<"] {
            assert!(page.contains(letter), "{letter}");
        }
        for never in ["<script", "http", "url(", "NaN", "inf", "href"] {
            assert!(!page.contains(never), "{never}: {page}");
        }
        assert!(page.contains("fetch") && page.contains("2026-11-22"));
    }

    #[test]
    fn names_of_phases_never_become_markup() {
        let mut all = drills::all(&[chain(&["PASS"])]);
        all[0].phases[0].name = "<script>alert(1)</script>".into();
        let page = render(&all.iter().collect::<Vec<_>>());
        assert!(!page.contains("<script"), "{page}");
    }

    #[test]
    fn what_was_never_measured_is_said_and_no_drills_draw_nothing() {
        let mut all = drills::all(&[chain(&["INCONCLUSIVE"])]);
        all[0].rpo_seconds = None;
        all[0].phases.clear();
        all[0].rto_seconds = None;
        let page = render(&all.iter().collect::<Vec<_>>());
        assert_eq!(
            page.matches("no drill has measured it yet").count(),
            2,
            "{page}"
        );
        assert_eq!(render(&[]), "");
    }

    #[test]
    fn scales_end_at_round_numbers_and_survive_nonsense() {
        for (value, top) in [(0.9, 1.0), (1.0, 1.0), (1.1, 2.0), (4000.0, 5000.0)] {
            assert!((round_up(value) - top).abs() < top * 1e-9, "{value}");
        }
        assert!(round_up(f64::INFINITY) > 0.0 && round_up(f64::NAN) > 0.0);
        // A year of days, and a day per drill.
        let verdicts = vec!["PASS"; 400];
        let page = drawn(&verdicts);
        assert!(page.len() < 1 << 20, "{}", page.len());
    }
}
