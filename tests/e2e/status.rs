//! What `status --json` says, in the words of the tests.

use jiff::Timestamp;
use serde_json::Value;

use crate::site::instant;

/// The document, of a config with one source.
#[derive(Debug, Clone)]
pub(crate) struct Status(pub(crate) Value);

impl Status {
    /// The names of the regions that can be read.
    pub(crate) fn regions(&self) -> Vec<String> {
        let regions = self.0["regions"].as_array().expect("regions");
        let readable = regions.iter().filter(|region| region["away"].is_null());
        readable
            .map(|region| region["name"].as_str().expect("a name").to_owned())
            .collect()
    }

    fn in_region(&self, name: &str) -> Option<&Value> {
        let regions = self.0["regions"].as_array()?;
        let region = regions.iter().find(|region| region["name"] == name)?;
        region["sources"].as_array()?.first()
    }

    /// Everything committed up to here would come back from this region alone.
    pub(crate) fn safe_until(&self, region: &str) -> Option<Timestamp> {
        instant(&self.in_region(region)?["safe_until"])
    }

    /// The last log object that a restore from this region would reach.
    pub(crate) fn log_through(&self, region: &str) -> Option<u64> {
        self.in_region(region)?["log_through"].as_u64()
    }

    /// The newest recovery point in this region: epoch and number.
    pub(crate) fn point(&self, region: &str) -> Option<(u64, u64)> {
        let point = &self.in_region(region)?["point"];
        Some((point["epoch"].as_u64()?, point["seq"].as_u64()?))
    }

    /// The newest epoch in this region.
    pub(crate) fn epoch(&self, region: &str) -> Option<u64> {
        self.in_region(region)?["epoch"].as_u64()
    }

    /// What the daemon says it is doing with the only source.
    pub(crate) fn state(&self) -> Option<String> {
        let state = self.0["sources"].as_array()?.first()?["state"].as_str();
        state.map(str::to_owned)
    }

    /// The codes of the daemon's alerts.
    pub(crate) fn alerts(&self) -> Vec<String> {
        let alerts = self.0["daemon"]["alerts"].as_array();
        let codes = alerts
            .into_iter()
            .flatten()
            .filter_map(|alert| alert["code"].as_str());
        codes.map(str::to_owned).collect()
    }
}
