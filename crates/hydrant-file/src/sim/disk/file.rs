//! The system calls of an open file.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use fastrand::Rng;

use super::SimDisk;
use crate::disk::{DiskFile, Stat};
use crate::sim::inode::Inode;
use crate::sim::world::{Step, World};

/// A handle of a file. Its calls fail once its process is killed.
pub(super) struct SimFile {
    pub(super) disk: SimDisk,
    pub(super) inode: u64,
    pub(super) path: PathBuf,
    /// The lock that ends with this handle.
    pub(super) _lock: Option<Arc<()>>,
}

impl SimFile {
    fn inode<'w>(&self, world: &'w mut World) -> &'w mut Inode {
        world.files.get_mut(&self.inode).expect("files are kept as long as their disk")
    }
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).expect("a simulated file fits into memory")
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let world = self.disk.look("read", &self.path)?;
        let rest = world.files[&self.inode].cache.get(at(offset)..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut world = self.disk.step();
        let what = format!("write {} of {} bytes at {offset}", self.path.display(), bytes.len());
        let step = world.step(&self.disk.process, what)?;
        let len = self.inode(&mut world).cache.len();
        let grows = (at(offset) + bytes.len()).saturating_sub(len);
        let fits = bytes.len() - (grows - world.space_for(grows));
        let file = self.inode(&mut world);
        match step {
            Step::Half => file.write(&bytes[..bytes.len() / 2], at(offset)),
            _ => file.write(&bytes[..fits], at(offset)),
        }
        match step {
            Step::Whole if fits == bytes.len() => Ok(()),
            Step::LastGasp => Err(io::Error::other("the process ended")),
            _ => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut world = self.disk.step();
        let step = world.step(&self.disk.process, format!("sync {}", self.path.display()));
        let is_gone = world.is_off || self.disk.process.is_killed();
        let mut random = Rng::with_seed(world.steps.len() as u64);
        let file = self.inode(&mut world);
        match step {
            Ok(Step::Whole) => {
                file.sync();
                Ok(())
            }
            Ok(Step::LastGasp) => Err(io::Error::other("the process ended")),
            Ok(Step::Half) => {
                file.survive(&mut random);
                Err(io::Error::other("planned"))
            }
            Err(cause) => {
                if !is_gone {
                    file.survive(&mut random);
                }
                Err(cause)
            }
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        let mut world = self.disk.step();
        let step = world.step(&self.disk.process, format!("truncate {} to {len}", self.path.display()))?;
        if !matches!(step, Step::Half) {
            self.inode(&mut world).truncate(at(len));
        }
        match step {
            Step::Whole => Ok(()),
            Step::LastGasp => Err(io::Error::other("the process ended")),
            Step::Half => Err(io::Error::other("planned")),
        }
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(self.disk.look("fstat", &self.path)?.stat(self.inode))
    }
}
