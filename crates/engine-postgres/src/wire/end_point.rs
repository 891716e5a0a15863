//! What binds a log-in to its TLS connection: a hash of the server's certificate (RFC 5929,
//! `tls-server-end-point`).

use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// The element at the start of `der`: tag, content, what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let digits = usize::from(first & 0x7F);
        let (digits, rest) = rest
            .split_at_checked(digits)
            .filter(|(d, _)| d.len() <= 4)?;
        let length = digits.iter().try_fold(0_usize, |length, digit| {
            length.checked_mul(256)?.checked_add(usize::from(*digit))
        })?;
        (length, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

const SEQUENCE: u8 = 0x30;
const OBJECT_ID: u8 = 0x06;

/// 1.2.840.113549.1.1, RSA's signatures.
const RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01];
/// 1.2.840.10045.4, ECDSA's.
const ECDSA: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x04];

/// The hash that the certificate is signed with; weak ones become SHA-256, as the RFC says.
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

fn signature_hash(certificate: &[u8]) -> Option<Hash> {
    let (SEQUENCE, certificate, _) = element(certificate)? else {
        return None;
    };
    let (_, _, rest) = element(certificate)?;
    let (SEQUENCE, algorithm, _) = element(rest)? else {
        return None;
    };
    let (OBJECT_ID, id, _) = element(algorithm)? else {
        return None;
    };
    if let Some(which) = id.strip_prefix(RSA) {
        return match which {
            // MD5, SHA-1, SHA-256.
            [4 | 5 | 11] => Some(Hash::Sha256),
            [12] => Some(Hash::Sha384),
            [13] => Some(Hash::Sha512),
            _ => None,
        };
    }
    match id.strip_prefix(ECDSA)? {
        [1] | [3, 2] => Some(Hash::Sha256),
        [3, 3] => Some(Hash::Sha384),
        [3, 4] => Some(Hash::Sha512),
        _ => None,
    }
}

/// The binding for a server's certificate; none for signatures that have no single hash (Ed25519, PSS).
pub(super) fn of(certificate: &[u8]) -> Option<Vec<u8>> {
    Some(match signature_hash(certificate)? {
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The skeleton of a certificate with this algorithm.
    fn certificate(algorithm: &[u8]) -> Vec<u8> {
        let sequence = |content: &[u8]| {
            let mut der = vec![SEQUENCE, u8::try_from(content.len()).expect("short")];
            der.extend(content);
            der
        };
        let mut id = vec![OBJECT_ID, u8::try_from(algorithm.len()).expect("short")];
        id.extend(algorithm);
        sequence(&[sequence(b"tbs"), sequence(&id), vec![0x03, 1, 0]].concat())
    }

    #[test]
    fn the_hash_is_the_signatures_own() {
        for (algorithm, bytes) in [
            ([RSA, &[5]].concat(), 32),
            ([RSA, &[11]].concat(), 32),
            ([RSA, &[12]].concat(), 48),
            ([RSA, &[13]].concat(), 64),
            ([ECDSA, &[3, 2]].concat(), 32),
            ([ECDSA, &[3, 3]].concat(), 48),
        ] {
            assert_eq!(
                of(&certificate(&algorithm)).map(|hash| hash.len()),
                Some(bytes)
            );
        }
        assert_eq!(of(&certificate(&[0x2B, 0x65, 0x70])), None, "Ed25519");
        assert_eq!(of(&certificate(&[RSA, &[10]].concat())), None, "PSS");
    }

    #[test]
    fn what_is_no_certificate_has_no_binding() {
        let whole = certificate(&[RSA, &[11]].concat());
        for end in 0..whole.len().saturating_sub(3) {
            assert_eq!(of(&whole[..end]), None);
        }
    }
}
