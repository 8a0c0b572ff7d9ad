//! Renders the pages people see, and hands out the script and style they need.
//!
//! In: what the control plane knows about a track. Out: HTML as a string, or an embedded file.
//! Nothing inline and nothing from other hosts, so that [`csp`] can forbid both. The script and the
//! style come from `web/`, bundled before the crate compiles (`build.rs`), and carry the hash of their
//! content in their name: caches may keep them for ever, a new build asks for new names.

mod embed;

use std::fmt::Write as _;
use std::sync::LazyLock;

pub use embed::{Card, SIZE as EMBED_SIZE, embed_gone_page, embed_page, offer_page, tags};

use hyper::header::HeaderValue;
use sha2::{Digest, Sha256};

use crate::base::hex;
use crate::origin::encoding::Codings;

/// What the watch page says about one track.
#[derive(Clone, Copy, Debug)]
pub struct WatchPage<'a> {
    /// The track's id, as in the page's own URL.
    pub track: &'a str,
    /// The title as its owner wrote it; escaped here.
    pub title: &'a str,
    /// What other sites look for in its head (`tags`).
    pub tags: &'a str,
    /// Whether there is something to play yet.
    pub state: WatchState<'a>,
}

/// Whether there is something to play yet.
#[derive(Clone, Copy, Debug)]
pub enum WatchState<'a> {
    /// Published: these playlists can be opened.
    Ready {
        /// URL path of the AAC ladder's multivariant playlist.
        aac_master: &'a str,
        /// URL path of the FLAC playlist, for those who may hear it.
        flac_master: Option<&'a str>,
        /// Whether the FLAC playlist may be called lossless.
        lossless: bool,
        /// Exact length, in seconds: samples divided by rate.
        duration_s: f64,
    },
    /// Still transcoding: the page asks again by itself.
    Preparing,
}

/// The headers every page carries. No referrer: the media URLs on the page are signed.
pub const SECURITY_HEADERS: [(&str, &str); 3] = [
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("cross-origin-opener-policy", "same-origin"),
];

/// The content security policy of every page here: our own script, style and media, nothing else.
/// `blob:` is how a browser names a Media Source. `media_host` (`https://media.example.com`) is where
/// playlists and segments come from when it is not the host of the page.
pub fn csp(media_host: Option<&str>) -> String {
    let host = media_host.map(|host| format!(" {host}")).unwrap_or_default();
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:{host}; media-src 'self' blob:{host}; \
         connect-src 'self'{host}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// The content security policy of the player for other pages: any page may put it into a frame, and nothing else is more.
pub fn embed_csp(media_host: Option<&str>) -> String {
    let host = media_host.map(|host| format!(" {host}")).unwrap_or_default();
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'{host}; \
         base-uri 'none'; form-action 'none'; frame-ancestors *"
    )
}

/// The page that plays a track, or waits for it.
pub fn watch_page(page: &WatchPage<'_>) -> String {
    let (state, aac, flac, lossless, duration_s) = match page.state {
        WatchState::Ready { aac_master, flac_master, lossless, duration_s } => {
            ("ready", aac_master, flac_master.unwrap_or_default(), lossless, duration_s)
        }
        WatchState::Preparing => ("preparing", "", "", false, 0.0),
    };
    let body = match page.state {
        WatchState::Ready { .. } => {
            format!(include_str!("ready.html"), duration = duration_s, clock = clock(duration_s))
        }
        WatchState::Preparing => include_str!("preparing.html").to_owned(),
    };
    format!(
        include_str!("watch.html"),
        track = escape(page.track),
        title = escape(page.title),
        tags = page.tags,
        state = state,
        aac = escape(aac),
        flac = escape(flac),
        lossless = lossless,
        duration = duration_s,
        body = body,
        css = FILES[CSS].path,
        js = FILES[JS].path,
    )
}

/// The page that plays a film. `master` and `poster` are URLs.
pub fn film_page(card: &Card<'_>, master: &str, poster: &str) -> String {
    let duration_s = card.duration_s;
    format!(
        include_str!("film.html"),
        track = escape(card.track),
        title = escape(card.title),
        tags = tags(card),
        master = escape(master),
        poster = escape(poster),
        duration = duration_s,
        clock = clock(duration_s),
        css = FILES[CSS].path,
        js = FILES[FILM].path,
    )
}

/// The page for a wrong, private or removed link: one answer, so that it tells nobody which.
pub fn not_found_page() -> String {
    format!(include_str!("not_found.html"), css = FILES[CSS].path)
}

/// The page where owners upload and change their tracks. It holds nothing: its script asks the API.
pub fn studio_page() -> String {
    let more = " · <a href=\"/account/register\">Create an account</a>";
    let login = login("Studio", "API key", more);
    format!(include_str!("studio.html"), css = FILES[STUDIO_CSS].path, js = FILES[STUDIO_JS].path, login = login)
}

/// The page of admins: notices, jobs, workers.
pub fn admin_page() -> String {
    let login = login("Admin", "API key of an admin", "");
    format!(include_str!("admin.html"), css = FILES[STUDIO_CSS].path, js = FILES[ADMIN_JS].path, login = login)
}

/// The form before a page that only some may see: by address and password, then a code, or by a key.
fn login(heading: &str, key: &str, more: &str) -> String {
    format!(include_str!("login.html"), heading = heading, key = key, more = more)
}

/// The page of a track that a legal demand has closed, and who demands it (RFC 7725 §3).
pub fn blocked_page(reason: Option<&str>) -> String {
    let reason = reason.map(|reason| format!("<p class=\"hint\">{}</p>", escape(reason))).unwrap_or_default();
    format!(include_str!("blocked.html"), css = FILES[CSS].path, reason = reason)
}

/// An embedded file, ready to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Asset {
    /// The media type.
    pub content_type: &'static str,
    /// The whole file.
    pub bytes: &'static [u8],
    /// A strong entity tag of `bytes`, with its quotes.
    pub etag: &'static HeaderValue,
    /// The file in the codings that make it shorter.
    pub codings: &'static Codings,
}

/// The file at `path` (`/assets/watch.0123456789abcdef.js`), or `None`, also for the name of an older build.
pub fn asset(path: &str) -> Option<Asset> {
    let file = FILES.iter().find(|file| file.path == path)?;
    Some(Asset { content_type: file.content_type, bytes: file.bytes, etag: &file.etag, codings: &file.codings })
}

/// An embedded file under its hashed name.
struct File {
    path: String,
    etag: HeaderValue,
    content_type: &'static str,
    bytes: &'static [u8],
    codings: Codings,
}

const JS: usize = 0;
const CSS: usize = 1;
const FILM: usize = 2;
const EMBED_JS: usize = 3;
const EMBED_CSS: usize = 4;
const STUDIO_JS: usize = 5;
const STUDIO_CSS: usize = 6;
const ADMIN_JS: usize = 7;

static FILES: LazyLock<[File; 8]> = LazyLock::new(|| {
    const SCRIPT: &str = "text/javascript; charset=utf-8";
    const STYLE: &str = "text/css; charset=utf-8";
    [
        named("watch", "js", SCRIPT, include_bytes!("../../web/dist/watch.js")),
        named("watch", "css", STYLE, include_bytes!("../../web/dist/watch.css")),
        named("film", "js", SCRIPT, include_bytes!("../../web/dist/film.js")),
        named("embed", "js", SCRIPT, include_bytes!("../../web/dist/embed.js")),
        named("embed", "css", STYLE, include_bytes!("../../web/dist/embed.css")),
        named("studio", "js", SCRIPT, include_bytes!("../../web/dist/studio.js")),
        named("studio", "css", STYLE, include_bytes!("../../web/dist/studio.css")),
        named("admin", "js", SCRIPT, include_bytes!("../../web/dist/admin.js")),
    ]
});

fn named(name: &str, extension: &str, content_type: &'static str, bytes: &'static [u8]) -> File {
    // 64 bits: enough against accidents, and nobody but us chooses these bytes.
    let hash = hex::encode(&Sha256::digest(bytes)[..8]);
    let etag = HeaderValue::try_from(format!("\"{hash}\"")).expect("hexadecimal is ASCII");
    let codings = Codings::of(bytes, &etag);
    File { path: format!("/assets/{name}.{hash}.{extension}"), etag, content_type, bytes, codings }
}

/// Makes text safe as element content and inside a quoted attribute.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + text.len() / 8);
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // A NUL is a parse error in HTML; nothing else needs care between quotes.
            '\0' => safe.push('\u{fffd}'),
            _ => safe.push(c),
        }
    }
    safe
}

/// 64.3 → `1:04`; what the page shows until the player knows better.
fn clock(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    let (hours, minutes, seconds) = (whole / 3600, whole % 3600 / 60, whole % 60);
    let mut text = String::new();
    if hours > 0 {
        let _ = write!(text, "{hours}:{minutes:02}:{seconds:02}");
    } else {
        let _ = write!(text, "{minutes}:{seconds:02}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const READY: WatchState<'_> = WatchState::Ready {
        aac_master: "/bcdn_token=HS256-x&expires=9/a/trk/0a/aac/master.m3u8",
        flac_master: Some("/a/trk/0a/flac/master.m3u8"),
        lossless: false,
        duration_s: 2_835_631.0 / 44_100.0,
    };

    fn page(title: &str, state: WatchState<'_>) -> String {
        watch_page(&WatchPage { track: "trk", title, tags: "", state })
    }

    #[test]
    fn a_hostile_title_stays_text() {
        for title in [
            "</title><script>alert(1)</script>",
            "\"><img src=x onerror=alert(1)>",
            "' onmouseover='alert(1)",
            "{js} {body} {}",
            "a\0b",
        ] {
            let html = page(title, READY);
            assert_eq!(html.matches("<script").count(), 1, "{title}");
            assert_eq!(html.matches("<img").count(), 0, "{title}");
            assert!(html.contains(&format!("<h1 data-part=\"title\">{}</h1>", escape(title))), "{title}");
        }
        assert_eq!(escape("<a href=\"x\">'&\0"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;\u{fffd}");
    }

    #[test]
    fn a_ready_page_carries_its_playlists_and_exact_length_as_data() {
        let html = page("Song", READY);
        assert!(html.contains("data-state=\"ready\""));
        assert!(html.contains("data-aac=\"/bcdn_token=HS256-x&amp;expires=9/a/trk/0a/aac/master.m3u8\""));
        assert!(html.contains("data-flac=\"/a/trk/0a/flac/master.m3u8\" data-lossless=\"false\""));
        assert!(html.contains(&format!("data-duration=\"{}\"", 2_835_631.0 / 44_100.0)));
        assert!(html.contains(">1:04<"));
    }

    #[test]
    fn a_blocked_page_says_who_demands_it_and_stays_a_page() {
        let html = blocked_page(Some("<b>Example & Co</b>, 17 USC 512"));
        assert!(html.contains("&lt;b&gt;Example &amp; Co&lt;/b&gt;, 17 USC 512"), "{html}");
        assert!(!html.contains("<audio") && !html.contains("<script"));
        assert!(blocked_page(None).contains("legal"));
    }

    #[test]
    fn a_films_page_has_its_playlist_and_its_still_and_a_hostile_title_stays_text() {
        let card = Card {
            base: "",
            track: "trk",
            title: "<script>alert(1)</script>",
            duration_s: 64.3,
            picture: None,
            preview: None,
        };
        let html = film_page(&card, "/a/t/v/video/master.m3u8?a&b", "/p/t/v/poster.jpg");
        assert!(html.contains("data-master=\"/a/t/v/video/master.m3u8?a&amp;b\""), "{html}");
        assert!(html.contains("poster=\"/p/t/v/poster.jpg\"") && html.contains(">1:04<"));
        assert_eq!(html.matches("<script").count(), 1);
        assert!(!html.contains(" style=") && !html.contains("<audio"));
        let named: Vec<&str> = html.split('"').filter(|part| part.starts_with("/assets/")).collect();
        assert!(named.len() == 2 && named.iter().all(|path| asset(path).is_some()), "{named:?}");
    }

    #[test]
    fn a_page_in_preparation_offers_nothing_to_play() {
        let html = page("Song", WatchState::Preparing);
        assert!(html.contains("data-state=\"preparing\""));
        assert!(html.contains("data-aac=\"\"") && html.contains("data-flac=\"\""));
        assert!(!html.contains("<audio"));
    }

    #[test]
    fn pages_obey_their_own_policy() {
        for html in
            [page("Song", READY), page("Song", WatchState::Preparing), not_found_page(), blocked_page(Some("x"))]
        {
            assert!(!html.contains("<style") && !html.contains(" style="), "no inline style");
            assert!(!html.contains("javascript:") && !html.contains(" onclick="), "no inline script");
            assert!(!html.contains("src=\"http") && !html.contains("href=\"http"), "no other host");
            assert!(html.len() < 6_000, "small: {} bytes", html.len());
        }
    }

    #[test]
    fn every_asset_a_page_names_is_served_and_no_other() {
        let html = page("Song", READY);
        let named: Vec<&str> = html.split('"').filter(|part| part.starts_with("/assets/")).collect();
        assert_eq!(named.len(), 2);
        for path in named {
            let asset = asset(path).expect("the page names only what is embedded");
            assert!(path.contains(asset.etag.to_str().unwrap().trim_matches('"')));
            assert!(!asset.bytes.is_empty());
        }
        assert!(asset("/assets/watch.js").is_none());
        assert!(asset("/assets/../watch.js").is_none());
    }

    #[test]
    fn a_clock_reads_as_people_write_it() {
        assert_eq!(clock(0.0), "0:00");
        assert_eq!(clock(64.3), "1:04");
        assert_eq!(clock(3_661.9), "1:01:01");
    }
}
