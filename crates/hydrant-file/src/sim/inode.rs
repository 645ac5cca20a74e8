//! A file of a simulated disk: what the cache shows, and what the disk holds.

use std::collections::BTreeMap;

use fastrand::Rng;

const BLOCK: usize = 512;

/// A file.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub(super) cache: Vec<u8>,
    pub(super) durable: Vec<u8>,
    /// Every version of each block since the last sync.
    dirty: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Every length since the last sync.
    lengths: Vec<usize>,
}

impl Inode {
    /// A file with contents that are durable.
    pub(super) fn durable(bytes: &[u8]) -> Self {
        Self { cache: bytes.to_vec(), durable: bytes.to_vec(), ..Self::default() }
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: usize) {
        let end = offset + bytes.len();
        if end > self.cache.len() {
            self.cache.resize(end, 0);
            self.lengths.push(end);
        }
        self.cache[offset..end].copy_from_slice(bytes);
        self.mark(offset, end);
    }

    pub(super) fn truncate(&mut self, len: usize) {
        let before = self.cache.len();
        self.cache.resize(len, 0);
        self.lengths.push(len);
        self.mark(len.min(before), len.max(before));
    }

    fn mark(&mut self, start: usize, end: usize) {
        for block in start / BLOCK..end.div_ceil(BLOCK) {
            let from = (block * BLOCK).min(self.cache.len());
            let to = ((block + 1) * BLOCK).min(self.cache.len());
            let mut version = self.cache[from..to].to_vec();
            version.resize(BLOCK, 0);
            self.dirty.entry(block).or_default().push(version);
        }
    }

    /// Makes one version of each dirty block durable, chosen by index; `0` is the version that is durable now.
    fn settle(&mut self, len: usize, mut choose: impl FnMut(usize) -> usize) {
        self.durable.resize(len, 0);
        for (block, versions) in std::mem::take(&mut self.dirty) {
            let start = block * BLOCK;
            let choice = choose(versions.len());
            if choice == 0 || start >= len {
                continue;
            }
            let end = (start + BLOCK).min(len);
            self.durable[start..end].copy_from_slice(&versions[choice - 1][..end - start]);
        }
        self.lengths.clear();
    }

    pub(super) fn sync(&mut self) {
        self.settle(self.cache.len(), |versions| versions);
    }

    /// Makes durable what survives a power cut or a failed sync.
    pub(super) fn survive(&mut self, random: &mut Rng) {
        let mood = random.u8(..4); // everything, nothing, and twice anything
        let len = match mood {
            0 => self.cache.len(),
            1 => self.durable.len(),
            _ => {
                let known = random.usize(..=self.lengths.len());
                let len = known.checked_sub(1).map_or(self.durable.len(), |at| self.lengths[at]);
                // Files grow on disk by blocks, too.
                let grown = len.saturating_sub(self.durable.len());
                if random.bool() || grown < BLOCK { len } else { len - random.usize(..grown / BLOCK) * BLOCK }
            }
        };
        self.settle(len, |versions| match mood {
            0 => versions,
            1 => 0,
            _ => random.usize(..=versions),
        });
    }
}
