//! The UDP services of the lab's one host: real daemons where the machine has them, each with a configuration of the
//! lab's own, below its work directory.
//!
//! No real one for TFTP: daemons answer from a port of the transfer's own, which no scanner can tell from a stranger's,
//! and dnsmasq's single port answers only when something else wakes it.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::lab::{Guard, HOST, UDP_OPEN, installed, on, tool};
use crate::ports;

/// Starts them: real daemons where the machine has them, the benchmark's own answers (tools/udp.rs) for the rest of [`UDP_OPEN`].
pub fn start(work: &Path) -> Result<Vec<Guard>> {
    let mut own = ports::parse(UDP_OPEN)?;
    let mut services = Vec::new();
    let directory = |name: &str| {
        let path = work.join(name);
        fs::create_dir_all(&path).map(|()| path)
    };
    let mut start = |command: &mut Command, name: &str| -> Result<()> {
        command.stdout(File::create(work.join(format!("{name}.out")))?);
        command.stderr(File::create(work.join(format!("{name}.err")))?);
        services.push(Guard(command.spawn().with_context(|| format!("start {name}"))?));
        Ok(())
    };
    let address = IpAddr::from(HOST);
    if installed("dnsmasq").is_some() {
        let mut command = on("target", "dnsmasq");
        command.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--pid-file=",
        ]);
        command.args(["--user=root", "--bind-interfaces", &format!("--listen-address={address}")]);
        start(&mut command, "dnsmasq")?;
        own.remove(&53);
    }
    if installed("chronyd").is_some() {
        let directory = directory("chrony")?;
        let config = directory.join("chrony.conf");
        let text = format!(
            "local stratum 10\nallow all\nbindaddress {address}\ncmdport 0\npidfile {0}/pid\ndriftfile {0}/drift\n",
            directory.display()
        );
        fs::write(&config, text)?;
        start(on("target", "chronyd").args(["-d", "-x", "-u", "root", "-f"]).arg(config), "chronyd")?;
        own.remove(&123);
    }
    if installed("snmpd").is_some() {
        let directory = directory("snmp")?;
        let config = directory.join("snmpd.conf");
        fs::write(&config, "rocommunity public\n")?;
        let mut command = on("target", "snmpd");
        command.args(["-f", "-Lo", "-C", "-c"]).arg(config).arg("-p").arg(directory.join("pid"));
        command.env("SNMP_PERSISTENT_DIR", &directory).arg(format!("udp:{address}:161"));
        start(&mut command, "snmpd")?;
        own.remove(&161);
    }
    if installed("memcached").is_some() {
        let mut command = on("target", "memcached");
        command.args(["-u", "root", "-p", "0", "-U", "11211", "-l", &address.to_string()]);
        start(&mut command, "memcached")?;
        own.remove(&11_211);
    }
    let ports = ports::list(&own);
    services.push(tool(
        "target",
        &["udp", "--address", &address.to_string(), "--ports", &ports],
        work,
        true,
    )?);
    Ok(services)
}
