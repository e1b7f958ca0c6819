//! Certificates, raw TLS and bare RPCs by independent means: openssl and curl.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::lab::{Host, Process, Program, run_ok};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A leaf certificate with its key, and the certificates that came along.
#[derive(Clone, Debug)]
pub struct Identity {
    certificate: String,
    key: String,
    others: Vec<String>,
}

/// Every PEM block in a text, line ends restored.
pub(super) fn blocks_in(text: &str) -> Vec<String> {
    let text = text.replace("\\n", "\n");
    let mut blocks = Vec::new();
    let mut rest = text.as_str();
    while let Some(start) = rest.find("-----BEGIN ") {
        let from = &rest[start..];
        let Some(end) =
            from.find("-----END ").and_then(|at| Some(at + 9 + from[at + 9..].find("-----")? + 5))
        else {
            break;
        };
        blocks.push(format!("{}\n", &from[..end]));
        rest = &from[end..];
    }
    blocks
}

/// Every PEM block in every file below a directory.
pub fn pems_below(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut blocks = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        match path.is_dir() {
            true => blocks.extend(pems_below(&path)),
            false => {
                blocks.extend(fs::read_to_string(&path).map(|text| blocks_in(&text)).unwrap_or_default())
            }
        }
    }
    blocks
}

impl Identity {
    /// Picks the leaf certificate and the key that belong together out of PEM blocks.
    #[track_caller]
    pub fn leaf_of(blocks: &[String]) -> Self {
        let (certificates, rest): (Vec<_>, Vec<_>) =
            blocks.iter().cloned().partition(|block| block.contains("BEGIN CERTIFICATE-----"));
        let keys = rest.into_iter().filter(|block| block.contains("PRIVATE KEY-----"));
        for key in keys {
            let public = openssl(&["pkey", "-pubout"], &key);
            let own = |certificate: &String| openssl(&["x509", "-noout", "-pubkey"], certificate) == public;
            if let Some(certificate) = certificates.iter().find(|certificate| own(certificate)) {
                let others = certificates.iter().filter(|other| *other != certificate).cloned().collect();
                return Self { certificate: certificate.clone(), key, others };
            }
        }
        panic!("no certificate with its key among {} PEM blocks", blocks.len());
    }

    /// The leaf, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The private key, PEM.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The leaf and every certificate that came along, PEM.
    pub fn chain(&self) -> String {
        format!("{}{}", self.certificate, self.others.concat())
    }

    /// The leaf as `openssl x509 -text` tells it.
    pub fn description(&self) -> String {
        openssl(&["x509", "-noout", "-text"], &self.certificate)
    }

    /// The same key with another certificate.
    #[must_use]
    pub fn with_certificate(&self, certificate: &str) -> Self {
        Self { certificate: certificate.to_owned(), ..self.clone() }
    }

    /// A certificate for the same key and names, signed by the issuing certificate in a server's data directory, that
    /// expired years ago.
    #[track_caller]
    pub fn expired_twin(&self, server_data: &Path, scratch: &Path) -> String {
        self.twin_until("20200201000000Z", server_data, scratch)
    }

    /// The same, but it expires so long from now.
    #[track_caller]
    pub fn short_lived_twin(&self, life: Duration, server_data: &Path, scratch: &Path) -> Self {
        let end = format!("{} seconds", life.as_secs());
        let end = run_ok(Program::new("date").args(["-u", "-d", &end, "+%Y%m%d%H%M%SZ"])).stdout;
        self.with_certificate(&self.twin_until(end.trim(), server_data, scratch))
    }

    #[track_caller]
    fn twin_until(&self, end: &str, server_data: &Path, scratch: &Path) -> String {
        let issuing = |extension: &str| server_data.join("ca").join(format!("issuing.{extension}"));
        let dates = ["-startdate", "20200101000000Z", "-enddate", end];
        self.sign(scratch, &dates, Some((issuing("crt"), issuing("key"))))
    }

    /// The same key and names in a certificate that nobody but itself vouches for.
    #[track_caller]
    pub fn self_signed_twin(&self, scratch: &Path) -> Self {
        let certificate = self.sign(scratch, &["-days", "30", "-selfsign"], None);
        Self { certificate, key: self.key.clone(), others: Vec::new() }
    }

    /// The same key and names in a certificate that another leaf signed.
    #[track_caller]
    pub fn twin_signed_by(&self, signer: &Self, scratch: &Path) -> Self {
        let [certificate, key] = signer.write(scratch);
        let certificate = self.sign(scratch, &["-days", "30"], Some((certificate.into(), key.into())));
        let others = [vec![signer.certificate.clone()], signer.others.clone()].concat();
        Self { certificate, key: self.key.clone(), others }
    }

    /// A new certificate for this key and these names; without a signer it signs itself.
    #[track_caller]
    fn sign(&self, scratch: &Path, options: &[&str], signer: Option<(PathBuf, PathBuf)>) -> String {
        let at = |name: &str| scratch.join(name);
        let path = |name: &str| at(name).display().to_string();
        fs::write(at("leaf.key"), &self.key).expect("a file below /run");
        fs::write(at("index"), "").expect("a file below /run");
        let names = self.description();
        let uri = names.split("URI:").nth(1).and_then(|rest| rest.split([',', '\n']).next());
        let uri = uri.unwrap_or_else(|| panic!("no URI among the names of\n{names}"));
        let config = format!(
            "[ca]\ndefault_ca=lab\n[lab]\ndatabase={}\nnew_certs_dir={}\nrand_serial=yes\ndefault_md=sha256\n\
             policy=any\nx509_extensions=leaf\n[any]\ncommonName=optional\n\
             [leaf]\nbasicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n\
             extendedKeyUsage=clientAuth\nsubjectAltName=URI:{uri}\nsubjectKeyIdentifier=hash\n\
             [req]\ndistinguished_name=name\n[name]\n",
            path("index"),
            scratch.display()
        );
        fs::write(at("openssl.cnf"), config).expect("a file below /run");
        let request = ["req", "-new", "-config", &path("openssl.cnf"), "-subj", "/CN=operator", "-key"];
        run_ok(Program::new("openssl").args(request).args([
            path("leaf.key"),
            "-out".into(),
            path("leaf.csr"),
        ]));
        let program = Program::new("openssl").args(["ca", "-batch", "-notext"]).args(options.iter().copied());
        let program = program.args(["-config", &path("openssl.cnf"), "-in", &path("leaf.csr")]);
        let program = match signer {
            Some((certificate, key)) => program.arg("-cert").arg(certificate).arg("-keyfile").arg(key),
            None => program.args(["-keyfile", &path("leaf.key")]),
        };
        run_ok(program.args(["-out", &path("leaf.crt")]));
        fs::read_to_string(at("leaf.crt")).expect("openssl wrote it")
    }

    /// Writes it for openssl and curl: the chain and the key.
    fn write(&self, directory: &Path) -> [String; 2] {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let chain = directory.join(format!("client-{number}.crt"));
        let key = directory.join(format!("client-{number}.key"));
        fs::create_dir_all(directory).expect("a directory below /run");
        fs::write(&chain, self.chain()).expect("a file below /run");
        fs::write(&key, &self.key).expect("a file below /run");
        [chain, key].map(|path| path.display().to_string())
    }
}

/// What a gRPC server said to a bare call.
#[derive(Clone, Debug)]
pub struct GrpcAnswer {
    /// `grpc-status`, when there was one: 0 ok, 7 permission denied, 12 unimplemented, 16 unauthenticated.
    pub status: Option<u32>,
    /// Everything that was received, headers first.
    pub text: String,
    /// curl's exit code: not 0 when the connection was refused or broken off.
    pub code: i32,
}

impl GrpcAnswer {
    /// Whether the call went through.
    pub fn is_ok(&self) -> bool {
        self.status == Some(0)
    }

    /// Whether the call was turned away: with a status, an HTTP error, or the end of the connection.
    pub fn is_refused(&self) -> bool {
        let http = self.text.strip_prefix("HTTP/2 ").is_some_and(|rest| rest.starts_with('4'));
        !self.is_ok() && (self.status.is_some() || http || self.code != 0)
    }
}

/// Calls an RPC (`portolan.v1.Console/ListSatellites`) with an empty message, as whoever holds `identity`.
#[track_caller]
pub fn grpc(from: &Host, server: &str, rpc: &str, identity: Option<&Identity>) -> GrpcAnswer {
    // Who the server is does not matter here, what it allows does.
    let mut program =
        from.command("curl").args(["--silent", "--show-error", "--insecure", "--http2", "--include"]);
    program = program.args([
        "--max-time",
        "10",
        "--raw",
        "-H",
        "content-type: application/grpc",
        "-H",
        "te: trailers",
    ]);
    if let Some(identity) = identity {
        let [chain, key] = identity.write(Path::new("/run/lab/clients"));
        program = program.args(["--cert", &chain, "--key", &key]);
    }
    let body = "/run/lab/empty-message";
    fs::write(body, [0; 5]).expect("a file below /run");
    let url = format!("https://{server}/{rpc}");
    let finished = program.args(["--data-binary", &format!("@{body}"), &url]).run();
    let text = format!("{}{}", finished.stdout, finished.stderr);
    // Trailers follow the body at once, and the body ends without a line break.
    let status = text.to_lowercase().split("grpc-status:").nth(1).and_then(|rest| {
        let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    // A stream that goes on until the caller leaves has no status; that it began says that the call went through.
    let streams =
        finished.code == 28 && text.starts_with("HTTP/2 200") && !finished.stdout.ends_with("\n\r\n");
    GrpcAnswer { status: status.or(streams.then_some(0)), text, code: finished.code }
}

/// A TLS connection that says nothing after its handshake, held by `openssl s_client`.
#[track_caller]
pub fn tls_connection(from: &Host, server: &str, identity: Option<&Identity>) -> Process {
    let mut program =
        from.command("openssl").args(["s_client", "-connect", server, "-alpn", "h2", "-ign_eof"]);
    if let Some(identity) = identity {
        let [chain, key] = identity.write(Path::new("/run/lab/clients"));
        program = program.args(["-cert", &chain, "-key", &key, "-cert_chain", &chain]);
    }
    program.limit(Duration::from_secs(60)).spawn()
}

fn openssl(args: &[&str], stdin: &str) -> String {
    Program::new("openssl").args(args.iter().copied()).stdin(stdin).run().stdout
}
