//! A row's answer: its measures against their goals, as people see it and as `RESULTS.md` keeps it.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};

/// Runs of one quantity: the median counts, the spread is shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runs(Vec<f64>);

impl Runs {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    pub(crate) fn median(&self) -> f64 {
        percentile(&self.0, 0.5)
    }

    pub(crate) fn worst(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    fn spread(&self, unit: &str) -> String {
        let first = self.0.first().copied().unwrap_or(f64::NAN);
        format!("{} to {}", number(first), with_unit(self.worst(), unit))
    }
}

/// The value below which `share` of the sorted values lie.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let wanted = share * last as f64;
    let at = (0..=last)
        .find(|at| *at as f64 >= wanted - 1e-9)
        .unwrap_or(last);
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

/// One quantity of a row, with its goal.
#[derive(Clone, Debug)]
pub(crate) struct Measure {
    what: String,
    measured: f64,
    goal: f64,
    /// Whether more is better.
    at_least: bool,
    unit: &'static str,
    detail: String,
}

impl Measure {
    /// A quantity of ours that must not exceed `goal`.
    pub(crate) fn at_most(what: &str, runs: &Runs, goal: f64, unit: &'static str) -> Self {
        let detail = format!("runs {}", runs.spread(unit));
        Self {
            what: what.to_owned(),
            measured: runs.median(),
            goal,
            at_least: false,
            unit,
            detail,
        }
    }

    /// A quantity of which not one run may exceed `goal`: the worst counts.
    pub(crate) fn never_above(what: &str, runs: &Runs, goal: f64, unit: &'static str) -> Self {
        let median = with_unit(runs.median(), unit);
        let detail = format!(
            "runs {}, median {median}; the worst counts",
            runs.spread(unit)
        );
        Self {
            measured: runs.worst(),
            detail,
            ..Self::at_most(what, runs, goal, unit)
        }
    }

    /// A quantity of ours that must not exceed `goal` times the peer's, medians of both.
    pub(crate) fn ratio(
        what: &str,
        (ours, peers): (&Runs, &Runs),
        goal: f64,
        unit: &'static str,
    ) -> Self {
        let detail = format!(
            "{} ({}) against {} ({})",
            with_unit(ours.median(), unit),
            ours.spread(unit),
            with_unit(peers.median(), unit),
            peers.spread(unit)
        );
        let measured = ours.median() / peers.median();
        Self {
            what: what.to_owned(),
            measured,
            goal,
            at_least: false,
            unit: "×",
            detail,
        }
    }

    /// A quantity of ours that must reach `goal` times the peer's, medians of both.
    pub(crate) fn ratio_at_least(
        what: &str,
        both: (&Runs, &Runs),
        goal: f64,
        unit: &'static str,
    ) -> Self {
        Self {
            at_least: true,
            ..Self::ratio(what, both, goal, unit)
        }
    }

    fn is_met(&self) -> bool {
        // Not a number is not met.
        if self.at_least {
            self.measured >= self.goal
        } else {
            self.measured <= self.goal
        }
    }

    fn goal(&self) -> String {
        let sign = if self.at_least { '≥' } else { '≤' };
        format!("{sign} {}", with_unit(self.goal, self.unit))
    }

    fn verdict(&self) -> &'static str {
        if self.is_met() { "MET" } else { "MISSED" }
    }
}

/// One row of the results.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// The name that `benches/run` takes.
    pub(crate) name: &'static str,
    /// Pairs of runs that it rests on.
    pub(crate) pairs: usize,
    /// What was done, for whoever reads the numbers.
    pub(crate) setting: String,
    /// Its quantities.
    pub(crate) measures: Vec<Measure>,
}

impl Row {
    pub(crate) fn is_met(&self) -> bool {
        !self.measures.is_empty() && self.measures.iter().all(Measure::is_met)
    }

    /// Puts the row into `RESULTS.md` in place of its last run.
    pub(crate) fn keep(&self) -> Result<()> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("RESULTS.md");
        let text = std::fs::read_to_string(&path).context("reading RESULTS.md")?;
        std::fs::write(&path, self.within(&text)).context("writing RESULTS.md")
    }

    fn within(&self, text: &str) -> String {
        let mut sections = text.split("\n## ");
        let opening = sections.next().unwrap_or_default().trim_end().to_owned();
        let mut kept: Vec<String> = sections
            .filter(|section| section.lines().next() != Some(self.name))
            .map(|section| section.trim_end().to_owned())
            .collect();
        kept.push(self.section());
        kept.sort_by_key(|section| {
            let name = section.lines().next().unwrap_or_default().to_owned();
            crate::rows::NAMES.iter().position(|known| *known == name)
        });
        format!("{opening}\n\n## {}\n", kept.join("\n\n## "))
    }

    /// What the numbers rest on.
    fn basis(&self) -> String {
        match self.pairs {
            1 => "One run of each side.".to_owned(),
            pairs => format!("Medians of {pairs} alternating runs of each side."),
        }
    }

    fn section(&self) -> String {
        let mut lines = vec![self.name.to_owned(), String::new(), self.setting.clone()];
        lines.push(String::new());
        lines.push("| what | measured | goal | | runs |".to_owned());
        lines.push("|---|---|---|---|---|".to_owned());
        lines.extend(self.measures.iter().map(|m| {
            let (measured, goal) = (with_unit(m.measured, m.unit), m.goal());
            format!(
                "| {} | {measured} | {goal} | {} | {} |",
                m.what,
                m.verdict(),
                m.detail
            )
        }));
        lines.push(String::new());
        lines.push(format!("{} {}", self.basis(), machine()));
        lines.join("\n")
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.name, self.setting)?;
        for m in &self.measures {
            let (measured, goal) = (with_unit(m.measured, m.unit), m.goal());
            let (verdict, detail) = (m.verdict(), &m.detail);
            writeln!(
                f,
                "  {verdict:6}  {}: {measured}, goal {goal}; {detail}",
                m.what
            )?;
        }
        Ok(())
    }
}

/// What the numbers were measured on.
fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .unwrap_or(": unknown");
    let model = model.trim_start_matches([' ', '\t', ':']);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("On {cores} cores of {model}, Linux {}.", kernel.trim())
}

fn with_unit(value: f64, unit: &str) -> String {
    match unit {
        "" => number(value),
        "×" | "%" => format!("{} {unit}", number(value)),
        _ => format!("{} {unit}", number(value)),
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(values: &[f64]) -> Runs {
        let mut runs = Runs::default();
        values.iter().for_each(|value| runs.push(*value));
        runs
    }

    #[test]
    fn median_and_worst_are_those_of_the_sorted_runs() {
        let runs = runs(&[5.0, 1.0, 3.0]);
        assert_eq!((runs.median(), runs.worst()), (3.0, 5.0));
    }

    #[test]
    fn percentile_takes_the_value_above() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&sorted, 0.99), 100.0);
        assert_eq!(percentile(&sorted, 0.0), 1.0);
    }

    #[test]
    fn what_is_better_large_is_met_above_its_goal() {
        let rate = |ours| {
            let both = (&runs(&[ours]), &runs(&[100.0]));
            Measure::ratio_at_least("rate", both, 0.92, "")
        };
        assert!(rate(95.0).is_met() && !rate(90.0).is_met());
        assert_eq!(rate(95.0).goal(), "≥ 0.920 ×");
    }

    #[test]
    fn nothing_measured_is_missed() {
        let row = Row {
            name: "loss",
            pairs: 5,
            setting: String::new(),
            measures: vec![],
        };
        assert!(!row.is_met());
        assert!(!Measure::at_most("x", &Runs::default(), 1.0, "s").is_met());
    }

    #[test]
    fn a_new_run_takes_the_place_of_the_last() {
        let measure = |value| Measure::at_most("x", &runs(&[value]), 1.0, "s");
        let row = |name, value| Row {
            name,
            pairs: 5,
            setting: "s".to_owned(),
            measures: vec![measure(value)],
        };
        let first = row("restore", 0.5).within("# Results\n\nText.\n");
        let second = row("loss", 2.0).within(&first);
        let third = row("restore", 3.0).within(&second);
        assert!(third.starts_with("# Results\n\nText.\n\n## loss\n"));
        assert_eq!(third.matches("## restore").count(), 1);
        assert!(third.contains("| x | 3 s | ≤ 1 s | MISSED |"), "{third}");
    }
}
