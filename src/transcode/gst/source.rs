//! The source element: GStreamer reads the input through it and through nothing else. It gives bytes
//! of an already open file at any offset; it knows no path and no URL.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;

use gst::glib;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;

use crate::transcode::plan::Patch;

glib::wrapper! {
    /// A seekable byte source over a descriptor.
    pub(super) struct FileSource(ObjectSubclass<imp::FileSource>)
        @extends gst_base::BaseSrc, gst::Element, gst::Object;
}

/// What the element reads.
#[derive(Debug)]
pub(super) struct Input {
    /// Opened by the parent, read-only. Read with `pread`, so the shared offset does not matter.
    pub(super) file: File,
    /// Length; bytes that appear later are not read.
    pub(super) bytes: u64,
    /// Bytes to see differently.
    pub(super) patches: Vec<Patch>,
}

impl FileSource {
    /// An element that reads `input`.
    pub(super) fn new(input: Input) -> FileSource {
        let source: FileSource = glib::Object::new();
        source.imp().input.set(input).expect("the element is new");
        source.set_format(gst::Format::Bytes);
        source.set_blocksize(64 << 10);
        source
    }
}

impl Input {
    /// Reads into `out`, as much as there is, and answers how much.
    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<usize> {
        let mut done = 0;
        while done < out.len() {
            match self.file.read_at(&mut out[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => (),
                Err(cause) => return Err(cause),
            }
        }
        for patch in &self.patches {
            for (at, byte) in (patch.at..).zip(patch.bytes) {
                if let Some(seen) = at.checked_sub(offset).and_then(|i| out[..done].get_mut(usize::try_from(i).ok()?)) {
                    *seen = byte;
                }
            }
        }
        Ok(done)
    }
}

mod imp {
    use super::*;

    #[derive(Default)]
    pub(in super::super) struct FileSource {
        pub(super) input: OnceLock<Input>,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for FileSource {
        const NAME: &'static str = "SegueFileSource";
        type Type = super::FileSource;
        type ParentType = gst_base::BaseSrc;
    }

    impl ObjectImpl for FileSource {}
    impl GstObjectImpl for FileSource {}

    impl ElementImpl for FileSource {
        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: OnceLock<Vec<gst::PadTemplate>> = OnceLock::new();
            TEMPLATES.get_or_init(|| {
                let any = gst::Caps::new_any();
                let pad = gst::PadTemplate::new("src", gst::PadDirection::Src, gst::PadPresence::Always, &any);
                vec![pad.expect("a pad of any caps is valid")]
            })
        }
    }

    impl BaseSrcImpl for FileSource {
        fn is_seekable(&self) -> bool {
            true
        }

        fn size(&self) -> Option<u64> {
            self.input.get().map(|input| input.bytes)
        }

        fn fill(
            &self,
            offset: u64,
            length: u32,
            buffer: &mut gst::BufferRef,
        ) -> Result<gst::FlowSuccess, gst::FlowError> {
            let input = self.input.get().ok_or(gst::FlowError::Error)?;
            let length = u64::from(length).min(input.bytes.saturating_sub(offset));
            if length == 0 {
                return Err(gst::FlowError::Eos);
            }
            let read = {
                let mut map = buffer.map_writable().map_err(|_| gst::FlowError::Error)?;
                input.read(offset, &mut map[..length as usize])
            };
            match read {
                Ok(0) => Err(gst::FlowError::Eos),
                Ok(read) => {
                    buffer.set_size(read);
                    Ok(gst::FlowSuccess::Ok)
                }
                Err(cause) => {
                    gst::element_imp_error!(self, gst::ResourceError::Read, ["at byte {offset}: {cause}"]);
                    Err(gst::FlowError::Error)
                }
            }
        }
    }
}
