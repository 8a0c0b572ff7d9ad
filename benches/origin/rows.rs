//! The kinds of answers that are measured, with their bars. Pure.

use std::ops::Range;

use crate::tree::{self, Tree};

/// A kind of answer, or a mix of them, over one protocol.
pub(crate) struct Row {
    /// What stands in the table.
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    /// Asked one after the other, again and again. Never empty.
    pub(crate) asks: Vec<Ask>,
    /// CPU per answer, relative to nginx and to the floor.
    pub(crate) nginx_max: f64,
    pub(crate) floor_max: Option<f64>,
}

/// One request.
#[derive(Clone)]
pub(crate) struct Ask {
    pub(crate) space: Space,
    /// Below the version's directory in that space.
    pub(crate) path: String,
    pub(crate) kind: Kind,
}

/// Which directory of a version, each with a token of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    /// `/a/`: playlists and segments.
    Media,
    /// `/d/`: a rung as one file.
    Download,
}

/// What the client asks with.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Whole,
    Gzip,
    NotModified,
    Part(Range<u64>),
}

/// What is spoken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    /// HTTP/1.1 over TLS 1.3.
    Tls,
    /// HTTP/2 in clear, by prior knowledge.
    H2c,
    /// HTTP/2 over TLS 1.3.
    H2Tls,
}

impl Row {
    /// The answer in which a request's own costs are largest.
    pub(crate) fn smallest() -> Row {
        let asks = vec![segment(tree::SIZES_KIB[0], 0)];
        Row { name: "token".into(), protocol: Protocol::Http1, asks, nginx_max: 1.0, floor_max: None }
    }

    /// Whether it is one whole segment.
    pub(crate) fn is_segment(&self) -> bool {
        self.asks.len() == 1 && self.asks[0].kind == Kind::Whole && self.asks[0].path.ends_with(".mp4")
    }
}

impl Protocol {
    /// Whether it needs a certificate.
    pub(crate) fn is_encrypted(self) -> bool {
        matches!(self, Protocol::Tls | Protocol::H2Tls)
    }

    /// Whether h2load asks, and not wrk.
    pub(crate) fn is_h2(self) -> bool {
        matches!(self, Protocol::H2c | Protocol::H2Tls)
    }
}

impl Space {
    /// The first component of its paths.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Space::Media => "a",
            Space::Download => "d",
        }
    }
}

impl Ask {
    fn media(path: impl Into<String>, kind: Kind) -> Ask {
        Ask { space: Space::Media, path: path.into(), kind }
    }

    /// The path without a token, as nginx serves it.
    pub(crate) fn bare_path(&self, tree: &Tree) -> String {
        format!("{}{}", tree.directory(self.space), self.path)
    }
}

/// The answer whose latency is taken at a fixed rate: the segment of a usual rung.
pub(crate) const PACED_PATH: &str = "aac/192/00000.mp4";

/// The answer that idle and disturbed listeners ask for.
pub(crate) const SMALL_PATH: &str = "aac/16/00000.mp4";

/// What `--smoke` looks at.
pub(crate) const SMOKE: [&str; 7] = [
    "192 KiB segment",
    "304",
    "64 KiB range, unaligned",
    "mixed",
    "64 KiB segment, TLS",
    "64 KiB segment, HTTP/2",
    "64 KiB segment, HTTP/2 over TLS",
];

/// Q1, Q2 and Q4 of quality.md, in the order of the table; what has no bar there gets nginx itself.
pub(crate) fn rows() -> Vec<Row> {
    let single = |name: &str, ask, nginx_max| Row {
        name: name.into(),
        protocol: Protocol::Http1,
        asks: vec![ask],
        nginx_max,
        floor_max: None,
    };
    let mut rows: Vec<Row> = tree::SIZES_KIB
        .into_iter()
        .map(|kib| Row {
            floor_max: (kib >= 64).then_some(1.20),
            ..single(&format!("{kib} KiB segment"), segment(kib, 0), if kib <= 16 { 0.90 } else { 0.60 })
        })
        .collect();
    let playlist = |kind| Ask::media("aac/64/index.m3u8", kind);
    rows.push(single("playlist", playlist(Kind::Whole), 0.90));
    rows.push(single("playlist, gzip", playlist(Kind::Gzip), 0.90));
    rows.push(single("304", Ask::media(PACED_PATH, Kind::NotModified), 0.90));
    // Of the whole rung, as a download resumes or a player seeks in it.
    let part = |start: u64| {
        let kind = Kind::Part(start..start + (64 << 10));
        Ask { space: Space::Download, path: tree::object_name(192), kind }
    };
    rows.push(single("64 KiB range, aligned", part(1 << 20), 1.00));
    rows.push(single("64 KiB range, unaligned", part((1 << 20) + 1_234), 1.00));
    rows.push(Row { asks: mixed(), ..single("mixed", playlist(Kind::Whole), 1.00) });
    for (protocol, name) in [(Protocol::Tls, "TLS"), (Protocol::H2c, "HTTP/2"), (Protocol::H2Tls, "HTTP/2 over TLS")] {
        for kib in tree::SIZES_KIB.into_iter().filter(|kib| *kib >= 16) {
            rows.push(Row { protocol, ..single(&format!("{kib} KiB segment, {name}"), segment(kib, 0), 1.00) });
        }
    }
    rows
}

fn segment(kib: u64, number: usize) -> Ask {
    Ask::media(format!("aac/{kib}/{}", segue::hls::playlist::segment_name(number)), Kind::Whole)
}

/// Of ten requests one is for a playlist, two are for a part of a segment, seven are for a segment: three
/// for the usual rung, two each for the ones around it. Every segment has its turn.
fn mixed() -> Vec<Ask> {
    let mut asks = Vec::new();
    for turn in 0..tree::SEGMENTS {
        let part = |kib: u64, range: Range<u64>| Ask { kind: Kind::Part(range), ..segment(kib, turn) };
        asks.extend([
            segment(192, turn),
            segment(64, turn),
            part(192, 10_000..75_536),
            segment(192, (turn + 20) % tree::SEGMENTS),
            segment(512, turn),
            Ask::media("aac/64/index.m3u8", Kind::Whole),
            segment(64, (turn + 20) % tree::SEGMENTS),
            part(64, 32_768..65_536),
            segment(192, (turn + 40) % tree::SEGMENTS),
            segment(512, (turn + 20) % tree::SEGMENTS),
        ]);
    }
    asks
}
