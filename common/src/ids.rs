//! Typed identifiers, so that no satellite's id stands where a scan's belongs, and the SPIFFE identities that
//! certificates carry.

use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The 16 bytes that stand for it on the wire and in keys.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// Reads the wire form; `None` unless it is 16 bytes long.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Uuid::from_slice(bytes).ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

id!(
    /// One installation: a server with its certificate authority and everything it enrolled.
    DeploymentId
);
id!(
    /// A satellite, for ever: a name may be given again, an id is not.
    SatelliteId
);
id!(
    /// A person or script that may use the console.
    OperatorId
);
id!(
    /// One on-demand scan; UUIDv7, so that ids sort by time.
    ScanId
);
id!(
    /// The numbering of a satellite's spool: sequences count from 1 within it.
    Epoch
);
id!(
    /// One run of a satellite's process.
    ProcessId
);

/// Who a certificate says its holder is: the role part of its SPIFFE ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The server itself.
    Server,
    /// A satellite.
    Satellite(SatelliteId),
    /// An operator.
    Operator(OperatorId),
}

/// `spiffe://portolan/<deployment>/server`, `…/satellite/<uuid>` or `…/operator/<uuid>`
/// (SPIFFE-ID specification, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    /// The deployment that issued it.
    pub deployment: DeploymentId,
    /// Who the holder is in that deployment.
    pub role: Role,
}

/// A URI that is not one of Portolan's SPIFFE IDs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a Portolan identity (spiffe://portolan/DEPLOYMENT/ROLE/…)")]
pub struct SpiffeIdError(String);

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://portolan/{}/", self.deployment)?;
        match self.role {
            Role::Server => f.write_str("server"),
            Role::Satellite(id) => write!(f, "satellite/{id}"),
            Role::Operator(id) => write!(f, "operator/{id}"),
        }
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        let parse = || {
            let mut parts = text.strip_prefix("spiffe://portolan/")?.split('/');
            let deployment = canonical(parts.next()?)?;
            let role = match (parts.next()?, parts.next()) {
                ("server", None) => Role::Server,
                ("satellite", Some(id)) => Role::Satellite(SatelliteId(canonical(id)?)),
                ("operator", Some(id)) => Role::Operator(OperatorId(canonical(id)?)),
                _ => return None,
            };
            parts.next().is_none().then_some(Self { deployment: DeploymentId(deployment), role })
        };
        // The cut keeps a hostile certificate from filling a log.
        parse().ok_or_else(|| SpiffeIdError(text.chars().take(120).collect()))
    }
}

/// Only the hyphenated lower-case form: an identity has one spelling.
fn canonical(text: &str) -> Option<Uuid> {
    let id = Uuid::parse_str(text).ok()?;
    (id.hyphenated().to_string() == text).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    #[test]
    fn identities_survive_the_round_trip() {
        for role in ["server".to_owned(), format!("satellite/{ID}"), format!("operator/{ID}")] {
            let text = format!("spiffe://portolan/{ID}/{role}");
            assert_eq!(text.parse::<SpiffeId>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn near_misses_are_refused() {
        for text in [
            "",
            "spiffe://portolan/",
            &format!("spiffe://other/{ID}/server"),
            &format!("spiffe://portolan/{ID}/server/"),
            &format!("spiffe://portolan/{ID}/satellite"),
            &format!("spiffe://portolan/{ID}/satellite/{ID}/x"),
            &format!("spiffe://portolan/{ID}/satellite/{}", ID.to_uppercase()),
            &format!("spiffe://portolan/{ID}/satellite/{}", ID.replace('-', "")),
            &format!("spiffe://portolan/{ID}/admin/{ID}"),
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text}");
        }
    }
}
