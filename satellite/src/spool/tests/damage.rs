//! Bytes that change behind the spool's back: found out and accounted for, or without effect.

use super::*;

/// A closed spool of `count` records.
async fn image(count: u64) -> Vec<u8> {
    let disk = Disk::default();
    let spool = opened(&disk).await;
    for n in 1..=count {
        spool.push(SCAN, numbered(n)).await;
    }
    spool.close().await;
    disk.image()
}

/// Opens a damaged image and reads all of it. Whether anything was lost.
async fn read_damaged(bytes: &[u8], offset: usize, mask: u8, count: u64) -> bool {
    let disk = Disk::with_image(bytes);
    disk.flip(offset, mask);
    let spool = opened(&disk).await;
    // Damage that is met while reading may put a new file in the place of this one: hello anew then.
    for _ in 0..3 {
        let epoch = spool.hello().epoch;
        let reading = drain(&spool, 0);
        let records = tokio::select! {
            records = reading => records,
            () = spool.renumbered(epoch) => continue,
        };
        let mut lost = false;
        for record in &records {
            if let Some(dropped) = record.dropped {
                assert_eq!(dropped.reason(), Reason::Damaged, "byte {offset}");
                lost = true;
            }
            if let Some(number) = number(record) {
                assert_eq!(record.sequence, number, "byte {offset}: a wrong record");
            }
        }
        let arrived = records.iter().filter(|record| number(record).is_some()).count() as u64;
        assert!(lost || arrived == count, "byte {offset}: {arrived} of {count} and nothing said");
        // It goes on working.
        spool.push(SCAN, numbered(9999)).await;
        return lost;
    }
    panic!("byte {offset}: it never came to rest");
}

async fn flip_bytes(step: usize) {
    silence_engine();
    let bytes = image(60).await;
    let used = (0..bytes.len()).filter(|n| bytes[*n] != 0).skip(1).step_by(step);
    let (mut lost, mut tried) = (0, 0);
    // All of the header, and every so many bytes of what is in use.
    for offset in (0..320).chain(used) {
        tried += 1;
        lost += usize::from(read_damaged(&bytes, offset, 1 << (offset % 8), 60).await);
    }
    println!("{tried} bytes flipped, {lost} times something was lost and accounted for");
    assert!(lost > 0 && lost < tried, "{lost} of {tried}");
}

/// Every 41st byte; with `PORTOLAN_LONG_FLIPS=1` every one, which takes ten minutes.
#[tokio::test]
async fn a_flipped_byte_is_found_out_or_harmless() {
    let step = std::env::var("PORTOLAN_LONG_FLIPS").ok().and_then(|step| step.parse().ok());
    flip_bytes(step.unwrap_or(41)).await;
}

#[tokio::test]
async fn a_damaged_record_is_one_record() {
    let bytes = image(60).await;
    let disk = Disk::with_image(&bytes);
    // The text of some record in the middle.
    let at = bytes.windows(100).rposition(|window| window == [b'x'; 100]).unwrap();
    disk.flip(at, 1);
    let spool = opened(&disk).await;
    let records = drain(&spool, 0).await;
    let gone: Vec<_> = records.iter().filter_map(|record| record.dropped).collect();
    assert_eq!((records.len(), gone.len(), gone[0].records), (60, 1, 1));
    assert_eq!(gone[0].reason(), Reason::Damaged);
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_kept_aside_and_reported() {
    silence_engine();
    for bytes in [vec![], b"no spool at all".to_vec(), vec![7; 100_000], image(5).await[..9000].to_vec()] {
        let disk = Disk::with_image(&bytes);
        let spool = opened(&disk).await;
        assert_eq!(disk.aside().len(), 1);
        spool.push(SCAN, numbered(1)).await;
        let records = drain(&spool, 0).await;
        assert_eq!((records.len(), records[0].sequence, records[0].first_sequence), (1, 2, 1));
        assert_eq!(records[0].dropped.unwrap().reason(), Reason::Damaged);
    }
}

#[tokio::test]
async fn a_file_that_goes_back_while_it_is_open_is_accounted_for() {
    silence_engine();
    let disk = Disk::default();
    let spool = opened(&disk).await;
    for n in 1..=5 {
        spool.push(SCAN, numbered(n)).await;
    }
    let before = disk.image();
    for n in 6..=10 {
        spool.push(SCAN, numbered(n)).await;
    }
    let epoch = spool.hello().epoch;
    // The next commit fails, and what is opened again is older.
    disk.set_failing(true);
    let pushing = spool.push(SCAN, numbered(11));
    let going_back = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        disk.restore(&before);
        disk.set_failing(false);
    };
    tokio::join!(pushing, going_back);
    assert_eq!(spool.hello().epoch, epoch);
    let records = drain(&spool, 0).await;
    let numbers: Vec<_> = records.iter().map(|record| (record.sequence, number(record))).collect();
    let expected: Vec<_> = (1..=5).chain([11]).map(|n| (n, Some(n))).collect();
    assert_eq!(numbers, expected, "no sequence is given out twice");
    let dropped = records[5].dropped.unwrap();
    assert_eq!((dropped.reason(), dropped.records, records[5].first_sequence), (Reason::Damaged, 5, 6));
}

/// The engine says what it thinks of damage by panicking, which is caught; it need not be printed.
fn silence_engine() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !panic.location().is_some_and(|at| at.file().contains("redb")) {
                usual(panic);
            }
        }));
    });
}
