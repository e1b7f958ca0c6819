//! The small programs that the benchmark starts inside the lab: itself, under other names.

pub mod delay;
pub mod flows;
pub mod forget;
pub mod listen;
pub mod packet;
pub mod raw;
pub mod udp;
pub mod watch;
