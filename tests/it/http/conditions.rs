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

#[test]
fn the_conditions_are_tried_in_their_order() {
    let v = validators();
    let past = "Thu, 01 Jan 1970 00:00:00 GMT";
    // RFC 9110 §13.2.2, step 1: "When recipient is the origin server and If-Match is present, evaluate …
    // if false, respond 412".
    v.check("If-Match: \"x\"\r\nIf-None-Match: {etag}\r\n", 412);
    // Step 2 only "when … If-Match is not present".
    v.check(&format!("If-Match: {{etag}}\r\nIf-Unmodified-Since: {past}\r\n"), 200);
    v.check(&format!("If-Unmodified-Since: {past}\r\nIf-None-Match: {{etag}}\r\n"), 412);
    // Step 3 comes after a true If-Match.
    v.check("If-Match: {etag}\r\nIf-None-Match: {etag}\r\n", 304);
    v.check("If-Match: *\r\nIf-None-Match: *\r\n", 304);
    // Step 4: If-Modified-Since only "when … If-None-Match is not present".
    v.check("If-None-Match: \"x\"\r\nIf-Modified-Since: {modified}\r\n", 200);
    // Step 5: Range and If-Range come last.
    v.check("If-None-Match: {etag}\r\nIf-Range: {etag}\r\nRange: bytes=999999-\r\n", 304);
    v.check("If-Match: \"x\"\r\nIf-Range: \"y\"\r\nRange: bytes=0-9\r\n", 412);
    v.check("If-Modified-Since: {modified}\r\nRange: bytes=0-9\r\n", 304);
    v.check("If-Unmodified-Since: {modified}\r\nRange: bytes=0-9\r\n", 206);
}

#[test]
fn lists_of_tags_are_read_as_lists() {
    let v = validators();
    // RFC 9110 §5.6.1: "a recipient MUST parse and ignore a reasonable number of empty list elements".
    v.check("If-None-Match: \"a\", ,, {etag} ,\r\n", 304);
    v.check("If-None-Match: \"a\"\r\nIf-None-Match: \"b\", W/{etag}\r\n", 304);
    v.check("If-Match: \"a\", \"b\"\r\nIf-Match: {etag}\r\n", 200);
    // §8.8.3: a comma is a character of the tag, and the tag's case counts.
    v.check("If-None-Match: \"a,{etag}\"\r\n", 200);
    v.check(
        &format!("If-None-Match: {}\r\n", v.etag.to_uppercase()),
        if v.etag == v.etag.to_uppercase() { 304 } else { 200 },
    );
    // Without its quotes it is no tag.
    v.check(&format!("If-None-Match: {}\r\n", v.etag.trim_matches('"')), 200);
    v.check("If-None-Match: w/{etag}\r\n", 200);
}

#[test]
fn dates_are_read_in_three_forms_and_otherwise_ignored() {
    let v = validators();
    let time = httpdate::parse_http_date(&v.modified).unwrap();
    let seconds = time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let imf = httpdate::fmt_http_date(time);
    let (weekday, day, month, year, clock) = (&imf[..3], &imf[5..7], &imf[8..11], &imf[12..16], &imf[17..25]);
    let long = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]
        .into_iter()
        .find(|name| name.starts_with(weekday))
        .unwrap();
    let rfc850 = format!("{long}, {day}-{month}-{} {clock} GMT", &year[2..]);
    let asctime = format!("{weekday} {month} {:>2} {clock} {year}", day.trim_start_matches('0'));
    // RFC 9110 §5.6.7: "A recipient that parses a timestamp value in an HTTP field MUST accept all three
    // HTTP-date formats".
    for date in [&imf, &rfc850, &asctime] {
        v.check(&format!("If-Modified-Since: {date}\r\n"), 304);
        v.check(&format!("If-Unmodified-Since: {date}\r\n"), 200);
        v.check(&format!("If-Range: {date}\r\nRange: bytes=0-9\r\n"), 206);
    }
    // §13.1.3: it is what the server has that is compared; a date to come is a date.
    let later = httpdate::fmt_http_date(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds + 86_400 * 365));
    v.check(&format!("If-Modified-Since: {later}\r\n"), 304);
    v.check(&format!("If-Unmodified-Since: {later}\r\n"), 200);
    v.check(&format!("If-Range: {later}\r\nRange: bytes=0-9\r\n"), 200);
    // §13.1.3 and §13.1.4: "MUST ignore … if the received field value is not a valid HTTP-date, the field
    // value has more than one member".
    for garbage in ["yesterday", "0", "", "Sat, 99 Nov 2026 00:00:00 GMT", "2026-11-21T00:00:00Z"] {
        v.check(&format!("If-Modified-Since: {garbage}\r\n"), 200);
        v.check(&format!("If-Unmodified-Since: {garbage}\r\n"), 200);
        v.check(&format!("If-Range: {garbage}\r\nRange: bytes=0-9\r\n"), 200);
    }
    v.check("If-Modified-Since: {modified}\r\nIf-Modified-Since: {modified}\r\n", 200);
    let twice = "If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n".repeat(2);
    v.check(&twice, 200);
}

#[test]
fn a_304_is_the_200_without_its_body() {
    let v = validators();
    for path in [v.path.clone(), v.bench.a("aac/96/index.m3u8"), v.bench.published.path("p", "preview.m4a")] {
        let whole = v.bench.get(&path, "");
        for method in ["GET", "HEAD"] {
            let lines = format!("If-None-Match: {}\r\n", whole.header("etag").unwrap());
            let kept = v.bench.request(method, &path, &lines);
            kept.expect(304);
            // RFC 9110 §15.4.5: "MUST generate any of the following header fields that would have been
            // sent in a 200: Content-Location, Date, ETag, and Vary; Cache-Control and Expires".
            for same in ["etag", "vary", "cache-control", "last-modified", "cdn-tag", "access-control-allow-origin"] {
                assert_eq!(kept.header(same), whole.header(same), "{path} {same}");
            }
            assert!(kept.header("date").is_some());
            // §8.6: no Content-Length in a 304 "unless its field value equals the decimal number of octets
            // that would have been sent in the content of a 200".
            assert!(kept.header("content-length").is_none_or(|n| Some(n) == whole.header("content-length")));
        }
    }
}

#[test]
fn a_failed_condition_answers_as_other_refusals_do() {
    let v = validators();
    let reply = v.bench.get(&v.path, "If-Match: \"x\"\r\n");
    reply.expect(412);
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
    assert_eq!(reply.header("etag"), None, "not the tag of what was not sent");
    // RFC 9110 §13.2.1: conditions are ignored "when received with a request method that does not involve
    // the selection of a selected representation, such as CONNECT, OPTIONS, or TRACE", and when the answer
    // without them would be neither 2xx nor 412.
    v.bench.request("OPTIONS", &v.path, "If-Match: \"x\"\r\n").expect(204);
    v.bench.get(&v.bench.a("aac/96/00009.mp4"), "If-None-Match: *\r\n").expect(404);
    v.bench.request("DELETE", &v.path, "If-Match: \"x\"\r\n").expect(405);
}
