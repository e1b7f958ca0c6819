//! What runs in a process of its own, so that it can be killed: a writer, and a reader that checks. They speak to the
//! trial that started them by lines on their output.

use crate::record::{Census, group, of_the_mix};
use crate::spool::{Engine, Spool, SpoolError};
use clap::Subcommand;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// One child process.
#[derive(Debug, Subcommand)]
pub enum Child {
    /// Appends groups and trims what is below the window, until it is killed.
    Write {
        /// What to write to.
        engine: Engine,
        /// Where.
        dir: PathBuf,
        /// How many records to keep.
        window: u64,
    },
    /// Opens, reads all, says what is there.
    Read {
        /// What to read.
        engine: Engine,
        /// Where.
        dir: PathBuf,
    },
    /// Appends until an error comes, then does what its input says: `trim`, `trim-few`, `append`,
    /// `reopen`.
    Fill {
        /// What to fill.
        engine: Engine,
        /// Where.
        dir: PathBuf,
    },
    /// Opens, and does what its input says, like `fill`.
    Serve {
        /// What to open.
        engine: Engine,
        /// Where.
        dir: PathBuf,
    },
}

/// A process died with this when the engine refused; 101 is a panic.
pub const REFUSED: i32 = 3;

/// Runs one, and returns its exit code.
pub fn run(child: &Child) -> i32 {
    let ended = match child {
        Child::Write { engine, dir, window } => write(*engine, dir, *window),
        Child::Read { engine, dir } => read(*engine, dir),
        Child::Fill { engine, dir } => serve(*engine, dir, true),
        Child::Serve { engine, dir } => serve(*engine, dir, false),
    };
    match ended {
        Ok(()) => 0,
        Err(error) => {
            say(&format!("error {error}"));
            REFUSED
        }
    }
}

/// One write call a line, so that a kill cannot tear it. When nobody listens any more there is nothing left to do.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    if out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Appends the group that begins after `last`.
fn append(spool: &mut dyn Spool, last: u64, window: u64) -> Result<u64, SpoolError> {
    let end = last + group(last + 1);
    let records: Vec<_> = (last + 1..=end).map(of_the_mix).collect();
    spool.commit(&records, (end + 1).saturating_sub(window))?;
    Ok(end)
}

fn census(spool: &dyn Spool) -> Result<Census, SpoolError> {
    let mut census = Census::default();
    spool.read(&mut |sequence, bytes| census.add(sequence, bytes))?;
    Ok(census)
}

fn write(engine: Engine, dir: &Path, window: u64) -> Result<(), SpoolError> {
    let mut spool = engine.open(dir)?;
    let mut last = census(spool.as_ref())?.last;
    say("open");
    loop {
        last = append(spool.as_mut(), last, window)?;
        say(&format!("ack {last}"));
    }
}

fn read(engine: Engine, dir: &Path) -> Result<(), SpoolError> {
    let start = Instant::now();
    let spool = engine.open(dir)?;
    let micros = start.elapsed().as_micros();
    say(&format!("opened {micros} {}", u8::from(spool.was_rescued())));
    let found = census(spool.as_ref())?;
    let Census { first, last, wrong, bytes, .. } = found;
    say(&format!("found {first} {last} {wrong} {} {bytes}", found.missing()));
    Ok(())
}

fn serve(engine: Engine, dir: &Path, fill_first: bool) -> Result<(), SpoolError> {
    let mut spool = Some(engine.open(dir)?);
    let Census { first, last, .. } = match &spool {
        Some(open) => census(open.as_ref())?,
        None => Census::default(),
    };
    let mut held = Held { first: first.max(1), last };
    say("serving");
    if fill_first && let Some(open) = spool.as_deref_mut() {
        held.fill(open);
    }
    let mut orders = io::stdin().lock().lines();
    while let Some(Ok(order)) = orders.next() {
        if order == "reopen" {
            // The old handle must be gone first: engines lock their files.
            drop(spool.take());
            match engine.open(dir) {
                Ok(open) => {
                    spool = Some(open);
                    say("done");
                }
                Err(error) => say(&format!("refused {error}")),
            }
            continue;
        }
        match spool.as_deref_mut().map(|open| held.obey(&order, open)) {
            Some(Ok(line)) => say(&line),
            Some(Err(error)) => say(&format!("refused {error}")),
            None => say("refused the spool is not open"),
        }
    }
    Ok(())
}

/// What a server of orders believes its spool to hold.
struct Held {
    first: u64,
    last: u64,
}

impl Held {
    fn fill(&mut self, spool: &mut dyn Spool) {
        loop {
            match append(spool, self.last, u64::MAX) {
                Ok(end) => self.last = end,
                Err(error) => return say(&format!("full {error}")),
            }
            say(&format!("ack {}", self.last));
        }
    }

    fn obey(&mut self, order: &str, spool: &mut dyn Spool) -> Result<String, SpoolError> {
        let keep_from = match order {
            "trim" => self.first + (self.last - self.first) / 2,
            "trim-few" => self.last.min(self.first + 8),
            _ => {
                self.last = append(spool, self.last, u64::MAX)?;
                return Ok(format!("ack {}", self.last));
            }
        };
        spool.commit(&[], keep_from)?;
        self.first = keep_from;
        Ok(format!("first {keep_from}"))
    }
}
