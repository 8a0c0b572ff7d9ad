//! Composes and performs the demo track, so that there is something to play before anybody uploads.
//!
//! In: nothing. Out: one WAV file, always the same bytes: a minute of music in D minor with a quiet
//! start, a build, a break and a last chord that is cut before it has died away. A gap, a shifted
//! rung or a lost tail can be heard in it.
//!
//! Everything is plain arithmetic on tables and decays: no `sin`, no `exp`, whose last bit depends on
//! the platform's mathematics library. The walk: [`perform`] plays each instrument into a [`Mix`], the
//! mix gets its room ([`Mix::hall`], [`Mix::echo`]), and [`master`] makes 16 bits of it.

use std::fs;
use std::path::Path;

use crate::base::Result;
use crate::base::error::Context as _;

/// Samples per second.
pub const RATE: u32 = 44_100;
/// Samples per channel: odd on purpose, and no multiple of any codec's block.
pub const SAMPLES: usize = 2_835_631;

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Samples per channel.
    pub samples: u64,
    /// Samples per second.
    pub rate: u32,
    /// Interleaved channels.
    pub channels: u16,
}

/// Writes the demo track to `path`: 16-bit stereo WAV, replacing what is there.
pub fn write_wav(path: &Path) -> Result<Facts> {
    let sound = render();
    let mut file = wav_header(sound.len());
    for [left, right] in &sound {
        file.extend_from_slice(&left.to_le_bytes());
        file.extend_from_slice(&right.to_le_bytes());
    }
    fs::write(path, &file).context(|| format!("cannot write the demo track to {}", path.display()))?;
    Ok(Facts { samples: SAMPLES as u64, rate: RATE, channels: 2 })
}

fn render() -> Vec<[i16; 2]> {
    let mut mix = Mix::new();
    perform(&mut mix);
    mix.echo();
    mix.hall();
    master(&mix)
}

fn wav_header(samples: usize) -> Vec<u8> {
    let data_bytes = (samples * 4) as u32;
    let mut head = Vec::with_capacity(44 + samples * 4);
    head.extend_from_slice(b"RIFF");
    head.extend_from_slice(&(36 + data_bytes).to_le_bytes());
    head.extend_from_slice(b"WAVEfmt ");
    head.extend_from_slice(&16u32.to_le_bytes());
    head.extend_from_slice(&1u16.to_le_bytes()); // integer PCM
    head.extend_from_slice(&2u16.to_le_bytes());
    head.extend_from_slice(&RATE.to_le_bytes());
    head.extend_from_slice(&(RATE * 4).to_le_bytes());
    head.extend_from_slice(&4u16.to_le_bytes());
    head.extend_from_slice(&16u16.to_le_bytes());
    head.extend_from_slice(b"data");
    head.extend_from_slice(&data_bytes.to_le_bytes());
    head
}

// ── the score ──

/// Samples in a bar: 2.5 s, 96 beats a minute. A step is a sixteenth of it.
const BAR: usize = 110_250;
const STEPS: usize = 16;
/// Bars before the last chord.
const BARS: usize = 24;

/// Where a step begins.
fn at(bar: usize, step: usize) -> usize {
    bar * BAR + step * BAR / STEPS
}

struct Chord {
    bass: u8,
    notes: [u8; 5],
}

const DM9: Chord = Chord { bass: 38, notes: [50, 57, 60, 64, 65] };
const BB: Chord = Chord { bass: 34, notes: [53, 57, 58, 62, 65] };
const F: Chord = Chord { bass: 41, notes: [53, 57, 60, 64, 67] };
const C: Chord = Chord { bass: 36, notes: [52, 55, 60, 62, 67] };
const GM9: Chord = Chord { bass: 31, notes: [53, 58, 62, 65, 69] };
const AM7: Chord = Chord { bass: 33, notes: [52, 57, 60, 64, 67] };

/// One chord a bar; the last is held.
static CHORDS: [&Chord; BARS + 1] = [
    &DM9, &BB, &F, &C, &DM9, &BB, &F, &C, // quiet, then building
    &DM9, &BB, &F, &C, &GM9, &AM7, &BB, &C, // everybody
    &BB, &C, // break
    &DM9, &BB, &F, &C, &GM9, &AM7, // everybody again
    &DM9,
];

/// A melody note: step in the bar, length in steps, MIDI pitch.
type Phrase = &'static [(usize, usize, u8)];

const CALL: [Phrase; 4] = [
    &[(0, 6, 69), (6, 2, 72), (8, 4, 74), (12, 4, 76)],
    &[(0, 7, 77), (8, 2, 76), (10, 2, 74), (12, 4, 72)],
    &[(0, 6, 69), (6, 2, 67), (8, 8, 72)],
    &[(0, 3, 67), (4, 4, 69), (8, 4, 72), (12, 4, 74)],
];
const ANSWER: [Phrase; 4] = [
    &[(0, 6, 74), (6, 2, 77), (8, 8, 81)],
    &[(0, 4, 79), (4, 4, 76), (8, 7, 72)],
    &[(0, 6, 74), (6, 2, 76), (8, 4, 77), (12, 4, 81)],
    &[(0, 8, 79), (8, 4, 76), (12, 4, 72)],
];

/// The order in which the arpeggio walks through a chord.
const WALK: [usize; STEPS] = [0, 2, 4, 1, 3, 2, 4, 3, 0, 2, 4, 3, 1, 2, 3, 4];

/// Which part of the form a bar belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Intro,
    Build,
    Full,
    Break,
}

fn part(bar: usize) -> Part {
    match bar {
        0..4 => Part::Intro,
        4..8 => Part::Build,
        16..18 => Part::Break,
        _ => Part::Full,
    }
}

fn perform(mix: &mut Mix) {
    let tables = Tables::new();
    let mut noise = Noise(0x05e6_0e5e);
    for bar in 0..BARS {
        pad(mix, &tables, bar, BAR);
        bass(mix, &tables, bar);
    }
    pad(mix, &tables, BARS, SAMPLES - BARS * BAR);
    // What the kick drum pushes aside is in the mix by now; what it should not touch comes after.
    let kicks = kick_steps();
    mix.duck(&kicks);
    for &start in &kicks {
        kick(mix, &tables, start);
    }
    for bar in 0..BARS {
        arpeggio(mix, &tables, bar, &mut noise);
        melody(mix, &tables, bar);
        drums(mix, &tables, bar, &mut noise);
    }
    finale(mix, &tables, &mut noise);
}

fn kick_steps() -> Vec<usize> {
    let mut starts = Vec::new();
    for bar in 4..BARS {
        let steps: &[usize] = match part(bar) {
            Part::Full if bar % 4 == 3 => &[0, 6, 8, 11, 14],
            Part::Full => &[0, 4, 8, 12],
            Part::Build if bar >= 6 => &[0, 8],
            _ => &[],
        };
        starts.extend(steps.iter().map(|&step| at(bar, step)));
    }
    starts
}

// ── the instruments ──

/// Held chords: two detuned voices a note, one to each side, under a filter that opens with the form.
fn pad(mix: &mut Mix, tables: &Tables, bar: usize, length: usize) {
    let (level, brightness) = match part(bar) {
        Part::Intro => (0.022 + 0.004 * bar as f32, 0.03 + 0.01 * bar as f32),
        Part::Build => (0.040, 0.05 + 0.02 * (bar - 4) as f32),
        Part::Break => (0.032, 0.10),
        Part::Full => (0.050, 0.32),
    };
    let held = length + if bar < BARS { RATE as usize / 3 } else { 0 };
    for (i, &note) in CHORDS[bar].notes.iter().enumerate() {
        for (side, detune) in [(0.15, 0.998), (0.85, 1.0025)] {
            let mut osc = Osc::new(hz(note) * (detune + 0.0004 * i as f64));
            let mut filter = Lowpass::new(brightness);
            let mut age = 0;
            mix.play(at(bar, 0), held, Place { pan: side, hall: 0.35, echo: 0.0 }, || {
                let envelope = ramp(age, 7_000) * ramp(held - age, 14_000);
                age += 1;
                filter.run(osc.next(&tables.saw)) * envelope * level
            });
        }
    }
}

/// A round bass: sine with a little of the saw, filtered.
fn bass(mix: &mut Mix, tables: &Tables, bar: usize) {
    let pattern: &[(usize, usize, u8)] = match part(bar) {
        Part::Intro => return,
        Part::Build => &[(0, 7, 0), (10, 5, 0)],
        Part::Break => &[(0, 15, 0)],
        Part::Full if bar.is_multiple_of(2) => &[(0, 3, 0), (3, 3, 0), (6, 2, 12), (8, 3, 0), (11, 3, 0), (14, 2, 7)],
        Part::Full => &[(0, 3, 0), (3, 3, 0), (6, 2, 12), (10, 2, 0), (12, 2, 12), (14, 2, 7)],
    };
    for &(step, steps, above) in pattern {
        let level = if part(bar) == Part::Break { 0.10 } else { 0.15 };
        bass_note(mix, tables, at(bar, step), steps * BAR / STEPS, CHORDS[bar].bass + above, level);
    }
}

fn bass_note(mix: &mut Mix, tables: &Tables, start: usize, length: usize, note: u8, level: f32) {
    let (mut body, mut edge) = (Osc::new(hz(note)), Osc::new(hz(note) * 1.002));
    let mut filter = Lowpass::new(0.09);
    let (mut age, mut gain) = (0, level);
    let fade = decay(1.4);
    mix.play(start, length, Place { pan: 0.5, hall: 0.02, echo: 0.0 }, || {
        let envelope = ramp(age, 220) * ramp(length - age, 900) * gain;
        age += 1;
        gain *= fade;
        (body.next(&tables.sine) + 0.8 * filter.run(edge.next(&tables.saw))) * envelope
    });
}

/// Small bells, one voice modulating the phase of another; they answer each other left and right.
fn arpeggio(mix: &mut Mix, tables: &Tables, bar: usize, noise: &mut Noise) {
    let every = if bar < 2 { 2 } else { 1 };
    let level = match part(bar) {
        Part::Intro => 0.085 + 0.008 * bar as f32,
        Part::Build => 0.105,
        Part::Full => 0.088,
        Part::Break => 0.075,
    };
    for step in (0..STEPS).step_by(every) {
        let note = CHORDS[bar].notes[WALK[step]] + if bar >= 18 && step % 4 == 2 { 24 } else { 12 };
        let accent = if step.is_multiple_of(4) { 1.0 } else { 0.68 } + 0.12 * noise.next();
        let pan = if step.is_multiple_of(2) { 0.32 } else { 0.68 };
        bell(mix, tables, at(bar, step), note, level * accent, pan);
    }
}

fn bell(mix: &mut Mix, tables: &Tables, start: usize, note: u8, level: f32, pan: f32) {
    let mut carrier = Osc::new(hz(note));
    let mut modulator = Osc::new(hz(note) * 2.0);
    let mut strike = Osc::new(hz(note) * 7.0);
    let (mut gain, mut depth, mut hit) = (level, 0.36, 0.13);
    let (fade, dull, click) = (decay(0.34), decay(0.20), decay(0.06));
    let mut age = 0;
    // 1.7 s: five time constants, below the dither.
    mix.play(start, RATE as usize * 17 / 10, Place { pan, hall: 0.22, echo: 0.28 }, || {
        let shift = modulator.next(&tables.sine) * depth + strike.next(&tables.sine) * hit;
        let sample = carrier.shifted(&tables.sine, shift) * gain * ramp(age, 60);
        age += 1;
        gain *= fade;
        depth *= dull;
        hit *= click;
        sample
    });
}

fn melody(mix: &mut Mix, tables: &Tables, bar: usize) {
    let (phrase, level): (Phrase, f32) = match bar {
        8..12 => (CALL[bar - 8], 0.105),
        12..16 => (ANSWER[bar - 12], 0.115),
        16 => (&[(0, 6, 77), (6, 10, 74)], 0.075),
        17 => (&[(0, 6, 76), (6, 6, 72)], 0.075),
        18..22 => (CALL[bar - 18], 0.115),
        22..24 => (ANSWER[bar - 22], 0.12),
        _ => return,
    };
    for &(step, steps, note) in phrase {
        lead(mix, tables, at(bar, step), steps * BAR / STEPS, note, level, 0.56);
        if bar >= 18 {
            // The second time it is sung in thirds below, from the other side.
            lead(mix, tables, at(bar, step) + 350, steps * BAR / STEPS, third_below(note), level * 0.5, 0.3);
        }
    }
}

/// A third down within D natural minor.
fn third_below(note: u8) -> u8 {
    match note % 12 {
        0 | 5 | 7 | 10 => note - 3, // C→A, F→D, G→E, B♭→G
        _ => note - 4,              // D→B♭, E→C, A→F
    }
}

/// The singing voice: a saw whose vibrato comes late.
fn lead(mix: &mut Mix, tables: &Tables, start: usize, length: usize, note: u8, level: f32, pan: f32) {
    let held = length + 2_000;
    let (mut osc, mut under) = (Osc::new(hz(note)), Osc::new(hz(note) * 0.5));
    let mut vibrato = Osc::new(5.2);
    let mut filter = Lowpass::new(0.5);
    let mut age = 0;
    mix.play(start, held, Place { pan, hall: 0.25, echo: 0.30 }, || {
        let wobble = vibrato.next(&tables.sine) * ramp(age.max(9_000) - 9_000, 12_000);
        osc.bend(wobble * 0.004);
        let envelope = ramp(age, 900) * ramp(held - age, 3_000) * level;
        age += 1;
        filter.run(osc.next(&tables.saw) + 0.4 * under.next(&tables.sine)) * envelope
    });
}

fn kick(mix: &mut Mix, tables: &Tables, start: usize) {
    let mut osc = Osc::new(46.0);
    let (mut sweep, mut gain) = (2.6, 0.46);
    let (fall, fade) = (decay(0.028), decay(0.13));
    let mut age = 0;
    mix.play(start, 26_000, Place { pan: 0.5, hall: 0.02, echo: 0.0 }, || {
        osc.bend(sweep);
        let sample = osc.next(&tables.sine) * gain * ramp(age, 30);
        age += 1;
        sweep *= fall;
        gain *= fade;
        sample
    });
}

fn drums(mix: &mut Mix, tables: &Tables, bar: usize, noise: &mut Noise) {
    let full = part(bar) == Part::Full;
    for step in 0..STEPS {
        let start = at(bar, step);
        match (part(bar), step % 4) {
            (Part::Full, 2) => hat(mix, noise, start, 0.085, 0.055),
            (Part::Full, _) => hat(mix, noise, start, 0.045, 0.016),
            (Part::Build, 0 | 2) if bar >= 5 => hat(mix, noise, start, 0.022 + 0.008 * (bar - 4) as f32, 0.014),
            (Part::Break, 2) => hat(mix, noise, start, 0.03, 0.02),
            _ => {}
        }
        if full && (step == 4 || step == 12) {
            snare(mix, tables, noise, start, 0.21);
        }
    }
    match bar {
        8 | 18 => crash(mix, noise, at(bar, 0), 0.13),
        7 | 17 => {
            riser(mix, noise, at(bar, 0));
            for (i, step) in [8, 10, 12, 13, 14, 15].into_iter().enumerate() {
                snare(mix, tables, noise, at(bar, step), 0.05 + 0.022 * i as f32);
            }
        }
        15 | 23 => {
            for (step, note) in [(10, 50), (11, 50), (12, 46), (13, 46), (14, 41), (15, 41)] {
                tom(mix, tables, at(bar, step), note);
            }
        }
        _ => {}
    }
}

fn hat(mix: &mut Mix, noise: &mut Noise, start: usize, level: f32, length_s: f64) {
    let (mut last, mut older, mut gain) = (0.0, 0.0, level);
    let fade = decay(length_s);
    mix.play(start, (length_s * 8.0 * f64::from(RATE)) as usize, Place { pan: 0.62, hall: 0.04, echo: 0.0 }, || {
        let now = noise.next();
        let bright = now - 2.0 * last + older; // second difference: only the top of the noise is left
        (older, last) = (last, now);
        gain *= fade;
        bright * 0.5 * gain
    });
}

fn snare(mix: &mut Mix, tables: &Tables, noise: &mut Noise, start: usize, level: f32) {
    let (mut low, mut high) = (Osc::new(186.0), Osc::new(331.0));
    let (mut wires, mut skin, mut last) = (level * 1.5, level, 0.0);
    let (wires_fade, skin_fade) = (decay(0.075), decay(0.045));
    let mut age = 0;
    mix.play(start, 24_000, Place { pan: 0.46, hall: 0.20, echo: 0.0 }, || {
        let now = noise.next();
        let rattle = (now - 0.6 * last) * wires;
        last = now;
        let tone = (low.next(&tables.sine) + 0.6 * high.next(&tables.sine)) * skin;
        wires *= wires_fade;
        skin *= skin_fade;
        age += 1;
        (rattle + tone) * ramp(age, 20)
    });
}

fn tom(mix: &mut Mix, tables: &Tables, start: usize, note: u8) {
    let mut osc = Osc::new(hz(note));
    let (mut sweep, mut gain) = (0.5, 0.26);
    let (fall, fade) = (decay(0.05), decay(0.16));
    let pan = 0.25 + 0.05 * f32::from(note - 40);
    mix.play(start, 30_000, Place { pan, hall: 0.15, echo: 0.0 }, || {
        osc.bend(sweep);
        sweep *= fall;
        gain *= fade;
        osc.next(&tables.sine) * gain
    });
}

fn crash(mix: &mut Mix, noise: &mut Noise, start: usize, level: f32) {
    for pan in [0.1, 0.9] {
        let (mut last, mut gain) = (0.0, level);
        let fade = decay(0.7);
        mix.play(start, RATE as usize * 7 / 2, Place { pan, hall: 0.1, echo: 0.0 }, || {
            let now = noise.next();
            let bright = now - 0.9 * last;
            last = now;
            gain *= fade;
            bright * gain
        });
    }
}

/// Noise that opens over one bar, into the next part.
fn riser(mix: &mut Mix, noise: &mut Noise, start: usize) {
    for pan in [0.2, 0.8] {
        let mut filter = Lowpass::new(0.01);
        let mut age = 0;
        mix.play(start, BAR, Place { pan, hall: 0.2, echo: 0.0 }, || {
            let along = age as f32 / BAR as f32;
            filter.open = 0.01 + 0.3 * along * along;
            age += 1;
            filter.run(noise.next()) * along * along * 0.16
        });
    }
}

/// The last chord, left ringing.
fn finale(mix: &mut Mix, tables: &Tables, noise: &mut Noise) {
    let start = at(BARS, 0);
    crash(mix, noise, start, 0.12);
    kick(mix, tables, start);
    bass_note(mix, tables, start, SAMPLES - start + 900, DM9.bass, 0.16);
    for (i, &note) in DM9.notes.iter().enumerate() {
        bell(mix, tables, start + i * 1_400, note + 12, 0.12, 0.3 + 0.1 * i as f32);
        bell(mix, tables, start + BAR / 2 + i * 5_200, note + 24, 0.06, 0.7 - 0.1 * i as f32);
    }
    lead(mix, tables, start, SAMPLES - start, 74, 0.09, 0.56);
}

// ── the room and the desk ──

/// Where a voice stands and how much of it the room hears.
struct Place {
    /// 0 left, 1 right.
    pan: f32,
    hall: f32,
    echo: f32,
}

/// Everything that sounds: two channels and what is sent to the room.
struct Mix {
    sides: Vec<[f32; 2]>,
    to_hall: Vec<f32>,
    to_echo: Vec<f32>,
}

impl Mix {
    fn new() -> Mix {
        Mix { sides: vec![[0.0; 2]; SAMPLES], to_hall: vec![0.0; SAMPLES], to_echo: vec![0.0; SAMPLES] }
    }

    /// Adds `length` samples of `voice` from `start`; what would sound after the end is not played.
    fn play(&mut self, start: usize, length: usize, place: Place, mut voice: impl FnMut() -> f32) {
        let end = (start + length).min(SAMPLES);
        let (left, right) = ((1.0 - place.pan).sqrt(), place.pan.sqrt()); // equal power
        let sends = self.to_hall[start..end].iter_mut().zip(&mut self.to_echo[start..end]);
        for (side, (hall, echo)) in self.sides[start..end].iter_mut().zip(sends) {
            let sample = voice();
            side[0] += sample * left;
            side[1] += sample * right;
            *hall += sample * place.hall;
            *echo += sample * place.echo;
        }
    }

    /// Dips what is in the mix so far under each kick.
    fn duck(&mut self, kicks: &[usize]) {
        let back = decay(0.11);
        for &start in kicks {
            let mut dip = 0.55;
            for (age, side) in self.sides[start..].iter_mut().take(20_000).enumerate() {
                let gain = 1.0 - dip * ramp(age, 120);
                dip *= back;
                side[0] *= gain;
                side[1] *= gain;
            }
        }
    }

    /// Repeats three steps later, left and right in turn, each time softer and duller.
    fn echo(&mut self) {
        const DELAY: usize = 3 * BAR / STEPS;
        let mut lines = [vec![0.0f32; DELAY], vec![0.0f32; DELAY]];
        let mut dull = Lowpass::new(0.35);
        let [left, right] = &mut lines;
        let mut slot = 0;
        for ((side, hall), &input) in self.sides.iter_mut().zip(&mut self.to_hall).zip(&self.to_echo) {
            let (from_left, from_right) = (left[slot], right[slot]);
            left[slot] = input + dull.run(from_right) * 0.42;
            right[slot] = from_left;
            slot = if slot + 1 == DELAY { 0 } else { slot + 1 };
            side[0] += from_left * 0.8;
            side[1] += from_right * 0.8;
            *hall += (from_left + from_right) * 0.15;
        }
    }

    /// A feedback delay network: four lines of mutually prime length, mixed by a Hadamard matrix.
    fn hall(&mut self) {
        const LENGTHS: [usize; 4] = [1_687, 2_053, 2_467, 3_049];
        let mut lines = LENGTHS.map(|length| vec![0.0f32; length]);
        let mut slots = [0usize; 4];
        let mut damp = [const { Lowpass { open: 0.45, held: 0.0 } }; 4];
        for (side, &input) in self.sides.iter_mut().zip(&self.to_hall) {
            let mut tap = [0.0; 4];
            for i in 0..4 {
                tap[i] = damp[i].run(lines[i][slots[i]]);
            }
            side[0] += tap[0] + tap[2];
            side[1] += tap[1] + tap[3];
            let (sum, cross) = (tap[0] + tap[1], tap[2] + tap[3]);
            let (difference, across) = (tap[0] - tap[1], tap[2] - tap[3]);
            let mixed = [sum + cross, difference + across, sum - cross, difference - across];
            for i in 0..4 {
                lines[i][slots[i]] = input + mixed[i] * 0.43; // 0.5 would never die away
                slots[i] = if slots[i] + 1 == LENGTHS[i] { 0 } else { slots[i] + 1 };
            }
        }
    }
}

/// Sets the level, rounds off the peaks, dithers to 16 bits. The end is turned down but not to silence:
/// a lost last segment or frame should be heard, and seen in a comparison.
fn master(mix: &Mix) -> Vec<[i16; 2]> {
    let mut dither = Noise(0x0b5e_55ed);
    // The bells' overtones leave a trace of direct current behind; 10 Hz is far below the bass.
    let mut offset = [const { Lowpass { open: 0.0014, held: 0.0 } }; 2];
    let sound = mix.sides.iter().enumerate().map(|(i, side)| {
        let fade = 0.2 + 0.8 * ramp(SAMPLES - i, RATE as usize * 5 / 2);
        std::array::from_fn(|channel| {
            let sample = side[channel] - offset[channel].run(side[channel]);
            let level = soften(sample * LEVEL) * fade * CEILING;
            let triangular = (dither.next() + dither.next()) * 0.5;
            (level * 32_768.0 + triangular).round() as i16
        })
    });
    sound.collect()
}

const LEVEL: f32 = 1.1;
/// −1.2 dBFS: lossy codecs overshoot a little.
const CEILING: f32 = 0.87;

/// A curve that is straight for quiet sounds and never passes 1 (the Padé form of tanh).
fn soften(x: f32) -> f32 {
    let x = x.clamp(-3.0, 3.0);
    x * (27.0 + x * x) / (27.0 + 9.0 * x * x)
}

// ── the parts of an instrument ──

const TABLE: usize = 2_048;

/// One period each, with the first value again at the end, for interpolation.
struct Tables {
    sine: [f32; TABLE + 1],
    /// Twelve harmonics, falling a little faster than a saw's: no aliasing up to 1.8 kHz.
    saw: [f32; TABLE + 1],
}

impl Tables {
    fn new() -> Tables {
        let exact: [f64; TABLE] = std::array::from_fn(|i| sine_of_turn(i as f64 / TABLE as f64));
        let wave = |harmonics: &[f64]| {
            std::array::from_fn(|i| {
                let partials = harmonics.iter().enumerate().map(|(h, level)| level * exact[(h + 1) * i % TABLE]);
                partials.sum::<f64>() as f32
            })
        };
        let falling: [f64; 12] = std::array::from_fn(|h| 0.8 / (h + 1) as f64 * (1.0 - h as f64 / 14.0));
        Tables { sine: wave(&[1.0]), saw: wave(&falling) }
    }
}

/// The sine of `turn` full turns, 0 ≤ `turn` < 1, by its power series around the nearest quarter.
fn sine_of_turn(turn: f64) -> f64 {
    let (sign, half) = if turn < 0.5 { (1.0, turn) } else { (-1.0, turn - 0.5) };
    let quarter = if half > 0.25 { 0.5 - half } else { half };
    let x = quarter * std::f64::consts::TAU;
    let mut term = x;
    let mut sum = x;
    for n in 1..10 {
        term *= -x * x / f64::from(2 * n * (2 * n + 1));
        sum += term;
    }
    sign * sum
}

/// Reads a table at a pitch. The phase is a whole turn in 32 bits: it wraps by itself and never drifts.
struct Osc {
    phase: u32,
    step: u32,
    bend: f32,
}

impl Osc {
    fn new(hz: f64) -> Osc {
        Osc { phase: 0, step: (hz / f64::from(RATE) * 4_294_967_296.0) as u32, bend: 0.0 }
    }

    /// Raises the pitch by this share until told otherwise.
    fn bend(&mut self, share: f32) {
        self.bend = share;
    }

    fn next(&mut self, table: &[f32; TABLE + 1]) -> f32 {
        self.shifted(table, 0.0)
    }

    /// The next sample, read `turns` away from where the phase is.
    fn shifted(&mut self, table: &[f32; TABLE + 1], turns: f32) -> f32 {
        const INSIDE: u32 = 32 - TABLE.ilog2();
        let phase = self.phase.wrapping_add((turns * 4_294_967_296.0) as i64 as u32);
        self.phase = self.phase.wrapping_add(self.step).wrapping_add((self.step as f32 * self.bend) as i32 as u32);
        let (cell, between) = ((phase >> INSIDE) as usize, phase & ((1 << INSIDE) - 1));
        let share = between as f32 / (1u32 << INSIDE) as f32;
        table[cell] + (table[cell + 1] - table[cell]) * share
    }
}

/// One pole. `open` is the share of the input that passes at once: 1 passes all.
struct Lowpass {
    open: f32,
    held: f32,
}

impl Lowpass {
    fn new(open: f32) -> Lowpass {
        Lowpass { open, held: 0.0 }
    }

    fn run(&mut self, input: f32) -> f32 {
        self.held += (input - self.held) * self.open;
        self.held
    }
}

/// White noise between −1 and 1 from a xorshift generator. Invariant: the state is never 0.
struct Noise(u32);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        (self.0 as i32) as f32 / 2_147_483_648.0
    }
}

/// 0 at `age` 0, 1 from `length` on.
fn ramp(age: usize, length: usize) -> f32 {
    if age < length { age as f32 / length as f32 } else { 1.0 }
}

/// The factor per sample that takes a level to 1/e of itself in `seconds`.
fn decay(seconds: f64) -> f32 {
    (1.0 - 1.0 / (seconds * f64::from(RATE))) as f32
}

/// The frequency of a MIDI note, equal temperament from A = 440 Hz.
fn hz(note: u8) -> f64 {
    const SEMITONE: f64 = 1.059_463_094_359_295_3;
    let steps = i32::from(note) - 69;
    (0..steps.abs()).fold(440.0, |hz, _| if steps > 0 { hz * SEMITONE } else { hz / SEMITONE })
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use sha2::{Digest, Sha256};

    use super::*;
    use crate::base::hex;

    /// Performed once: a debug build is slow at it.
    static SOUND: LazyLock<Vec<[i16; 2]>> = LazyLock::new(render);

    fn rms(from_s: f64, to_s: f64) -> f64 {
        let cut = |seconds: f64| (seconds * f64::from(RATE)) as usize;
        let part = &SOUND[cut(from_s)..cut(to_s)];
        let power: f64 = part.iter().flatten().map(|&sample| f64::from(sample) * f64::from(sample)).sum();
        (power / (part.len() * 2) as f64).sqrt() / 32_768.0
    }

    #[test]
    fn the_file_is_a_wav_of_exactly_the_stated_length() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("demo.wav");
        let facts = write_wav(&path).expect("written");
        assert_eq!(facts, Facts { samples: 2_835_631, rate: 44_100, channels: 2 });
        let file = fs::read(&path).expect("readable");
        assert_eq!(file.len(), 44 + SAMPLES * 4);
        assert_eq!((&file[..4], &file[8..16], &file[36..40]), (&b"RIFF"[..], &b"WAVEfmt "[..], &b"data"[..]));
        assert_eq!(file[4..8], (file.len() as u32 - 8).to_le_bytes());
        assert_eq!(file[40..44], (SAMPLES as u32 * 4).to_le_bytes());
        assert_eq!(SAMPLES % 2, 1, "an odd length finds rounding errors");
    }

    /// The same music on every machine, so that tests elsewhere may rely on its version's hash.
    #[test]
    fn every_performance_is_the_same() {
        let bytes: Vec<u8> = SOUND.iter().flatten().flat_map(|sample| sample.to_le_bytes()).collect();
        assert_eq!(hex::encode(&Sha256::digest(&bytes)[..8]), "7d099d7d37059b5e");
    }

    #[test]
    fn nothing_is_clipped_and_nothing_is_timid() {
        let peak = SOUND.iter().flatten().map(|sample| sample.unsigned_abs()).max().expect("there is sound");
        assert!(peak <= 29_204, "above -1 dBFS: {peak}");
        assert!(peak >= 23_000, "too quiet: {peak}");
    }

    #[test]
    fn the_channels_differ_and_neither_is_shifted_off_centre() {
        let different = SOUND.iter().filter(|[left, right]| left != right).count();
        assert!(different > SAMPLES * 9 / 10);
        let mean = SOUND.iter().flatten().map(|&sample| f64::from(sample)).sum::<f64>() / (SAMPLES * 2) as f64;
        assert!(mean.abs() < 20.0, "offset {mean}");
    }

    #[test]
    fn it_begins_at_once_and_is_cut_before_it_dies_away() {
        assert!(SOUND[..220].iter().flatten().any(|sample| sample.unsigned_abs() > 400), "sound within 5 ms");
        assert!(rms(64.2, 64.3) > 0.002, "the tail is audible to the end");
    }

    #[test]
    fn it_has_quiet_and_loud_parts() {
        let (intro, full, pause) = (rms(0.0, 5.0), rms(25.0, 35.0), rms(40.5, 43.5));
        assert!(full > intro * 2.5, "build: {intro} to {full}");
        assert!(full > pause * 1.6, "break: {full} to {pause}");
    }

    #[test]
    fn the_sine_is_a_sine() {
        for i in 0..1_000 {
            let turn = f64::from(i) / 1_000.0;
            assert!((sine_of_turn(turn) - (turn * std::f64::consts::TAU).sin()).abs() < 1e-9, "{turn}");
        }
    }
}
