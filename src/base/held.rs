//! Temporary names that show whether their maker lives. In: a path. Out: a lock (flock(2)) that ends with
//! the process that holds it, however that ends; what nobody holds is left over and may be removed.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Makes a file or directory by `make` and holds it until the answer is dropped. Blocks while a sweeper
/// looks at it. On a file system without locks it is held by nobody, and `take_left_over` finds nothing.
///
/// # Errors
/// What `make` says, or why the thing cannot be opened again.
pub fn hold(path: &Path, make: impl Fn(&Path) -> io::Result<()>) -> io::Result<File> {
    loop {
        make(path)?;
        let held = match File::open(path) {
            Err(cause) if cause.kind() == ErrorKind::NotFound => continue,
            opened => opened?,
        };
        let locked = held.lock().is_ok();
        // A sweeper may have come between the calls above and removed what we made.
        if !locked || same_file(&held, path) {
            return Ok(held);
        }
    }
}

/// Holds a file or directory of this user that nobody holds; `None` when somebody does, or nobody can tell.
/// Symbolic links are not followed.
pub fn take_left_over(path: &Path) -> Option<File> {
    let about = std::fs::symlink_metadata(path).ok()?;
    let ours = about.uid() == rustix::process::geteuid().as_raw();
    if !ours || !(about.is_file() || about.is_dir()) {
        return None;
    }
    let found = File::open(path).ok()?;
    (found.try_lock().is_ok() && same_file(&found, path)).then_some(found)
}

/// Whether `path` still names the open file.
pub fn same_file(open: &File, path: &Path) -> bool {
    match (open.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_not_left_over_until_its_holder_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("dir"), dir.path().join("file"));
        let make_file = |path: &Path| File::create_new(path).map(drop);
        let held = (hold(&a, |path| std::fs::create_dir(path)).unwrap(), hold(&b, make_file).unwrap());
        assert!(take_left_over(&a).is_none() && take_left_over(&b).is_none());
        drop(held);
        assert!(take_left_over(&a).is_some() && take_left_over(&b).is_some());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&b, &link).unwrap();
        assert!(take_left_over(&link).is_none(), "another name of somebody's file");
        assert!(take_left_over(&dir.path().join("nothing")).is_none());
    }
}
