//! The source element: GStreamer reads the input through it and through nothing else. It gives bytes
//! of an already open file at any offset; it knows no path and no URL.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use gst::glib;
use gst::subclass::prelude::*;
use gst_base::prelude::*;
use gst_base::subclass::prelude::*;

use crate::transcode::child::Pipe;
use crate::transcode::plan::Patch;
use crate::transcode::protocol::Event;
use crate::transcode::source::Arrivals;

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
    /// Where it begins for whoever reads: what they call 0.
    pub(super) first: u64,
    /// Where it ends in the file; bytes that appear later are not read.
    pub(super) bytes: u64,
    /// Bytes to see differently.
    pub(super) patches: Vec<Patch>,
    /// Set when the bytes are still arriving: where it shows, and whom to ask.
    pub(super) arrivals: Option<(Arrivals, Pipe)>,
}

/// What waiting came to.
pub(super) enum Waited {
    /// All the bytes are here.
    Here,
    /// The element is being stopped.
    Stopped,
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
    /// Waits until all these bytes are here: fewer would be the end of the file to a demuxer. The parent ends
    /// this process when they will never be.
    pub(super) fn wait(&self, offset: u64, length: u64, stopped: &AtomicBool) -> std::io::Result<Waited> {
        let Some((arrivals, parent)) = &self.arrivals else { return Ok(Waited::Here) };
        let block = arrivals.block_bytes;
        let (first, last) = (offset / block, (offset + length - 1) / block);
        let mut here = vec![0; (last - first + 1) as usize];
        for round in 0u32.. {
            if stopped.load(Ordering::Relaxed) {
                return Ok(Waited::Stopped);
            }
            self.file.read_exact_at(&mut here, arrivals.map_at + first)?;
            let Some(missing) = here.iter().position(|here| *here == 0) else { return Ok(Waited::Here) };
            // Once a second: the download forgets what it could not see to.
            if round.is_multiple_of(200) {
                parent.send(&Event::Want { at: (first + missing as u64) * block }, &[]);
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        unreachable!("the rounds have no end")
    }

    /// Reads into `out`, as much as there is, and answers how much.
    pub(super) fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<usize> {
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
        /// Whether whoever waits in `fill` shall come back.
        stopped: AtomicBool,
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
            self.input.get().map(|input| input.bytes.saturating_sub(input.first))
        }

        fn unlock(&self) -> Result<(), gst::ErrorMessage> {
            self.stopped.store(true, Ordering::Relaxed);
            Ok(())
        }

        fn unlock_stop(&self) -> Result<(), gst::ErrorMessage> {
            self.stopped.store(false, Ordering::Relaxed);
            Ok(())
        }

        fn fill(
            &self,
            offset: u64,
            length: u32,
            buffer: &mut gst::BufferRef,
        ) -> Result<gst::FlowSuccess, gst::FlowError> {
            let input = self.input.get().ok_or(gst::FlowError::Error)?;
            let offset = offset.saturating_add(input.first);
            let length = u64::from(length).min(input.bytes.saturating_sub(offset));
            if length == 0 {
                return Err(gst::FlowError::Eos);
            }
            let failed = |cause: std::io::Error| {
                gst::element_imp_error!(self, gst::ResourceError::Read, ["at byte {offset}: {cause}"]);
                gst::FlowError::Error
            };
            if let Waited::Stopped = input.wait(offset, length, &self.stopped).map_err(failed)? {
                return Err(gst::FlowError::Flushing);
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
                Err(cause) => Err(failed(cause)),
            }
        }
    }
}
