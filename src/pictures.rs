//! Pictures that people send, made anew. In: a file. Out: JPEGs in the sizes asked for, upright, on white, with nothing
//! of the file in them but what is seen.
//!
//! A picture may be a bomb: what it says of itself is believed only to refuse it, and decoding has a bound in memory.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder as _, ImageFormat, ImageReader, Limits, Rgb, RgbImage};

/// The longest side that is decoded, in pixels.
const SIDE_MAX: u32 = 10_000;
/// The most pixels: 120 MB decoded.
const PIXELS_MAX: u64 = 30_000_000;
/// What decoding may take beside that, in bytes.
const DECODER_BYTES_MAX: u64 = 160 << 20;
/// The shortest side: less is no picture of anything.
const SIDE_MIN: u32 = 64;
/// Of 100: what nobody tells from the original on a screen.
const QUALITY: u8 = 85;

/// Why a picture is not taken, in words for whoever sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

/// The picture, its longer side as asked for, never larger than it was sent. Takes up to half a second: not for a thread
/// that others wait for.
///
/// # Errors
/// What is wrong with it.
pub fn sizes(file: &[u8], sizes: &[u32]) -> Result<Vec<(u32, Vec<u8>)>, Refusal> {
    let upright = decoded(file)?;
    let mut made = Vec::with_capacity(sizes.len());
    let mut from = upright;
    // From the largest: each is made of the one before.
    let mut falling = sizes.to_vec();
    falling.sort_unstable_by(|a, b| b.cmp(a));
    for size in falling {
        if from.width().max(from.height()) > size {
            from = DynamicImage::ImageRgb8(from).resize(size, size, FilterType::CatmullRom).into_rgb8();
        }
        let mut jpeg = Vec::new();
        let encoded = JpegEncoder::new_with_quality(&mut jpeg, QUALITY).encode_image(&from);
        encoded.map_err(|cause| Refusal(format!("it cannot be encoded: {cause}")))?;
        made.push((size, jpeg));
    }
    Ok(made)
}

fn decoded(file: &[u8]) -> Result<RgbImage, Refusal> {
    let unreadable = |cause: image::ImageError| Refusal(format!("it cannot be decoded: {cause}; export it again"));
    let mut reader = ImageReader::new(Cursor::new(file))
        .with_guessed_format()
        .map_err(|cause| Refusal(format!("it cannot be read: {cause}")))?;
    match reader.format() {
        Some(ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP) => {}
        _ => return Err(Refusal("it is no JPEG, PNG or WebP; export it as one".into())),
    }
    if reader.format() == Some(ImageFormat::Jpeg) && !is_whole_jpeg(file) {
        return Err(Refusal("it breaks off; send the whole file".into()));
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(DECODER_BYTES_MAX);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(unreadable)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > PIXELS_MAX {
        return Err(Refusal(format!(
            "it has {width} × {height} pixels; send up to {} million",
            PIXELS_MAX / 1_000_000
        )));
    }
    if width.min(height) < SIDE_MIN {
        return Err(Refusal(format!("it has {width} × {height} pixels; send {SIDE_MIN} × {SIDE_MIN} at least")));
    }
    let orientation = decoder.orientation().map_err(unreadable)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(unreadable)?;
    image.apply_orientation(orientation);
    Ok(on_white(image))
}

/// Whether a JPEG goes to its end: the decoder paints grey what is missing. Segments say how long they are; behind the
/// head of a scan its data goes to the next marker that is neither a restart nor an escape (ITU T.81 §B.1.1).
fn is_whole_jpeg(file: &[u8]) -> bool {
    const END: u8 = 0xd9;
    const SCAN: u8 = 0xda;
    let mut at = 2;
    loop {
        let Some(&[0xff, marker]) = file.get(at..at + 2) else { return false };
        match marker {
            END => return true,
            0xff => at += 1,               // fill
            0x01 | 0xd0..=0xd7 => at += 2, // they stand alone
            _ => {
                let Some(&[high, low]) = file.get(at + 2..at + 4) else { return false };
                at += 2 + usize::from(u16::from_be_bytes([high, low])).max(2);
                if marker == SCAN {
                    let Some(rest) = file.get(at..) else { return false };
                    let next =
                        rest.windows(2).position(|two| two[0] == 0xff && !matches!(two[1], 0 | 0xd0..=0xd7 | 0xff));
                    let Some(next) = next else { return false };
                    at += next;
                }
            }
        }
    }
}

/// Without what can be seen through.
fn on_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let seen = image.into_rgba8();
    RgbImage::from_fn(seen.width(), seen.height(), |x, y| {
        let [r, g, b, alpha] = seen.get_pixel(x, y).0;
        let over = |colour: u8| ((u32::from(colour) * u32::from(alpha) + 255 * (255 - u32::from(alpha))) / 255) as u8;
        Rgb([over(r), over(g), over(b)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32, alpha: bool) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        match alpha {
            true => DynamicImage::new_rgba8(width, height),
            false => DynamicImage::new_rgb8(width, height),
        }
        .write_to(&mut file, ImageFormat::Png)
        .unwrap();
        file.into_inner()
    }

    fn measured(jpeg: &[u8]) -> (u32, u32) {
        let image = image::load_from_memory_with_format(jpeg, ImageFormat::Jpeg).unwrap();
        (image.width(), image.height())
    }

    #[test]
    fn a_picture_comes_in_every_size_and_never_larger_than_it_was() {
        let made = sizes(&png(800, 400, false), &[160, 640, 1200]).unwrap();
        let of: Vec<_> = made.iter().map(|(size, jpeg)| (*size, measured(jpeg))).collect();
        assert_eq!(of, [(1200, (800, 400)), (640, (640, 320)), (160, (160, 80))]);
    }

    #[test]
    fn nothing_of_the_file_is_kept_but_what_is_seen() {
        // A JPEG that is turned by its EXIF, and says where it was made.
        let mut plain = Vec::new();
        JpegEncoder::new(&mut plain).encode_image(&DynamicImage::new_rgb8(300, 100)).unwrap();
        let exif: Vec<u8> = [
            &b"Exif\0\0MM\0\x2a\0\0\0\x08"[..],
            &[0, 1],                                     // one entry
            &[0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, 6, 0, 0], // Orientation: 6, turned right
            &[0, 0, 0, 0],
            b"GPS 48.8584 N 2.2945 E",
        ]
        .concat();
        let length = (exif.len() as u16 + 2).to_be_bytes();
        let file = [&plain[..2], &[0xff, 0xe1], &length, &exif, &plain[2..], b"PK\x03\x04 hidden archive"].concat();
        let made = sizes(&file, &[640]).unwrap();
        assert_eq!(measured(&made[0].1), (100, 300), "upright");
        let has = |words: &[u8]| made[0].1.windows(words.len()).any(|window| window == words);
        assert!(!has(b"GPS") && !has(b"Exif") && !has(b"hidden"));
        let again = sizes(&file, &[640]).unwrap();
        assert_eq!(again, made, "the same picture is the same bytes");
    }

    #[test]
    fn a_jpeg_that_breaks_off_is_refused() {
        let noise = RgbImage::from_fn(200, 200, |x, y| Rgb([(x * y) as u8, (x ^ y) as u8, (x * 7 + y * 13) as u8]));
        let mut whole = Vec::new();
        JpegEncoder::new(&mut whole).encode_image(&noise).unwrap();
        assert!(sizes(&whole, &[160]).is_ok());
        for cut in [whole.len() / 2, whole.len() * 3 / 4, whole.len() - 2, 400] {
            assert!(sizes(&whole[..cut], &[160]).is_err(), "{cut} of {}", whole.len());
        }
    }

    #[test]
    fn what_is_seen_through_is_white() {
        let made = sizes(&png(100, 100, true), &[160]).unwrap();
        let image = image::load_from_memory(&made[0].1).unwrap().into_rgb8();
        assert!(image.get_pixel(50, 50).0.iter().all(|colour| *colour > 250));
    }

    #[test]
    fn bombs_and_what_is_no_picture_are_refused_in_words() {
        let check = |file: &[u8], says: &str| {
            let Refusal(why) = sizes(file, &[160]).unwrap_err();
            assert!(why.contains(says), "{why}");
        };
        check(b"", "JPEG, PNG or WebP");
        check(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "JPEG, PNG or WebP");
        check(b"GIF89a\x01\0\x01\0", "JPEG, PNG or WebP");
        check(&png(10, 10, false), "64 × 64");
        let whole = png(200, 200, false);
        check(&whole[..60], "cannot be decoded");
        // A header that promises a hundred million pixels, in a file of some bytes.
        let mut bomb = whole.clone();
        bomb[16..24].copy_from_slice(&[0, 0, 0x27, 0x10, 0, 0, 0x27, 0x10]);
        let crc = crc32(&bomb[12..29]);
        bomb[29..33].copy_from_slice(&crc.to_be_bytes());
        check(&bomb, "10000 × 10000");
        let mut wide = whole;
        wide[16..20].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff]);
        let crc = crc32(&wide[12..29]);
        wide[29..33].copy_from_slice(&crc.to_be_bytes());
        check(&wide, "cannot be decoded");
    }

    /// PNG, annex D.
    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
        })
    }
}
