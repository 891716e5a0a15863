//! Page checksums, as the server computes them, and which files have them.
//!
//! A page that is wrong is not always bad: one that changed while the server read it has a newer
//! position than the backup's start, and replay writes it anew. New pages (all zeros, or initialised
//! by nobody yet) carry none.

use tidemark_format::postgres::Lsn;

/// Bytes of a page that this knows how to check.
pub(crate) const PAGE_BYTES: usize = 8192;
const LANES: usize = 32;
/// One word for every lane.
const ROW: usize = 4 * LANES;
const PRIME: u32 = 16_777_619;
/// Where each lane starts, as the server's `checksum_impl.h` fixes it.
const OFFSETS: [u32; LANES] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];
/// Where a page's header keeps its checksum.
const CHECKSUM_AT: usize = 8;
/// Where it says how far its free space reaches; 0 in a new page.
const UPPER_AT: usize = 14;

const fn mix(sum: u32, value: u32) -> u32 {
    let mixed = sum ^ value;
    mixed.wrapping_mul(PRIME) ^ (mixed >> 17)
}

/// Every lane takes its word: a loop that compilers turn into vector instructions.
fn mix_row(lanes: &mut [u32; LANES], row: &[u8; ROW]) {
    let (words, _) = row.as_chunks::<4>();
    for (lane, word) in lanes.iter_mut().zip(words) {
        *lane = mix(*lane, u32::from_le_bytes(*word));
    }
}

/// The checksum of a page at `block` of its relation.
pub(crate) fn page_checksum(page: &[u8; PAGE_BYTES], block: u32) -> u16 {
    let mut lanes = OFFSETS;
    let (rows, _) = page.as_chunks::<ROW>();
    if let Some((first, rest)) = rows.split_first() {
        // The checksum itself counts as zero.
        let mut first = *first;
        first[CHECKSUM_AT] = 0;
        first[CHECKSUM_AT + 1] = 0;
        mix_row(&mut lanes, &first);
        for row in rest {
            mix_row(&mut lanes, row);
        }
    }
    let mut sum = 0;
    for lane in lanes {
        sum ^= mix(mix(lane, 0), 0);
    }
    let folded = (sum ^ block) % 65535 + 1;
    u16::try_from(folded).unwrap_or(u16::MAX)
}

/// What a look at a page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is what the server wrote, or nobody wrote it yet.
    Sound,
    /// It changed since the backup's start: replay writes it anew.
    Newer,
    /// Its content is not what the server once wrote.
    Bad,
}

/// Looks at a page at `block` of its relation; `start` is where replay begins.
pub(crate) fn look(page: &[u8; PAGE_BYTES], block: u32, start: Lsn) -> Verdict {
    let half = |at: usize| {
        let bytes = page.get(at..).and_then(|rest| rest.first_chunk::<2>());
        bytes.map_or(0, |bytes| u16::from_le_bytes(*bytes))
    };
    if half(UPPER_AT) == 0 || half(CHECKSUM_AT) == page_checksum(page, block) {
        return Verdict::Sound;
    }
    let word = |at: usize| {
        let bytes = page.get(at..).and_then(|rest| rest.first_chunk::<4>());
        bytes.map_or(0, |bytes| u64::from(u32::from_le_bytes(*bytes)))
    };
    // High half first, each in the machine's order.
    if Lsn(word(0) << 32 | word(4)) >= start {
        return Verdict::Newer;
    }
    Verdict::Bad
}

/// The segment of a relation that the file `path` holds; none if it is no file of a relation.
pub(crate) fn relation_segment(path: &str) -> Option<u32> {
    let mut parts = path.split('/');
    let (folder, file) = match (parts.next()?, parts.next()?, parts.next(), parts.next()) {
        ("global", file, None, None) => ("0", file),
        ("base", folder, Some(file), None) => (folder, file),
        ("pg_tblspc", space, Some(version), Some(folder)) => {
            let known = is_number(space) && version.starts_with("PG_");
            let file = parts
                .next()
                .filter(|_| known && parts.clone().next().is_none())?;
            (folder, file)
        }
        _ => return None,
    };
    let (name, segment) = match file.split_once('.') {
        Some((name, segment)) => (name, segment.parse().ok().filter(|_| is_number(segment))?),
        None => (file, 0),
    };
    let (relation, fork) = match name.split_once('_') {
        Some((relation, fork)) => (relation, Some(fork)),
        None => (name, None),
    };
    let fork_known = matches!(fork, None | Some("fsm" | "vm" | "init"));
    (is_number(folder) && is_number(relation) && fork_known).then_some(segment)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(lsn: u64) -> [u8; PAGE_BYTES] {
        let mut page = [0u8; PAGE_BYTES];
        for (byte, value) in page[24..].iter_mut().zip((0..=250u8).cycle()) {
            *byte = value;
        }
        let half = |value: u64| u32::try_from(value & 0xFFFF_FFFF).unwrap().to_le_bytes();
        page[..4].copy_from_slice(&half(lsn >> 32));
        page[4..8].copy_from_slice(&half(lsn));
        page[14] = 24;
        page
    }

    fn signed(lsn: u64, block: u32) -> [u8; PAGE_BYTES] {
        let mut page = page(lsn);
        let sum = page_checksum(&page, block);
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn the_checksum_ignores_itself_and_knows_its_place() {
        let (unsigned, page) = (page(5), signed(5, 3));
        assert_eq!(page_checksum(&page, 3), page_checksum(&unsigned, 3));
        assert_ne!(page_checksum(&page, 3), page_checksum(&page, 4));
        assert_eq!(look(&page, 3, Lsn(100)), Verdict::Sound);
    }

    #[test]
    fn a_changed_page_is_bad_unless_it_is_newer_than_the_start() {
        let start = Lsn(0x1_0000_0000);
        let mut old = signed(start.0 - 8, 0);
        old[5000] ^= 1;
        assert_eq!(look(&old, 0, start), Verdict::Bad);
        let mut new = signed(start.0, 0);
        new[5000] ^= 1;
        assert_eq!(look(&new, 0, start), Verdict::Newer);
    }

    #[test]
    fn pages_that_nobody_wrote_are_sound() {
        assert_eq!(look(&[0; PAGE_BYTES], 9, Lsn(1)), Verdict::Sound);
    }

    #[test]
    fn only_files_of_relations_have_checksums() {
        for (path, segment) in [
            ("base/1/1259", 0),
            ("base/16384/16400.12", 12),
            ("base/1/1259_fsm", 0),
            ("base/1/1259_vm.1", 1),
            ("base/1/16999_init", 0),
            ("global/1262", 0),
            ("pg_tblspc/16385/PG_15_202209061/5/16390.2", 2),
        ] {
            assert_eq!(relation_segment(path), Some(segment), "{path}");
        }
        for path in [
            "PG_VERSION",
            "base/1/PG_VERSION",
            "base/1/pg_filenode.map",
            "global/pg_control",
            "base/1/1259_x",
            "base/1/1259.",
            "base/1/1259.x",
            "base/1",
            "pg_xact/0000",
            "pg_tblspc/1/2/3/4/5",
            "pg_tblspc/16385/PG_15_202209061/5/PG_VERSION",
        ] {
            assert_eq!(relation_segment(path), None, "{path}");
        }
    }
}
