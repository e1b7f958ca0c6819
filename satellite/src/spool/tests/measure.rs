//! What a record is counted as must be what it takes up, or the bound on the file means nothing.

use super::*;

fn body(bytes: usize) -> Body {
    // Random bytes, so that nothing can save room on them; it is no batch, and nobody looks.
    Body::Observations((0..bytes).map(|_| rand::random()).collect())
}

#[tokio::test]
async fn records_take_up_what_they_are_counted_as() {
    for bytes in [50, 200, 1000, 3000, 5000, 31_700] {
        let disk = Disk::default();
        let settings = SpoolSettings { max_size: 1 << 30, ..SMALL };
        let spool = Arc::new(Spool::open_on(Arc::new(disk.clone()), settings, Clock::system()).unwrap());
        let mut tasks = tokio::task::JoinSet::new();
        let each = 4_000_000 / bytes as u64 / 32;
        for _ in 0..32 {
            let spool = spool.clone();
            tasks.spawn(async move {
                for _ in 0..each {
                    spool.push(SCAN, body(bytes)).await;
                }
            });
        }
        tasks.join_all().await;
        let counted = spool.known().unacked.bytes;
        let ratio = spool.bytes() as f64 / counted as f64;
        assert!(
            (0.8..1.15).contains(&ratio),
            "{bytes} B: counted {counted}, file {}: {ratio:.2}",
            spool.bytes()
        );
    }
}
