//! What other sites see: the frame, its tags, oEmbed.

use std::io::Write as _;

use serde_json::{Value, json};

use super::site::{Api, Site, Who};

fn oembed(api: &Api, page: &str, more: &str) -> (u16, Value) {
    let url: String = page
        .bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect();
    let reply = api.get(Who::Nobody, &format!("/oembed?url={url}{more}"));
    (reply.status, serde_json::from_slice(&reply.body).unwrap_or(Value::Null))
}

fn gzipped(bytes: &[u8]) -> usize {
    let mut coder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    coder.write_all(bytes).unwrap();
    coder.finish().unwrap().len()
}

#[test]
fn a_frame_is_small_sets_no_cookie_and_may_stand_anywhere() {
    let site = Site::new();
    let api = site.serve();
    let id = api.track(&json!({}), "published");
    let page = api.get(Who::Nobody, &format!("/embed/track/{id}"));
    assert_eq!(page.status, 200, "{}", page.text());
    let csp = page.header("content-security-policy").unwrap();
    for wanted in [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors *",
    ] {
        assert!(csp.contains(wanted), "{wanted}: {csp}");
    }
    assert!(!csp.contains("unsafe"), "{csp}");
    assert_eq!((page.header("set-cookie"), page.header("x-frame-options")), (None, None));
    let html = page.text();
    let assets: Vec<&str> = html.split('"').filter(|part| part.starts_with("/assets/")).collect();
    assert_eq!(assets.len(), 2, "a script and a style");
    let mut bytes = gzipped(html.as_bytes());
    for asset in assets {
        let reply = api.send(Who::Nobody, "GET", asset, &[("Accept-Encoding", "gzip")], b"");
        assert_eq!(
            (reply.status, reply.header("content-encoding"), reply.header("set-cookie")),
            (200, Some("gzip"), None)
        );
        bytes += reply.body.len();
    }
    eprintln!("a frame has {bytes} bytes, gzipped, with its waveform and its player");
    assert!(bytes <= 15 * 1024, "product T3: {bytes}");
    // Tags for whoever unfurls a link; the sound is the preview and nothing more.
    for wanted in ["og:type", "twitter:player", "og:audio", "application/json+oembed", "preview=30"] {
        assert!(html.contains(wanted), "{wanted}");
    }
    assert!(!html.contains("master.m3u8") && !html.contains("/a/"), "{html}");
    assert!(html.contains("<svg class=\"wave\""));
    // Everywhere else no frame is let.
    for path in [format!("/watch/{id}"), "/watch/none".into()] {
        let page = api.get(Who::Nobody, &path);
        assert!(page.header("content-security-policy").unwrap().contains("frame-ancestors 'none'"), "{path}");
    }
    let gone = api.get(Who::Nobody, "/embed/track/none");
    assert!(gone.status == 404 && gone.header("content-security-policy").unwrap().contains("frame-ancestors *"));
    // The page itself is found by oEmbed too.
    assert!(api.get(Who::Nobody, &format!("/watch/{id}")).text().contains("application/json+oembed"));
}

#[test]
fn oembed_answers_to_the_letter() {
    let site = Site::new().with("SEGUE_SERVER__PUBLIC_BASE_URL", "https://music.example");
    let api = site.serve();
    let id = api.track(&json!({}), "published");
    let page = format!("https://music.example/watch/{id}");
    let (status, body) = oembed(&api, &page, "&format=json");
    assert_eq!(status, 200, "{body}");
    assert_eq!((&body["type"], &body["version"], &body["title"]), (&json!("rich"), &json!("1.0"), &json!("Song")));
    assert_eq!((&body["width"], &body["height"]), (&json!(640), &json!(180)), "numbers, not texts");
    let html = body["html"].as_str().unwrap();
    assert!(html.starts_with(&format!("<iframe src=\"https://music.example/embed/track/{id}\"")), "{html}");
    assert!(html.contains("width=\"640\" height=\"180\"") && html.contains("sandbox="), "{html}");
    for (asked, width) in
        [("0", 240), ("239", 240), ("240", 240), ("500", 500), ("1280", 1280), ("9999", 1280), ("x", 640), ("-1", 640)]
    {
        let (_, body) = oembed(&api, &page, &format!("&maxwidth={asked}"));
        assert_eq!(body["width"], width, "{asked}");
        assert!(body["html"].as_str().unwrap().contains(&format!("width=\"{width}\"")));
    }
    assert_eq!(oembed(&api, &page, "&maxheight=150").1["height"], 150);
    assert_eq!(oembed(&api, &page, "&maxheight=9999").1["height"], 180);
    assert_eq!(oembed(&api, &page, "&format=xml").0, 501);
    // What no page is says so to a browser that opens it.
    for (path, status) in [
        (format!("/oembed?url={page}"), 200),
        ("/oembed?url=x".to_owned(), 400),
        ("/tracks/trk_never/stream".to_owned(), 404),
        ("/tracks/trk_never".to_owned(), 404),
    ] {
        let reply = api.get(Who::Nobody, &path);
        let policy = reply.header("content-security-policy");
        assert_eq!((reply.status, policy), (status, Some("default-src 'none'; frame-ancestors 'none'")), "{path}");
    }
    assert_eq!(oembed(&api, &page, "&callback=evil").0, 200, "unknown parameters are ignored");
    for bad in ["https://evil.example/watch/x", "https://music.example/", "https://music.example/studio", "x", ""] {
        assert_eq!(oembed(&api, bad, "").0, 400, "{bad}");
    }
    assert_eq!(api.get(Who::Nobody, "/oembed").status, 400);
    assert_eq!(oembed(&api, "https://music.example/watch/trk_none", "").0, 404);
    api.json(Who::One, "PATCH", &format!("/api/v1/tracks/{id}"), &json!({ "title": "<b>\"Song\" & more</b>" }));
    let (_, body) = oembed(&api, &page, "");
    assert_eq!(body["title"], "<b>\"Song\" & more</b>");
    assert!(body["html"].as_str().unwrap().contains("title=\"&lt;b&gt;&quot;Song&quot; &amp; more&lt;/b&gt;\""));
    api.json(Who::One, "PATCH", &format!("/api/v1/tracks/{id}"), &json!({ "visibility": "private" }));
    assert_eq!(oembed(&api, &page, "").0, 404, "not 401: that would say that there is something");
}
