//! Who is at the other end: taken from the verified certificate, never from a payload.

use crate::registry::Registry;
use jiff::Timestamp;
use portolan_common::ids::{DeploymentId, OperatorId, Role, SatelliteId};
use portolan_transport::identity::read_leaf;
use rustls::pki_types::CertificateDer;
use std::net::SocketAddr;

/// A connection's other end.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it comes from.
    pub address: SocketAddr,
    /// Who it is.
    pub identity: PeerIdentity,
}

/// Who a peer proved to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerIdentity {
    /// It showed no certificate.
    Anonymous,
    /// A satellite in good standing.
    Satellite {
        /// Its id.
        id: SatelliteId,
        /// The end of its certificate.
        not_after: Timestamp,
    },
    /// An operator.
    Operator {
        /// Its id.
        id: OperatorId,
        /// As the certificate names it.
        name: String,
        /// The end of its certificate.
        not_after: Timestamp,
    },
    /// Its certificate is genuine, but no longer, or not here, good for anything.
    Refused(&'static str),
}

impl PeerIdentity {
    /// Reads the identity from the chain that TLS verified under the deployment's root.
    pub fn from_chain(
        chain: Option<&[CertificateDer<'_>]>,
        deployment: DeploymentId,
        registry: &Registry,
    ) -> Self {
        let Some(leaf) = chain.and_then(<[_]>::first) else { return Self::Anonymous };
        let Ok(facts) = read_leaf(leaf) else {
            return Self::Refused("the certificate carries no Portolan identity");
        };
        if facts.spiffe_id.deployment != deployment {
            return Self::Refused("the certificate belongs to another deployment");
        }
        match facts.spiffe_id.role {
            Role::Server => Self::Refused("a server's certificate is no client's"),
            Role::Operator(id) => Self::Operator { id, name: facts.common_name, not_after: facts.not_after },
            Role::Satellite(id) => match registry.get(id) {
                Some(record) if record.revoked_at_ms != 0 => Self::Refused("this satellite was revoked"),
                Some(record) if record.removed_at_ms != 0 => Self::Refused("this satellite was removed"),
                Some(_) => Self::Satellite { id, not_after: facts.not_after },
                None => Self::Refused("this server does not know the satellite"),
            },
        }
    }
}
