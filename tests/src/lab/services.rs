//! Real listeners: Debian's nginx, sshd, redis and dnsmasq, each with a configuration of the lab's own. Say
//! [`need!`](crate::need) first; a start waits until the port answers.

use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use super::process::{find_program, run_ok};
use super::{Host, Process};
use crate::wait::{SOON, wait_until};

/// nginx, serving one page.
#[track_caller]
pub fn nginx(host: &Host, port: u16) -> Process {
    let directory = directory(host, "nginx");
    let path = directory.display();
    // One process, as root: the only user there is in a universe that an unprivileged user made.
    let config = format!(
        "daemon off; master_process off; user root; pid {path}/pid; error_log stderr;\n\
         events {{ worker_connections 256; }}\n\
         http {{ access_log off; client_body_temp_path {path}/b; proxy_temp_path {path}/p;\n\
         fastcgi_temp_path {path}/f; uwsgi_temp_path {path}/u; scgi_temp_path {path}/s;\n\
         server {{ listen {port}; listen [::]:{port}; location / {{ return 200 \"chart\\n\"; }} }} }}\n"
    );
    let file = directory.join("nginx.conf");
    fs::write(&file, config).expect("a file below /run");
    answering(host, port, host.command("nginx").arg("-c").arg(file).arg("-p").arg(&directory).spawn())
}

/// OpenSSH's server. Nobody can log in.
#[track_caller]
pub fn sshd(host: &Host, port: u16) -> Process {
    let directory = directory(host, "sshd");
    // Where sshd's unprivileged part is locked in; it insists on this path.
    fs::create_dir_all("/run/sshd").expect("a directory below /run");
    let key = directory.join("key");
    run_ok(host.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key));
    let file = directory.join("sshd_config");
    let config =
        format!("Port {port}\nHostKey {}\nPidFile none\nAuthenticationMethods publickey\n", key.display());
    fs::write(&file, config).expect("a file below /run");
    // It starts itself again for every connection, and for that wants to be called by its full path.
    let program = find_program("sshd").expect("the test said need!(\"sshd\")");
    let program = program.to_str().expect("a readable path");
    answering(host, port, host.command(program).args(["-D", "-e", "-f"]).arg(file).spawn())
}

/// redis, with nothing in it and nothing kept.
#[track_caller]
pub fn redis(host: &Host, port: u16) -> Process {
    let directory = directory(host, "redis");
    let options = ["--bind", "*", "-::*", "--protected-mode", "no", "--save", "", "--appendonly", "no"];
    let program = host.command("redis-server").args(["--port", &port.to_string()]).args(options);
    answering(host, port, program.arg("--dir").arg(directory).spawn())
}

/// dnsmasq, a DNS server that knows no names.
#[track_caller]
pub fn dnsmasq(host: &Host, port: u16) -> Process {
    let options =
        ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file="];
    let program = host.command("dnsmasq").args(options).args(["--user=root", &format!("--port={port}")]);
    answering(host, port, program.spawn())
}

/// Answers every datagram to these UDP ports with itself, over both families, as long as the test lasts.
#[track_caller]
pub fn echo_udp(host: &Host, ports: &[u16]) {
    for port in ports {
        let at = (Ipv6Addr::UNSPECIFIED, *port);
        let socket =
            host.inside(|| UdpSocket::bind(at).unwrap_or_else(|error| panic!("UDP {port}: {error}")));
        thread::spawn(move || {
            let mut datagram = [0; 2_048];
            // What came before may have met an ICMP error; the next one may not.
            loop {
                if let Ok((length, from)) = socket.recv_from(&mut datagram) {
                    let _ = socket.send_to(&datagram[..length], from);
                }
            }
        });
    }
}

fn directory(host: &Host, service: &str) -> PathBuf {
    let path = PathBuf::from(format!("/run/lab/{service}-{}", host.name()));
    fs::create_dir_all(&path).expect("a directory below /run");
    path
}

#[track_caller]
fn answering(host: &Host, port: u16, mut process: Process) -> Process {
    let at = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port);
    wait_until(&format!("port {port} of {} to answer", host.name()), SOON, || {
        assert!(process.is_running(), "the service ended:\n{}{}", process.stdout(), process.stderr());
        host.inside(|| TcpStream::connect_timeout(&at, Duration::from_secs(1)).is_ok())
    });
    process
}
