//! Where every object stands. The only place that writes or reads key names.
//!
//! `meta/` may be read by agents; `data/` only by the restore side.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::{
    BaseNumber, DrillName, Epoch, IdError, Key, KeyId, LogSeq, ObjectId, PointSeq, SessionId,
    SourceName,
};

/// Every prefix an agent may read.
pub const META: &str = "meta/";
/// What only the restore side reads.
pub const DATA: &str = "data/";
/// For someone who has only the bucket.
pub const README: &str = "RESTORE.md";

fn key(text: String) -> Key {
    // Parts are validated types or numbers, so this can't fail; the fallback names no object.
    Key::new(text).unwrap_or_else(|_bug| readme())
}

/// `RESTORE.md`.
#[must_use]
pub fn readme() -> Key {
    #[expect(clippy::expect_used, reason = "a constant that the tests parse")]
    Key::new(README).expect("RESTORE.md is a valid key")
}

/// The region's marker.
#[must_use]
pub fn region() -> Key {
    key("meta/region".to_owned())
}

/// Folder of the keyring's versions.
pub const KEYRINGS: &str = "meta/keyring/";

/// A version of the keyring.
#[must_use]
pub fn keyring(version: u32) -> Key {
    key(format!("{KEYRINGS}{version:08}"))
}

/// Folder of the enrolment requests.
pub const ENROLMENTS: &str = "meta/enrol/";

/// A key's request to be enrolled.
#[must_use]
pub fn enrolment(key_id: KeyId) -> Key {
    key(format!("{ENROLMENTS}{key_id}"))
}

/// Folder of all claims: its sub-folders are the sources.
pub const CLAIMS: &str = "meta/claim/";

/// Folder of a source's claims.
#[must_use]
pub fn claims(source: &SourceName) -> String {
    format!("{CLAIMS}{source}/")
}

/// The claim of an epoch.
#[must_use]
pub fn claim(source: &SourceName, epoch: Epoch) -> Key {
    key(format!("{CLAIMS}{source}/{}", epoch.in_key()))
}

/// Folder of an epoch's log.
#[must_use]
pub fn logs(source: &SourceName, epoch: Epoch) -> String {
    format!("meta/log/{source}/{}/", epoch.in_key())
}

/// A log object, gap or fence.
#[must_use]
pub fn log(source: &SourceName, epoch: Epoch, seq: LogSeq) -> Key {
    key(format!("{}{}", logs(source, epoch), seq.in_key()))
}

/// Folder of an epoch's log objects that repair brought late, under their own names because a
/// fence stands in their place in this region.
#[must_use]
pub fn late_logs(source: &SourceName, epoch: Epoch) -> String {
    format!("meta/late/{source}/{}/", epoch.in_key())
}

/// A log object that repair brought late.
#[must_use]
pub fn late_log(source: &SourceName, epoch: Epoch, seq: LogSeq) -> Key {
    key(format!("{}{}", late_logs(source, epoch), seq.in_key()))
}

/// Folder of an epoch's recovery points.
#[must_use]
pub fn points(source: &SourceName, epoch: Epoch) -> String {
    format!("meta/point/{source}/{}/", epoch.in_key())
}

/// A recovery point.
#[must_use]
pub fn point(source: &SourceName, epoch: Epoch, seq: PointSeq) -> Key {
    key(format!("{}{}", points(source, epoch), seq.in_key()))
}

/// Folder of an epoch's bases.
#[must_use]
pub fn bases(source: &SourceName, epoch: Epoch) -> String {
    format!("meta/base/{source}/{}/", epoch.in_key())
}

/// A base.
#[must_use]
pub fn base(source: &SourceName, epoch: Epoch, generation: LogSeq, number: BaseNumber) -> Key {
    key(format!(
        "{}{}/{}",
        bases(source, epoch),
        generation.in_key(),
        number.in_key()
    ))
}

/// Folder of all beats.
pub const BEATS: &str = "meta/beat/";

/// Folder of an agent's beats, newest first.
#[must_use]
pub fn beats(agent: KeyId) -> String {
    format!("{BEATS}{agent}/")
}

/// A beat. The number is inverted so that names sort newest first.
#[must_use]
pub fn beat(agent: KeyId, number: u64) -> Key {
    key(format!(
        "{BEATS}{agent}/{:020}",
        u64::MAX.saturating_sub(number)
    ))
}

/// The number of the beat under this key.
#[must_use]
pub fn beat_number(key: &Key) -> Option<u64> {
    let name = key.file_name();
    let digits = name.len() == 20 && name.bytes().all(|b| b.is_ascii_digit());
    digits
        .then(|| name.parse::<u64>().ok())
        .flatten()
        .map(|n| u64::MAX.saturating_sub(n))
}

/// Folder of all evidence: its sub-folders are the signers.
pub const EVIDENCE: &str = "meta/evidence/";

/// The number of the evidence record under this key.
#[must_use]
pub fn evidence_number(key: &Key) -> Option<u64> {
    let name = key.file_name();
    let digits = name.len() == 16 && name.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| name.parse().ok()).flatten()
}

/// Folder of a signer's evidence.
#[must_use]
pub fn evidences(signer: KeyId) -> String {
    format!("{EVIDENCE}{signer}/")
}

/// An evidence record.
#[must_use]
pub fn evidence(signer: KeyId, number: u64) -> Key {
    key(format!("{}{number:016}", evidences(signer)))
}

/// Folder of the turns of all scheduled drills: its sub-folders are the drills.
pub const DRILLS: &str = "meta/drill/";
/// A slot in a key: UTC, to the second, sorting by time.
const SLOT: &str = "%Y%m%dT%H%M%SZ";

/// Folder of a drill's slots.
#[must_use]
pub fn drill_slots(drill: &DrillName) -> String {
    format!("{DRILLS}{drill}/")
}

/// A step of a turn of a drill's slot.
#[must_use]
pub fn drill_claim(drill: &DrillName, slot: Timestamp, seq: u32) -> Key {
    key(format!("{DRILLS}{drill}/{}/{seq:06}", slot.strftime(SLOT)))
}

/// What a key in `meta/drill/` names: the drill, the slot, the step's number.
#[must_use]
pub fn drill_claim_place(key: &Key) -> Option<(DrillName, Timestamp, u32)> {
    let mut parts = key.as_str().strip_prefix(DRILLS)?.split('/');
    let drill = DrillName::new(parts.next()?).ok()?;
    let civil = DateTime::strptime(SLOT, parts.next()?).ok()?;
    let slot = civil.to_zoned(TimeZone::UTC).ok()?.timestamp();
    let seq = parts.next()?.parse().ok()?;
    let same = drill_claim(&drill, slot, seq) == *key;
    same.then_some((drill, slot, seq))
}

/// Folder of all sessions.
pub const SESSIONS: &str = "data/session/";

/// A session's sealed secret.
#[must_use]
pub fn session(session: SessionId) -> Key {
    key(format!("{SESSIONS}{session}"))
}

/// Folder of all packs of a source.
#[must_use]
pub fn all_packs(source: &SourceName) -> String {
    format!("data/pack/{source}/")
}

/// Folder of a generation's packs.
#[must_use]
pub fn packs(source: &SourceName, epoch: Epoch, generation: LogSeq) -> String {
    format!(
        "data/pack/{source}/{}/{}/",
        epoch.in_key(),
        generation.in_key()
    )
}

/// A pack.
#[must_use]
pub fn pack(source: &SourceName, epoch: Epoch, generation: LogSeq, object: ObjectId) -> Key {
    key(format!("{}{object}", packs(source, epoch, generation)))
}

/// Folders of a source's whole log, late copies, recovery points and bases: all epochs.
#[must_use]
pub fn all_epochs(source: &SourceName) -> [String; 4] {
    ["log", "late", "point", "base"].map(|kind| format!("meta/{kind}/{source}/"))
}

/// What a key in `meta/log/`, `meta/late/` or `meta/point/` names.
///
/// # Errors
/// [`IdError::Key`] when it isn't `…/SOURCE/EPOCH/SEQ`.
pub fn dense(key: &Key) -> Result<(SourceName, Epoch, u64), IdError> {
    let bad = || IdError::Key(key.to_string());
    let mut parts = key.as_str().split('/').skip(2);
    let source = SourceName::new(parts.next().ok_or_else(bad)?)?;
    let epoch = parts.next().and_then(Epoch::from_key).ok_or_else(bad)?;
    let seq = parts.next().and_then(LogSeq::from_key).ok_or_else(bad)?;
    if parts.next().is_some() {
        Err(bad())
    } else {
        Ok((source, epoch, seq.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_names_read_back_and_sort_by_number() {
        let app = SourceName::new("app").unwrap();
        let ten = log(&app, Epoch(1), LogSeq(10));
        assert!(log(&app, Epoch(1), LogSeq(9)) < ten);
        assert_eq!(dense(&ten), Ok((app.clone(), Epoch(1), 10)));
        assert!(dense(&claim(&app, Epoch(1))).is_err());
        assert_eq!(readme().as_str(), README);
    }

    #[test]
    fn evidence_names_read_back() {
        let signer = KeyId([1; 16]);
        assert_eq!(evidence_number(&evidence(signer, 7)), Some(7));
        assert_eq!(evidence_number(&beat(signer, 7)), None);
    }

    #[test]
    fn the_steps_of_a_drill_read_back_and_sort_by_slot() {
        let nightly = DrillName::new("nightly").unwrap();
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let first = drill_claim(&nightly, at("2026-11-22T03:00:00Z"), 12);
        assert_eq!(first.as_str(), "meta/drill/nightly/20261122T030000Z/000012");
        assert!(first < drill_claim(&nightly, at("2026-11-22T03:00:01Z"), 0));
        let place = (nightly, at("2026-11-22T03:00:00Z"), 12);
        assert_eq!(drill_claim_place(&first), Some(place));
        for bad in [
            "meta/drill/nightly/20261122T030000Z/12",
            "meta/drill/nightly/20261122T030000Z",
            "meta/drill/nightly/20261122T030000Z/000012/x",
            "meta/drill/nightly/20261322T030000Z/000012",
            "meta/claim/app/00000001",
        ] {
            assert_eq!(drill_claim_place(&Key::new(bad).unwrap()), None, "{bad}");
        }
    }

    #[test]
    fn the_newest_beat_is_listed_first() {
        let agent = KeyId([1; 16]);
        assert!(beat(agent, 8) < beat(agent, 7));
        assert_eq!(beat_number(&beat(agent, 8)), Some(8));
    }
}
