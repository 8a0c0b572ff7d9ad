//! Renders the playlists of a version. In: its index. Out: bytes, written by m3u8-rs.
//!
//! Only relative URIs, so that a token in the path reaches every child request (`product.md` O5), and
//! nothing that depends on the listener, so that one cached copy serves everyone. Where tokens stand in the
//! query, a playlist names the parameters and its URIs refer to them: `00000.mp4?token={$token}` after
//! `EXT-X-DEFINE:QUERYPARAM="token"` (RFC 8216bis §4.4.2.3). The player puts its own values in.

use m3u8_rs::{
    AlternativeMedia, AlternativeMediaType, ByteRange, Map, MasterPlaylist, MediaPlaylist, MediaPlaylistType,
    MediaSegment, Resolution, SessionData, SessionDataField, VariantStream,
};

use super::version::{Family, IFRAMES, Loudness, Rung, Segment, VersionIndex, Video, VideoRung};

/// `EXT-X-MAP` in a playlist that is not I-frames-only needs 6; 7 is what fMP4 clients expect (RFC 8216 §7).
const PROTOCOL_VERSION: usize = 7;
/// `EXT-X-DEFINE` with `QUERYPARAM` needs 11 (RFC 8216bis §8).
const QUERYPARAM_VERSION: usize = 11;

/// Names of the query parameters that a playlist hands on to its children; none when tokens are in the path.
/// Letters, digits, `-` and `_` only, as a variable's name (RFC 8216bis §4.2).
pub type HandedOn = &'static [&'static str];

/// The least EXTINF, in microseconds.
const DURATION_US_MIN: u128 = 1_000;

/// Which rungs a multivariant playlist lists: one per entitlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `aac/master.m3u8`: everyone's.
    Aac,
    /// `flac/master.m3u8`: FLAC alone, because hls.js and hlsdemux2 stumble over mixed playlists.
    Flac,
    /// `master.m3u8`: AAC and FLAC, for players that switch across codecs (Apple, Shaka); of a film as `Video`.
    All,
    /// `video/master.m3u8`: the picture in every size, with its sound. Needs the whole version, for the sound is in `aac/`.
    Video,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Scope; 4] = [Scope::Aac, Scope::Flac, Scope::All, Scope::Video];

    /// Path of the playlist below the version.
    pub fn path(self) -> &'static str {
        match self {
            Scope::Aac => "aac/master.m3u8",
            Scope::Flac => "flac/master.m3u8",
            Scope::All => "master.m3u8",
            Scope::Video => "video/master.m3u8",
        }
    }

    /// Directory below the version that a token for this scope opens: `aac/`, `flac/` or everything.
    pub fn directory(self) -> &'static str {
        match self {
            Scope::Aac => "aac/",
            Scope::Flac => "flac/",
            Scope::All | Scope::Video => "",
        }
    }

    fn includes(self, family: Family) -> bool {
        match self {
            Scope::Aac => family == Family::Aac,
            Scope::Flac => family == Family::Flac,
            Scope::All => true,
            Scope::Video => false,
        }
    }
}

/// Renders a multivariant playlist; `None` when the version has no rung in `scope`.
pub fn multivariant(index: &VersionIndex, scope: Scope, handed_on: HandedOn) -> Option<Vec<u8>> {
    if let (Some(video), Scope::All | Scope::Video) = (&index.video, scope) {
        return Some(film(index, video, scope, handed_on));
    }
    let query = references(handed_on);
    let variants: Vec<_> = index
        .rungs
        .iter()
        .filter(|rung| scope.includes(rung.family))
        .map(|rung| VariantStream {
            uri: format!("{}/index.m3u8{query}", rung.path()).split_off(scope.directory().len()),
            bandwidth: rung.peak_bps,
            average_bandwidth: Some(rung.average_bps),
            codecs: Some(rung.codecs.clone()),
            ..Default::default()
        })
        .collect();
    if variants.is_empty() {
        return None;
    }
    let playlist = MasterPlaylist {
        version: Some(version(handed_on)),
        independent_segments: true,
        variants,
        session_data: index.loudness.as_ref().map(session_data).unwrap_or_default(),
        ..Default::default()
    };
    let mut bytes = Vec::new();
    playlist.write_to(&mut bytes).expect("a Vec takes every write");
    Some(define(bytes, handed_on))
}

/// The multivariant playlist of a film: sizes by sound, and the I-frames. Every size names one group of sound with one
/// rendition, so that small pictures do not come with large sound (Apple authoring 9.17: variants and groups combined).
fn film(index: &VersionIndex, video: &Video, scope: Scope, handed_on: HandedOn) -> Vec<u8> {
    let query = references(handed_on);
    let up = scope.path().matches('/').count();
    let below = |path: String| match path.strip_prefix("video/") {
        Some(name) if up > 0 => format!("{name}/index.m3u8{query}"),
        _ => format!("{}{path}/index.m3u8{query}", "../".repeat(up)),
    };
    let heard: Vec<&Rung> =
        index.rungs.iter().filter(|rung| video.rungs.iter().any(|r| r.audio.as_ref() == Some(&rung.name))).collect();
    let alternatives = heard.iter().map(|rung| AlternativeMedia {
        media_type: AlternativeMediaType::Audio,
        uri: Some(below(rung.path())),
        group_id: group_of(rung),
        language: None,
        assoc_language: None,
        name: "Sound".into(),
        default: true,
        autoselect: true,
        forced: false,
        instream_id: None,
        characteristics: None,
        channels: Some(rung.channels.to_string()),
        other_attributes: None,
    });
    let rate = |(n, d): (u32, u32)| (f64::from(n) / f64::from(d) * 1000.0).round() / 1000.0;
    let stream = |picture: &VideoRung| {
        let rung = &picture.encoding;
        VariantStream {
            uri: below(rung.path()),
            bandwidth: rung.peak_bps,
            average_bandwidth: Some(rung.average_bps),
            codecs: Some(rung.codecs.clone()),
            resolution: Some(Resolution { width: picture.width.into(), height: picture.height.into() }),
            ..Default::default()
        }
    };
    let sizes = video.rungs.iter().map(|picture| {
        let mut variant = stream(picture);
        variant.frame_rate = Some(rate(video.frame_rate));
        if let Some(sound) = heard.iter().find(|rung| picture.audio.as_ref() == Some(&rung.name)) {
            // The largest sum of what is loaded together (RFC 8216bis §4.4.6.2).
            variant.bandwidth += sound.peak_bps;
            variant.average_bandwidth = variant.average_bandwidth.map(|bps| bps + sound.average_bps);
            variant.codecs = variant.codecs.map(|codecs| format!("{codecs},{}", sound.codecs));
            variant.audio = Some(group_of(sound));
        }
        variant
    });
    let iframes = VariantStream { is_i_frame: true, ..stream(&video.iframes) };
    let playlist = MasterPlaylist {
        version: Some(version(handed_on)),
        independent_segments: true,
        alternatives: alternatives.collect(),
        variants: sizes.chain([iframes]).collect(),
        session_data: index.loudness.as_ref().map(session_data).unwrap_or_default(),
        ..Default::default()
    };
    let mut bytes = Vec::new();
    playlist.write_to(&mut bytes).expect("a Vec takes every write");
    define(bytes, handed_on)
}

fn group_of(rung: &Rung) -> String {
    format!("{}-{}", rung.family.as_str(), rung.name)
}

/// Renders the media playlist of a rung.
pub fn media(rung: &Rung, handed_on: HandedOn) -> Vec<u8> {
    media_below("", rung, handed_on)
}

/// Renders the media playlist of a rung that is read from its whole file at `url`, by ranges (RFC 8216 §4.3.2.2): for
/// one URL that was signed by itself, where a relative one would carry no signature.
pub fn single_file(rung: &Rung, url: &str) -> Vec<u8> {
    let range = |start, bytes| Some(ByteRange { length: bytes, offset: Some(start) });
    let segments = durations_s(rung).zip(&rung.segments).zip(rung.offsets()).enumerate();
    let segments = segments.map(|(number, ((duration_s, segment), start))| MediaSegment {
        uri: url.to_owned(),
        duration: duration_s,
        byte_range: range(start, segment.bytes),
        map: (number == 0).then(|| Map {
            uri: url.to_owned(),
            byte_range: range(0, rung.init.bytes),
            ..Default::default()
        }),
        ..Default::default()
    });
    written(rung, PROTOCOL_VERSION, segments.collect())
}

/// Renders the preview's media playlist, `preview.m3u8`. Its segments are in `PREVIEW_DIRECTORY` beside it. It
/// takes no token, so it hands none on.
pub fn preview(rung: &Rung) -> Vec<u8> {
    media_below(PREVIEW_DIRECTORY, rung, &[])
}

/// The preview's directory, below where its playlist is.
pub const PREVIEW_DIRECTORY: &str = "preview/";

fn media_below(directory: &str, rung: &Rung, handed_on: HandedOn) -> Vec<u8> {
    let query = references(handed_on);
    let durations_s = durations_s(rung);
    let segments = durations_s.enumerate().map(|(number, duration_s)| MediaSegment {
        uri: format!("{directory}{}{query}", segment_name(number)),
        duration: duration_s,
        map: (number == 0).then(|| Map { uri: format!("{directory}init.mp4{query}"), ..Default::default() }),
        ..Default::default()
    });
    define(written(rung, version(handed_on), segments.collect()), handed_on)
}

fn written(rung: &Rung, version: usize, segments: Vec<MediaSegment>) -> Vec<u8> {
    let playlist = MediaPlaylist {
        version: Some(version),
        target_duration: target_duration_s(&rung.segments, rung.rate),
        playlist_type: Some(MediaPlaylistType::Vod),
        independent_segments: true,
        // Each segment is one picture, which is shown until the next (RFC 8216 §4.3.3.6).
        i_frames_only: rung.family == Family::Video && rung.name == IFRAMES,
        end_list: true,
        segments,
        ..Default::default()
    };
    let mut bytes = Vec::new();
    playlist.write_to(&mut bytes).expect("a Vec takes every write");
    bytes
}

fn version(handed_on: HandedOn) -> usize {
    if handed_on.is_empty() { PROTOCOL_VERSION } else { QUERYPARAM_VERSION }
}

/// `?token={$token}&expires={$expires}`; nothing when nothing is handed on.
fn references(handed_on: HandedOn) -> String {
    let pairs: Vec<String> = handed_on.iter().map(|name| format!("{name}={{${name}}}")).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

/// Puts the definitions before the first line that refers to them; m3u8-rs has no place for them.
fn define(playlist: Vec<u8>, handed_on: HandedOn) -> Vec<u8> {
    if handed_on.is_empty() {
        return playlist;
    }
    let mut ends = playlist.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let at = ends.nth(1).expect("EXTM3U and EXT-X-VERSION are the first two lines");
    let tags: String = handed_on.iter().map(|name| format!("#EXT-X-DEFINE:QUERYPARAM=\"{name}\"\n")).collect();
    [&playlist[..at], tags.as_bytes(), &playlist[at..]].concat()
}

/// EXTINF of each segment: the difference of its boundaries, each rounded to whole microseconds, so that
/// the sum over any run of segments is within 1 µs of the media, however long the track is. A track of less
/// than a millisecond says a millisecond, the least that ffmpeg takes for a duration.
/// m3u8-rs holds an f32, which keeps six decimals below 8 s.
fn durations_s(rung: &Rung) -> impl Iterator<Item = f32> {
    let rate = u128::from(rung.rate);
    let mut ticks = 0u128;
    let mut start_us = 0u128;
    rung.segments.iter().map(move |segment| {
        ticks += u128::from(segment.ticks);
        let end_us = (ticks * 1_000_000 + rate / 2) / rate;
        let duration_us = end_us - start_us;
        start_us = end_us;
        (duration_us.max(DURATION_US_MIN) as f64 / 1e6) as f32
    })
}

/// File name of media segment `number`: at least five digits, one spelling per number.
pub fn segment_name(number: usize) -> String {
    format!("{number:05}.mp4")
}

/// The longest segment, rounded to whole seconds, at least 1 (RFC 8216bis §4.4.3.1, version ≥ 6).
/// `rate` is the segments' ticks per second.
pub fn target_duration_s(segments: &[Segment], rate: u32) -> u64 {
    let longest = segments.iter().map(|segment| segment.ticks).max().unwrap_or(0);
    let rate = u128::from(rate);
    let rounded_s = (u128::from(longest) + rate / 2) / rate;
    u64::try_from(rounded_s).unwrap_or(u64::MAX).max(1)
}

fn session_data(loudness: &Loudness) -> Vec<SessionData> {
    let entry = |name: &str, value: Option<String>| {
        value.map(|value| SessionData {
            data_id: format!("segue.{name}"),
            field: SessionDataField::Value(value),
            language: None,
            other_attributes: None,
        })
    };
    let decimals = |value: f64| format!("{value:.2}");
    let replay_gain = loudness.replay_gain.as_ref();
    [
        entry("loudness.integrated-lufs", loudness.integrated_lufs.map(decimals)),
        entry("loudness.range-lu", Some(decimals(loudness.range_lu))),
        entry("loudness.true-peak-dbtp", loudness.true_peak_dbtp.map(decimals)),
        entry("replaygain.track-gain-db", replay_gain.map(|gain| decimals(gain.track_gain_db))),
        entry("replaygain.track-peak", replay_gain.map(|gain| format!("{:.6}", gain.track_peak))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hls::version::ReplayGain;
    use crate::hls::version::tests::{film, sample};

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn each_scope_lists_its_rungs_with_relative_uris() {
        let index = sample();
        let check = |scope, uris: &[&str]| {
            let playlist = text(multivariant(&index, scope, &[]).unwrap());
            let found: Vec<_> = playlist.lines().filter(|line| !line.starts_with('#')).collect();
            assert_eq!(found, uris);
        };
        check(Scope::Aac, &["64/index.m3u8", "96/index.m3u8"]);
        check(Scope::Flac, &["index.m3u8"]);
        check(Scope::All, &["aac/64/index.m3u8", "aac/96/index.m3u8", "flac/index.m3u8"]);
        let mut without = index.clone();
        without.rungs.retain(|rung| rung.family == Family::Aac);
        assert_eq!(multivariant(&without, Scope::Flac, &[]), None);
    }

    #[test]
    fn a_variant_carries_measured_bandwidths_and_its_exact_codec() {
        let playlist = text(multivariant(&sample(), Scope::Flac, &[]).unwrap());
        assert_eq!(
            playlist,
            "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n\
             #EXT-X-STREAM-INF:BANDWIDTH=900000,AVERAGE-BANDWIDTH=873000,CODECS=\"fLaC\"\nindex.m3u8\n"
        );
    }

    #[test]
    fn loudness_travels_as_session_data() {
        let mut index = sample();
        let replay_gain = Some(ReplayGain { track_gain_db: -3.8, track_peak: 0.9875 });
        let loudness = Loudness { integrated_lufs: Some(-14.2), range_lu: 3.0, true_peak_dbtp: None, replay_gain };
        index.loudness = Some(loudness);
        let playlist = text(multivariant(&index, Scope::Aac, &[]).unwrap());
        assert!(playlist.contains("#EXT-X-SESSION-DATA:DATA-ID=\"segue.loudness.integrated-lufs\",VALUE=\"-14.20\"\n"));
        assert!(playlist.contains("DATA-ID=\"segue.replaygain.track-gain-db\",VALUE=\"-3.80\"\n"), "{playlist}");
        assert!(playlist.contains("DATA-ID=\"segue.replaygain.track-peak\",VALUE=\"0.987500\"\n"), "{playlist}");
        assert!(!playlist.contains("true-peak"));
    }

    #[test]
    fn a_film_lists_sizes_with_their_sound_and_its_i_frames() {
        let index = film();
        let playlist = text(multivariant(&index, Scope::Video, &[]).unwrap());
        assert_eq!(
            playlist,
            "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n\
             #EXT-X-MEDIA:TYPE=AUDIO,URI=\"../aac/64/index.m3u8\",GROUP-ID=\"aac-64\",NAME=\"Sound\",DEFAULT=YES,\
             AUTOSELECT=YES,CHANNELS=\"2\"\n\
             #EXT-X-MEDIA:TYPE=AUDIO,URI=\"../aac/96/index.m3u8\",GROUP-ID=\"aac-96\",NAME=\"Sound\",DEFAULT=YES,\
             AUTOSELECT=YES,CHANNELS=\"2\"\n\
             #EXT-X-STREAM-INF:BANDWIDTH=600000,AVERAGE-BANDWIDTH=497000,CODECS=\"avc1.64001e,mp4a.40.2\",\
             RESOLUTION=640x360,FRAME-RATE=25,AUDIO=\"aac-64\"\n360p/index.m3u8\n\
             #EXT-X-STREAM-INF:BANDWIDTH=700000,AVERAGE-BANDWIDTH=594000,CODECS=\"avc1.64001e,mp4a.40.2\",\
             RESOLUTION=854x480,FRAME-RATE=25,AUDIO=\"aac-96\"\n480p/index.m3u8\n\
             #EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=500000,AVERAGE-BANDWIDTH=400000,CODECS=\"avc1.64001e\",\
             RESOLUTION=640x360,URI=\"iframes/index.m3u8\"\n"
        );
        // One level up it is the same but for where things are, and the sound alone is what it is without a picture.
        let all = text(multivariant(&index, Scope::All, &[]).unwrap());
        let moved = all.replace("\"aac/", "\"../aac/").replace("video/", "");
        assert_eq!(moved, playlist);
        let mut song = index.clone();
        song.video = None;
        assert_eq!(multivariant(&index, Scope::Aac, &[]), multivariant(&song, Scope::Aac, &[]));
        assert_eq!(multivariant(&song, Scope::Video, &[]), None);
        let token = text(multivariant(&index, Scope::Video, &["token"]).unwrap());
        assert!(
            token.contains("URI=\"../aac/64/index.m3u8?token={$token}\"")
                && token.contains("URI=\"iframes/index.m3u8?")
        );
        let iframes = text(media(&index.video.unwrap().iframes.encoding, &[]));
        assert!(
            iframes.contains("#EXT-X-I-FRAMES-ONLY\n") && iframes.contains("#EXT-X-MAP:URI=\"init.mp4\""),
            "{iframes}"
        );
        assert!(iframes.contains("#EXTINF:2.04,\n00001.mp4\n"), "{iframes}");
    }

    #[test]
    fn the_previews_playlist_names_segments_in_its_own_directory() {
        let playlist = text(preview(&sample().rungs[0]));
        let names: Vec<_> = playlist.lines().filter(|line| line.contains(".mp4")).collect();
        assert_eq!(names, ["#EXT-X-MAP:URI=\"preview/init.mp4\"", "preview/00000.mp4", "preview/00001.mp4"]);
    }

    #[test]
    fn a_media_playlist_is_vod_with_one_map_and_every_segment() {
        let playlist = text(media(&sample().rungs[0], &[]));
        assert_eq!(
            playlist,
            "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-TARGETDURATION:6\n\
             #EXT-X-PLAYLIST-TYPE:VOD\n#EXT-X-MAP:URI=\"init.mp4\"\n#EXTINF:6.037188,\n00000.mp4\n\
             #EXTINF:0.1,\n00001.mp4\n#EXT-X-ENDLIST\n"
        );
    }

    /// RFC 8216bis §4.3: a variable is defined before it is used, and the playlist is the same for everybody.
    #[test]
    fn tokens_in_the_query_are_handed_on_by_reference() {
        const NAMES: HandedOn = &["token", "expires"];
        let playlist = text(media(&sample().rungs[0], NAMES));
        assert_eq!(
            playlist,
            "#EXTM3U\n#EXT-X-VERSION:11\n#EXT-X-DEFINE:QUERYPARAM=\"token\"\n#EXT-X-DEFINE:QUERYPARAM=\"expires\"\n\
             #EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-TARGETDURATION:6\n#EXT-X-PLAYLIST-TYPE:VOD\n\
             #EXT-X-MAP:URI=\"init.mp4?token={$token}&expires={$expires}\"\n#EXTINF:6.037188,\n\
             00000.mp4?token={$token}&expires={$expires}\n#EXTINF:0.1,\n00001.mp4?token={$token}&expires={$expires}\n\
             #EXT-X-ENDLIST\n"
        );
        let playlist = text(multivariant(&sample(), Scope::Flac, NAMES).unwrap());
        assert!(playlist.starts_with("#EXTM3U\n#EXT-X-VERSION:11\n#EXT-X-DEFINE:QUERYPARAM=\"token\"\n"), "{playlist}");
        assert!(playlist.ends_with("\nindex.m3u8?token={$token}&expires={$expires}\n"), "{playlist}");
    }

    #[test]
    fn the_durations_of_a_long_track_add_up_to_its_length() {
        let mut rung = sample().rungs.remove(0);
        rung.segments = vec![rung.segments[0].clone(); 5_000]; // eight hours
        let playlist = text(media(&rung, &[]));
        let written = playlist.lines().filter_map(|line| line.strip_prefix("#EXTINF:")?.strip_suffix(','));
        let us: u64 = written.map(|s| (s.parse::<f64>().unwrap() * 1e6).round() as u64).sum();
        assert_eq!(us, (5_000 * 266_240 * 1_000_000u64 + 22_050) / 44_100);
    }

    #[test]
    fn a_track_of_one_sample_has_a_duration_that_players_take() {
        let mut rung = sample().rungs.remove(0);
        rung.segments.truncate(1);
        rung.segments[0].ticks = 1;
        assert!(text(media(&rung, &[])).contains("#EXTINF:0.001,"));
    }

    #[test]
    fn what_we_write_m3u8_rs_reads_back() {
        let bytes = media(&sample().rungs[1], &[]);
        let (_, read) = m3u8_rs::parse_media_playlist(&bytes).unwrap();
        assert_eq!(read.segments.len(), 2);
        assert!(read.end_list);
    }

    #[test]
    fn a_track_shorter_than_half_a_second_still_has_a_target_duration() {
        let mut rung = sample().rungs.remove(0);
        rung.segments.remove(0);
        assert_eq!(target_duration_s(&rung.segments, rung.rate), 1);
    }
}
