//! The fixtures test themselves where Portolan's binaries are not needed for it: certificates and context files.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::path::Path;

use portolan_tests::deployment::{AdminContext, Identity};
use portolan_tests::lab::{Finished, Program};
use portolan_tests::{in_lab, need};

fn openssl(args: &[&str]) -> Finished {
    Program::new("openssl").args(args).run()
}

/// A two-level authority and an operator's leaf, as a server's data directory and a context file would hold them.
fn deployment_like(directory: &Path) -> AdminContext {
    let path = |name: &str| directory.join(name).display().to_string();
    fs::create_dir_all(directory.join("ca")).unwrap();
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout"];
    let make = |name: &str, signer: &str, extensions: &[&str]| {
        let mut args = vec!["req", "-x509", "-days", "30", "-config", "/dev/null"];
        args.extend(key);
        let (to, crt) = (path(&format!("{name}.key")), path(&format!("{name}.crt")));
        let (ca, ca_key) = (path(&format!("{signer}.crt")), path(&format!("{signer}.key")));
        let subject = format!("/CN={}", name.replace('/', "-"));
        args.extend([to.as_str(), "-out", &crt, "-subj", &subject]);
        if signer != name {
            args.extend(["-CA", &ca, "-CAkey", &ca_key]);
        }
        for extension in extensions {
            args.extend(["-addext", extension]);
        }
        openssl(&args).ok();
    };
    let authority = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign"];
    make("ca/root", "ca/root", &authority);
    make("ca/issuing", "ca/root", &authority);
    make(
        "leaf",
        "ca/issuing",
        &["basicConstraints=critical,CA:FALSE", "subjectAltName=URI:spiffe://portolan/a/operator/b"],
    );
    let read = |name: &str| fs::read_to_string(path(name)).unwrap();
    let text = format!(
        "servers = [\"10.99.1.10:7443\"]\nca = \"\"\"\n{}\"\"\"\ncertificate = \"\"\"\n{}{}\"\"\"\nkey = \"{}\"\n",
        read("ca/root.crt"),
        read("leaf.crt"),
        read("ca/issuing.crt"),
        read("leaf.key").replace('\n', "\\n"),
    );
    fs::write(path("context"), text).unwrap();
    AdminContext::read(&directory.join("context"))
}

/// What openssl thinks of a leaf under the authority in a directory.
fn verify(identity: &Identity, directory: &Path) -> Finished {
    let leaf = directory.join("verified.crt");
    fs::write(&leaf, identity.certificate()).unwrap();
    let verify = Program::new("openssl").args(["verify", "-CAfile"]).arg(directory.join("ca/root.crt"));
    verify.arg("-untrusted").arg(directory.join("ca/issuing.crt")).arg(leaf).run()
}

#[test]
fn a_context_gives_up_its_leaf_and_key_and_takes_another_certificate() {
    need!("openssl");
    in_lab!(|lab| {
        let directory = lab.directory("pki");
        let context = deployment_like(&directory);
        let identity = context.identity();
        assert_eq!(identity.certificate(), fs::read_to_string(directory.join("leaf.crt")).unwrap());
        assert_eq!(identity.key(), fs::read_to_string(directory.join("leaf.key")).unwrap());
        verify(&identity, &directory).ok();

        let other = deployment_like(&lab.directory("other")).identity();
        let changed = context.with_certificate(other.certificate()).with_address("10.99.1.10", "10.99.1.11");
        let text = fs::read_to_string(changed.write(directory.join("changed"))).unwrap();
        assert!(text.contains(other.certificate()) && !text.contains(identity.certificate()), "{text}");
        assert!(text.contains("10.99.1.11:7443"), "{text}");
    });
}

#[test]
fn twins_have_the_flaw_that_they_were_made_for() {
    need!("openssl");
    in_lab!(|lab| {
        let directory = lab.directory("pki");
        let identity = deployment_like(&directory).identity();
        let names = "URI:spiffe://portolan/a/operator/b";

        let expired =
            identity.with_certificate(&identity.expired_twin(&directory, &lab.directory("expired")));
        assert!(
            expired.description().contains(names) && expired.description().contains("Feb  1 00:00:00 2020")
        );
        // Nothing else is wrong with it.
        verify(&expired, &directory).code_is(2).says(&["has expired"]).never_says("signature");

        let forged = identity.self_signed_twin(&lab.directory("forged"));
        assert!(forged.description().contains(names));
        verify(&forged, &directory).code_is(2).says(&["self-signed", "issuer certificate"]);

        let other = deployment_like(&lab.directory("other")).identity();
        let vouched = identity.twin_signed_by(&other, &lab.directory("vouched"));
        assert!(vouched.description().contains(names));
        verify(&vouched, &directory).code_is(2).says(&["issuer certificate"]);
    });
}
