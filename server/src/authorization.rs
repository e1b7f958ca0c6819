//! The one authorization table: every RPC and HTTP route with who may call it. What it does not list is denied.

use crate::peer::PeerIdentity;
use http::{Method, Request};

/// Who may call something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whoever reaches the port.
    Anyone,
    /// Only who shows no certificate.
    Enrollment,
    /// Satellites.
    Satellite,
    /// Operators.
    Operator,
    /// Operators; everyone where the server's configuration says `metrics = "anyone"`.
    Metrics,
}

/// Path and access of every route. gRPC paths are `/package.Service/Method`.
pub const TABLE: &[(&str, Access)] = &[
    ("/portolan.v1.Enrollment/Enroll", Access::Enrollment),
    ("/portolan.v1.Uplink/Connect", Access::Satellite),
    ("/portolan.v1.Console/Status", Access::Operator),
    ("/portolan.v1.Console/AddSatellite", Access::Operator),
    ("/portolan.v1.Console/ListSatellites", Access::Operator),
    ("/portolan.v1.Console/RevokeSatellite", Access::Operator),
    ("/portolan.v1.Console/RemoveSatellite", Access::Operator),
    ("/portolan.v1.Console/Scan", Access::Operator),
    ("/portolan.v1.Console/CancelScan", Access::Operator),
    ("/portolan.v1.Console/ListScans", Access::Operator),
    ("/portolan.v1.Console/PauseScan", Access::Operator),
    ("/portolan.v1.Console/ListPorts", Access::Operator),
    ("/portolan.v1.Console/History", Access::Operator),
    ("/portolan.v1.Console/ListChanges", Access::Operator),
    ("/portolan.v1.Console/CheckPolicy", Access::Operator),
    ("/portolan.v1.Console/ApplyPolicy", Access::Operator),
    ("/portolan.v1.Console/GetPolicy", Access::Operator),
    ("/portolan.v1.Console/ListPolicyVersions", Access::Operator),
    ("/portolan.v1.Console/ListChecks", Access::Operator),
    ("/portolan.v1.Console/GetCheck", Access::Operator),
    ("/portolan.v1.Console/RunCheck", Access::Operator),
    ("/portolan.v1.Console/PauseCheck", Access::Operator),
    ("/portolan.v1.Console/TakeBaseline", Access::Operator),
    ("/portolan.v1.Console/GetBaseline", Access::Operator),
    ("/portolan.v1.Console/AcceptBaseline", Access::Operator),
    ("/portolan.v1.Console/ListAlerts", Access::Operator),
    ("/portolan.v1.Console/GetAlert", Access::Operator),
    ("/portolan.v1.Console/AcknowledgeAlert", Access::Operator),
    ("/portolan.v1.Console/CommentAlert", Access::Operator),
    ("/portolan.v1.Console/AddSilence", Access::Operator),
    ("/portolan.v1.Console/ListSilences", Access::Operator),
    ("/portolan.v1.Console/ExpireSilence", Access::Operator),
    ("/portolan.v1.Console/OpenChange", Access::Operator),
    ("/portolan.v1.Console/CloseChange", Access::Operator),
    ("/portolan.v1.Console/ListExpectedChanges", Access::Operator),
    ("/portolan.v1.Console/WatchAlerts", Access::Operator),
    ("/healthz", Access::Anyone),
    ("/readyz", Access::Anyone),
    ("/metrics", Access::Metrics),
];

/// Why a call is denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// It needs a certificate. Said for every path that an anonymous caller may not use, listed or not.
    Unauthenticated,
    /// It needs another certificate, or the path is not listed.
    Forbidden,
    /// The certificate is good for nothing.
    Refused(&'static str),
}

/// Decides a request.
///
/// # Errors
/// [`Denied`] unless the table allows it.
pub fn authorize<B>(peer: &PeerIdentity, request: &Request<B>, public_metrics: bool) -> Result<(), Denied> {
    let path = request.uri().path();
    let access = TABLE.iter().find(|(listed, _)| *listed == path).map(|(_, access)| *access);
    let method = if path.starts_with("/portolan.") { Method::POST } else { Method::GET };
    let access = access.filter(|_| *request.method() == method);
    let allowed = match (access, peer) {
        (Some(Access::Anyone), _) => true,
        (Some(Access::Enrollment), PeerIdentity::Anonymous) => true,
        (Some(Access::Satellite), PeerIdentity::Satellite { .. }) => true,
        (Some(Access::Operator | Access::Metrics), PeerIdentity::Operator { .. }) => true,
        (Some(Access::Metrics), _) => public_metrics,
        _ => false,
    };
    match peer {
        _ if allowed => Ok(()),
        PeerIdentity::Anonymous => Err(Denied::Unauthenticated),
        PeerIdentity::Refused(why) => Err(Denied::Refused(why)),
        _ => Err(Denied::Forbidden),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use portolan_common::ids::{OperatorId, SatelliteId};
    use prost::Message as _;
    use std::collections::BTreeSet;
    use uuid::Uuid;

    fn peers() -> [(&'static str, PeerIdentity); 4] {
        let not_after = Timestamp::MAX;
        [
            ("anonymous", PeerIdentity::Anonymous),
            ("satellite", PeerIdentity::Satellite { id: SatelliteId(Uuid::nil()), not_after }),
            ("operator", PeerIdentity::Operator { id: OperatorId(Uuid::nil()), name: "a".into(), not_after }),
            ("refused", PeerIdentity::Refused("revoked")),
        ]
    }

    fn allowed_to(path: &str) -> Vec<&'static str> {
        let method = if path.starts_with("/portolan.") { Method::POST } else { Method::GET };
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        peers()
            .into_iter()
            .filter(|(_, peer)| authorize(peer, &request, false).is_ok())
            .map(|(name, _)| name)
            .collect()
    }

    /// The class of Icinga 2 GHSA-vj39-ww8j-vvx5: a handler without its check.
    #[test]
    fn every_rpc_of_every_service_has_its_row_and_every_row_its_rpc() {
        let set = prost_types::FileDescriptorSet::decode(portolan_proto::DESCRIPTORS).unwrap();
        let rpcs: BTreeSet<String> = set
            .file
            .iter()
            .flat_map(|file| {
                file.service.iter().flat_map(|service| {
                    service
                        .method
                        .iter()
                        .map(|method| format!("/{}.{}/{}", file.package(), service.name(), method.name()))
                })
            })
            .collect();
        let listed: BTreeSet<String> = TABLE
            .iter()
            .map(|(path, _)| (*path).to_owned())
            .filter(|p| p.starts_with("/portolan."))
            .collect();
        assert_eq!(rpcs, listed);
        for path in &rpcs {
            let expected: &[&str] = match path.as_str() {
                p if p.contains(".Enrollment/") => &["anonymous"],
                p if p.contains(".Uplink/") => &["satellite"],
                p if p.contains(".Console/") => &["operator"],
                other => panic!("{other}: a service that this test does not know"),
            };
            assert_eq!(allowed_to(path), expected, "{path}");
        }
    }

    #[test]
    fn every_http_route_has_its_row() {
        let routes: BTreeSet<&str> = crate::http::ROUTES.iter().copied().collect();
        let listed: BTreeSet<&str> =
            TABLE.iter().map(|(path, _)| *path).filter(|p| !p.starts_with("/portolan.")).collect();
        assert_eq!(routes, listed);
        assert_eq!(allowed_to("/healthz").len(), 4);
        assert_eq!(allowed_to("/metrics"), ["operator"]);
    }

    #[test]
    fn what_is_not_listed_is_denied_to_all() {
        for path in ["/", "/metrics/", "/portolan.v1.Console/status", "/portolan.v1.Console/", "/admin"] {
            assert!(allowed_to(path).is_empty(), "{path}");
        }
        let post = Request::builder().method(Method::POST).uri("/healthz").body(()).unwrap();
        assert!(authorize(&PeerIdentity::Anonymous, &post, false).is_err());
    }
}
