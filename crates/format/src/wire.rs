//! Reading and writing the binary parts: little-endian integers, LEB128 varints, counted bytes.
//!
//! A reader never goes past its input and never trusts a count: whoever reserves memory for `n`
//! items asks [`Reader::count`], which refuses an `n` that the rest of the input can't hold.

use crate::FormatError;

/// A cursor over hostile bytes.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`; `what` names the structure in errors.
    #[must_use]
    pub const fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    /// Bytes not yet read.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    const fn short(&self) -> FormatError {
        FormatError::Truncated { what: self.what }
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// [`FormatError::Truncated`] when fewer are left.
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], FormatError> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or_else(|| self.short())?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`FormatError::Truncated`] when fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], FormatError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or_else(|| self.short())?;
        self.rest = rest;
        Ok(*head)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`FormatError::Truncated`] at the end of the input.
    pub fn u8(&mut self) -> Result<u8, FormatError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// Four bytes, little-endian.
    ///
    /// # Errors
    /// [`FormatError::Truncated`] when fewer are left.
    pub fn u32(&mut self) -> Result<u32, FormatError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes, little-endian.
    ///
    /// # Errors
    /// [`FormatError::Truncated`] when fewer are left.
    pub fn u64(&mut self) -> Result<u64, FormatError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A LEB128 number in its shortest form, at most 64 bits.
    ///
    /// # Errors
    /// [`FormatError::Truncated`], or [`FormatError::Invalid`] when it is too long or padded.
    pub fn varint(&mut self) -> Result<u64, FormatError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    break;
                }
                return Ok(value);
            }
        }
        Err(self.invalid("a number is longer than it may be"))
    }

    /// A varint that counts items of at least `item_bytes` bytes each in the rest of the input.
    ///
    /// # Errors
    /// [`FormatError::Invalid`] when the rest can't hold that many.
    pub fn count(&mut self, item_bytes: usize) -> Result<usize, FormatError> {
        let n = self.varint()?;
        usize::try_from(n)
            .ok()
            .filter(|n| {
                n.checked_mul(item_bytes.max(1))
                    .is_some_and(|all| all <= self.remaining())
            })
            .ok_or_else(|| self.invalid("a count is larger than the bytes that follow"))
    }

    /// A varint that must fit 32 bits.
    ///
    /// # Errors
    /// [`FormatError::Invalid`] when it doesn't.
    pub fn varint32(&mut self) -> Result<u32, FormatError> {
        u32::try_from(self.varint()?)
            .map_err(|_out_of_range| self.invalid("a number exceeds 32 bits"))
    }

    /// Counted UTF-8 text.
    ///
    /// # Errors
    /// [`FormatError::Truncated`] or [`FormatError::Invalid`].
    pub fn text(&mut self) -> Result<&'a str, FormatError> {
        let n = self.count(1)?;
        let bytes = self.bytes(n)?;
        std::str::from_utf8(bytes).map_err(|_not_utf8| self.invalid("text is not UTF-8"))
    }

    /// Ends reading.
    ///
    /// # Errors
    /// [`FormatError::Invalid`] when bytes are left over.
    pub const fn finish(self) -> Result<(), FormatError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.invalid("bytes follow the end"))
        }
    }

    /// An error that names this structure.
    #[must_use]
    pub const fn invalid(&self, why: &'static str) -> FormatError {
        FormatError::Invalid {
            what: self.what,
            why,
        }
    }
}

/// Appends a LEB128 number in its shortest form.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let byte = u8::try_from(value & 0x7f).unwrap_or(0);
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

/// Appends counted UTF-8 text.
pub fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, u64::try_from(text.len()).unwrap_or(u64::MAX));
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_read_back(value: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut reader = Reader::new(&out, "test");
            prop_assert_eq!(reader.varint().unwrap(), value);
            prop_assert!(reader.finish().is_ok());
        }
    }

    #[test]
    fn padded_and_oversized_varints_are_refused() {
        for bad in [
            &[0x80, 0x00][..],
            &[0xff; 10],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
        ] {
            assert!(Reader::new(bad, "test").varint().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_count_beyond_the_input_is_refused_before_anything_is_reserved() {
        let mut out = Vec::new();
        put_varint(&mut out, 1 << 40);
        assert!(matches!(
            Reader::new(&out, "test").count(1),
            Err(FormatError::Invalid { .. })
        ));
    }
}
