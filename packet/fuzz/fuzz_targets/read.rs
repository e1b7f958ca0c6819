//! Any packet is read without panic, and none that was not made with the key is taken for an answer.
//!
//! `cargo fuzz run read -- -max_total_time=60`, in `packet/`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portolan_packet::{Block, Key, read};

fuzz_target!(|bytes: &[u8]| {
    // Another one each time: the fuzzer is shown what is compared, and would learn the tokens of one key.
    let key = Key::random();
    // All ports are tried: the block's number is not what protects.
    for port in [0, 40_000, u16::MAX] {
        let reply = read(bytes, &key, Block::of(port));
        assert!(reply.is_none(), "believed {reply:?}");
    }
});
