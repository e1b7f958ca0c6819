//! A server on a loopback port, its operator, and satellites that speak the wire format themselves.

use crate::tap::{Frames, Tap};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use portolan_proto::v1::JoinToken;
use portolan_proto::v1::console_client::ConsoleClient;
use portolan_proto::v1::enrollment_client::EnrollmentClient;
use portolan_proto::v1::uplink_client::UplinkClient;
use portolan_proto::v1::{self, uplink_down::Message as Down, uplink_up::Message as Up};
use portolan_server::config::Config;
use portolan_server::data_dir::DataDir;
use portolan_server::init;
use portolan_server::run::{RunError, run};
use portolan_transport::context::Context;
use portolan_transport::identity::{Identity, KeyRequest};
use portolan_transport::tls;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};
use tower::service_fn;

/// Nothing here takes nearly as long.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Deployment {
    directory: TempDir,
    pub address: SocketAddr,
    root: CertificateDer<'static>,
    operator: Identity,
    pub shutdown: CancellationToken,
    pub reload: Arc<Notify>,
    server: JoinHandle<Result<(), RunError>>,
}

impl Deployment {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = DataDir::new(&directory.path().join("data"));
        let file = directory.path().join("operator.toml");
        init::init(&data, &["localhost".to_owned()], Some(&file), Timestamp::now()).unwrap();
        let context = Context::load(&file).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, reload) = (CancellationToken::new(), Arc::new(Notify::new()));
        let server = tokio::spawn(run(data, Config::default(), listener, shutdown.clone(), reload.clone()));
        Self {
            address,
            root: context.root(&file).unwrap(),
            operator: context.identity(&file).unwrap(),
            directory,
            shutdown,
            reload,
            server,
        }
    }

    pub fn deployment_file(&self) -> PathBuf {
        self.directory.path().join("data/deployment.toml")
    }

    /// What the server's run came to.
    pub async fn ended(&mut self) -> Result<(), RunError> {
        timeout(PATIENCE, &mut self.server).await.expect("the server ends").unwrap()
    }

    pub fn is_running(&self) -> bool {
        !self.server.is_finished()
    }

    pub async fn console(&self) -> (ConsoleClient<Channel>, Frames) {
        let (channel, frames) = connect(self.address, self.operator_tls()).await;
        (ConsoleClient::new(channel), frames)
    }

    pub fn operator_tls(&self) -> ClientConfig {
        tls::client_config(&self.root, &self.operator).unwrap()
    }

    pub async fn enrol(&self, name: &str) -> Satellite {
        let (mut console, _) = self.console().await;
        let request = v1::AddSatelliteRequest {
            name: name.into(),
            segment: "office".into(),
            ..v1::AddSatelliteRequest::default()
        };
        let token = console.add_satellite(request).await.unwrap().into_inner().token;
        let token = JoinToken::from_text(&token).unwrap();
        let (anonymous, _) = tls::pinned_config(token.ca_pin.as_slice().try_into().unwrap()).unwrap();
        let (channel, _) = connect(self.address, anonymous).await;
        let key = KeyRequest::generate().unwrap();
        let request =
            v1::EnrollRequest { secret: token.secret, csr_der: key.csr_der.clone(), version: "0.1.0".into() };
        let answer = EnrollmentClient::new(channel).enroll(request).await.unwrap().into_inner();
        let chain = answer.certificate_chain.into_iter().map(CertificateDer::from).collect();
        let identity = key.into_identity(chain).unwrap();
        Satellite {
            address: self.address,
            tls: tls::client_config(&self.root, &identity).unwrap(),
            epoch: *uuid::Uuid::new_v4().as_bytes(),
        }
    }

    pub async fn status_of(&self, name: &str) -> v1::satellite::Status {
        let (mut console, _) = self.console().await;
        let list = console.list_satellites(v1::ListSatellitesRequest::default()).await.unwrap().into_inner();
        list.satellites.iter().find(|satellite| satellite.name == name).unwrap().status()
    }

    /// Waits until the server says so of a satellite.
    pub async fn becomes(&self, name: &str, status: v1::satellite::Status) {
        let waiting = async {
            while self.status_of(name).await != status {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("`{name}` becomes {status:?}"));
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        // A test that failed half-way leaves no server behind.
        self.server.abort();
    }
}

/// TLS alone.
pub async fn dial(address: SocketAddr, config: ClientConfig) -> TlsStream<TcpStream> {
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
}

async fn connect(address: SocketAddr, config: ClientConfig) -> (Channel, Frames) {
    let (tap, frames) = Tap::new(dial(address, config).await);
    let once = Arc::new(Mutex::new(Some(TokioIo::new(tap))));
    let connector = service_fn(move |_| {
        let taken = once.lock().unwrap().take();
        async move { taken.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap();
    (channel, frames)
}

/// One that is enrolled.
pub struct Satellite {
    address: SocketAddr,
    tls: ClientConfig,
    epoch: [u8; 16],
}

/// A satellite's open uplink.
pub struct Uplink {
    up: mpsc::Sender<v1::UplinkUp>,
    down: Streaming<v1::UplinkDown>,
    pub frames: Frames,
    _channel: Channel,
}

impl Satellite {
    /// Connects and says hello; what the server makes of it is read from the uplink.
    pub async fn connect(&self) -> Uplink {
        self.connect_with(&["connect"], None).await
    }

    /// The same with these capabilities and this scope.
    pub async fn connect_with(&self, capabilities: &[&str], scope: Option<v1::ScopeReport>) -> Uplink {
        let (channel, frames) = connect(self.address, self.tls.clone()).await;
        let (up, outbound) = mpsc::channel(64);
        let hello = v1::Hello {
            version: "0.1.0".into(),
            epoch: self.epoch.to_vec(),
            capabilities: capabilities.iter().map(|text| (*text).to_owned()).collect(),
            clock_at_ms: Timestamp::now().as_millisecond(),
            scope,
            ..v1::Hello::default()
        };
        up.send(v1::UplinkUp { message: Some(Up::Hello(hello)) }).await.unwrap();
        let mut client = UplinkClient::new(channel.clone());
        let down = client.connect(ReceiverStream::new(outbound)).await.unwrap().into_inner();
        Uplink { up, down, frames, _channel: channel }
    }
}

impl Uplink {
    /// The next message; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Down>, Status> {
        let message = timeout(PATIENCE, self.down.message()).await.expect("the server says something")?;
        Ok(message.and_then(|down| down.message))
    }

    /// Reads up to the first message that `wanted` takes.
    pub async fn until<T>(&mut self, wanted: impl Fn(&Down) -> Option<T>) -> T {
        loop {
            let message = self.next().await.unwrap().expect("the stream goes on");
            if let Some(found) = wanted(&message) {
                return found;
            }
        }
    }

    /// Sends a record with these observations.
    pub async fn record(&self, sequence: u64, observations: Vec<u8>) {
        let record = v1::Record {
            sequence,
            scan_id: vec![7; 16],
            body: Some(v1::record::Body::Observations(observations)),
            ..v1::Record::default()
        };
        self.up.send(v1::UplinkUp { message: Some(Up::Record(record)) }).await.unwrap();
    }

    /// Sends an empty record and waits until it is durable.
    pub async fn is_served(&mut self, sequence: u64) {
        self.record(sequence, Vec::new()).await;
        self.until(|message| matches!(message, Down::Ack(ack) if ack.sequence >= sequence).then_some(()))
            .await;
    }
}
