//! A short track, made once by the command, and copies of it under other names.

use std::fs;
use std::path::{Path, PathBuf};

use segue::base::id::{TrackId, VersionId};
use segue::hls::version::VersionIndex;
use segue::store::Store;
use segue::tracks::{self, Track};

use crate::support::{said, segue};

pub(super) struct Made {
    /// The objects of the version.
    pub(super) dir: PathBuf,
    pub(super) index: VersionIndex,
    pub(super) version: VersionId,
    record: Track,
    _data: tempfile::TempDir,
}

impl Made {
    /// Five seconds of a tone: AAC and FLAC.
    pub(super) fn short() -> Made {
        let data = tempfile::tempdir().unwrap();
        let wav = data.path().join("Ça & là.wav");
        super::origin::write_wav(&wav, 5);
        let done = segue().args(["publish", "--json", "--data"]).arg(data.path()).arg(&wav).output().unwrap();
        assert!(done.status.success(), "{}", said(&done));
        let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        let (track, version) = (report["track_id"].as_str().unwrap(), report["version"].as_str().unwrap());
        let dir = data.path().join("store/v").join(track).join(version);
        let record = fs::read(data.path().join(format!("store/tracks/{track}.json"))).unwrap();
        let index = VersionIndex::decode(&fs::read(dir.join("version.json")).unwrap()).unwrap();
        Made {
            dir,
            index,
            version: version.parse().unwrap(),
            record: serde_json::from_slice(&record).unwrap(),
            _data: data,
        }
    }

    /// Publishes it into a store under a name.
    pub(super) fn publish(&self, store: &Store, track: &str) -> TrackId {
        let track: TrackId = track.parse().unwrap();
        let staging = store.stage().unwrap();
        for object in self.index.objects() {
            fs::copy(self.dir.join(&object.name), staging.dir().join(&object.name)).unwrap();
        }
        store.publish(staging, track, &self.index).unwrap();
        tracks::write(store, &Track { id: track, ..self.record.clone() }).unwrap();
        track
    }

    /// An object as it was made.
    pub(super) fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.dir.join(name)).unwrap()
    }

    /// Whether a directory has all of it.
    pub(super) fn is_in(&self, dir: &Path) -> bool {
        self.index
            .objects()
            .all(|object| fs::read(dir.join(&object.name)).is_ok_and(|is| is == self.bytes(&object.name)))
    }
}
