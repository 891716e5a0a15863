//! Regions as both config files name them, and as `--region URL` gives them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};
use tidemark_format::RegionName;
use toml::Spanned;

use super::diagnose::{Findings, Span};
use crate::RegionUrl;

/// A country by its two letters (ISO 3166).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Country(String);

/// The text is no country's two letters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a country: write its two capital letters, such as \"DK\"")]
pub struct CountryError(String);

impl Country {
    /// The two letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Country {
    type Err = CountryError;

    fn from_str(text: &str) -> Result<Self, CountryError> {
        if text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(CountryError(text.chars().take(20).collect()))
        }
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Country {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One place that keeps a full copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Region {
    /// What people call it.
    pub name: RegionName,
    /// Where it is.
    pub url: RegionUrl,
    /// The country it is declared to be in.
    pub country: Option<Country>,
    /// Regions of one domain fail together and count once for durability; the region's own name
    /// where nothing was said.
    pub failure_domain: String,
    /// Whether somebody named it.
    #[serde(skip)]
    pub domain_named: bool,
}

impl Region {
    /// Regions out of bare URLs, named after the last part of each (`aarhus` for
    /// `s3://backup/aarhus`), numbered where names would clash.
    #[must_use]
    pub fn from_urls(urls: &[RegionUrl]) -> Vec<Self> {
        let mut regions: Vec<Self> = Vec::new();
        for url in urls {
            let stem = name_stem(url);
            let taken = |name: &RegionName| regions.iter().any(|region| region.name == *name);
            let name = (1..)
                .map(|n: usize| {
                    if n == 1 {
                        stem.clone()
                    } else {
                        format!("{stem}-{n}")
                    }
                })
                .filter_map(|name| RegionName::new(name).ok())
                .find(|name| !taken(name));
            if let Some(name) = name {
                let failure_domain = name.to_string();
                regions.push(Self {
                    name,
                    url: url.clone(),
                    country: None,
                    failure_domain,
                    domain_named: false,
                });
            }
        }
        regions
    }
}

/// How many domains fail independently of each other.
#[must_use]
pub fn failure_domains(regions: &[Region]) -> usize {
    let domains: std::collections::BTreeSet<&str> = regions
        .iter()
        .map(|region| region.failure_domain.as_str())
        .collect();
    domains.len()
}

fn name_stem(url: &RegionUrl) -> String {
    let place = url.place();
    let last = place
        .rsplit(['/', ':'])
        .find(|part| !part.is_empty())
        .unwrap_or("region");
    let stem: String = last
        .chars()
        .map(|c| c.to_ascii_lowercase())
        .map(|c| {
            if c.is_ascii_lowercase() || c.is_ascii_digit() {
                c
            } else {
                '-'
            }
        })
        .take(50)
        .collect();
    let stem = stem.trim_matches('-');
    if stem.is_empty() {
        "region".to_owned()
    } else {
        stem.to_owned()
    }
}

/// A `[[region]]` as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRegion {
    name: Option<Spanned<String>>,
    url: Option<Spanned<String>>,
    country: Option<Spanned<String>>,
    failure_domain: Option<Spanned<String>>,
}

/// Checks the regions; those that can't be used are left out and noted. Beside each stands its place.
pub(super) fn check(
    raw: Vec<Spanned<RawRegion>>,
    findings: &mut Findings<'_>,
) -> Vec<(Region, Span)> {
    let mut checked: Vec<(Region, Span)> = Vec::new();
    let mut names = BTreeMap::new();
    let mut urls = BTreeMap::new();
    for region in raw {
        let table: Span = Some(region.span());
        let raw = region.into_inner();
        let name = required(raw.name, "name = \"…\"", &table, findings);
        let url = required(raw.url, "url = \"dir:/… or s3://…\"", &table, findings);
        let country = raw.country.filter(|country| !country.get_ref().is_empty());
        let country = country.and_then(|country| parsed::<Country>(&country, findings));
        let (Some(name), Some(url)) = (name, url) else {
            continue;
        };
        let parts = (
            parsed::<RegionName>(&name, findings),
            parsed::<RegionUrl>(&url, findings),
        );
        let (Some(region_name), Some(region_url)) = parts else {
            continue;
        };
        if let Some(first) = names.insert(region_name.clone(), region_url.place()) {
            let message = format!("two regions are named `{region_name}`; the other is {first}");
            findings.value(&Some(name.span()), message);
        }
        if let Some(first) = urls.insert(identity(&region_url), region_name.clone()) {
            let message = format!(
                "this is the same place as region `{first}`: a second copy there protects nothing"
            );
            findings.value(&Some(url.span()), message);
        }
        let named = raw.failure_domain.map(Spanned::into_inner);
        let named = named.filter(|domain| !domain.is_empty());
        let domain_named = named.is_some();
        let failure_domain = named.unwrap_or_else(|| region_name.to_string());
        let region = Region {
            name: region_name,
            url: region_url,
            country,
            failure_domain,
            domain_named,
        };
        checked.push((region, Some(url.span())));
    }
    checked
}

/// What makes two URLs one place, as far as text can tell.
fn identity(url: &RegionUrl) -> String {
    let place = url.place();
    let endpoint = match url {
        RegionUrl::S3(s3) => s3.endpoint.as_deref().unwrap_or_default(),
        RegionUrl::Dir(_) => "",
    };
    format!("{} {endpoint}", place.trim_end_matches('/'))
}

/// The value of a key that must be there.
pub(super) fn required<T>(
    value: Option<Spanned<T>>,
    example: &str,
    table: &Span,
    findings: &mut Findings<'_>,
) -> Option<Spanned<T>> {
    if value.is_none() {
        findings.value(table, format!("this needs {example}"));
    }
    value
}

/// The value read as a `T`, or a problem noted at its place.
pub(super) fn parsed<T>(value: &Spanned<String>, findings: &mut Findings<'_>) -> Option<T>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    match value.get_ref().parse() {
        Ok(parsed) => Some(parsed),
        Err(error) => {
            findings.value(&Some(value.span()), error.to_string());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_urls_get_names_that_do_not_clash() {
        let urls = [
            "dir:/mnt/Aarhus",
            "s3://backup/aarhus",
            "s3://bucket",
            "dir:/",
        ];
        let urls: Vec<RegionUrl> = urls.iter().map(|url| url.parse().unwrap()).collect();
        let names: Vec<String> = Region::from_urls(&urls)
            .iter()
            .map(|region| region.name.to_string())
            .collect();
        assert_eq!(names, ["aarhus", "aarhus-2", "bucket", "dir"]);
    }

    #[test]
    fn regions_of_one_failure_domain_count_once() {
        let mut regions =
            Region::from_urls(&["dir:/a".parse().unwrap(), "dir:/b".parse().unwrap()]);
        assert_eq!(failure_domains(&regions), 2);
        regions[1].failure_domain = "a".to_owned();
        assert_eq!(failure_domains(&regions), 1);
    }

    #[test]
    fn countries_are_two_capital_letters() {
        assert!("DK".parse::<Country>().is_ok());
        for bad in ["dk", "DNK", "", "D1"] {
            assert!(bad.parse::<Country>().is_err(), "{bad:?}");
        }
    }
}
