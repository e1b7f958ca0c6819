//! Requests of telephony, discovery at home, small devices, peers and games.

use super::Token;
use std::fmt::Write as _;

/// OPTIONS, RFC 3261 section 11; the answer comes to the source port (RFC 3581).
pub(super) fn sip_options(token: Token, out: &mut Vec<u8>) {
    let token = token.0;
    let mut text = String::from("OPTIONS sip:portolan@portolan.invalid SIP/2.0\r\n");
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "Via: SIP/2.0/UDP portolan.invalid;branch=z9hG4bK{token:016x};rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:portolan@portolan.invalid>;tag={token:x}\r\n\
         To: <sip:portolan@portolan.invalid>\r\n\
         Call-ID: {token:016x}@portolan.invalid\r\n\
         CSeq: 1 OPTIONS\r\n\
         Contact: <sip:portolan@portolan.invalid>\r\n\
         Accept: application/sdp\r\n\
         Content-Length: 0\r\n\r\n"
    );
    out.extend(text.as_bytes());
}

/// Unicast M-SEARCH for root devices, UPnP Device Architecture 1.1 section 1.3.2.
pub(super) fn ssdp(_: Token, out: &mut Vec<u8>) {
    out.extend(
        b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nST: upnp:rootdevice\r\n\r\n",
    );
}

/// The same in the form of a multicast search, which some devices insist on: an answer within one second.
pub(super) fn ssdp_mx(_: Token, out: &mut Vec<u8>) {
    out.extend(
        b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
          ST: upnp:rootdevice\r\n\r\n",
    );
}

/// Probe for any device, WS-Discovery 1.1 section 5.2.
pub(super) fn ws_discovery(token: Token, out: &mut Vec<u8>) {
    let [a, b, c, d, e, f, g, h] = token.bytes();
    let id = uuid::Builder::from_random_bytes([a, b, c, d, e, f, g, h, h, g, f, e, d, c, b, a]).into_uuid();
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
         <s:Envelope xmlns:s=\"http://www.w3.org/2003/05/soap-envelope\" \
         xmlns:a=\"http://schemas.xmlsoap.org/ws/2004/08/addressing\" \
         xmlns:d=\"http://schemas.xmlsoap.org/ws/2005/04/discovery\"><s:Header>\
         <a:Action>http://schemas.xmlsoap.org/ws/2005/04/discovery/Probe</a:Action>\
         <a:MessageID>urn:uuid:{id}</a:MessageID>\
         <a:To>urn:schemas-xmlsoap-org:ws:2005:04:discovery</a:To>\
         </s:Header><s:Body><d:Probe/></s:Body></s:Envelope>"
    );
    out.extend(text.as_bytes());
}

/// Binding request without attributes, RFC 8489 section 5.
pub(super) fn stun(token: Token, out: &mut Vec<u8>) {
    out.extend([0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]);
    out.extend(token.fill::<12>());
}

/// Empty confirmable message, which is answered by Reset: RFC 7252 section 4.3.
pub(super) fn coap_ping(token: Token, out: &mut Vec<u8>) {
    out.extend([0x40, 0]);
    out.extend(token.short());
}

/// GET /.well-known/core (RFC 6690 section 4) in blocks of 64 bytes (RFC 7959 section 2.2), so that the answer is short.
pub(super) fn coap_core(token: Token, out: &mut Vec<u8>) {
    out.extend([0x44, 1]);
    out.extend(token.short());
    out.extend(token.word());
    // Uri-Path is option 11, twice; Block2 is option 23: number 0, size exponent 2.
    out.extend(b"\xbb.well-known\x04core\xc1\x02");
}

/// Ping of the BitTorrent DHT, BEP 5.
pub(super) fn dht_ping(token: Token, out: &mut Vec<u8>) {
    out.extend(b"d1:ad2:id20:");
    out.extend(token.fill::<20>());
    out.extend(b"e1:q4:ping1:t2:");
    out.extend(token.short());
    out.extend(b"1:y1:qe");
}

/// A2S_INFO, Valve Developer Community, "Server queries".
pub(super) fn source_info(_: Token, out: &mut Vec<u8>) {
    out.extend(b"\xff\xff\xff\xffTSource Engine Query\0");
}

/// getinfo of Quake III Arena (ioquake3, code/server/sv_main.c): shorter than getstatus.
pub(super) fn quake_info(token: Token, out: &mut Vec<u8>) {
    out.extend(b"\xff\xff\xff\xffgetinfo ");
    out.extend(format!("{:08x}", token.0 & 0xffff_ffff).as_bytes());
}

/// Ping of Mumble, Mumble protocol documentation, "Server query": the cookie comes back.
pub(super) fn mumble(token: Token, out: &mut Vec<u8>) {
    out.extend([0; 4]);
    out.extend(token.bytes());
}

#[cfg(test)]
mod tests;
