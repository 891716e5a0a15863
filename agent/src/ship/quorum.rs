//! What "durable in W failure domains" means: pure arithmetic over the regions' cursors.
//!
//! Two regions in one failure domain count once, by the better of the two: losing the domain loses
//! both. Log objects are created in order in each region, so a region's oldest missing commit says
//! everything about what it lacks.

use std::collections::BTreeMap;

use jiff::Timestamp;

/// How many domains make "durable": what was asked for, but never more than there are.
#[must_use]
pub fn width(durable_in: usize, domains: usize) -> usize {
    durable_in.min(domains).max(1)
}

/// The position that at least `width` domains have reached, given each region's domain and position
/// (`None`: nothing yet). `None` if fewer than `width` domains have any.
#[must_use]
pub fn reached<'a, T: Ord + Copy>(
    regions: impl IntoIterator<Item = (&'a str, Option<T>)>,
    width: usize,
) -> Option<T> {
    let mut best: BTreeMap<&str, Option<T>> = BTreeMap::new();
    for (domain, position) in regions {
        let slot = best.entry(domain).or_default();
        *slot = (*slot).max(position);
    }
    let mut positions: Vec<Option<T>> = best.into_values().collect();
    positions.sort_unstable_by(|a, b| b.cmp(a));
    positions.get(width.saturating_sub(1)).copied().flatten()
}

/// Since when something is missing, as far as `width` domains go, given since when each region
/// lacks something (`None`: it lacks nothing).
#[must_use]
pub fn lacking_since<'a>(
    regions: impl IntoIterator<Item = (&'a str, Option<Timestamp>)>,
    width: usize,
) -> Option<Timestamp> {
    // The later the oldest missing commit, the better; lacking nothing is best.
    let mut best: BTreeMap<&str, Option<Timestamp>> = BTreeMap::new();
    for (domain, since) in regions {
        best.entry(domain)
            .and_modify(|held| *held = better(*held, since))
            .or_insert(since);
    }
    let mut all: Vec<Option<Timestamp>> = best.into_values().collect();
    all.sort_unstable_by_key(|since| std::cmp::Reverse(since.unwrap_or(Timestamp::MAX)));
    match all.get(width.saturating_sub(1)) {
        Some(since) => *since,
        // Fewer domains than asked for: `width` was not clamped. Nothing is ever durable then.
        None => Some(Timestamp::MIN),
    }
}

fn better(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.max(other)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Option<Timestamp> {
        Some(Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn durable_is_what_the_wth_best_domain_has() {
        let regions = [("a", Some(9)), ("b", Some(5)), ("c", Some(7))];
        assert_eq!(reached(regions, 1), Some(9));
        assert_eq!(reached(regions, 2), Some(7));
        assert_eq!(reached(regions, 3), Some(5));
        assert_eq!(reached(regions, 4), None);
    }

    #[test]
    fn two_regions_of_one_domain_count_once() {
        let regions = [("a", Some(9)), ("a", Some(8)), ("b", None)];
        assert_eq!(reached(regions, 1), Some(9));
        assert_eq!(reached(regions, 2), None);
    }

    #[test]
    fn the_width_never_exceeds_the_domains_and_is_at_least_one() {
        assert_eq!((width(2, 1), width(2, 3), width(0, 0)), (1, 2, 1));
    }

    #[test]
    fn exposure_counts_from_what_the_wth_best_domain_lacks() {
        let regions = [("a", None), ("b", at(10)), ("c", at(20))];
        assert_eq!(lacking_since(regions, 1), None);
        assert_eq!(lacking_since(regions, 2), at(20));
        assert_eq!(lacking_since(regions, 3), at(10));
        assert_eq!(lacking_since([("a", at(10)), ("a", None)], 1), None);
    }
}
