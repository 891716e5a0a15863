//! Numbers and times in the words that people read: sizes, durations, instants, aligned columns.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use tidemark_format::words::duration;

/// `1.5 GiB`, `12 KiB`, `7 B`.
#[must_use]
pub fn bytes(n: u64) -> String {
    const UNITS: [(&str, u64); 4] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
    ];
    UNITS.into_iter().find(|(_, unit)| n >= *unit).map_or_else(
        || format!("{n} B"),
        |(name, unit)| {
            let whole = n / unit;
            let tenths = whole.saturating_mul(10) + (n % unit).saturating_mul(10) / unit;
            if n >= unit.saturating_mul(100) || tenths.is_multiple_of(10) {
                format!("{} {name}", tenths / 10)
            } else {
                format!("{}.{} {name}", tenths / 10, tenths % 10)
            }
        },
    )
}

/// How long ago something was; clocks differ, so a time in the future is said to be one.
#[must_use]
pub fn age(now: Timestamp, then: Timestamp) -> String {
    let gone: SignedDuration = now.duration_since(then);
    if gone.is_negative() {
        format!("{} in the future", duration(gone.unsigned_abs()))
    } else {
        format!("{} ago", duration(gone.unsigned_abs()))
    }
}

/// `2026-05-01 14:31:00.250 UTC`: whole seconds without a fraction.
#[must_use]
pub fn instant(at: Timestamp) -> String {
    let millis = at.subsec_millisecond();
    let plain = at.strftime("%Y-%m-%d %H:%M:%S");
    if millis == 0 {
        format!("{plain} UTC")
    } else {
        format!("{plain}.{millis:03} UTC")
    }
}

/// The same instant by the clock on the wall here.
#[must_use]
pub fn local_instant(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone())
        .strftime("%Y-%m-%d %H:%M:%S %Z")
        .to_string()
}

/// `41.2 MiB/s`; nothing when no time has passed.
#[must_use]
pub fn rate(n: u64, over: Duration) -> Option<String> {
    let millis = u64::try_from(over.as_millis()).unwrap_or(u64::MAX);
    let per_second = n.saturating_mul(1000).checked_div(millis)?;
    Some(format!("{}/s", bytes(per_second)))
}

/// Rows whose columns line up, two spaces apart; the last column is left ragged.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// No rows.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a row.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Writes the rows, each behind `indent`.
    pub fn write(&self, indent: &str, out: &mut String) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |at: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(at))
                .map(|c| c.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
                if at + 1 == row.len() {
                    // Lines of a longer text stand below one another.
                    let below = format!("\n{}", " ".repeat(line.chars().count()));
                    line.push_str(&cell.replace('\n', &below));
                } else {
                    line.push_str(&format!("{cell:<width$}  ", width = *width));
                }
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_last_column_stand_below_one_another() {
        let mut table = Table::new();
        table.row(["a", "run:\nfirst;\nsecond;"]);
        table.row(["longer", "x"]);
        let mut out = String::new();
        table.write(" ", &mut out);
        assert_eq!(
            out,
            " a       run:\n         first;\n         second;\n longer  x\n"
        );
    }

    #[test]
    fn sizes_and_durations_read_as_people_write_them() {
        assert_eq!(bytes(7), "7 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(86 << 20), "86 MiB");
        assert_eq!(bytes(u64::MAX / 2), "8388607 TiB");
        assert_eq!(duration(Duration::from_millis(250)), "250 ms");
        assert_eq!(duration(Duration::from_secs(200)), "3 min 20 s");
        assert_eq!(duration(Duration::from_secs(7200)), "2 h");
        assert_eq!(duration(Duration::from_secs(100_000)), "1 d 3 h");
        assert_eq!(
            rate(1 << 20, Duration::from_millis(500)).unwrap(),
            "2 MiB/s"
        );
    }

    #[test]
    fn instants_say_their_zone_and_ages_their_direction() {
        let at: Timestamp = "2026-05-01T14:31:00.250Z".parse().unwrap();
        assert_eq!(instant(at), "2026-05-01 14:31:00.250 UTC");
        let later = at.checked_add(SignedDuration::from_secs(11)).unwrap();
        assert_eq!(age(later, at), "11 s ago");
        assert_eq!(age(at, later), "11 s in the future");
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new();
        table.row(["a", "long cell", "end"]);
        table.row(["bcd", "x", ""]);
        let mut out = String::new();
        table.write("  ", &mut out);
        assert_eq!(out, "  a    long cell  end\n  bcd  x\n");
    }
}
