//! The picture in the child: a first look at every packet, then decoding and encoding.

mod decode;
mod film;
mod rung;
mod still;
mod survey;

use std::fs::File;

use super::source;
use crate::base::Result;
use crate::transcode::child::Pipe;
use crate::transcode::plan::Plan;
use crate::transcode::protocol::{Event, Outcome};
use crate::transcode::video::plan::Task;

/// Does one task with the picture of `file`. The events before the last go out here.
pub(super) fn run(task: &Task, plan: &Plan, file: File, pipe: &Pipe) -> Result<Outcome> {
    let input = source::Input {
        file,
        first: 0,
        bytes: plan.input_bytes,
        patches: vec![],
        arrivals: plan.arrivals.map(|arrivals| (arrivals, pipe.clone())),
    };
    match task {
        Task::Survey => {
            let found = survey::run(input, pipe)?;
            pipe.send(&Event::Surveyed(found), &[]);
            Ok(Outcome::default())
        }
        Task::Film(film) => {
            let encoders = film::run(film, input, pipe)?;
            Ok(Outcome { encoders, ..Outcome::default() })
        }
    }
}

/// Raises the first error on a pipeline's bus, in an uploader's words.
fn fault(pipeline: &gst::Pipeline) -> Result<()> {
    use gst::prelude::*;
    let Some(bus) = pipeline.bus() else { return Ok(()) };
    while let Some(message) = bus.pop() {
        if let gst::MessageView::Error(error) = message.view() {
            return Err(decode::explain(&error.error()));
        }
    }
    Ok(())
}
