//! Published versions in a directory: `{root}/v/{track}/{version}/{name}`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::Result;
use crate::base::error::Context as _;
use crate::base::id::{TrackId, VersionId};

/// A directory of published versions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LocalStore {
    root: Arc<Path>,
}

impl LocalStore {
    /// Uses the directory `root`, which must exist.
    pub fn open(root: &Path) -> Result<LocalStore> {
        fs::metadata(root).context(|| format!("cannot open the store {}", root.display()))?;
        Ok(LocalStore { root: root.into() })
    }

    /// The bytes of a version's index document. Blocks.
    pub fn read_version(&self, track: TrackId, version: VersionId) -> Result<Vec<u8>> {
        fs::read(self.path(track, version, "version.json"))
            .context(|| format!("cannot read the index of {track} {version}"))
    }

    /// Opens an object of a version, read-only. Blocks.
    pub fn open_object(&self, track: TrackId, version: VersionId, name: &str) -> Result<File> {
        File::open(self.path(track, version, name)).context(|| format!("cannot open {name} of {track} {version}"))
    }

    fn path(&self, track: TrackId, version: VersionId, name: &str) -> PathBuf {
        self.root.join("v").join(track.as_str()).join(version.to_string()).join(name)
    }
}
