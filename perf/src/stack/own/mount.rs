//! A small file system in memory for PostgreSQL's data, whose size is changed to fill it and to make
//! room again. That takes root and `mount`.

use crate::failure::{Failure, Outcome};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Its size while it has room, in MiB. What is not used takes no memory.
const ROOM_MIB: u64 = 3_072;

/// Data may come while it is looked how many there are.
const FILL_TRIES: usize = 50;

/// PostgreSQL's data, mounted.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Makes it in the folder of a stack that is about to be brought up.
    pub(crate) fn make(dir: &Path) -> Outcome<Self> {
        let path = place(dir);
        std::fs::create_dir_all(&path)
            .map_err(|error| Failure::Refused(format!("{}: {error}", path.display())))?;
        let size = format!("size={ROOM_MIB}m,mode=0700");
        mount(&["-t", "tmpfs", "-o", &size, "tmpfs"], &path)?;
        Ok(Self { path })
    }

    /// That of a stack, if it has one.
    pub(crate) fn of(dir: &Path) -> Option<Self> {
        let path = place(dir);
        is_mounted(&path).then_some(Self { path })
    }

    /// From now on not one page more can be written.
    pub(crate) fn fill(&self) -> Outcome {
        let mut outcome = Ok(());
        for _ in 0..FILL_TRIES {
            // Refused if more is used by now.
            outcome = self.resize(&self.used_bytes()?.to_string());
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    pub(crate) fn make_room(&self) -> Outcome {
        self.resize(&format!("{ROOM_MIB}m"))
    }

    fn resize(&self, size: &str) -> Outcome {
        mount(&["-o", &format!("remount,size={size}")], &self.path)
    }

    fn used_bytes(&self) -> Outcome<u64> {
        let output = Command::new("df").args(["--output=used", "-B1"]).arg(&self.path).output();
        let text = output.map(|it| String::from_utf8_lossy(&it.stdout).into_owned());
        let used = text.ok().and_then(|it| it.lines().last()?.trim().parse().ok());
        used.ok_or_else(|| Failure::Refused(format!("df {} says nothing", self.path.display())))
    }
}

/// Lets go what was mounted in a stack's folder; false if that cannot be done.
pub(super) fn release(dir: &Path) -> bool {
    let path = place(dir);
    !is_mounted(&path) || Command::new("umount").arg(&path).status().is_ok_and(|it| it.success())
}

fn place(dir: &Path) -> PathBuf {
    dir.join("postgres")
}

fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1).is_some_and(|it| Path::new(it) == path))
}

fn mount(options: &[&str], path: &Path) -> Outcome {
    let output = Command::new("mount").args(options).arg(path).stdin(Stdio::null()).output();
    let words = match output {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Failure::Refused(format!("mount: {words}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Skipped where nothing can be mounted.
    #[test]
    fn a_full_disk_takes_nothing_until_there_is_room_again() {
        let dir = std::env::temp_dir().join(format!("perf-disk-{}", proto::id::new()));
        let Ok(disk) = SmallDisk::make(&dir) else {
            eprintln!("skipped: nothing can be mounted here");
            fs::remove_dir_all(&dir).unwrap();
            return;
        };
        let write = |name: &str| fs::write(disk.path.join(name), vec![1; 100_000]);
        write("one").unwrap();
        disk.fill().unwrap();
        assert_eq!(write("two").unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        disk.make_room().unwrap();
        write("two").unwrap();
        assert!(SmallDisk::of(&dir).is_some() && release(&dir) && SmallDisk::of(&dir).is_none());
        fs::remove_dir_all(&dir).unwrap();
    }
}
