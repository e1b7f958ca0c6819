//! Any packet is read without panic, and none that was not made with the key is taken for an answer.
//!
//! `cargo fuzz run read -- -max_total_time=60`, in `packet/`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portolan_packet::{Block, Key, read};
use std::sync::LazyLock;

/// Unknown to the fuzzer, which can so little guess a token as anybody else.
static KEY: LazyLock<Key> = LazyLock::new(Key::random);

fuzz_target!(|bytes: &[u8]| {
    // All ports are tried: the block's number is not what protects.
    for port in [0, 40_000, u16::MAX] {
        let reply = read(bytes, &KEY, Block::of(port));
        assert!(reply.is_none(), "believed {reply:?}");
    }
});
