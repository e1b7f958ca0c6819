//! The prober over the loopback interface.
