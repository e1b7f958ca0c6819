//! A baseline as it stands in the store. Fields are only added.

use super::Baseline;
use crate::alerts::kept::Document;
use crate::evaluate::BaselinePorts;
use crate::store::Kind;
use portolan_common::addresses::{AddressRange, AddressSet};
use portolan_common::ids::SatelliteId;
use portolan_common::observation::Protocol;
use portolan_common::ports::PortSet;
use portolan_proto::convert::{address_from_wire, address_to_wire, time_from_wire};
use portolan_proto::v1;
use prost::Message as _;
use std::sync::Arc;

#[derive(Clone, PartialEq, prost::Message)]
struct BaselineRecord {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    author: String,
    #[prost(int64, tag = "3")]
    taken_at_ms: i64,
    #[prost(message, repeated, tag = "4")]
    open: Vec<OpenRecord>,
    #[prost(message, repeated, tag = "5")]
    seen: Vec<SeenRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OpenRecord {
    #[prost(bytes = "vec", tag = "1")]
    address: Vec<u8>,
    #[prost(enumeration = "v1::Protocol", tag = "2")]
    protocol: i32,
    #[prost(bytes = "vec", tag = "3")]
    satellite: Vec<u8>,
    #[prost(message, optional, tag = "4")]
    ports: Option<v1::PortSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SeenRecord {
    #[prost(bytes = "vec", tag = "1")]
    satellite: Vec<u8>,
    /// First and last address, by turns.
    #[prost(bytes = "vec", repeated, tag = "2")]
    ranges: Vec<Vec<u8>>,
}

impl Document for Baseline {
    type Key = String;
    const KIND: Kind = Kind::Baseline;

    fn key(&self) -> String {
        self.name.clone()
    }

    fn name(key: &String) -> Vec<u8> {
        key.as_bytes().to_vec()
    }

    fn encode(&self) -> Vec<u8> {
        let open = self.ports.open.iter().flat_map(|((address, protocol), of_host)| {
            of_host.iter().map(|(satellite, ports)| OpenRecord {
                address: address_to_wire(*address),
                protocol: v1::Protocol::from(*protocol).into(),
                satellite: satellite.as_bytes().to_vec(),
                ports: Some(ports.into()),
            })
        });
        let ends = |range: AddressRange| [address_to_wire(range.first()), address_to_wire(range.last())];
        let seen = self.ports.seen.iter().map(|(satellite, addresses)| SeenRecord {
            satellite: satellite.as_bytes().to_vec(),
            ranges: addresses.ranges().flat_map(ends).collect(),
        });
        BaselineRecord {
            name: self.name.clone(),
            author: self.author.clone(),
            taken_at_ms: self.taken_at.as_millisecond(),
            open: open.collect(),
            seen: seen.collect(),
        }
        .encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let record = BaselineRecord::decode(bytes).map_err(|error| error.to_string())?;
        let satellite = |bytes: &[u8]| SatelliteId::from_slice(bytes).ok_or("a satellite's id".to_owned());
        let address = |bytes: &[u8]| address_from_wire(bytes).map_err(|error| error.to_string());
        let mut ports = BaselinePorts::default();
        for open in &record.open {
            let host = (
                address(&open.address)?,
                Protocol::try_from(open.protocol()).map_err(|error| error.to_string())?,
            );
            let set = open.ports.as_ref().map_or_else(|| Ok(PortSet::default()), PortSet::try_from);
            let set = set.map_err(|error| error.to_string())?;
            ports.open.entry(host).or_default().insert(satellite(&open.satellite)?, set);
        }
        for seen in &record.seen {
            let (pairs, _) = seen.ranges.as_chunks::<2>();
            let range = |[first, last]: &[Vec<u8>; 2]| {
                AddressRange::new(address(first)?, address(last)?).ok_or("a range of addresses".to_owned())
            };
            let addresses = pairs.iter().map(range).collect::<Result<AddressSet, String>>()?;
            ports.seen.insert(satellite(&seen.satellite)?, addresses);
        }
        Ok(Self {
            name: record.name,
            author: record.author,
            taken_at: time_from_wire(record.taken_at_ms).map_err(|error| error.to_string())?,
            ports: Arc::new(ports),
        })
    }
}
