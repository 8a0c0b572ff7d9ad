//! The waveform's files: `peaks.bin` as audiowaveform version 2 (8 bit), the same at coarser zooms, and a small
//! JSON of the same format for pages. In: pairs of minimum and maximum. Out: bytes.

use super::analysis::SAMPLES_PER_POINT;

/// Points in the small file: wider than any page shows it.
const SMALL_POINTS_MAX: usize = 1000;

/// Samples per point of the coarser zooms: a waveform of minutes, and an overview. Each is a multiple of
/// `SAMPLES_PER_POINT`.
pub(super) const ZOOMS: [u32; 2] = [2048, 16_384];

/// The file of a zoom.
pub(super) fn zoom_name(samples_per_point: u32) -> String {
    format!("peaks-{samples_per_point}.bin")
}

/// A zoom's whole file, from the points of `peaks.bin`.
pub(super) fn zoomed(rate: u32, points: &[u8], samples_per_point: u32) -> Vec<u8> {
    let merged = merge(points, (samples_per_point / SAMPLES_PER_POINT) as usize);
    let mut out = header(rate, (merged.len() / 2) as u32, samples_per_point).to_vec();
    out.extend(merged.iter().map(|value| *value as u8));
    out
}

/// Minimum and maximum over so many points each.
fn merge(points: &[u8], count: usize) -> Vec<i8> {
    let over = |group: &[u8]| {
        let low = group.iter().step_by(2).map(|b| *b as i8).min().unwrap_or(0);
        let high = group.iter().skip(1).step_by(2).map(|b| *b as i8).max().unwrap_or(0);
        [low, high]
    };
    points.chunks(count * 2).flat_map(over).collect()
}

/// The header of `peaks.bin` (audiowaveform's doc/DataFormat.md): version, flags (8 bit), rate, samples
/// per point, points, channels; all little-endian 32 bit.
pub(super) fn header(rate: u32, points: u32, samples_per_point: u32) -> [u8; 24] {
    let mut out = [0; 24];
    for (place, value) in out.chunks_exact_mut(4).zip([2, 1, rate, samples_per_point, points, 1]) {
        place.copy_from_slice(&value.to_le_bytes());
    }
    out
}

/// `peaks.json`: the same points, merged until there are few.
pub(super) fn small(rate: u32, points: &[u8]) -> Vec<u8> {
    let count = points.len() / 2;
    let merged = count.div_ceil(SMALL_POINTS_MAX).max(1);
    let data = merge(points, merged);
    let document = serde_json::json!({
        "version": 2,
        "channels": 1,
        "sample_rate": rate,
        "samples_per_pixel": u64::from(SAMPLES_PER_POINT) * merged as u64,
        "bits": 8,
        "length": data.len() / 2,
        "data": data,
    });
    document.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_audiowaveform_version_2() {
        let expected = [2, 0, 0, 0, 1, 0, 0, 0, 0x44, 0xac, 0, 0, 0, 1, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0];
        assert_eq!(header(44_100, 7, 256), expected);
    }

    #[test]
    fn a_coarser_zoom_keeps_extremes_and_the_last_points() {
        let mut points = [(-1i8) as u8, 1].repeat(19);
        (points[6], points[7], points[37]) = ((-100i8) as u8, 90, 77);
        let file = zoomed(44_100, &points, 2048);
        assert_eq!(file[..24], header(44_100, 3, 2048));
        assert_eq!(file[24..], [(-100i8) as u8, 90, 255, 1, 255, 77]);
    }

    #[test]
    fn the_small_file_has_at_most_a_thousand_points_and_keeps_extremes() {
        let mut points = [(-1i8) as u8, 1].repeat(2500);
        points[4000] = (-100i8) as u8;
        points[4001] = 90;
        let document: serde_json::Value = serde_json::from_slice(&small(44_100, &points)).unwrap();
        assert_eq!(document["length"], 834);
        assert_eq!(document["samples_per_pixel"], 768);
        let data: Vec<i64> = document["data"].as_array().unwrap().iter().map(|v| v.as_i64().unwrap()).collect();
        assert_eq!((data.iter().min(), data.iter().max()), (Some(&-100), Some(&90)));
        assert_eq!(small(44_100, &[5, 9]).len(), small(44_100, &[6, 8]).len());
    }
}
