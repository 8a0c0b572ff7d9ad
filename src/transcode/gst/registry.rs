//! What GStreamer may use. With its default plugins an uploaded playlist makes a decoder fetch URLs
//! and open local files, so everything but decoders, demuxers and our encoders is taken away.

use gst::prelude::*;

/// Plugins a legitimate upload needs. None of them opens a file, a URL or a device by itself.
const PLUGINS: [&str; 25] = [
    "staticelements",
    "coreelements",
    "typefindfunctions",
    "playback",
    "app",
    "audioconvert",
    "audioresample",
    "audioparsers",
    "wavparse",
    "rawparse",
    "aiff",
    "flac",
    "ogg",
    "vorbis",
    "opus",
    "opusparse",
    "isomp4",
    "matroska",
    "mpg123",
    "libav",
    "id3demux",
    "apetag",
    "wavpack",
    "alaw",
    "mulaw",
];

/// What a picture needs beside them: H.264 and other headers, colours, sizes, fields, turns, VP8 and VP9, AV1, and our
/// two encoders.
const PICTURE_PLUGINS: [&str; 8] =
    ["videoparsersbad", "videoconvertscale", "deinterlace", "videofilter", "vpx", "aom", "jpeg", "x264"];

/// Features of those plugins that are doors.
const DOORS: [&str; 12] = [
    "filesrc",
    "filesink",
    "fdsrc",
    "fdsink",
    "playbin",
    "playbin3",
    "uridecodebin",
    "uridecodebin3",
    "urisourcebin",
    "subtitleoverlay",
    "playsink",
    "parsebin",
];

/// Forgets every other plugin of this process, and loads these: later no file can be opened. The registry
/// on disk is not touched.
pub(super) fn restrict(picture: bool) {
    let registry = gst::Registry::get();
    for plugin in registry.plugins() {
        let name = plugin.plugin_name();
        let wanted = PLUGINS.contains(&name.as_str()) || (picture && PICTURE_PLUGINS.contains(&name.as_str()));
        if !wanted {
            registry.remove_plugin(&plugin);
        } else if plugin.load().is_err() {
            // Not installed whole, or memory is short: what needs it says so by its name.
            registry.remove_plugin(&plugin);
        }
    }
    // After loading, which adds a plugin's features again.
    for door in DOORS {
        if let Some(feature) = registry.find_feature(door, gst::ElementFactory::static_type()) {
            registry.remove_feature(&feature);
        }
    }
}

/// An element by name; `Internal` when its package is not installed.
pub(super) fn make(name: &str) -> crate::base::Result<gst::Element> {
    gst::ElementFactory::make(name)
        .build()
        .map_err(|cause| crate::base::Error::internal(format!("GStreamer has no {name}")).because(cause))
}
