//! One correction of gst-libav 1.22: it forces mid/side stereo on AAC.
//!
//! libavcodec's `aac_ms` is -1 by default: decide per band. gst-libav shows it as a boolean, turns -1
//! into true when it copies its properties into the codec, and so every band of every frame is coded as
//! mid/side. On wide stereo that costs up to 18 dB (256 kbit/s, independent channels: SNR 8.7 dB
//! instead of 26.9), on ordinary music about 2 dB. No value of the property means -1, but a property
//! that is not tied to an option is not copied. So we untie it, and the codec keeps its default.

use gst::glib;
use gst::glib::translate::{IntoGlib as _, ToGlibPtr as _};
use gst::prelude::*;

/// Leaves the choice between left/right and mid/side to the AAC encoder. `encoder` is any `avenc_aac`;
/// the effect is on all of this process.
#[allow(unsafe_code)]
pub(super) fn let_aac_choose_stereo(encoder: &gst::Element) {
    let Some(property) = encoder.find_property("aac-ms") else { return };
    // gstavcfg.c hangs the option on the property under this name
    let tie = glib::Quark::from_static_str(glib::gstr!("ffmpeg-cfg-param-spec-data"));
    // SAFETY: `property` is a live GParamSpec, borrowed for the call, and the quark is a valid one. Stealing
    // only forgets a pointer that gst-libav owns elsewhere (libavcodec's static option table) and looks up
    // with a null check each time (gst_ffmpeg_cfg_fill_context). GLib locks its own table.
    unsafe {
        glib::gobject_ffi::g_param_spec_steal_qdata(property.to_glib_none().0, tie.into_glib());
    }
}
