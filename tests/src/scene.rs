//! The scene that most end-to-end tests play in.
//!
//! ```text
//!  office  pc    (satellite office-1) ──┐            ┌── dmz     shop   listens on 22, 80, 443, 3306, 8080
//!  pci     till  (satellite pci-1)    ──┤  firewall  ├── server  server
//! ```
//!
//! Nothing passes but: both segments to the server's one port; office to shop's 22, 80 and 443; pci to shop's 443.
//! Of the rest some is refused aloud: port 81 with a reset, 82 as administratively prohibited, 83 as an unreachable host.
//! Nothing at all passes from the server outward.

use std::net::IpAddr;

use crate::deployment::{Deployment, PORT, Satellite};
use crate::lab::{Firewall, Host, Lab, Listener, tcp};

/// What `shop` listens on.
pub const SHOP_PORTS: [u16; 5] = [22, 80, 443, 3306, 8080];
/// Ports of which the firewall treats each kind differently.
pub const ASKED: &str = "20-23,79-85,443,3306,8080";

/// The scene with a running server and two satellites online.
pub struct Scene {
    /// The server and its console.
    pub deployment: Deployment,
    /// Where satellite `office-1` stands.
    pub pc: Host,
    /// In segment `office`.
    pub office: Satellite,
    /// Where satellite `pci-1` stands.
    pub till: Host,
    /// In segment `pci`.
    pub pci: Satellite,
    /// What is scanned, in segment `dmz`.
    pub shop: Host,
    /// Shop's listeners.
    pub listener: Listener,
}

impl Scene {
    /// Builds it.
    #[track_caller]
    pub fn build(lab: &Lab) -> Self {
        let (pc, till, shop) = (lab.host("office", "pc"), lab.host("pci", "till"), lab.host("dmz", "shop"));
        let listener = shop.listen(&SHOP_PORTS);
        let place = Deployment::new(lab);
        lab.firewall(&Self::rules());
        place.init().ok();
        place.start();
        let (office, pci) = (place.satellite(&pc, "office-1"), place.satellite(&till, "pci-1"));
        Self { deployment: place, pc, office, till, pci, shop, listener }
    }

    /// The firewall of the scene, to add to.
    pub fn rules() -> Firewall {
        let server = PORT.to_string();
        Firewall::closed()
            .allow("office", "server", tcp(&server))
            .allow("pci", "server", tcp(&server))
            .allow("office", "dmz", tcp("22,80,443"))
            .allow("pci", "dmz", tcp("443"))
            .reset("office", "dmz", tcp("81"))
            .reset("pci", "dmz", tcp("81"))
            .prohibit("office", "dmz", tcp("82"))
            .prohibit("pci", "dmz", tcp("82"))
            .host_unreachable("office", "dmz", tcp("83"))
            .host_unreachable("pci", "dmz", tcp("83"))
    }

    /// Shop's addresses of both families.
    pub fn shop_addresses(&self) -> [IpAddr; 2] {
        [self.shop.v4(), self.shop.v6()]
    }
}

/// A smaller scene for what needs no firewall: the server, one satellite `office-1`, and `shop` in the dmz; everything
/// passes.
pub struct OpenScene {
    /// The server and its console.
    pub deployment: Deployment,
    /// Where satellite `office-1` stands.
    pub pc: Host,
    /// In segment `office`.
    pub office: Satellite,
    /// What is scanned, in segment `dmz`. It listens on what the test says.
    pub shop: Host,
}

impl OpenScene {
    /// Builds it.
    #[track_caller]
    pub fn build(lab: &Lab) -> Self {
        let (pc, shop) = (lab.host("office", "pc"), lab.host("dmz", "shop"));
        let deployment = Deployment::up(lab);
        let office = deployment.satellite(&pc, "office-1");
        Self { deployment, pc, office, shop }
    }
}
