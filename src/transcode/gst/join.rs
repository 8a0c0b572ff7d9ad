//! One AAC rung out of slices that several encoders made. In: their frames, slice by slice, in any order. Out: one
//! row of frames, as if one encoder had made it, to the rung's segmenter.
//!
//! Frames overlap their neighbours (TDAC, ISO/IEC 14496-3 §4.6.11): the second half of one is added to the first
//! half of the next, and both must have the same window there, or what should cancel is heard. So each slice begins
//! some frames early, to forget that it began in silence, and ends some frames late; and where two slices both have
//! frames the one gives way to the other behind a frame whose window both chose alike.
//!
//! ```text
//! slice 0  ├──────────────────────────┼───────┤
//! slice 1                        ├────┼───────┼───────────────┼───────┤
//!                                warm-up  overlap: the seam is here
//! ```
//! Where slices begin depends on nothing but their number, and where a seam is on nothing but their frames: the same
//! source gives the same bytes on any number of cores.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::rung::{Finished, Frame, Segmenter};
use crate::base::Result;
use crate::hls::ladder::AAC_FRAME;

/// Segments in a slice: a minute. Shorter ones spend more on overlaps, longer ones wait longer for each other.
const SLICE_SEGMENTS: u64 = 10;
/// Frames that a slice begins early, about a second: until then rate control and psychoacoustics have settled.
const WARM_UP: u64 = 48;
/// Frames that a slice ends late: where a seam is looked for.
const OVERLAP: u64 = 32;
/// Frames at the end of a slice that already know of the end: the transform's overlap, and the encoder's look-ahead.
const KNOWING: u64 = 3;
/// Slices that may be begun before the one that is waited for is done: they are held in memory, half a megabyte each.
const AHEAD: usize = 3;

/// A rung that is put together. Shared by those who encode its slices.
#[derive(Clone)]
pub(super) struct Joiner(Arc<Shared>);

struct Shared {
    /// Frames in a slice, without what overlaps.
    slice_frames: u64,
    state: Mutex<State>,
    moved: Condvar,
}

struct State {
    segmenter: Segmenter,
    /// The slice whose frames go out now.
    current: usize,
    /// The first of its frames to go out.
    from: u64,
    slices: BTreeMap<usize, Slice>,
    finished: bool,
}

/// Frames of a slice that have not gone out.
#[derive(Default)]
struct Slice {
    frames: VecDeque<Frame>,
    /// Number in the rung of the first of `frames`; `None` before any frame went out.
    next: Option<u64>,
    end: Option<End>,
}

/// How a slice ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Where the next one goes on.
    OfSlice,
    /// With the source.
    OfSource,
}

impl Joiner {
    pub(super) fn new(segmenter: Segmenter) -> Joiner {
        let slice_frames = segmenter.plan().segment_samples / u64::from(AAC_FRAME) * SLICE_SEGMENTS;
        let state = State { segmenter, current: 0, from: 0, slices: BTreeMap::new(), finished: false };
        Joiner(Arc::new(Shared { slice_frames, state: Mutex::new(state), moved: Condvar::new() }))
    }

    /// The samples that a slice's encoder gets, from and to: to is where it gives way at the latest.
    pub(super) fn samples(&self, slice: usize) -> (u64, u64) {
        let frame = u64::from(AAC_FRAME);
        let end = (slice as u64 + 1) * self.0.slice_frames + OVERLAP;
        (self.0.first(slice) * frame, end * frame)
    }

    /// Waits a little until a slice may be begun; false when it may not yet.
    pub(super) fn may_begin(&self, slice: usize) -> bool {
        let state = self.lock();
        let waits = |state: &mut State| slice > state.current + AHEAD && !state.finished;
        let (state, _) =
            self.0.moved.wait_timeout_while(state, Duration::from_millis(20), waits).expect("no panic while locked");
        slice <= state.current + AHEAD || state.finished
    }

    /// The next frame of a slice, as its encoder gave it.
    pub(super) fn take(&self, slice: usize, sample: &gst::Sample) -> Result<()> {
        let mut state = self.lock();
        let Some(frame) = state.segmenter.frame(sample)? else { return Ok(()) };
        if slice == 0 {
            state.segmenter.begin(sample, &frame)?;
        }
        if slice < state.current || state.finished {
            return Ok(()); // behind a seam, or behind the end
        }
        state.slices.entry(slice).or_default().frames.push_back(frame);
        self.advance(&mut state)
    }

    /// A slice has all its frames.
    pub(super) fn ended(&self, slice: usize, end: End) -> Result<()> {
        let mut state = self.lock();
        if slice < state.current || state.finished {
            return Ok(());
        }
        state.slices.entry(slice).or_default().end = Some(end);
        self.advance(&mut state)
    }

    /// Waits a little for the end of the rung; `None` when it is not there yet.
    pub(super) fn finished(&self) -> Result<Option<Finished>> {
        let state = self.lock();
        let waits = |state: &mut State| !state.finished;
        let (state, _) =
            self.0.moved.wait_timeout_while(state, Duration::from_millis(50), waits).expect("no panic while locked");
        if state.finished { state.segmenter.finished().map(Some) } else { Ok(None) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no panic while locked")
    }

    /// Lets go out what can: frames that no other slice has, and over a seam that can be seen.
    fn advance(&self, state: &mut State) -> Result<()> {
        while !state.finished {
            let (current, from) = (state.current, state.from);
            let first = self.0.first(current);
            let overlap = (current as u64 + 1) * self.0.slice_frames;
            let Some(slice) = state.slices.get_mut(&current) else { break };
            let is_last = slice.end == Some(End::OfSource);
            let mut next = slice.next.unwrap_or(first);
            while (is_last || next < overlap)
                && let Some(frame) = slice.frames.pop_front()
            {
                if next >= from {
                    state.segmenter.push(frame)?;
                }
                next += 1;
            }
            slice.next = Some(next);
            if is_last {
                state.segmenter.finish()?;
                state.slices.clear();
                state.finished = true;
                break;
            }
            if slice.end.is_none() {
                break;
            }
            let both = (OVERLAP - KNOWING) as usize;
            let Some(heir) = state.slices.get(&(current + 1)) else { break };
            // Unless it has begun to give its frames away, which only the current one does.
            if heir.frames.len() < WARM_UP as usize + both {
                break;
            }
            let heirs = heir.frames.range(WARM_UP as usize..).map(|frame| Window::of(&frame.bytes));
            let alike: Vec<Option<Window>> = state.slices[&current]
                .frames
                .iter()
                .map(|frame| Window::of(&frame.bytes))
                .zip(heirs)
                .take(both)
                .map(|(ours, theirs)| ours.filter(|ours| Some(*ours) == theirs))
                .collect();
            let seam = alike.iter().position(|window| window.is_some_and(|window| window.sequence == 0));
            let seam = seam.or_else(|| alike.iter().position(Option::is_some));
            // Never seen: the encoders disagree about each of thirty frames, or those have two windows each.
            let seam = seam.unwrap_or(both / 2);
            let mut slice = state.slices.remove(&current).expect("it was found above");
            for frame in slice.frames.drain(..=seam) {
                state.segmenter.push(frame)?;
            }
            state.from = overlap + seam as u64 + 1;
            state.current += 1;
        }
        self.0.moved.notify_all();
        Ok(())
    }
}

impl Shared {
    /// Number in the rung of a slice's first frame.
    fn first(&self, slice: usize) -> u64 {
        (slice as u64 * self.slice_frames).saturating_sub(WARM_UP)
    }
}

/// The window that all channels of a frame have (ISO/IEC 14496-3 §4.4.2.1, `ics_info`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    /// 0: one long window, like its neighbours.
    sequence: u8,
    shape: u8,
}

impl Window {
    /// `None` when the channels have one each, or something else stands at the beginning of the frame.
    fn of(frame: &[u8]) -> Option<Window> {
        const SINGLE_CHANNEL: u8 = 0;
        const CHANNEL_PAIR: u8 = 1;
        let &[a, b, c, ..] = frame else { return None };
        match a >> 5 {
            // element 3, tag 4, common_window 1; reserved 1, window_sequence 2, window_shape 1
            CHANNEL_PAIR if a & 1 == 1 => Some(Window { sequence: b >> 5 & 3, shape: b >> 4 & 1 }),
            // element 3, tag 4, global_gain 8; reserved 1, window_sequence 2, window_shape 1
            SINGLE_CHANNEL => Some(Window { sequence: c >> 6, shape: c >> 5 & 1 }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_read_from_the_first_bits_of_a_frame() {
        let pair = |common: u8, sequence: u8, shape: u8| [0x20 | common, sequence << 5 | shape << 4 | 0xf, 0xff];
        assert_eq!(Window::of(&pair(1, 0, 1)), Some(Window { sequence: 0, shape: 1 }));
        assert_eq!(Window::of(&pair(1, 2, 0)), Some(Window { sequence: 2, shape: 0 }));
        assert_eq!(Window::of(&pair(0, 2, 0)), None, "each channel has its own");
        assert_eq!(Window::of(&[0x01, 0xfe, 0x60]), Some(Window { sequence: 1, shape: 1 }), "one channel");
        assert_eq!(Window::of(&[0xc2, 0, 0]), None, "a fill element");
        assert_eq!(Window::of(&[0x20]), None);
    }
}
