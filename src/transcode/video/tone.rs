//! From HDR (BT.2100, HLG or PQ) to SDR (BT.709), which is all that players of H.264 show right. In: a picture of 10 bits,
//! 4:2:0, BT.2020. Out: one of 8 bits. Pure, in integers but for a table made once: the same everywhere.
//!
//! The white of paper in HDR, 203 cd/m² (BT.2408), becomes nine tenths of SDR's signal; what is brighter is pressed together
//! above it, up to 1000 cd/m², with its hue kept. What is darker than half of that white keeps its brightness.

use serde::{Deserialize, Serialize};

/// How the source says how bright a pixel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in super::super) enum Transfer {
    /// Hybrid log-gamma (BT.2100 table 5): of telephones and television.
    Hlg,
    /// Perceptual quantizer (BT.2100 table 4): HDR10.
    Pq,
}

/// The conversion, as a table that is interpolated in.
pub(in super::super) struct ToneMap {
    /// Brightness and two colours, in 64ths of an 8-bit step, by colours and then by brightness.
    nodes: Vec<[u16; 3]>,
}

/// What a reference display of HDR shows at most, and where its paper is white, in cd/m².
const PEAK: f64 = 1000.0;
const WHITE: f64 = 203.0;
/// Up to this share of white nothing is changed.
const KNEE: f64 = 0.5;
/// Nodes for brightness and for each colour, 16 steps of 10 bits apart: twice as far for colours is seen in the strong ones.
const NODES: usize = 65;
/// Parts of a step of 8 bits in a node.
const PARTS: u64 = 64;

impl Transfer {
    /// What a picture's colours are called in caps: `bt2100-hlg`, or four numbers of which the third is it
    /// (`GstVideoTransferFunction`).
    pub(in super::super) fn of(colorimetry: &str) -> Option<Transfer> {
        match (colorimetry, colorimetry.split(':').nth(2)) {
            ("bt2100-hlg", _) | (_, Some("15")) => Some(Transfer::Hlg),
            ("bt2100-pq", _) | (_, Some("14")) => Some(Transfer::Pq),
            _ => None,
        }
    }

    /// For people.
    pub(in super::super) fn name(self) -> &'static str {
        match self {
            Transfer::Hlg => "HLG",
            Transfer::Pq => "PQ",
        }
    }

    /// Light of a display in shares of white, from the signals of its three colours.
    fn light(self, signals: [f64; 3]) -> [f64; 3] {
        match self {
            Transfer::Hlg => {
                let scene = signals.map(|e| match e <= 0.5 {
                    true => e * e / 3.0,
                    false => (((e - 0.559_910_73) / 0.178_832_77).exp() + 0.284_668_92) / 12.0,
                });
                let brightness = 0.2627 * scene[0] + 0.6780 * scene[1] + 0.0593 * scene[2];
                let system = PEAK * brightness.powf(0.2); // gamma 1.2
                scene.map(|light| light * system / WHITE)
            }
            Transfer::Pq => signals.map(|e| {
                let e = e.powf(1.0 / 78.843_75);
                let light = ((e - 0.835_937_5).max(0.0) / (18.851_562_5 - 18.6875 * e)).powf(1.0 / 0.159_301_757_812_5);
                10_000.0 * light / WHITE
            }),
        }
    }
}

/// Presses what is above the knee together, up to the peak (a Möbius curve: its slope at the knee is 1).
fn curve(light: f64) -> f64 {
    let (j, p) = (KNEE, PEAK / WHITE);
    if light <= j {
        return light;
    }
    let a = -j * j * (p - 1.0) / (j * j - 2.0 * j + p);
    let b = (j * j - 2.0 * j * p + p) / (p - 1.0);
    let light = light.min(p);
    (b * b + 2.0 * b * j + j * j) / (b - a) * (light + a) / (light + b)
}

/// A pixel of 10 bits as one of 8, not rounded.
fn converted(transfer: Transfer, [y, cb, cr]: [f64; 3]) -> [f64; 3] {
    // BT.2020, limited range, non-constant luminance.
    let (y, cb, cr) = ((y - 64.0) / 876.0, (cb - 512.0) / 896.0, (cr - 512.0) / 896.0);
    let signals = [y + 1.4746 * cr, y - 0.164_553 * cb - 0.571_353 * cr, y + 1.8814 * cb];
    let light = transfer.light(signals.map(|signal| signal.clamp(0.0, 1.0)));
    // The strongest of the three is pressed, the others with it: the hue stays.
    let most = light.iter().copied().fold(1e-6, f64::max);
    let [r, g, b] = light.map(|light| light * curve(most) / most);
    // BT.2087: primaries of BT.2020 to those of BT.709. What these cannot show is cut off.
    let rgb = [
        1.6605 * r - 0.5876 * g - 0.0728 * b,
        -0.1246 * r + 1.1329 * g - 0.0083 * b,
        -0.0182 * r - 0.1006 * g + 1.1187 * b,
    ];
    // The inverse of what displays do (BT.1886).
    let [r, g, b] = rgb.map(|light| light.clamp(0.0, 1.0).powf(1.0 / 2.4));
    let y = 0.2126 * r + 0.7152 * g + 0.0722 * b;
    [16.0 + 219.0 * y, 128.0 + 224.0 * (b - y) / 1.8556, 128.0 + 224.0 * (r - y) / 1.5748]
}

impl ToneMap {
    /// Makes the table: 274,625 nodes of 6 bytes, a tenth of a second.
    pub(in super::super) fn new(transfer: Transfer) -> ToneMap {
        let mut nodes = Vec::with_capacity(NODES * NODES * NODES);
        for cb in 0..NODES {
            for cr in 0..NODES {
                for y in 0..NODES {
                    let pixel = [y, cb, cr].map(|node| (node * 16) as f64);
                    nodes.push(converted(transfer, pixel).map(|x| (x * PARTS as f64).round() as u16));
                }
            }
        }
        ToneMap { nodes }
    }

    /// The interpolated value of some parts of a pixel.
    fn look<const N: usize>(&self, y: u16, (cb, cr): (u16, u16), parts: [usize; N]) -> [u8; N] {
        let split = |x: u16| (usize::from(x.min(1023) >> 4), u64::from(x.min(1023) & 15));
        let ((y, y_part), (cb, cb_part), (cr, cr_part)) = (split(y), split(cb), split(cr));
        let mut sums = [0u64; N];
        for (cb, cb_weight) in [(cb, 16 - cb_part), (cb + 1, cb_part)] {
            for (cr, cr_weight) in [(cr, 16 - cr_part), (cr + 1, cr_part)] {
                let at = (cb * NODES + cr) * NODES + y;
                let (low, high) = (&self.nodes[at], &self.nodes[at + 1]);
                for (sum, part) in sums.iter_mut().zip(parts) {
                    let value = u64::from(low[part]) * (16 - y_part) + u64::from(high[part]) * y_part;
                    *sum += value * cb_weight * cr_weight;
                }
            }
        }
        const ONE: u64 = 16 * 16 * 16 * PARTS;
        sums.map(|sum| ((sum + ONE / 2) / ONE).min(255) as u8)
    }

    /// A whole picture, laid out as GStreamer's I420_10LE, as one laid out as its I420; `None` when it has another length.
    /// On as many as `bands` threads.
    pub(in super::super) fn picture(&self, from: &[u8], size: (u32, u32), bands: usize) -> Option<Vec<u8>> {
        let (wide, narrow) = (Planes::of(size, 2), Planes::of(size, 1));
        if from.len() < wide.bytes() {
            return None;
        }
        let (luma, chroma) = from.split_at(wide.luma_stride * wide.rows * 2);
        let (blue, red) = chroma.split_at(wide.chroma_stride * wide.rows);
        let mut out = vec![0; narrow.bytes()];
        let (luma_out, chroma_out) = out.split_at_mut(narrow.luma_stride * narrow.rows * 2);
        let (blue_out, red_out) = chroma_out.split_at_mut(narrow.chroma_stride * narrow.rows);
        // Rows of colours in a band; each has two of brightness.
        let rows = wide.rows.div_ceil(bands.max(1)).max(1);
        let inputs = luma
            .chunks(2 * rows * wide.luma_stride)
            .zip(blue.chunks(rows * wide.chroma_stride).zip(red.chunks(rows * wide.chroma_stride)));
        let outputs = luma_out
            .chunks_mut(2 * rows * narrow.luma_stride)
            .zip(blue_out.chunks_mut(rows * narrow.chroma_stride).zip(red_out.chunks_mut(rows * narrow.chroma_stride)));
        let (wide, narrow) = (&wide, &narrow);
        std::thread::scope(|scope| {
            for ((y, (cb, cr)), (y_out, (cb_out, cr_out))) in inputs.zip(outputs) {
                scope.spawn(move || {
                    self.band(wide, (y, cb, cr), narrow, (y_out, cb_out, cr_out));
                });
            }
        });
        Some(out)
    }

    fn band(
        &self,
        wide: &Planes,
        (y, cb, cr): (&[u8], &[u8], &[u8]),
        narrow: &Planes,
        (y_out, cb_out, cr_out): (&mut [u8], &mut [u8], &mut [u8]),
    ) {
        let word = |plane: &[u8], at: usize| u16::from_le_bytes([plane[2 * at], plane[2 * at + 1]]);
        for row in 0..cb_out.len() / narrow.chroma_stride {
            let (cb, cr) = (&cb[row * wide.chroma_stride..], &cr[row * wide.chroma_stride..]);
            for column in 0..wide.columns {
                let colours = (word(cb, column), word(cr, column));
                let mut sum = 0;
                for (down, right) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                    // An odd width or height: the last is its own neighbour, and its double is nobody's pixel.
                    let (x, line) = (2 * column + right, 2 * row + down);
                    let luma = word(&y[line * wide.luma_stride..], x.min(wide.width - 1));
                    sum += u32::from(luma);
                    if let Some(out) = y_out.get_mut(line * narrow.luma_stride + x) {
                        [*out] = self.look(luma, colours, [0]);
                    }
                }
                let [blue, red] = self.look((sum / 4) as u16, colours, [1, 2]);
                let at = row * narrow.chroma_stride + column;
                (cb_out[at], cr_out[at]) = (blue, red);
            }
        }
    }
}

/// Where GStreamer puts the planes of a 4:2:0 picture (`gst_video_info_set_format`).
struct Planes {
    width: usize,
    /// Columns and rows of each plane of colour; there are two of each of brightness.
    columns: usize,
    rows: usize,
    luma_stride: usize,
    chroma_stride: usize,
}

impl Planes {
    fn of((width, height): (u32, u32), sample_bytes: usize) -> Planes {
        let (width, columns, rows) = (width as usize, width.div_ceil(2) as usize, height.div_ceil(2) as usize);
        let luma_stride = (width * sample_bytes).next_multiple_of(4);
        let chroma_stride = (columns * sample_bytes).next_multiple_of(4);
        Planes { width, columns, rows, luma_stride, chroma_stride }
    }

    fn bytes(&self) -> usize {
        2 * self.rows * (self.luma_stride + self.chroma_stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_caps_say_of_colours_is_understood() {
        for (text, transfer) in [
            ("bt2100-hlg", Some(Transfer::Hlg)),
            ("bt2100-pq", Some(Transfer::Pq)),
            ("2:9:15:7", Some(Transfer::Hlg)),
            ("2:6:14:7", Some(Transfer::Pq)),
            ("bt2020-10", None),
            ("bt709", None),
            ("1:3:5:1", None),
            ("", None),
        ] {
            assert_eq!(Transfer::of(text), transfer, "{text}");
        }
    }

    /// Greys stay grey, black stays black, paper is nine tenths of white, and what is brighter is brighter.
    #[test]
    fn greys_have_the_brightness_that_they_should() {
        let grey = |map: &ToneMap, signal: f64| {
            let luma = (64.0 + 876.0 * signal).round() as u16;
            let [y, cb, cr] = map.look(luma, (512, 512), [0, 1, 2]);
            assert!(cb.abs_diff(128) <= 1 && cr.abs_diff(128) <= 1, "{signal}: {cb}, {cr}");
            i32::from(y)
        };
        // Signals of BT.2408 table 1: paper, and a grey card of 18 % (26 cd/m²), which is 0.424 of SDR's signal.
        for (transfer, paper, card) in [(Transfer::Hlg, 0.75, 0.38), (Transfer::Pq, 0.58, 0.38)] {
            let map = ToneMap::new(transfer);
            assert_eq!(grey(&map, 0.0), 16, "{transfer:?}");
            let (white, dim) = (grey(&map, paper), grey(&map, card));
            assert!((white - (16 + 219 * 894 / 1000)).abs() <= 3, "{transfer:?}: paper is {white}");
            assert!((dim - (16 + 219 * 424 / 1000)).abs() <= 4, "{transfer:?}: the card is {dim}");
            let rising: Vec<i32> = (0..=50).map(|n| grey(&map, f64::from(n) / 50.0)).collect();
            assert!(rising.is_sorted() && *rising.last().unwrap() >= 234, "{transfer:?}: {rising:?}");
        }
    }

    /// The table is nowhere further from the formula than an eye sees.
    #[test]
    fn what_lies_between_the_nodes_is_near_the_formula() {
        let map = ToneMap::new(Transfer::Hlg);
        let mut worst = 0.0f64;
        for y in (64..940).step_by(37) {
            for (cb, cr) in [(512, 512), (470, 530), (560, 480), (400, 600)] {
                let exact = converted(Transfer::Hlg, [f64::from(y), f64::from(cb), f64::from(cr)]);
                let found = map.look(y, (cb, cr), [0, 1, 2]);
                for (exact, found) in exact.into_iter().zip(found) {
                    worst = worst.max((exact - f64::from(found)).abs());
                }
            }
        }
        assert!(worst < 3.0, "{worst}");
    }

    #[test]
    fn pictures_of_any_size_are_the_same_in_one_band_and_in_many() {
        let map = ToneMap::new(Transfer::Pq);
        for size in [(16, 16), (17, 19), (34, 18), (101, 51)] {
            let planes = Planes::of(size, 2);
            let words = (0..planes.bytes() / 2).map(|n| (n * 7919 % 1024) as u16);
            let picture: Vec<u8> = words.flat_map(u16::to_le_bytes).collect();
            let one = map.picture(&picture, size, 1).unwrap();
            assert_eq!(one.len(), Planes::of(size, 1).bytes());
            for bands in [2, 3, 64] {
                assert!(map.picture(&picture, size, bands).unwrap() == one, "{size:?} in {bands}");
            }
            let last = (size.1 as usize - 1) * Planes::of(size, 1).luma_stride + size.0 as usize - 1;
            let luma = planes.luma_stride * (size.1 as usize - 1) + 2 * (size.0 as usize - 1);
            let pixel = u16::from_le_bytes([picture[luma], picture[luma + 1]]);
            let chroma = |plane: usize| {
                let at = 2 * planes.rows * planes.luma_stride
                    + plane * planes.rows * planes.chroma_stride
                    + (planes.rows - 1) * planes.chroma_stride
                    + 2 * (planes.columns - 1);
                u16::from_le_bytes([picture[at], picture[at + 1]])
            };
            assert_eq!([one[last]], map.look(pixel, (chroma(0), chroma(1)), [0]), "{size:?}: its last pixel");
            assert_eq!(map.picture(&picture[1..], size, 1), None);
        }
    }
}
