//! Requests of building and plant automation: reads of who is there, nothing else.

use super::Token;

/// ReadProperty of the device's own identifier, ANSI/ASHRAE 135 clause 15.5: BVLC unicast (annex J.2.11), NPDU that
/// expects a reply (clause 6.2), confirmed request; instance 4194303 stands for whichever device it is.
pub(super) fn bacnet(token: Token, out: &mut Vec<u8>) {
    let [.., invoke] = token.bytes();
    out.extend([0x81, 0x0a, 0, 17, 1, 4, 0, 5, invoke, 12, 0x0c, 0x02, 0x3f, 0xff, 0xff, 0x19, 75]);
}

/// ListIdentity of EtherNet/IP, CIP volume 2 section 2-4.2: a header without data, the sender context as cookie.
pub(super) fn list_identity(token: Token, out: &mut Vec<u8>) {
    out.extend([0x63, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    out.extend(token.bytes());
    out.extend([0; 4]);
}

#[cfg(test)]
mod tests {
    use super::super::tests::made;
    use super::*;

    #[test]
    fn bacnet_is_as_long_as_it_says() {
        let bytes = made(bacnet);
        assert_eq!(usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), bytes.len());
        assert_eq!(bytes[5] & 4, 4, "expects a reply");
        // Context tag 0 of 4 bytes: object type 8 (device) in the upper 10 bits, then the instance.
        assert_eq!(bytes[10], 0x0c);
        let object = u32::from_be_bytes([bytes[11], bytes[12], bytes[13], bytes[14]]);
        assert_eq!((object >> 22, object & 0x3f_ffff), (8, 4_194_303));
    }

    #[test]
    fn list_identity_is_a_bare_header() {
        let bytes = made(list_identity);
        assert_eq!((bytes.len(), &bytes[..4]), (24, &[0x63, 0, 0, 0][..]));
        assert_eq!(bytes[12..20], [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
