//! UDP services that answer what makes sense to them and are silent otherwise, for those that the machine has no real
//! daemon for.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::ports;

/// Which services to be.
#[derive(Args, Debug)]
pub struct Udp {
    /// The address to answer from.
    #[arg(long)]
    address: IpAddr,
    /// The well-known ports of the services.
    #[arg(long)]
    ports: String,
}

/// Serves until it is killed.
pub fn run(udp: &Udp) -> Result<()> {
    let mut threads = Vec::new();
    for port in ports::parse(&udp.ports)? {
        let at = SocketAddr::new(udp.address, port);
        let socket = UdpSocket::bind(at).with_context(|| format!("bind {at}"))?;
        threads.push(thread::spawn(move || serve(&socket, port)));
    }
    println!("listening");
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a service panicked"))?;
    }
    Ok(())
}

fn serve(socket: &UdpSocket, port: u16) {
    let mut request = [0; 2_048];
    loop {
        // ICMP errors about earlier answers come out here too, and say nothing of the next request.
        let Ok((length, from)) = socket.recv_from(&mut request) else { continue };
        if let Some(answer) = answer(port, &request[..length]) {
            let _ = socket.send_to(&answer, from);
        }
    }
}

fn answer(port: u16, request: &[u8]) -> Option<Vec<u8>> {
    match port {
        // DNS (RFC 1035 section 4.1.1): the same question back, refused.
        53 if request.len() > 12 && request[2] & 0x80 == 0 => {
            let mut answer = request.to_vec();
            answer[2] |= 0x80;
            answer[3] = 5;
            Some(answer)
        }
        // TFTP (RFC 1350): a read request meets "file not found".
        69 if request.starts_with(&[0, 1]) && request.ends_with(&[0]) => Some(b"\0\x05\0\x01no\0".to_vec()),
        // NTP (RFC 5905 section 7.3): mode 3 is answered by mode 4, with its transmit time as the origin.
        123 if request.len() >= 48 && request[0] & 7 == 3 => {
            let mut answer = vec![0; 48];
            answer[0] = request[0] & 0b0011_1000 | 4;
            answer[1] = 2;
            answer[24..32].copy_from_slice(&request[40..48]);
            Some(answer)
        }
        // SNMP v1 and v2c (RFC 3416): GetRequest becomes GetResponse.
        161 if request.first() == Some(&0x30) => {
            let request_type = request.iter().position(|&byte| byte == 0xa0 || byte == 0xa1)?;
            let mut answer = request.to_vec();
            answer[request_type] = 0xa2;
            Some(answer)
        }
        // STUN (RFC 8489 section 5): a binding request with the magic cookie succeeds.
        3478 if request.len() >= 20
            && request[..2] == [0, 1]
            && request[4..8] == [0x21, 0x12, 0xa4, 0x42] =>
        {
            let mut answer = vec![1, 1, 0, 0];
            answer.extend(&request[4..20]);
            Some(answer)
        }
        // memcached: a frame header of 8 bytes with the request's number, then text.
        11_211 if request.len() > 8 && request.ends_with(b"\r\n") => {
            let mut answer = request[..2].to_vec();
            answer.extend([0, 0, 0, 1, 0, 0]);
            answer.extend(b"VERSION 1.6.18\r\n");
            Some(answer)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::answer;

    #[test]
    fn a_service_answers_its_own_protocol_only() {
        let binding: Vec<u8> = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42].into_iter().chain([7; 12]).collect();
        assert!(answer(3478, &binding).is_some_and(|answer| answer.ends_with(&[7; 12])));
        assert!(answer(11_211, b"\0\x09\0\0\0\x01\0\0version\r\n").is_some());
        for port in [53, 69, 123, 161, 3478, 11_211] {
            assert_eq!(answer(port, b""), None);
            assert_eq!(answer(port, b"hello"), None);
        }
    }
}
