//! Content codings: text in fewer bytes, media untouched. RFC 9110 §8.4, §8.8.3.3, §12.5.3, §14.2.

use std::io::Read as _;

use super::bench::{Bench, Client, Reply, Setup, TRACK};
use crate::support::published_server;

/// Everything that is text, and so has coded forms.
fn texts(bench: &Bench) -> Vec<String> {
    let playlists = ["master.m3u8", "aac/master.m3u8", "flac/master.m3u8", "aac/96/index.m3u8", "flac/index.m3u8"];
    playlists.into_iter().map(|rest| bench.a(rest)).chain([bench.published.path("w", "peaks.json")]).collect()
}

fn accept(bench: &Bench, path: &str, codings: &str) -> Reply {
    bench.get(path, &format!("Accept-Encoding: {codings}\r\n"))
}

fn decoded(reply: &Reply) -> Vec<u8> {
    let mut bytes = vec![];
    match reply.header("content-encoding") {
        Some("gzip") => _ = flate2::read::GzDecoder::new(&reply.body[..]).read_to_end(&mut bytes).unwrap(),
        Some("br") => brotli::BrotliDecompress(&mut &reply.body[..], &mut bytes).unwrap(),
        None => bytes.clone_from(&reply.body),
        Some(other) => panic!("nobody makes {other}"),
    }
    bytes
}

#[test]
fn text_is_coded_as_asked_and_decodes_to_itself() {
    let bench = Bench::open();
    for path in texts(&bench) {
        let plain = bench.get(&path, "");
        assert_eq!(plain.expect(200).header("content-encoding"), None, "who does not ask may not understand");
        // RFC 9110 §12.5.3: "identity" or an empty field asks for no coding; `gzip;q=0` is "not acceptable".
        for (asked, coding) in [
            ("gzip", Some("gzip")),
            ("br", Some("br")),
            ("gzip, deflate, br, zstd", Some("br")),
            ("br;q=0.1, gzip;q=0.2", Some("gzip")),
            ("zstd, br, gzip", Some("br")),
            ("*", Some("br")),
            ("identity", None),
            ("", None),
            ("gzip;q=0", None),
            ("deflate", None),
            ("identity;q=0", None),
            ("*;q=0", None),
        ] {
            let reply = accept(&bench, &path, asked);
            reply.expect(200);
            assert_eq!(reply.header("content-encoding"), coding, "{path} {asked}");
            assert_eq!(decoded(&reply), plain.body, "{path} {asked}");
            assert!(coding.is_none() || reply.body.len() < plain.body.len());
            assert_eq!(reply.header("content-type"), plain.header("content-type"));
            // §12.5.5: Vary lets caches know that the answer depends on the field, coded or not.
            assert_eq!(reply.header("vary"), Some("Accept-Encoding"), "{path} {asked}");
            for same in ["last-modified", "cache-control", "cdn-tag", "accept-ranges", "access-control-allow-origin"] {
                assert_eq!(reply.header(same), plain.header(same), "{same}");
            }
        }
    }
}

#[test]
fn every_coding_has_its_own_strong_tag_and_is_revalidated_by_it() {
    let bench = Bench::open();
    for path in texts(&bench) {
        // RFC 9110 §8.8.3.3: "two representations of the same resource that differ only in content coding
        // need different entity tags if a strong validator is used".
        let tags =
            ["identity", "gzip", "br"].map(|asked| accept(&bench, &path, asked).header("etag").unwrap().to_owned());
        assert!(tags[0] != tags[1] && tags[1] != tags[2] && tags[0] != tags[2], "{tags:?}");
        assert!(tags.iter().all(|tag| tag.starts_with('"') && tag.ends_with('"')), "{tags:?}");
        for (asked, tag) in ["identity", "gzip", "br"].into_iter().zip(&tags) {
            for named in [tag.clone(), format!("W/{tag}"), format!("\"x\", {tag}")] {
                let lines = format!("Accept-Encoding: {asked}\r\nIf-None-Match: {named}\r\n");
                let kept = bench.get(&path, &lines);
                kept.expect(304);
                // §15.4.5: a 304 carries ETag, Vary and Cache-Control as the 200 would.
                assert_eq!(kept.header("etag"), Some(tag.as_str()));
                assert_eq!(kept.header("vary"), Some("Accept-Encoding"));
                assert_eq!(kept.header("content-encoding"), None);
            }
        }
        // A proxy that holds one form and would take another keeps what it holds.
        let lines = format!("Accept-Encoding: br, gzip\r\nIf-None-Match: {}\r\n", tags[1]);
        assert_eq!(bench.get(&path, &lines).expect(304).header("etag"), Some(tags[1].as_str()));
        // But nobody is told to keep what it does not accept.
        let lines = format!("Accept-Encoding: identity\r\nIf-None-Match: {}\r\n", tags[1]);
        assert_eq!(bench.get(&path, &lines).expect(200).header("content-encoding"), None);
        bench.get(&path, &format!("If-None-Match: {}\r\n", tags[2])).expect(200);
        bench.get(&path, &format!("Accept-Encoding: gzip\r\nIf-Match: {}\r\n", tags[1])).expect(200);
        bench.get(&path, &format!("Accept-Encoding: gzip\r\nIf-Match: {}\r\n", tags[2])).expect(412);
    }
}

#[test]
fn a_range_is_a_range_of_the_coded_bytes() {
    let bench = Bench::open();
    let path = bench.a("aac/96/index.m3u8");
    for coding in ["gzip", "br"] {
        let whole = accept(&bench, &path, coding);
        // RFC 9110 §14.2: ranges are of the selected representation; its coding is a part of it.
        let lines = format!("Accept-Encoding: {coding}\r\nRange: bytes=3-12\r\n");
        let part = bench.get(&path, &lines);
        part.expect(206);
        assert_eq!(part.body, whole.body[3..13]);
        assert_eq!(part.header("content-range"), Some(format!("bytes 3-12/{}", whole.body.len()).as_str()));
        for same in ["etag", "content-encoding", "vary", "content-type"] {
            assert_eq!(part.header(same), whole.header(same), "{same}");
        }
        let beyond = format!("Accept-Encoding: {coding}\r\nRange: bytes={}-\r\n", whole.body.len());
        let expected = format!("bytes */{}", whole.body.len());
        assert_eq!(bench.get(&path, &beyond).expect(416).header("content-range"), Some(expected.as_str()));
        // A download that began without a coding goes on without one.
        let plain = bench.get(&path, "");
        let resumed = format!("{lines}If-Range: {}\r\n", plain.header("etag").unwrap());
        let resumed = bench.get(&path, &resumed);
        resumed.expect(206);
        assert_eq!((resumed.header("content-encoding"), &resumed.body[..]), (None, &plain.body[3..13]));
        let changed = format!("{lines}If-Range: \"x\"\r\n");
        assert_eq!(bench.get(&path, &changed).expect(200).body, whole.body);
    }
}

#[test]
fn head_says_what_get_would() {
    let bench = Bench::open();
    for path in texts(&bench) {
        for asked in ["gzip", "br", "identity"] {
            let lines = format!("Accept-Encoding: {asked}\r\n");
            bench.get(&path, &lines); // opened: no Server-Timing below
            let (head, get) = (bench.request("HEAD", &path, &lines), bench.get(&path, &lines));
            let without_date =
                |reply: &Reply| reply.headers.iter().filter(|(name, _)| name != "date").cloned().collect::<Vec<_>>();
            assert_eq!(without_date(&head), without_date(&get), "{path} {asked}");
            assert_eq!(head.header("content-length"), Some(get.body.len().to_string().as_str()));
        }
    }
}

#[test]
fn media_is_never_coded_and_never_varies() {
    let bench = Bench::open();
    let media = [
        bench.a("aac/96/init.mp4"),
        bench.a("aac/96/00001.mp4"),
        bench.published.path("d", "aac-96.mp4"),
        bench.published.path("p", "preview.m4a"),
        bench.published.path("w", "peaks.bin"),
    ];
    for path in media {
        let plain = bench.get(&path, "");
        let asked = accept(&bench, &path, "br, gzip");
        assert!(asked.expect(200).body == plain.body, "{path}");
        for reply in [&plain, &asked] {
            assert_eq!((reply.header("content-encoding"), reply.header("vary")), (None, None), "{path}");
        }
        assert_eq!(asked.header("etag"), plain.header("etag"));
    }
    let missing = accept(&bench, &bench.a("aac/97/index.m3u8"), "gzip");
    assert_eq!(missing.expect(404).header("vary"), None, "a refusal is the same for everybody");
    let unknown = accept(&bench, &format!("/a/{TRACK}/{}/master.m3u8", "0".repeat(40)), "gzip");
    assert_eq!(unknown.expect(404).header("content-encoding"), None);
}

#[test]
fn two_nodes_code_to_the_same_bytes() {
    let (one, other) = (Bench::open(), Bench::with(Setup { cores: 2, ..Setup::default() }));
    for (path, same) in texts(&one).into_iter().zip(texts(&other)) {
        for asked in ["gzip", "br"] {
            let (here, there) = (accept(&one, &path, asked), accept(&other, &same, asked));
            assert_eq!((here.header("etag"), &here.body), (there.header("etag"), &there.body), "{path}");
        }
    }
}

#[test]
fn the_script_of_a_page_is_coded_and_revalidated_and_its_text_is_not() {
    let served = published_server();
    let ask = |path: &str, lines: &str| Client::to(served.server.addr).request("GET", path, lines);
    let page_path = &served.watch[served.watch.find("/watch/").unwrap()..];
    let page = ask(page_path, "Accept-Encoding: gzip, br\r\n");
    // It holds signed URLs beside a title that others chose: coded together, lengths tell secrets (BREACH).
    assert_eq!(page.expect(200).header("content-encoding"), None);
    let html = String::from_utf8(page.body).unwrap();
    let assets: Vec<_> = html.split('"').filter(|part| part.starts_with("/assets/")).collect();
    assert_eq!(assets.len(), 2);
    for path in assets {
        let plain = ask(path, "");
        for coding in ["gzip", "br"] {
            let coded = ask(path, &format!("Accept-Encoding: {coding}\r\n"));
            assert_eq!(coded.expect(200).header("content-encoding"), Some(coding));
            assert!(decoded(&coded) == plain.body && coded.body.len() < plain.body.len() / 2, "{path}");
            assert_eq!(coded.header("vary"), Some("Accept-Encoding"));
            let tag = coded.header("etag").unwrap();
            assert_ne!(Some(tag), plain.header("etag"));
            let kept = ask(path, &format!("Accept-Encoding: {coding}\r\nIf-None-Match: {tag}\r\n"));
            assert_eq!(kept.expect(304).header("etag"), Some(tag));
            let head = Client::to(served.server.addr).request("HEAD", path, &format!("Accept-Encoding: {coding}\r\n"));
            assert_eq!(head.expect(200).header("content-length"), coded.header("content-length"));
        }
        assert_eq!(plain.header("content-encoding"), None);
        ask(path, "If-Match: \"x\"\r\n").expect(412);
    }
    let alias = format!("/tracks/{}/master.m3u8", page_path.strip_prefix("/watch/").unwrap());
    let lines = "Origin: https://x.example\r\nAccess-Control-Request-Method: GET\r\n";
    let preflight = Client::to(served.server.addr).request("OPTIONS", &alias, lines);
    assert_eq!(preflight.expect(204).header("access-control-allow-origin"), Some("*"));
}
