//! Who is at the other end: taken from the verified certificate, never from a payload, and looked at again for every
//! request, since a connection may outlive what it was opened with.

use crate::registry::Registry;
use jiff::Timestamp;
use portolan_common::ids::{DeploymentId, OperatorId, Role, SatelliteId};
use portolan_transport::identity::read_leaf;
use rustls::pki_types::CertificateDer;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;

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
    /// The end of the certificate, if there is one that counts.
    pub fn not_after(&self) -> Option<Timestamp> {
        match self {
            Self::Satellite { not_after, .. } | Self::Operator { not_after, .. } => Some(*not_after),
            Self::Anonymous | Self::Refused(_) => None,
        }
    }
}

/// Turns certificates into identities.
#[derive(Clone)]
pub struct Identifier {
    /// The deployment whose certificates count.
    pub deployment: DeploymentId,
    /// Who was revoked.
    pub registry: Arc<Registry>,
}

impl Identifier {
    /// Reads the identity from the chain that TLS verified under the deployment's root.
    pub fn identify(&self, chain: Option<&[CertificateDer<'_>]>) -> PeerIdentity {
        let Some(leaf) = chain.and_then(<[_]>::first) else { return PeerIdentity::Anonymous };
        let Ok(facts) = read_leaf(leaf) else {
            return PeerIdentity::Refused("the certificate carries no Portolan identity");
        };
        if facts.spiffe_id.deployment != self.deployment {
            return PeerIdentity::Refused("the certificate belongs to another deployment");
        }
        let (not_after, name) = (facts.not_after, facts.common_name);
        match facts.spiffe_id.role {
            Role::Server => PeerIdentity::Refused("a server's certificate is no client's"),
            Role::Operator(id) => PeerIdentity::Operator { id, name, not_after },
            Role::Satellite(id) => match self.refusal(id) {
                Some(why) => PeerIdentity::Refused(why),
                None => PeerIdentity::Satellite { id, not_after },
            },
        }
    }

    /// Why an identity that was good when its connection began is so no longer.
    pub fn lapse(&self, identity: &PeerIdentity, now: Timestamp) -> Option<&'static str> {
        if identity.not_after().is_some_and(|not_after| not_after < now) {
            return Some("the certificate has expired");
        }
        match identity {
            PeerIdentity::Satellite { id, .. } => self.refusal(*id),
            _ => None,
        }
    }

    /// Changes whenever somebody was revoked.
    pub fn revocations(&self) -> watch::Receiver<u64> {
        self.registry.revocations()
    }

    fn refusal(&self, id: SatelliteId) -> Option<&'static str> {
        match self.registry.get(id) {
            Some(record) if record.revoked_at_ms != 0 => Some("this satellite was revoked"),
            Some(record) if record.removed_at_ms != 0 => Some("this satellite was removed"),
            Some(_) => None,
            None => Some("this server does not know the satellite"),
        }
    }
}
