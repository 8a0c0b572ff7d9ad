//! What other sites see of a track: the player that they put into a frame, and the tags by which they find it.

use std::fmt::Write as _;

use super::{CSS, EMBED_CSS, EMBED_JS, FILES, clock, escape};
use crate::tracks::access::Offer;

/// What other sites may know of a track.
#[derive(Clone, Copy, Debug)]
pub struct Card<'a> {
    /// Where this server is found, without a slash at its end.
    pub base: &'a str,
    /// The track's id.
    pub track: &'a str,
    /// Its title as its owner wrote it; escaped here.
    pub title: &'a str,
    /// Exact length, in seconds.
    pub duration_s: f64,
    /// Path of a picture.
    pub picture: Option<&'a str>,
    /// Path of the preview, when there is one for everybody.
    pub preview: Option<&'a str>,
}

/// Width and height of the player in pixels, when nobody says.
pub const SIZE: (u32, u32) = (640, 180);
/// Bars of a waveform: as many as a frame of 640 pixels shows.
const BARS: usize = 160;
/// Height of the picture of a waveform, in its own units.
const WAVE_HEIGHT: f64 = 40.0;

/// Open Graph, the player card, and where oEmbed is asked: for the head of a page. Sound is the preview, never more.
pub fn tags(card: &Card<'_>) -> String {
    let base = escape(card.base);
    let (title, track) = (escape(card.title), escape(card.track));
    let mut head = String::with_capacity(2048);
    let mut tag = |kind: &str, name: &str, value: &str| {
        let _ = writeln!(head, "<meta {kind}=\"{name}\" content=\"{value}\">");
    };
    tag("property", "og:type", "music.song");
    tag("property", "og:site_name", "Segue");
    tag("property", "og:title", &title);
    tag("property", "og:url", &format!("{base}/watch/{track}"));
    tag("property", "music:duration", &format!("{}", card.duration_s.round() as u64));
    tag("name", "twitter:card", "player");
    tag("name", "twitter:title", &title);
    tag("name", "twitter:description", &format!("{} · Segue", clock(card.duration_s)));
    tag("name", "twitter:player", &format!("{base}/embed/track/{track}"));
    tag("name", "twitter:player:width", &SIZE.0.to_string());
    tag("name", "twitter:player:height", &SIZE.1.to_string());
    if let Some(picture) = card.picture {
        let url = format!("{base}{}", escape(picture));
        tag("property", "og:image", &url);
        tag("name", "twitter:image", &url);
    }
    if let Some(preview) = card.preview {
        let url = format!("{base}{}", escape(preview));
        tag("property", "og:audio", &url);
        if url.starts_with("https://") {
            tag("property", "og:audio:secure_url", &url);
        }
        tag("property", "og:audio:type", "audio/mp4");
    }
    let _ = writeln!(
        head,
        "<link rel=\"alternate\" type=\"application/json+oembed\" href=\"{}\" title=\"{title}\">",
        escape(&oembed_url(card.base, card.track))
    );
    head
}

/// Where oEmbed is asked about a track: the whole address and nothing else.
fn oembed_url(base: &str, track: &str) -> String {
    let page = format!("{base}/watch/{track}");
    let url = percent_encoding::utf8_percent_encode(&page, percent_encoding::NON_ALPHANUMERIC);
    format!("{base}/oembed?url={url}&format=json")
}

/// The player for other pages. `peaks`: pairs of the lowest and the highest sample, 8 bit.
pub fn embed_page(card: &Card<'_>, peaks: &[i8]) -> String {
    let picture = card.picture.map_or_else(String::new, |path| {
        format!("<img class=\"art\" src=\"{}\" alt=\"\" width=\"96\" height=\"96\">", escape(path))
    });
    let player = match card.preview {
        None => "<p class=\"none\">No preview</p>".to_owned(),
        Some(preview) => format!(
            include_str!("embed_player.html"),
            preview = escape(preview),
            title = escape(card.title),
            wave = wave(peaks),
        ),
    };
    format!(
        include_str!("embed.html"),
        title = escape(card.title),
        track = escape(card.track),
        tags = tags(card),
        picture = picture,
        player = player,
        clock = clock(card.duration_s),
        css = FILES[EMBED_CSS].path,
        js = FILES[EMBED_JS].path,
    )
}

/// The frame of a track that cannot be shown there, and why.
pub fn embed_gone_page(title: &str, why: &str) -> String {
    format!(include_str!("embed_gone.html"), title = escape(title), why = escape(why), css = FILES[EMBED_CSS].path)
}

/// The page of a track that costs something, for who has not bought it.
pub fn offer_page(card: &Card<'_>, offer: &Offer) -> String {
    let preview = card.preview.map_or_else(String::new, |path| {
        format!(
            "<section aria-label=\"Preview\"><p class=\"hint\">Thirty seconds of it:</p>\
             <audio controls preload=\"none\" data-part=\"preview\" src=\"{}\"></audio></section>",
            escape(path)
        )
    });
    format!(
        include_str!("offer.html"),
        title = escape(card.title),
        track = escape(card.track),
        tags = tags(card),
        clock = clock(card.duration_s),
        price = escape(&price(offer)),
        preview = preview,
        css = FILES[CSS].path,
    )
}

/// `9.90 EUR`; in minor units where the currency's exponent is not the usual two.
fn price(offer: &Offer) -> String {
    match offer.currency.as_str() {
        // ISO 4217 list one: no minor unit.
        "BIF" | "CLP" | "DJF" | "GNF" | "ISK" | "JPY" | "KMF" | "KRW" | "PYG" | "RWF" | "UGX" | "VND" | "VUV"
        | "XAF" | "XOF" | "XPF" => format!("{} {}", offer.price_minor, offer.currency),
        "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => {
            format!("{}.{:03} {}", offer.price_minor / 1000, offer.price_minor % 1000, offer.currency)
        }
        _ => format!("{}.{:02} {}", offer.price_minor / 100, offer.price_minor % 100, offer.currency),
    }
}

/// A waveform as one path: bars around the middle, a unit wide with a unit between them.
fn wave(peaks: &[i8]) -> String {
    let points = peaks.len() / 2;
    let bars = BARS.min(points.max(1));
    let mut path = String::with_capacity(bars * 12);
    for bar in 0..bars {
        let (from, until) = (bar * points / bars, ((bar + 1) * points / bars).max(bar * points / bars + 1));
        let group = peaks.get(from * 2..(until * 2).min(peaks.len())).unwrap_or_default();
        let loud = group.iter().map(|peak| f64::from(*peak).abs()).fold(0.0, f64::max) / 128.0;
        let height = (loud * WAVE_HEIGHT).max(1.0);
        let _ = write!(path, "M{} {:.1}v{:.1}", bar * 2 + 1, (WAVE_HEIGHT - height) / 2.0, height);
    }
    format!(
        "<svg class=\"wave\" viewBox=\"0 0 {} {WAVE_HEIGHT}\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
         <path class=\"rest\" d=\"{path}\"/><path class=\"played\" data-part=\"played\" d=\"{path}\"/></svg>",
        bars * 2 + 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: Card<'_> = Card {
        base: "https://music.example",
        track: "trk_1",
        title: "\"><script>alert(1)</script>",
        duration_s: 185.4,
        picture: Some("/tracks/trk_1/artwork/00-640.jpg"),
        preview: Some("/tracks/trk_1/stream?preview=30"),
    };

    #[test]
    fn a_hostile_title_stays_text_wherever_it_stands() {
        let peaks: Vec<i8> = (0..2000).map(|n| if n % 2 == 0 { -100 } else { 100 }).collect();
        let offer = Offer { price_minor: 990, currency: "EUR".into() };
        for html in [embed_page(&CARD, &peaks), offer_page(&CARD, &offer), embed_gone_page(CARD.title, "x")] {
            assert!(html.matches("<script").count() <= 1 && !html.contains("alert(1)</script>"), "{html}");
            assert!(!html.contains(" style=") && !html.contains("onclick"), "{html}");
        }
    }

    #[test]
    fn tags_offer_the_preview_and_where_to_ask() {
        let tags = tags(&CARD);
        for wanted in [
            "property=\"og:audio\" content=\"https://music.example/tracks/trk_1/stream?preview=30\"",
            "property=\"og:audio:secure_url\"",
            "name=\"twitter:player\" content=\"https://music.example/embed/track/trk_1\"",
            "property=\"music:duration\" content=\"185\"",
            "type=\"application/json+oembed\" href=\"https://music.example/oembed?url=https%3A%2F%2Fmusic%2Eexample%2Fwatch%2Ftrk%5F1&amp;format=json\"",
        ] {
            assert!(tags.contains(wanted), "{wanted}: {tags}");
        }
        assert!(!super::tags(&Card { preview: None, ..CARD }).contains("og:audio"), "nothing to hear, nothing said");
    }

    #[test]
    fn prices_are_said_with_the_currency_s_own_digits() {
        let check = |price_minor, currency: &str, text: &str| {
            assert_eq!(price(&Offer { price_minor, currency: currency.into() }), text);
        };
        check(990, "EUR", "9.90 EUR");
        check(5, "USD", "0.05 USD");
        check(1200, "JPY", "1200 JPY");
        check(1234, "KWD", "1.234 KWD");
    }

    #[test]
    fn a_waveform_has_few_bars_and_is_never_empty() {
        let peaks: Vec<i8> = (0..4000).map(|n| if n % 2 == 0 { -128 } else { 127 }).collect();
        let full = wave(&peaks);
        assert_eq!(full.matches('M').count(), 2 * BARS);
        assert!(full.contains("v40.0") && full.len() < 8_000, "{}", full.len());
        assert_eq!(wave(&[]).matches("v1.0").count(), 2);
    }
}
