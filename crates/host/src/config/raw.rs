//! The keys that a source may override, as they are written at the top of the file or in a source.
//!
//! One list for both tables, by a macro: serde's `flatten` would lose the places of values and the
//! refusal of unknown keys.

use toml::Spanned;

use super::objectives::RawPromised;

/// Defines a table whose keys are the given ones and all that a source may override.
macro_rules! with_settings {
    ($(#[$doc:meta])* $name:ident { $($key:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct $name {
            $(#[serde(default)] pub(super) $key: $type,)*
            ship_every: Option<toml::Spanned<String>>,
            snapshot_every: Option<toml::Spanned<String>>,
            beat_every: Option<toml::Spanned<String>>,
            base_schedule: Option<toml::Spanned<String>>,
            base_rate: Option<toml::Spanned<String>>,
            timezone: Option<toml::Spanned<String>>,
            generation: Option<toml::Spanned<String>>,
            ack: Option<toml::Spanned<String>>,
            durable_in: Option<toml::Spanned<i64>>,
            spool_max: Option<toml::Spanned<String>>,
            protect: Option<toml::Spanned<String>>,
            wal_max: Option<toml::Spanned<String>>,
            slot_keep_max: Option<toml::Spanned<String>>,
            recoverable_for: Option<toml::Spanned<String>>,
            retain_max: Option<toml::Spanned<String>>,
            compression: Option<toml::Spanned<i64>>,
            rpo: Option<toml::Spanned<String>>,
            objectives: Option<$crate::config::objectives::RawPromised>,
            canary: Option<toml::Spanned<String>>,
            canary_every: Option<toml::Spanned<String>>,
        }

        impl $name {
            pub(super) fn take_settings(&mut self) -> $crate::config::raw::RawSettings {
                $crate::config::raw::RawSettings {
                    ship_every: self.ship_every.take(),
                    snapshot_every: self.snapshot_every.take(),
                    beat_every: self.beat_every.take(),
                    base_schedule: self.base_schedule.take(),
                    base_rate: self.base_rate.take(),
                    timezone: self.timezone.take(),
                    generation: self.generation.take(),
                    ack: self.ack.take(),
                    durable_in: self.durable_in.take(),
                    spool_max: self.spool_max.take(),
                    protect: self.protect.take(),
                    wal_max: self.wal_max.take(),
                    slot_keep_max: self.slot_keep_max.take(),
                    recoverable_for: self.recoverable_for.take(),
                    retain_max: self.retain_max.take(),
                    compression: self.compression.take(),
                    rpo: self.rpo.take(),
                    objectives: self.objectives.take(),
                    canary: self.canary.take(),
                    canary_every: self.canary_every.take(),
                }
            }
        }
    };
}
pub(super) use with_settings;

/// The settings as written, in one table of the file.
#[derive(Debug)]
pub(super) struct RawSettings {
    pub(super) ship_every: Option<Spanned<String>>,
    pub(super) snapshot_every: Option<Spanned<String>>,
    pub(super) beat_every: Option<Spanned<String>>,
    pub(super) base_schedule: Option<Spanned<String>>,
    pub(super) base_rate: Option<Spanned<String>>,
    pub(super) timezone: Option<Spanned<String>>,
    pub(super) generation: Option<Spanned<String>>,
    pub(super) ack: Option<Spanned<String>>,
    pub(super) durable_in: Option<Spanned<i64>>,
    pub(super) spool_max: Option<Spanned<String>>,
    pub(super) protect: Option<Spanned<String>>,
    pub(super) wal_max: Option<Spanned<String>>,
    pub(super) slot_keep_max: Option<Spanned<String>>,
    pub(super) recoverable_for: Option<Spanned<String>>,
    pub(super) retain_max: Option<Spanned<String>>,
    pub(super) compression: Option<Spanned<i64>>,
    pub(super) rpo: Option<Spanned<String>>,
    pub(super) objectives: Option<RawPromised>,
    pub(super) canary: Option<Spanned<String>>,
    pub(super) canary_every: Option<Spanned<String>>,
}
