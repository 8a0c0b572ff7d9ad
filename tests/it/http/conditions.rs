//! Conditional requests, RFC 9110 §13, as a cache or player sends them.

use super::bench::Bench;

struct Validators {
    bench: Bench,
    path: String,
    etag: String,
    modified: String,
}

fn validators() -> Validators {
    let bench = Bench::open();
    let path = bench.a("aac/96/00000.mp4");
    let reply = bench.get(&path, "");
    let etag = reply.header("etag").unwrap().to_owned();
    let modified = reply.header("last-modified").unwrap().to_owned();
    Validators { bench, path, etag, modified }
}

impl Validators {
    fn check(&self, lines: &str, status: u16) {
        let lines = lines.replace("{etag}", &self.etag).replace("{modified}", &self.modified);
        let reply = self.bench.get(&self.path, &lines);
        assert_eq!(reply.status, status, "{lines}");
    }
}

#[test]
fn a_cache_revalidates_and_keeps_its_headers() {
    let v = validators();
    let whole = v.bench.get(&v.path, "");
    let kept = v.bench.get(&v.path, &format!("If-None-Match: {}\r\n", v.etag));
    kept.expect(304);
    assert!(kept.body.is_empty());
    for same in ["etag", "last-modified", "cache-control", "cdn-tag", "access-control-allow-origin"] {
        assert_eq!(kept.header(same), whole.header(same), "{same}");
    }
    v.check("If-None-Match: W/{etag}\r\n", 304);
    v.check("If-None-Match: *\r\n", 304);
    v.check("If-None-Match: \"x\"\r\nIf-None-Match: {etag}\r\n", 304);
    v.check("If-None-Match: \"x\"\r\nIf-Modified-Since: {modified}\r\n", 200);
    v.check("If-Modified-Since: {modified}\r\n", 304);
    v.check("If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n", 200);
    v.check("If-None-Match: {etag}\r\nRange: bytes=0-9\r\n", 304);
}

#[test]
fn a_client_that_wants_exactly_this_gets_it_or_412() {
    let v = validators();
    v.check("If-Match: {etag}\r\n", 200);
    v.check("If-Match: W/{etag}\r\n", 412);
    v.check("If-Match: \"x\"\r\n", 412);
    v.check("If-Unmodified-Since: {modified}\r\n", 200);
    v.check("If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n", 412);
    v.check("If-Match: {etag}\r\nRange: bytes=0-9\r\n", 206);
    v.check("If-Match: \"x\"\r\nRange: bytes=999999-\r\n", 412);
}

#[test]
fn a_download_resumes_only_into_the_same_bytes() {
    let v = validators();
    v.check("If-Range: {etag}\r\nRange: bytes=0-9\r\n", 206);
    v.check("If-Range: W/{etag}\r\nRange: bytes=0-9\r\n", 200);
    v.check("If-Range: \"x\"\r\nRange: bytes=0-9\r\n", 200);
    v.check("If-Range: \"x\"\r\nRange: bytes=999999-\r\n", 200);
    v.check("If-Range: {modified}\r\nRange: bytes=0-9\r\n", 206);
    v.check("If-Range: Thu, 01 Jan 1970 00:00:00 GMT\r\nRange: bytes=0-9\r\n", 200);
    v.check("If-Range: {etag}\r\n", 200);
}
