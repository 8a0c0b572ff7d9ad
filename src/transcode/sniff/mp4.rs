//! MP4/M4A/MOV: the edit list (or iTunes' own comment) says which samples to present. GStreamer turns
//! edits into nanoseconds and loses samples at the end, so the demuxer does not get to see the edits
//! (`edts` reads as `free`) nor the movie's end (it reads as a second later), and the exact samples are
//! cut afterwards.

use super::{Declared, Look, Sniffed, Trim, cut};
use crate::base::{Error, Result};
use crate::transcode::plan::Patch;

/// Boxes looked at in one parent; real files have a few dozen.
const BOXES_MAX: usize = 1024;
/// Boxes walked beside each other in a file: ten hours in fragments of a tenth of a second.
const TOP_BOXES_MAX: usize = 1 << 20;
/// Samples in an AAC frame, SBR included.
const AAC_FRAME_MAX: u64 = 2048;

/// Bytes behind the last box of a fragmented file that are no box: an ID3v1 tag, padding.
const JUNK_BYTES_MAX: u64 = super::frames::JUNK_BYTES_MAX;

/// A box in the file: its type, where its body begins and ends.
#[derive(Clone, Copy, Debug)]
struct Span {
    kind: [u8; 4],
    body: u64,
    end: u64,
}

pub(super) fn mp4(look: &Look<'_>) -> Result<Sniffed> {
    refuse_cut(look)?;
    let whole = Span { kind: *b"file", body: 0, end: look.bytes };
    let top = children(look, whole)?;
    let Some(moov) = top.iter().find(|b| &b.kind == b"moov") else {
        // A recorder or an upload that stopped: the index is written last.
        return Err(Error::invalid("truncated: the index at its end is missing; upload the file again"));
    };
    if !top.iter().any(|b| matches!(&b.kind, b"mdat" | b"moof")) && top.len() < BOXES_MAX {
        return Err(Error::invalid("truncated: it ends after its index, before its samples; upload the whole file"));
    }
    let inside = children(look, *moov)?;
    if inside.iter().any(|b| &b.kind == b"rmra") {
        return Err(Error::invalid(
            "it only refers to other files; upload the audio itself, references are not followed",
        ));
    }
    let mut streams = Vec::new();
    for trak in inside.iter().filter(|b| &b.kind == b"trak") {
        streams.extend(audio_stream(look, *trak)?);
    }
    match streams.as_slice() {
        [] => Err(Error::invalid("it has no audio; upload a file with sound")),
        [audio] => audio.describe(look, *moov, inside.iter().any(|b| &b.kind == b"mvex")),
        // Which one the demuxer shows first is a matter of timing; guessing would publish either.
        several => Err(Error::invalid(format!("it has {} audio streams; export it with one", several.len()))),
    }
}

/// Whether it has a moving picture: a video track that is switched on and whose codec is one for films, or stills that
/// follow each other at least once a second. A film that was cut off is refused here.
pub(super) fn has_picture(look: &Look<'_>) -> Result<bool> {
    const STILLS: [&[u8; 4]; 6] = [b"jpeg", b"png ", b"gif ", b"tiff", b"mjpa", b"mjpb"];
    let top = children(look, Span { kind: *b"file", body: 0, end: look.bytes })?;
    let Some(moov) = top.iter().find(|b| &b.kind == b"moov") else { return Ok(false) };
    for trak in children(look, *moov)?.into_iter().filter(|b| &b.kind == b"trak") {
        let Some(mdia) = child(look, trak, b"mdia")? else { continue };
        let Some(hdlr) = child(look, mdia, b"hdlr")? else { continue };
        let switched_on = match child(look, trak, b"tkhd")? {
            Some(tkhd) => look.at(tkhd.body, 4)?.get(3).is_none_or(|flags| flags & 1 == 1),
            None => true,
        };
        if look.at(hdlr.body + 8, 4)? != b"vide" || !switched_on {
            continue;
        }
        let Some(minf) = child(look, mdia, b"minf")? else { continue };
        let Some(stbl) = child(look, minf, b"stbl")? else { continue };
        let Some(stsd) = child(look, stbl, b"stsd")? else { continue };
        let Some(entry) = children(look, Span { body: stsd.body + 8, ..stsd })?.first().copied() else { continue };
        if STILLS.contains(&&entry.kind) {
            let pictures = match child(look, stbl, b"stsz")? {
                Some(stsz) => look.array::<4>(stsz.body + 8)?.map_or(0, |count| be(&count)),
                None => 0,
            };
            let timing = timing(look, child(look, mdia, b"mdhd")?)?;
            let length_s = timing.map_or(0, |(timescale, duration)| duration / u64::from(timescale));
            if pictures < 2 || pictures < length_s {
                continue;
            }
        }
        refuse_cut(look)?;
        if let Some(dinf) = child(look, minf, b"dinf")? {
            refuse_references(look, dinf)?;
        }
        return Ok(true);
    }
    Ok(false)
}

/// Walks the boxes of the file and refuses one that ends within a box, or between a fragment's index and its
/// media. Junk behind the last box, such as an ID3v1 tag, is no box we know.
fn refuse_cut(look: &Look<'_>) -> Result<()> {
    // What stands beside each other in a file (ISO/IEC 14496-12 §8.1 to §8.8, QuickTime's `wide`).
    const KNOWN: [&[u8; 4]; 16] = [
        b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"mfra", b"sidx", b"free", b"skip", b"wide", b"meta", b"uuid",
        b"emsg", b"prft", b"ssix", b"pdin",
    ];
    let mut at = 0;
    let mut fragmented = false;
    let mut awaited = false; // an index was there, and its media were not yet
    for _ in 0..TOP_BOXES_MAX {
        let Some(head) = look.array::<8>(at)? else { break };
        let kind = [head[4], head[5], head[6], head[7]];
        awaited = (awaited || &kind == b"moof") && &kind != b"mdat";
        let length = match be(&head[..4]) {
            0 => return Ok(()), // to the end of the file, wherever that is
            1 => look.array::<8>(at + 8)?.map_or(u64::MAX, u64::from_be_bytes),
            length => length,
        };
        fragmented |= &kind == b"moof";
        let known = length >= 8 && KNOWN.contains(&&kind);
        // Fragments follow each other to the end; a demuxer would stop here and say nothing.
        if !known && fragmented && look.bytes - at > JUNK_BYTES_MAX {
            return Err(Error::invalid(format!(
                "damaged: between its fragments, at byte {at}, is no box; upload the file again, or export it again"
            )));
        }
        let Some(end) = at.checked_add(length).filter(|_| known) else { return Ok(()) };
        if end > look.bytes {
            return Err(cut(end - look.bytes, end));
        }
        at = end;
    }
    match awaited {
        true => Err(Error::invalid("truncated: the media of its last fragment are missing; upload the whole file")),
        false => Ok(()),
    }
}

/// The elementary stream that will be decoded.
#[derive(Debug)]
struct Audio {
    /// Where the box type `edts` stands.
    edts_at: Option<u64>,
    /// First edit that is not empty: length in movie ticks, start in media ticks.
    edit: Option<(u64, u64)>,
    timescale: u32,
    duration: u64,
    entry: [u8; 4],
    bits: Option<u32>,
    /// Number of its stream.
    track: u64,
    /// Length of all frames of the sample table, in media ticks.
    table: Option<u64>,
    /// Bytes of some of its frames, and how long these are in media ticks.
    weighed: Option<(u64, u64)>,
    /// What is in an `mp4a` (ISO 14496-1 table 5), where it says.
    object: Option<u8>,
}

fn audio_stream(look: &Look<'_>, trak: Span) -> Result<Option<Audio>> {
    let Some(mdia) = child(look, trak, b"mdia")? else { return Ok(None) };
    let Some(hdlr) = child(look, mdia, b"hdlr")? else { return Ok(None) };
    if look.at(hdlr.body + 8, 4)? != b"soun" {
        return Ok(None);
    }
    let Some((timescale, duration)) = timing(look, child(look, mdia, b"mdhd")?)? else { return Ok(None) };
    let Some(minf) = child(look, mdia, b"minf")? else { return Ok(None) };
    if let Some(dinf) = child(look, minf, b"dinf")? {
        refuse_references(look, dinf)?;
    }
    let Some(stbl) = child(look, minf, b"stbl")? else { return Ok(None) };
    let Some(stsd) = child(look, stbl, b"stsd")? else { return Ok(None) };
    let Some(entry) = children(look, Span { body: stsd.body + 8, ..stsd })?.first().copied() else { return Ok(None) };
    let edts = child(look, trak, b"edts")?;
    let edit = match edts {
        Some(edts) => first_edit(look, child(look, edts, b"elst")?)?,
        None => None,
    };
    let bits = if &entry.kind == b"alac" { alac_bits(look, entry)? } else { None };
    let track = match child(look, trak, b"tkhd")? {
        Some(tkhd) => {
            let at = if look.at(tkhd.body, 1)? == [1] { 20 } else { 12 };
            look.array::<4>(tkhd.body + at)?.map_or(0, |id| be(&id))
        }
        None => 0,
    };
    let edts_at = edts.map(|b| b.body - 4);
    let table = table(look, child(look, stbl, b"stts")?)?;
    let weighed = match (table, child(look, stbl, b"stsz")?) {
        (Some(table), Some(stsz)) => weighed(look, stsz, table)?,
        _ => None,
    };
    let object = if &entry.kind == b"mp4a" { object_type(look, entry)? } else { None };
    Ok(Some(Audio { edts_at, edit, timescale, duration, entry: entry.kind, bits, track, table, weighed, object }))
}

/// Bytes of the first frames of a table of sizes, and how long these are; `table` is how long all are together.
fn weighed(look: &Look<'_>, stsz: Span, table: u64) -> Result<Option<(u64, u64)>> {
    // As many as an hour and a half has.
    const FRAMES_MAX: u64 = 1 << 18;
    let Some(head) = look.array::<12>(stsz.body)? else { return Ok(None) };
    let (each, count) = (be(&head[4..8]), be(&head[8..12]));
    let some = count.min(FRAMES_MAX);
    let (bytes, some) = match each {
        0 => {
            let sizes = look.at(stsz.body + 12, (some * 4) as usize)?;
            (sizes.chunks_exact(4).map(be).sum(), (sizes.len() / 4) as u64)
        }
        each => (each * some, some),
    };
    let ticks = u128::from(table) * u128::from(some) / u128::from(count.max(1));
    Ok(Some((bytes, u64::try_from(ticks).unwrap_or(0))).filter(|(bytes, ticks)| *bytes > 0 && *ticks > 0))
}

/// The object type of the descriptor of a stream (ISO 14496-1 §7.2.6.5 and 6), wherever in the entry QuickTime has put it.
fn object_type(look: &Look<'_>, entry: Span) -> Result<Option<u8>> {
    let bytes = look.at(entry.body, entry.end.saturating_sub(entry.body).min(1 << 12) as usize)?;
    let Some(at) = bytes.windows(4).position(|kind| kind == b"esds") else { return Ok(None) };
    // A length has up to four bytes, all but the last with their high bit.
    let inside = |bytes: &mut std::slice::Iter<'_, u8>, tag: u8, skip: usize| -> Option<()> {
        (*bytes.next()? == tag).then_some(())?;
        (0..4).find(|_| bytes.next().is_none_or(|byte| byte & 0x80 == 0))?;
        (0..skip).try_for_each(|_| bytes.next().map(drop))
    };
    let mut bytes = bytes[(at + 8).min(bytes.len())..].iter();
    let found = inside(&mut bytes, 3, 3).and_then(|()| inside(&mut bytes, 4, 0)).and_then(|()| bytes.next().copied());
    Ok(found)
}

/// How long all frames of a sample table are together.
fn table(look: &Look<'_>, stts: Option<Span>) -> Result<Option<u64>> {
    let Some(stts) = stts else { return Ok(None) };
    let bytes = look.at(stts.body + 8, (stts.end - stts.body).min(1 << 20) as usize)?;
    let entries = bytes.chunks_exact(8).take((stts.end - stts.body).saturating_sub(8) as usize / 8);
    let sum = entries.fold(0u64, |sum, e| sum.saturating_add(be(&e[..4]).saturating_mul(be(&e[4..]))));
    Ok(Some(sum).filter(|sum| (1..1 << 48).contains(sum)))
}

/// Walks the fragments of stream `track` and refuses a hole between two of them: `tfdt` must be the sum of what came
/// before (ISO/IEC 14496-12 §8.8.12), to within half a frame. `default` is a frame's length and size unless they say.
/// Answers the bytes of all frames and how long they are.
fn refuse_holes(look: &Look<'_>, track: u64, default: (u64, u64), timescale: u32) -> Result<(u64, u64)> {
    let (mut at, mut due) = (0, None);
    let (mut bytes, mut ticks) = (0u64, 0u64);
    for _ in 0..TOP_BOXES_MAX {
        let Some(head) = look.array::<8>(at)? else { break };
        let (header, length) = match be(&head[..4]) {
            1 => (16, look.array::<8>(at + 8)?.map_or(0, u64::from_be_bytes)),
            length => (8, length),
        };
        let Some(end) = at.checked_add(length).filter(|end| length >= header && *end <= look.bytes) else { break };
        if &head[4..] == b"moof" {
            for traf in children(look, Span { kind: *b"moof", body: at + header, end })? {
                let Some(Fragment { begins, lasts, frame, weighs }) = fragment(look, traf, track, default)? else {
                    continue;
                };
                (bytes, ticks) = (bytes.saturating_add(weighs), ticks.saturating_add(lasts));
                let due_at: u64 = due.unwrap_or(begins);
                if begins.abs_diff(due_at) > frame.max(2) / 2 {
                    let seconds = begins.abs_diff(due_at) as f64 / f64::from(timescale);
                    return Err(Error::invalid(format!(
                        "damaged: {seconds:.2} s are missing or too many before its fragment at byte {at}; upload the file again"
                    )));
                }
                due = begins.checked_add(lasts);
            }
        }
        at = end;
    }
    Ok((bytes, ticks))
}

/// A fragment of the stream, in media ticks.
struct Fragment {
    begins: u64,
    lasts: u64,
    /// A frame of it, unless frames say.
    frame: u64,
    /// Bytes of its frames.
    weighs: u64,
}

fn fragment(look: &Look<'_>, traf: Span, track: u64, default: (u64, u64)) -> Result<Option<Fragment>> {
    let (Some(tfhd), Some(tfdt)) = (child(look, traf, b"tfhd")?, child(look, traf, b"tfdt")?) else { return Ok(None) };
    let head = look.at(tfhd.body, 32)?;
    let time = look.at(tfdt.body, 12)?;
    if head.len() < 32 || time.len() < 12 || be(&head[4..8]) != track {
        return Ok(None);
    }
    let begins = if time[0] == 1 { be(&time[4..12]) } else { be(&time[4..8]) };
    let flags = be(&head[1..4]);
    let at = 8 + if flags & 1 != 0 { 8 } else { 0 } + if flags & 2 != 0 { 4 } else { 0 };
    let frame = if flags & 8 != 0 { be(&head[at..at + 4]) } else { default.0 };
    let at = at + if flags & 8 != 0 { 4 } else { 0 };
    let size = if flags & 16 != 0 { be(&head[at..at + 4]) } else { default.1 };
    let (mut lasts, mut weighs) = (0u64, 0u64);
    for trun in children(look, traf)?.iter().filter(|b| &b.kind == b"trun") {
        let bytes = look.at(trun.body, trun.end.saturating_sub(trun.body).min(1 << 20) as usize)?;
        if bytes.len() < 8 {
            return Ok(None);
        }
        let (flags, count) = (be(&bytes[1..4]), be(&bytes[4..8]));
        let (own_length, own_size) = (flags & 0x100 != 0, flags & 0x200 != 0);
        if !own_length {
            lasts = lasts.saturating_add(count.saturating_mul(frame));
        }
        if !own_size {
            weighs = weighs.saturating_add(count.saturating_mul(size));
        }
        let from = 8 + if flags & 1 != 0 { 4 } else { 0 } + if flags & 4 != 0 { 4 } else { 0 };
        let width = 4 * (flags >> 8 & 15).count_ones() as usize;
        if width == 0 {
            continue;
        }
        for entry in bytes.get(from..).unwrap_or_default().chunks_exact(width).take(count as usize) {
            if own_length {
                lasts = lasts.saturating_add(be(&entry[..4]));
            }
            if own_size {
                let at = if own_length { 4 } else { 0 };
                weighs = weighs.saturating_add(be(&entry[at..at + 4]));
            }
        }
    }
    Ok(Some(Fragment { begins, lasts, frame, weighs }))
}

/// What a frame lasts and weighs unless a fragment says (`trex`).
fn default_frame(look: &Look<'_>, moov: Span, track: u64) -> Result<(u64, u64)> {
    let Some(mvex) = child(look, moov, b"mvex")? else { return Ok((0, 0)) };
    for trex in children(look, mvex)?.iter().filter(|b| &b.kind == b"trex") {
        if let Some(bytes) = look.array::<20>(trex.body)?
            && be(&bytes[4..8]) == track
        {
            return Ok((be(&bytes[12..16]), be(&bytes[16..20])));
        }
    }
    Ok((0, 0))
}

impl Audio {
    fn describe(&self, look: &Look<'_>, moov: Span, fragmented: bool) -> Result<Sniffed> {
        let weighed = match fragmented {
            true => {
                let default = default_frame(look, moov, self.track)?;
                Some(refuse_holes(look, self.track, default, self.timescale)?)
            }
            false => self.weighed,
        };
        let codec = match (&self.entry, self.object) {
            (b"Opus", _) => Some("Opus".to_owned()),
            (b"alac", _) => Some("ALAC".to_owned()),
            // MPEG-2 and MPEG-1 audio: layer III, as a rule (ISO 14496-1 table 5).
            (b"mp4a", Some(0x69 | 0x6b)) => Some("MP3".to_owned()),
            (b"mp4a", _) => Some("AAC".to_owned()),
            _ => None,
        };
        let base = Sniffed { codec, bits: self.bits, ..Sniffed::default() };
        let gapless = match &self.entry {
            b"mp4a" => itunes_gapless(look, moov)?,
            _ => None,
        };
        let movie_scale = timing(look, child(look, moov, b"mvhd")?)?.map_or(0, |(timescale, _)| timescale);
        let (start, length) = self.presented(gapless, movie_scale, fragmented);
        if base.codec.is_none() {
            return Ok(base);
        }
        let mut patches: Vec<Patch> = self.edts_at.map(|at| Patch { at, bytes: *b"free" }).into_iter().collect();
        patches.extend(later_end(look, child(look, moov, b"mvhd")?)?);
        let tolerance = if &self.entry == b"alac" { 0 } else { AAC_FRAME_MAX };
        // What every frame gives, so one that was lost shows behind the edit's end, too.
        let frames = self.table.filter(|_| !fragmented && &self.entry == b"mp4a");
        let whole = frames.map(|samples| Declared { samples, rate: self.timescale, tolerance: 0 });
        let declared = length.map(|samples| Declared { samples, rate: self.timescale, tolerance });
        let trim = Trim { start, length, rate: self.timescale };
        // By its own frames, for a picture or a cover may be the most of the file; by the file where they do not say.
        let lossy = matches!(&self.entry, b"mp4a" | b"Opus");
        let weighed = weighed.filter(|(bytes, ticks)| lossy && *bytes > 0 && *ticks > 0);
        let by_file = || length.filter(|_| lossy).and_then(|samples| super::bps(look.bytes, samples, self.timescale));
        let lossy_bps = weighed.and_then(|(bytes, ticks)| super::bps(bytes, ticks, self.timescale)).or_else(by_file);
        // Fragments are as long as they are; what an index beside them says is another matter.
        let fragments = weighed.filter(|_| fragmented).map(|(_, ticks)| ticks.saturating_sub(start));
        let estimate = fragments.map(|samples| Declared { samples, rate: self.timescale, tolerance: 0 });
        Ok(Sniffed { declared, estimate, trim: Some(trim), patches, lossy_bps, whole, ..base })
    }

    /// First sample presented and how many, in media ticks, which are samples.
    fn presented(&self, gapless: Option<(u64, u64)>, movie_scale: u32, fragmented: bool) -> (u64, Option<u64>) {
        let (edit_length, start) = self.edit.unwrap_or_default();
        if let Some((start, total)) = gapless.filter(|(s, n)| s + n <= self.duration + AAC_FRAME_MAX) {
            return (start, Some(total));
        }
        if fragmented || self.duration <= start {
            return (start, None);
        }
        let rest = self.duration - start;
        if edit_length == 0 || movie_scale == 0 {
            return (start, Some(rest));
        }
        // The edit counts in movie ticks, often milliseconds: when it means "to the end", the media's
        // own length is the exact one.
        let tick = u64::from(self.timescale).div_ceil(u64::from(movie_scale));
        let edit = u128::from(edit_length) * u128::from(self.timescale) / u128::from(movie_scale);
        let edit = u64::try_from(edit).unwrap_or(u64::MAX);
        (start, Some(if edit + 2 * tick >= rest { rest } else { edit }))
    }
}

/// `iTunSMPB`: delay, padding and length in hexadecimal words, written by iTunes and afconvert.
fn itunes_gapless(look: &Look<'_>, moov: Span) -> Result<Option<(u64, u64)>> {
    let Some(udta) = child(look, moov, b"udta")? else { return Ok(None) };
    let Some(meta) = child(look, udta, b"meta")? else { return Ok(None) };
    let Some(ilst) = child(look, Span { body: meta.body + 4, ..meta }, b"ilst")? else { return Ok(None) };
    for item in children(look, ilst)?.into_iter().filter(|b| &b.kind == b"----" && b.end - b.body < 1024) {
        let bytes = look.at(item.body, 1024.min((item.end - item.body) as usize))?;
        if !bytes.windows(8).any(|w| w == b"iTunSMPB") {
            continue;
        }
        let Some(data) = bytes.windows(4).position(|w| w == b"data") else { continue };
        let text = String::from_utf8_lossy(&bytes[(data + 12).min(bytes.len())..]).into_owned();
        let words: Vec<u64> =
            text.split_ascii_whitespace().take(4).map_while(|w| u64::from_str_radix(w, 16).ok()).collect();
        return Ok(match words[..] {
            [_, delay, _, total] if total > 0 && delay < 1 << 16 && total < 1 << 48 => Some((delay, total)),
            _ => None,
        });
    }
    Ok(None)
}

/// Media that lies in another file, named by the input.
fn refuse_references(look: &Look<'_>, dinf: Span) -> Result<()> {
    let Some(dref) = child(look, dinf, b"dref")? else { return Ok(()) };
    for entry in children(look, Span { body: dref.body + 8, ..dref })? {
        let outside = look.array::<4>(entry.body)?.is_some_and(|flags| flags[3] & 1 == 0);
        if outside && matches!(&entry.kind, b"url " | b"urn " | b"alis" | b"rsrc") {
            return Err(Error::invalid("its sound is in another file; export it as one file with the media inside"));
        }
    }
    Ok(())
}

/// Timescale and duration of `mvhd` or `mdhd`.
fn timing(look: &Look<'_>, header: Option<Span>) -> Result<Option<(u32, u64)>> {
    let Some(header) = header else { return Ok(None) };
    let bytes = look.at(header.body, 32)?;
    let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    let long = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
    let found = match bytes.first() {
        Some(1) => word(20).zip(long(24)),
        Some(_) => word(12).zip(word(16).map(u64::from)),
        None => None,
    };
    let unknown = |n: u64| n == u64::from(u32::MAX) || n >= 1 << 48;
    Ok(found.filter(|(timescale, _)| *timescale > 0).map(|(t, n)| (t, if unknown(n) { 0 } else { n })))
}

/// Moves the movie's end, which the demuxer would cut at, behind the last frame.
fn later_end(look: &Look<'_>, mvhd: Option<Span>) -> Result<Option<Patch>> {
    let Some(mvhd) = mvhd else { return Ok(None) };
    let long = look.at(mvhd.body, 1)? == [1];
    let (scale_at, low_at) = if long { (20, 28) } else { (12, 16) };
    let (scale, low) = (look.array(mvhd.body + scale_at)?, look.array(mvhd.body + low_at)?);
    let (Some(scale), Some(low)) = (scale.map(u32::from_be_bytes), low.map(u32::from_be_bytes)) else {
        return Ok(None);
    };
    // 0 and all ones mean "unknown", which needs no help
    let later = low.checked_add(scale).filter(|later| low != 0 && *later != u32::MAX);
    Ok(later.map(|later| Patch { at: mvhd.body + low_at, bytes: later.to_be_bytes() }))
}

fn first_edit(look: &Look<'_>, elst: Option<Span>) -> Result<Option<(u64, u64)>> {
    let Some(elst) = elst else { return Ok(None) };
    let bytes = look.at(elst.body, 4096)?;
    let Some(head) = bytes.first_chunk::<8>() else { return Ok(None) };
    let (long, width) = (head[0] == 1, if head[0] == 1 { 20 } else { 12 });
    for edit in bytes[8..].chunks_exact(width) {
        let (length, start) = if long {
            let (a, b) = edit[..16].split_at(8);
            (be(a), be(b) as i64)
        } else {
            let (a, b) = edit[..8].split_at(4);
            (be(a), i64::from(be(b) as u32 as i32))
        };
        if let Ok(start) = u64::try_from(start) {
            return Ok(Some((length, start)).filter(|_| start < 1 << 48)); // −1 is an empty edit
        }
    }
    Ok(None)
}

fn be(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, b| sum << 8 | u64::from(*b))
}

/// Depth from the magic cookie: a box of the same name inside the sample entry.
fn alac_bits(look: &Look<'_>, entry: Span) -> Result<Option<u32>> {
    let inner = children(look, Span { body: entry.body + 28, ..entry })?;
    let Some(cookie) = inner.iter().find(|b| &b.kind == b"alac") else { return Ok(None) };
    Ok(look.at(cookie.body + 9, 1)?.first().map(|b| u32::from(*b)).filter(|b| (8..=32).contains(b)))
}

fn child(look: &Look<'_>, parent: Span, kind: &[u8; 4]) -> Result<Option<Span>> {
    Ok(children(look, parent)?.into_iter().find(|b| &b.kind == kind))
}

/// The boxes of a parent, until one makes no sense.
fn children(look: &Look<'_>, parent: Span) -> Result<Vec<Span>> {
    let mut found = Vec::new();
    let mut at = parent.body;
    while at + 8 <= parent.end && found.len() < BOXES_MAX {
        let Some(head) = look.array::<8>(at)? else { break };
        let (header, length) = match be(&head[..4]) {
            0 => (8, parent.end - at),
            1 => (16, look.array::<8>(at + 8)?.map_or(0, u64::from_be_bytes)),
            length => (8, length),
        };
        let Some(end) = at.checked_add(length).filter(|_| length >= header) else { break };
        found.push(Span { kind: [head[4], head[5], head[6], head[7]], body: at + header, end });
        at = end;
    }
    Ok(found)
}
