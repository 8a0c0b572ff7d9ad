//! The wish to transcode: from a source to a published version of a track.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Cost, NewJob};
use crate::base::id::TrackId;
use crate::base::{Error, Result, hex};
use crate::hls::ladder::Ladder;
use crate::hls::ladder::video::{Choice, VideoLadder};
use crate::hls::version::Family;

/// What stands before the id of an upload in `Wish::source`.
pub const UPLOAD: &str = "upload:";

/// `job.kind` of these jobs.
pub const KIND: &str = "transcode";

/// What to transcode, into what. Written once when the job is enqueued; everything a worker needs is here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// The source: an absolute path on the worker, a URL, or `upload:` and the id of an upload.
    pub source: String,
    /// The track to publish a version of.
    pub track: TrackId,
    /// What people call it.
    pub title: String,
    /// The encoding plan, whole: a file may be edited or missing when the job's turn comes.
    pub ladder: Ladder,
    /// The plan of the picture, if one may be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<VideoWish>,
    /// Where the preview begins, in milliseconds; at the loudest when nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview_start_ms: Option<u64>,
    /// Who wants to hear of it: a URL for signed callbacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<String>,
}

/// The picture of a wish.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoWish {
    /// The encoding plan.
    pub ladder: VideoLadder,
    /// Whether a source without a picture is refused.
    pub required: bool,
}

/// Names of files that are films more often than not; a guess, good enough for what a job will occupy.
const FILMS: [&str; 5] = [".mp4", ".mov", ".m4v", ".mkv", ".webm"];

impl Wish {
    /// What `choice` says, as a wish keeps it.
    pub fn plans(choice: Choice) -> (Ladder, Option<VideoWish>) {
        match choice {
            Choice::Audio(ladder) => (ladder, None),
            Choice::Video(ladder) => (ladder.audio.clone(), Some(VideoWish { ladder, required: true })),
            Choice::ByContent(ladder, video) => (ladder, Some(VideoWish { ladder: video, required: false })),
        }
    }

    /// What the source becomes.
    pub fn choice(&self) -> Choice {
        match self.video.clone() {
            None => Choice::Audio(self.ladder.clone()),
            Some(VideoWish { ladder, required: true }) => Choice::Video(ladder),
            Some(VideoWish { ladder, required: false }) => Choice::ByContent(self.ladder.clone(), ladder),
        }
    }

    /// Reads the input of a job.
    ///
    /// # Errors
    /// `Invalid` when it was written by something else.
    pub fn decode(input: &str) -> Result<Wish> {
        serde_json::from_str(input)
            .map_err(|cause| Error::invalid("the job's input is not a wish to transcode").because(cause))
    }

    /// The input of a job.
    pub fn encode(&self) -> String {
        serde_json::to_string(self).expect("plain data always serialises")
    }

    /// Id of the upload that is its source, if it is one.
    pub fn upload(&self) -> Option<&str> {
        self.source.strip_prefix(UPLOAD)
    }

    /// What it occupies while it runs. Measured on the default ladder: 1.9 cores while there are two, 120 MiB
    /// for the child at any duration.
    pub fn cost(&self) -> Cost {
        let path = self.source.split(['?', '#']).next().unwrap_or_default().to_ascii_lowercase();
        let film = |video: &VideoWish| video.required || FILMS.iter().any(|ending| path.ends_with(ending));
        if self.video.as_ref().is_some_and(film) {
            // A thread for each size and one for the decoder; a full ladder of a 1080p source held 0.4 GiB.
            return Cost { cpu_milli: 4000, memory_bytes: 1280 << 20 };
        }
        let rung_milli = |family| match family {
            Family::Aac | Family::Video => 400,
            Family::Flac => 300,
        };
        let rungs_milli: u32 = self.ladder.rungs.iter().map(|rung| rung_milli(rung.family)).sum();
        Cost { cpu_milli: rungs_milli.max(500), memory_bytes: 160 << 20 }
    }

    /// The ladder with only these rungs; `None`: the whole one.
    ///
    /// # Errors
    /// `Usage` naming the rung that it does not have.
    pub fn ladder_of(&self, rungs: Option<&[String]>) -> Result<Ladder> {
        let mut ladder = self.ladder.clone();
        if let Some(wanted) = rungs {
            let have: Vec<String> = ladder.rungs.iter().map(path_of).collect();
            if let Some(unknown) = wanted.iter().find(|rung| !have.contains(rung)) {
                return Err(Error::usage(format!("there is no rung {unknown}; choose from {}", have.join(", "))));
            }
            ladder.rungs.retain(|rung| wanted.contains(&path_of(rung)));
        }
        Ok(ladder)
    }

    /// The job that does it.
    pub fn job(&self, client: &str, priority: u8, idempotency_key: Option<String>, failures_max: u32) -> NewJob {
        NewJob {
            kind: KIND,
            priority,
            input: self.encode(),
            client: client.to_owned(),
            idempotency_key,
            cost: self.cost(),
            failures_max,
        }
    }
}

/// The track of a wish that names none but has an idempotency key: the same for the same key, because the
/// track is part of what must not change.
pub fn track_for(client: &str, key: &str) -> TrackId {
    let digest = Sha256::digest(format!("{client}\n{key}").as_bytes());
    TrackId::decode(&format!("trk_{}", &hex::encode(&digest)[..26])).expect("30 characters of the alphabet")
}

/// Directory of a rung below its version: `aac/96`, `flac`.
fn path_of(rung: &crate::hls::ladder::Rung) -> String {
    match rung.name.as_str() {
        "" => rung.family.as_str().to_owned(),
        name => format!("{}/{name}", rung.family.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish() -> Wish {
        Wish {
            source: "/srv/masters/song.flac".into(),
            track: TrackId::decode("trk_1").unwrap(),
            title: "Song".into(),
            ladder: Ladder::default_audio(),
            video: None,
            preview_start_ms: None,
            callback: None,
        }
    }

    #[test]
    fn a_wish_comes_back_as_it_was_written() {
        assert_eq!(Wish::decode(&wish().encode()).unwrap(), wish());
        assert!(Wish::decode("{}").is_err());
        assert!(Wish::decode(&wish().encode().replace("\"title\"", "\"titel\"")).is_err());
    }

    #[test]
    fn a_film_costs_more_than_a_song_and_keeps_its_plan() {
        let (ladder, video) = Wish::plans(Choice::built_in());
        let either = Wish { ladder, video, ..wish() };
        assert_eq!(either.choice(), Choice::built_in());
        assert_eq!(Wish::decode(&either.encode()).unwrap(), either);
        assert_eq!(either.cost(), wish().cost(), "a FLAC file");
        let film = Wish { source: "https://example.com/Clip.MP4?signature=x".into(), ..either };
        assert!(film.cost().memory_bytes > wish().cost().memory_bytes);
        let (ladder, video) = Wish::plans(Choice::Video(VideoLadder::default_video()));
        assert!(Wish { ladder, video, ..wish() }.cost().cpu_milli > wish().cost().cpu_milli);
    }

    #[test]
    fn one_rung_can_be_asked_for_by_its_path() {
        let one = wish().ladder_of(Some(&["aac/96".into()])).unwrap();
        assert_eq!(one.rungs.iter().map(path_of).collect::<Vec<_>>(), ["aac/96"]);
        assert_eq!(wish().ladder_of(None).unwrap(), wish().ladder);
        let error = wish().ladder_of(Some(&["aac/97".into()])).unwrap_err();
        assert!(error.chain().contains("aac/97") && error.chain().contains("flac"), "{error:?}");
    }
}
