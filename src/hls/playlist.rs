//! Playlists of a version. Stand-in: the lead's renderer replaces it.

use super::version::{Family, Rung, VersionIndex};

/// Which rungs a multivariant playlist offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// `aac/master.m3u8`.
    Aac,
    /// `flac/master.m3u8`.
    Flac,
    /// `master.m3u8`.
    All,
}

/// The multivariant playlist of a scope; `None` when the version has no such rungs.
pub fn multivariant(index: &VersionIndex, scope: Scope) -> Option<Vec<u8>> {
    let within = |family| match scope {
        Scope::All => true,
        Scope::Aac => family == Family::Aac,
        Scope::Flac => family == Family::Flac,
    };
    let mut text = "#EXTM3U\n#EXT-X-VERSION:7\n".to_owned();
    let mut any = false;
    for rung in index.rungs.iter().filter(|rung| within(rung.family)) {
        any = true;
        let path = rung.path();
        let relative = match scope {
            Scope::All => path.as_str(),
            _ => path.split_once('/').map_or("", |(_, name)| name),
        };
        let slash = if relative.is_empty() { "" } else { "/" };
        text += &format!("#EXT-X-STREAM-INF:BANDWIDTH={}\n{relative}{slash}index.m3u8\n", rung.peak_bps);
    }
    any.then(|| text.into_bytes())
}

/// The media playlist of a rung.
pub fn media(rung: &Rung) -> Vec<u8> {
    let mut text = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-MAP:URI=\"init.mp4\"\n".to_owned();
    for (number, segment) in rung.segments.iter().enumerate() {
        text += &format!("#EXTINF:{:.5},\n{number:05}.mp4\n", segment.ticks as f64 / f64::from(rung.rate));
    }
    text.push_str("#EXT-X-ENDLIST\n");
    text.into_bytes()
}
