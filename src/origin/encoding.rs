//! Content codings of text. In: a document, once. Out: the same bytes as gzip and Brotli, and, for each
//! request, which of them it gets. RFC 9110 §8.4 and §12.5.3.
//!
//! Only text is coded, never media. Everything is coded when it is opened, so that all listeners get the
//! same bytes and a strong entity tag for each coding.

use std::io::Write as _;

use bytes::Bytes;
use hyper::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue};

use super::conditional;

/// A content coding that we make. The order is our preference when a client has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 7932.
    Brotli,
    /// RFC 1952.
    Gzip,
}

impl Coding {
    const ALL: [Coding; 2] = [Coding::Brotli, Coding::Gzip];

    /// `Content-Encoding`.
    pub fn as_str(self) -> &'static str {
        match self {
            Coding::Brotli => "br",
            Coding::Gzip => "gzip",
        }
    }

    fn encode(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Coding::Brotli => brotli(bytes),
            Coding::Gzip => gzip(bytes),
        }
    }
}

/// A document in one coding.
#[derive(Clone, Debug)]
pub struct Coded {
    /// Which.
    pub coding: Coding,
    /// The coded bytes.
    pub bytes: Bytes,
    /// A strong entity tag of these bytes, with its quotes.
    pub etag: HeaderValue,
}

/// The codings of one document that are worth having: shorter than the document.
#[derive(Clone, Debug, Default)]
pub struct Codings {
    /// By preference. Invariant: each coding at most once.
    forms: Box<[Coded]>,
}

impl Codings {
    /// Codes a document whose entity tag is `etag`, with its quotes. Takes 0.1 ms for a playlist of four
    /// minutes, 12 ms for one of ten hours.
    pub fn of(bytes: &[u8], etag: &HeaderValue) -> Codings {
        let forms = Coding::ALL.into_iter().filter_map(|coding| {
            let coded = coding.encode(bytes);
            let etag = suffixed(etag, coding);
            (coded.len() < bytes.len()).then(|| Coded { coding, bytes: coded.into(), etag })
        });
        Codings { forms: forms.collect() }
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.forms.iter().map(|form| form.bytes.len()).sum()
    }

    /// The coding this request gets; `None` is the document as it is, whose tag is `identity`.
    ///
    /// Of what the client accepts it gets what it has already, if it names that by its entity tag (in
    /// If-Match, If-None-Match or If-Range): a proxy that holds the gzip form revalidates it even when it
    /// would also take Brotli. Else it gets what it likes best, and of equals our favourite.
    pub fn select(&self, headers: &HeaderMap, identity: &HeaderValue) -> Option<&Coded> {
        // Without the field any coding would be allowed; but who does not ask may not understand.
        if self.forms.is_empty() || !headers.contains_key(ACCEPT_ENCODING) {
            return None;
        }
        let accepted = Accepted::read(headers);
        let offered = self.forms.iter().filter(|form| accepted.weight(form.coding) > 0);
        if conditional::names_any(headers) {
            let named = |etag: &HeaderValue| conditional::names(headers, etag.as_bytes());
            if let Some(form) = offered.clone().find(|form| named(&form.etag)) {
                return Some(form);
            }
            if accepted.identity_weight() > 0 && named(identity) {
                return None;
            }
        }
        // The first of the heaviest: `max_by_key` would give the last.
        let best = offered.rev().max_by_key(|form| accepted.weight(form.coding))?;
        (accepted.weight(best.coding) >= accepted.identity_weight()).then_some(best)
    }
}

/// `"tag"` → `"tag-br"`: another representation needs another strong tag (RFC 9110 §8.8.3.3).
fn suffixed(etag: &HeaderValue, coding: Coding) -> HeaderValue {
    let inside = etag.as_bytes().strip_suffix(b"\"").expect("an entity tag has quotes");
    HeaderValue::from_bytes(&[inside, b"-", coding.as_str().as_bytes(), b"\""].concat()).expect("made of ASCII")
}

/// What a client accepts: weights in thousandths, `None` where it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Accepted {
    brotli: Option<u16>,
    gzip: Option<u16>,
    identity: Option<u16>,
    /// `*`: whatever is not named.
    others: Option<u16>,
}

impl Accepted {
    /// Reads Accept-Encoding. What the grammar does not know is as if it were not there.
    fn read(headers: &HeaderMap) -> Accepted {
        let mut accepted = Accepted::default();
        for field in headers.get_all(ACCEPT_ENCODING) {
            for element in field.as_bytes().split(|b| *b == b',') {
                let (name, parameter) = match element.iter().position(|b| *b == b';') {
                    Some(at) => (&element[..at], Some(&element[at + 1..])),
                    None => (element, None),
                };
                let Some(weight) = parameter.map_or(Some(WEIGHT_MAX), weight) else { continue };
                let place = match name.trim_ascii() {
                    name if name.eq_ignore_ascii_case(b"br") => &mut accepted.brotli,
                    // §8.4.1.3: x-gzip is the same as gzip.
                    name if name.eq_ignore_ascii_case(b"gzip") => &mut accepted.gzip,
                    name if name.eq_ignore_ascii_case(b"x-gzip") => &mut accepted.gzip,
                    name if name.eq_ignore_ascii_case(b"identity") => &mut accepted.identity,
                    b"*" => &mut accepted.others,
                    _ => continue,
                };
                *place = Some(weight);
            }
        }
        accepted
    }

    fn weight(&self, coding: Coding) -> u16 {
        let named = match coding {
            Coding::Brotli => self.brotli,
            Coding::Gzip => self.gzip,
        };
        named.or(self.others).unwrap_or(0)
    }

    /// §12.5.3: no coding at all is acceptable unless it is excluded, by its name or by `*;q=0`; who does
    /// not mention it would rather have something else.
    fn identity_weight(&self) -> u16 {
        self.identity.or(self.others).unwrap_or(1)
    }
}

const WEIGHT_MAX: u16 = 1000;

/// `q=0.5` in thousandths; `None` for anything else (§12.4.2: at most three digits after the point).
fn weight(parameter: &[u8]) -> Option<u16> {
    let (name, value) = parameter.trim_ascii().split_at_checked(2)?;
    if !name.eq_ignore_ascii_case(b"q=") {
        return None;
    }
    let (whole, part) = match value {
        [whole] => (whole, &b""[..]),
        [whole, b'.', part @ ..] if part.len() <= 3 => (whole, part),
        _ => return None,
    };
    let mut thousandths = match whole {
        b'0' => 0,
        b'1' => WEIGHT_MAX,
        _ => return None,
    };
    for (digit, worth) in part.iter().zip([100, 10, 1]) {
        thousandths += u16::from(digit.checked_sub(b'0').filter(|d| *d <= 9)?) * worth;
    }
    (thousandths <= WEIGHT_MAX).then_some(thousandths)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    /// Measured on playlists of 4 minutes, 1 and 10 hours: 17, 122 and 1,108 µs. Level 9 saves nothing;
    /// level 1 takes a fifth of the time but leaves JSON at more than twice the size.
    const LEVEL: u32 = 6;
    // No time and no name in the header: the same bytes on every node.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(LEVEL));
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("writing to memory does not fail")
}

fn brotli(bytes: &[u8]) -> Vec<u8> {
    /// Measured as above: 0.1, 0.9 and 11 ms, and 25, 55 and 72 % shorter than gzip. Quality 5 takes four
    /// to twenty times as long and 11 a hundred times, to save at most 10 bytes in a hundred.
    const QUALITY: i32 = 4;
    /// The smallest window that holds the document, 2^10 to 2^18 bytes: a larger one is only memory.
    const WINDOW_BITS: std::ops::RangeInclusive<i32> = 10..=18;
    let bits = usize::BITS - bytes.len().leading_zeros();
    let params = brotli::enc::BrotliEncoderParams {
        quality: QUALITY,
        lgwin: (bits as i32).clamp(*WINDOW_BITS.start(), *WINDOW_BITS.end()),
        mode: brotli::enc::backward_references::BrotliEncoderMode::BROTLI_MODE_TEXT,
        size_hint: bytes.len(),
        ..Default::default()
    };
    let mut coded = Vec::new();
    brotli::BrotliCompress(&mut &bytes[..], &mut coded, &params).expect("writing to memory does not fail");
    coded
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use hyper::header::{HeaderName, IF_NONE_MATCH};

    use super::*;

    /// A playlist of a ten-minute track.
    fn playlist() -> Vec<u8> {
        let segment = |number| format!("#EXTINF:6.03719,\n{number:05}.mp4\n");
        let head = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:6\n#EXT-X-PLAYLIST-TYPE:VOD\n".to_owned();
        (head + &(0..100).map(segment).collect::<String>()).into_bytes()
    }

    fn tag() -> HeaderValue {
        HeaderValue::from_static("\"tag\"")
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        HeaderMap::from_iter(lines.iter().map(line))
    }

    fn check(accept: &str, expected: Option<Coding>) {
        let codings = Codings::of(&playlist(), &tag());
        let selected = codings.select(&headers(&[("accept-encoding", accept)]), &tag());
        assert_eq!(selected.map(|form| form.coding), expected, "{accept}");
    }

    #[test]
    fn a_coded_document_is_shorter_the_same_every_time_and_decodes_to_itself() {
        let document = playlist();
        let codings = Codings::of(&document, &tag());
        assert_eq!(codings.forms.len(), 2);
        for form in &codings.forms {
            assert!(form.bytes.len() < document.len() / 3, "{:?} {}", form.coding, form.bytes.len());
            let mut decoded = vec![];
            match form.coding {
                Coding::Gzip => _ = flate2::read::GzDecoder::new(&form.bytes[..]).read_to_end(&mut decoded).unwrap(),
                Coding::Brotli => brotli::BrotliDecompress(&mut &form.bytes[..], &mut decoded).unwrap(),
            }
            assert_eq!(decoded, document);
        }
        let again = Codings::of(&document, &tag());
        assert!(again.forms.iter().zip(&codings.forms).all(|(a, b)| a.bytes == b.bytes));
        let tags: Vec<_> = codings.forms.iter().map(|form| form.etag.to_str().unwrap()).collect();
        assert_eq!(tags, ["\"tag-br\"", "\"tag-gzip\""]);
        assert!(Codings::of(b"abc", &tag()).forms.is_empty(), "not worth it");
        assert!(Codings::of(b"", &tag()).forms.is_empty());
    }

    #[test]
    fn a_client_gets_what_it_likes_best() {
        use Coding::{Brotli, Gzip};
        check("gzip", Some(Gzip));
        check("br", Some(Brotli));
        check("gzip, deflate, br, zstd", Some(Brotli));
        check("GZIP", Some(Gzip));
        check("x-gzip", Some(Gzip));
        check("*", Some(Brotli));
        check("br;q=0.5, gzip;q=0.8", Some(Gzip));
        check("br;q=0.5, gzip;q=0.5", Some(Brotli));
        check("gzip;q=0.001", Some(Gzip));
        check("gzip ; q=1.000 , br ; Q=0.9", Some(Gzip));
        check("br;q=0, *", Some(Gzip));
        check("gzip;q=0.5, identity", None);
        check("identity;q=0.4, gzip;q=0.5", Some(Gzip));
        check("identity;q=0, gzip", Some(Gzip));
        check("*;q=0, gzip", Some(Gzip));
    }

    #[test]
    fn what_a_client_does_not_accept_it_does_not_get_and_never_406() {
        for accept in ["", "identity", "deflate", "zstd, compress", "gzip;q=0", "gzip;q=0.000, br;q=0", "*;q=0"] {
            check(accept, None);
        }
        // §12.5.3: with nothing acceptable left, the document as it is.
        check("identity;q=0", None);
        // A weight that is none makes the element unreadable, not acceptable.
        for accept in
            ["gzip;q=", "gzip;q=2", "gzip;q=1.001", "gzip;q=0.1234", "gzip;q=-1", "gzip;x=1", "gzip;", "gzip br"]
        {
            check(accept, None);
        }
        let codings = Codings::of(&playlist(), &tag());
        assert!(codings.select(&HeaderMap::new(), &tag()).is_none(), "who does not ask may not understand");
    }

    #[test]
    fn who_names_a_form_it_accepts_gets_that_form() {
        let codings = Codings::of(&playlist(), &tag());
        let select = |lines: &[(&'static str, &str)]| codings.select(&headers(lines), &tag()).map(|form| form.coding);
        let all = ("accept-encoding", "br, gzip");
        for name in ["if-none-match", "if-match", "if-range"] {
            assert_eq!(select(&[all, (name, "\"tag-gzip\"")]), Some(Coding::Gzip), "{name}");
            assert_eq!(select(&[all, (name, "\"tag\"")]), None, "{name}");
            assert_eq!(select(&[all, (name, "\"other\"")]), Some(Coding::Brotli), "{name}");
        }
        assert_eq!(select(&[all, ("if-none-match", "W/\"tag-gzip\"")]), Some(Coding::Gzip));
        assert_eq!(select(&[all, ("if-none-match", "\"tag\", \"tag-gzip\"")]), Some(Coding::Gzip));
        // Not accepted: not selected, whatever is named.
        assert_eq!(select(&[("accept-encoding", "gzip"), ("if-none-match", "\"tag-br\"")]), Some(Coding::Gzip));
        let unnegotiated = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_static("\"tag-gzip\""))]);
        assert!(codings.select(&unnegotiated, &tag()).is_none());
    }
}
