//! BER (ITU-T X.690), as much as requests need: definite lengths up to 65,535 bytes.

/// SEQUENCE, section 8.9.
pub(super) const SEQUENCE: u8 = 0x30;
/// INTEGER, section 8.3.
pub(super) const INTEGER: u8 = 0x02;
/// OCTET STRING, section 8.7.
pub(super) const OCTETS: u8 = 0x04;

/// One element: tag, length (section 8.1.3), content.
pub(super) fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let [high, low] = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    match (high, low) {
        (0, 0..=0x7f) => out.push(low),
        (0, _) => out.extend([0x81, low]),
        _ => out.extend([0x82, high, low]),
    }
    out.extend(content);
    out
}

/// An element made of others.
pub(super) fn group(tag: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    element(tag, &parts.concat())
}

/// A non-negative INTEGER of 31 bits.
pub(super) fn integer(value: [u8; 4]) -> Vec<u8> {
    let value = u32::from_be_bytes(value) & 0x7fff_ffff;
    let bytes = value.to_be_bytes();
    // As few bytes as hold it with its sign bit clear, at least one.
    let skip = (0..3).take_while(|i| value >> (23 - 8 * i) == 0).count();
    element(INTEGER, bytes.get(skip..).unwrap_or_default())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Takes one element: its tag, its content, what follows.
    pub(in super::super) fn take(bytes: &[u8]) -> (u8, &[u8], &[u8]) {
        let (len, header) = match bytes[1] {
            short @ 0..=0x7f => (usize::from(short), 2),
            0x81 => (usize::from(bytes[2]), 3),
            0x82 => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), 4),
            other => panic!("length octet {other:#x}"),
        };
        (bytes[0], &bytes[header..header + len], &bytes[header + len..])
    }

    /// Takes an element of this tag that nothing follows.
    pub(in super::super) fn only(bytes: &[u8], tag: u8) -> &[u8] {
        let (found, content, rest) = take(bytes);
        assert_eq!((found, rest), (tag, &[][..]));
        content
    }

    #[test]
    fn integers_are_short_and_positive() {
        for (value, bytes) in [
            (0u32, &[0u8][..]),
            (0x7f, &[0x7f]),
            (0x80, &[0, 0x80]),
            (0x8000, &[0, 0x80, 0]),
            (0x0080_0000, &[0, 0x80, 0, 0]),
            (0x7fff_ffff, &[0x7f, 0xff, 0xff, 0xff]),
        ] {
            assert_eq!(only(&integer(value.to_be_bytes()), INTEGER), bytes, "{value:#x}");
        }
    }

    #[test]
    fn lengths_take_the_form_they_need() {
        for len in [0, 1, 127, 128, 255, 256, 1000] {
            assert_eq!(only(&element(OCTETS, &vec![7; len]), OCTETS).len(), len);
        }
    }
}
