//! A disk in memory for tests and simulations: it forgets and tears what was not synced when the power is cut, runs
//! full, fails on demand, and has its bytes flipped. Everything random comes from the seed of the cut.

use super::medium::{Blocks, Medium};
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SECTOR: usize = 512;
const PAGE: u64 = 4096;

/// See the module; clones are the same disk, in the same life of the machine: after a power cut only a
/// [`Disk::reboot`] can use it.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    inner: Arc<Mutex<Inner>>,
    power: u64,
}

#[derive(Debug)]
struct Inner {
    files: BTreeMap<String, Image>,
    capacity: u64,
    failing: bool,
    /// Counts power cuts: handles from before one are dead.
    power: u64,
    writes: u64,
    /// A cut to come: after this many more writes and syncs, with this seed.
    cut_after: Option<(u64, u64)>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            files: BTreeMap::new(),
            capacity: u64::MAX,
            failing: false,
            power: 0,
            writes: 0,
            cut_after: None,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Image {
    /// As a power cut would leave it, were nothing else written.
    synced: Vec<u8>,
    /// As it reads now.
    current: Vec<u8>,
    unsynced: Vec<Change>,
    pages: HashSet<u64>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Disk {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same disk for the machine as it comes up again.
    pub fn reboot(&self) -> Self {
        Self { inner: self.inner.clone(), power: self.inner().power }
    }

    fn powered(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let inner = self.inner();
        if inner.power == self.power { Ok(inner) } else { Err(io::Error::other("the power was cut")) }
    }

    /// How many bytes fit, all files together.
    pub fn set_capacity(&self, bytes: u64) {
        self.inner().capacity = bytes;
    }

    /// Whether every write and sync fails.
    pub fn set_failing(&self, failing: bool) {
        self.inner().failing = failing;
    }

    /// Writes so far.
    pub fn writes(&self) -> u64 {
        self.inner().writes
    }

    /// Power cuts so far.
    pub fn power_cuts(&self) -> u64 {
        self.inner().power
    }

    /// Cuts the power. Of what was not synced each change survives or not, writes also in part, by sectors.
    pub fn cut(&self, seed: u64) {
        self.inner().cut(seed);
    }

    /// Cuts the power after that many more writes and syncs.
    pub fn cut_after(&self, writes: u64, seed: u64) {
        self.inner().cut_after = Some((writes, seed));
    }

    /// The bytes of the file, as they read now.
    pub fn image(&self) -> Vec<u8> {
        self.inner().files.get(NAME).map(|image| image.current.clone()).unwrap_or_default()
    }

    /// A disk with this file and nothing else.
    pub fn with_image(bytes: &[u8]) -> Self {
        let disk = Self::default();
        let image = Image {
            synced: bytes.to_vec(),
            current: bytes.to_vec(),
            unsynced: Vec::new(),
            pages: (0..(bytes.len() as u64).div_ceil(PAGE)).collect(),
        };
        disk.inner().files.insert(NAME.into(), image);
        disk
    }

    /// Puts other bytes in the file's place behind the spool's back.
    pub fn restore(&self, bytes: &[u8]) {
        if let Some(image) = self.inner().files.get_mut(NAME) {
            image.unsynced.clear();
            image.current = bytes.to_vec();
            image.synced = bytes.to_vec();
        }
    }

    /// Changes a byte behind the spool's back.
    pub fn flip(&self, offset: usize, mask: u8) {
        if let Some(image) = self.inner().files.get_mut(NAME) {
            for bytes in [&mut image.current, &mut image.synced] {
                if let Some(byte) = bytes.get_mut(offset) {
                    *byte ^= mask;
                }
            }
        }
    }

    /// Names of the files that were set aside.
    pub fn aside(&self) -> Vec<String> {
        self.inner().files.keys().filter(|name| name.starts_with("damaged")).cloned().collect()
    }
}

const NAME: &str = "spool";
const UNFINISHED: &str = "new";

impl Medium for Disk {
    fn open(&self) -> io::Result<Option<Box<dyn Blocks>>> {
        let there = self.powered()?.files.contains_key(NAME);
        Ok(there.then(|| Box::new(Named(self.clone(), NAME)) as Box<dyn Blocks>))
    }

    fn create(&self) -> io::Result<Box<dyn Blocks>> {
        let mut inner = self.powered()?;
        inner.check()?;
        inner.files.insert(UNFINISHED.into(), Image::default());
        Ok(Box::new(Named(self.clone(), UNFINISHED)))
    }

    fn install(&self) -> io::Result<()> {
        self.powered()?.rename(UNFINISHED, NAME)
    }

    fn set_aside(&self, unix_seconds: i64) -> io::Result<String> {
        let name = format!("damaged-{unix_seconds}");
        self.powered()?.rename(NAME, &name)?;
        Ok(name)
    }

    fn bytes(&self) -> u64 {
        self.inner().files.get(NAME).map_or(0, |image| image.pages.len() as u64 * PAGE)
    }

    fn free(&self) -> Option<u64> {
        let inner = self.inner();
        (inner.capacity < u64::MAX).then(|| inner.capacity.saturating_sub(inner.used()))
    }
}

impl Inner {
    fn cut(&mut self, seed: u64) {
        let mut random = Random(seed);
        self.power += 1;
        self.cut_after = None;
        for image in self.files.values_mut() {
            let mut left = std::mem::take(&mut image.synced);
            for change in image.unsynced.drain(..) {
                match change {
                    Change::Write(offset, data) => {
                        let whole = random.next().is_multiple_of(2);
                        for (n, sector) in data.chunks(SECTOR).enumerate() {
                            if whole || random.next().is_multiple_of(2) {
                                put(&mut left, offset + n * SECTOR, sector);
                            }
                        }
                    }
                    Change::Length(length) if random.next().is_multiple_of(2) => left.resize(length, 0),
                    Change::Length(_) => {}
                }
            }
            image.synced = left.clone();
            image.current = left;
            image.pages = (0..(image.current.len() as u64).div_ceil(PAGE)).collect();
        }
    }

    /// Whether the power goes now.
    fn is_due(&mut self) -> bool {
        if let Some((writes, seed)) = &mut self.cut_after {
            if *writes == 0 {
                let seed = *seed;
                self.cut(seed);
                return true;
            }
            *writes -= 1;
        }
        false
    }

    fn used(&self) -> u64 {
        self.files.values().map(|image| image.pages.len() as u64 * PAGE).sum()
    }

    fn check(&self) -> io::Result<()> {
        if self.failing { Err(io::Error::other("the disk fails on purpose")) } else { Ok(()) }
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.check()?;
        let image = self.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.files.insert(to.to_owned(), image);
        Ok(())
    }
}

#[derive(Debug)]
struct Named(Disk, &'static str);

impl Named {
    fn with<R>(
        &self,
        changes: bool,
        act: impl FnOnce(&mut Inner, &mut Image) -> io::Result<R>,
    ) -> io::Result<R> {
        let mut inner = self.0.inner();
        if (changes && inner.is_due()) || inner.power != self.0.power {
            return Err(io::Error::other("the power was cut"));
        }
        // A renamed file is still the same; only one of the two names is there at a time.
        let name = if inner.files.contains_key(self.1) { self.1 } else { NAME };
        let mut image = inner.files.remove(name).ok_or(io::ErrorKind::NotFound)?;
        let result = act(&mut inner, &mut image);
        inner.files.insert(name.to_owned(), image);
        result
    }
}

impl Blocks for Named {
    fn len(&self) -> io::Result<u64> {
        self.with(false, |_, image| Ok(image.current.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(false, |_, image| {
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            let found = image.current.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            out.copy_from_slice(found);
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(true, |inner, image| {
            inner.check()?;
            inner.writes += 1;
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            let others = inner.used();
            let mut fits = 0;
            for chunk in data.chunks(SECTOR) {
                let page = (offset + fits as u64) / PAGE;
                let used = others + image.pages.len() as u64 * PAGE;
                if !image.pages.contains(&page) && used + PAGE > inner.capacity {
                    break;
                }
                image.pages.insert(page);
                fits += chunk.len();
            }
            put(&mut image.current, start, &data[..fits]);
            image.unsynced.push(Change::Write(start, data[..fits].to_vec()));
            if fits < data.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(true, |inner, image| {
            inner.check()?;
            let length = usize::try_from(len).map_err(io::Error::other)?;
            image.current.resize(length, 0);
            image.pages.retain(|page| page * PAGE < len);
            image.unsynced.push(Change::Length(length));
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(true, |inner, image| {
            inner.check()?;
            let Image { synced, unsynced, .. } = image;
            for change in unsynced.drain(..) {
                match change {
                    Change::Write(offset, data) => put(synced, offset, &data),
                    Change::Length(length) => synced.resize(length, 0),
                }
            }
            Ok(())
        })
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if bytes.len() < offset + data.len() {
        bytes.resize(offset + data.len(), 0);
    }
    bytes[offset..offset + data.len()].copy_from_slice(data);
}

/// splitmix64: enough to choose what a power cut leaves, and the same for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_and_the_rest_may_not() {
        let mut survived = 0;
        for seed in 0..50 {
            let disk = Disk::default();
            let blocks = disk.create().unwrap();
            blocks.write(0, &[1; 1024]).unwrap();
            blocks.sync().unwrap();
            disk.install().unwrap();
            blocks.write(512, &[2; 1024]).unwrap();
            disk.cut(seed);
            assert!(blocks.len().is_err(), "a handle from before the cut");
            let left = disk.image();
            assert_eq!(&left[..512], [1; 512]);
            assert!(left[512..1024] == [1; 512] || left[512..1024] == [2; 512]);
            survived += usize::from(left[512] == 2);
        }
        assert!((5..45).contains(&survived), "{survived}");
    }

    #[test]
    fn it_runs_full_and_fails() {
        let disk = Disk::default();
        disk.set_capacity(8192);
        let blocks = disk.create().unwrap();
        let error = blocks.write(0, &[1; 10_000]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        blocks.write(0, &[2; 8192]).unwrap();
        assert_eq!(disk.free(), Some(0));
        disk.set_failing(true);
        assert!(blocks.write(0, &[3]).is_err() && blocks.sync().is_err());
    }
}
