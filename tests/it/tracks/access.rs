//! Who may have what, by every route there is: a private track is nothing to anybody else, a paid one has a price, a
//! blocked one is closed to its owner too.

use serde_json::json;

use super::site::{Api, Site, Who};
use crate::support::{run, said};

/// Every way to look at a track or to hear it.
fn ways(id: &str) -> Vec<String> {
    [
        "/watch/{id}",
        "/embed/track/{id}",
        "/tracks/{id}/master.m3u8",
        "/tracks/{id}/stream",
        "/tracks/{id}/stream?format=flac",
        "/tracks/{id}/stream?preview=30",
        "/tracks/{id}/download",
        "/tracks/{id}/waveform",
        "/tracks/{id}/artwork/00-640.jpg",
        "/api/v1/tracks/{id}",
        "/api/v1/tracks/{id}/lyrics",
        "/api/v1/tracks/{id}/media",
    ]
    .map(|path| path.replace("{id}", id))
    .into()
}

/// Every way to change it, or to know what only its owner may.
const OWNERS: [(&str, &str); 19] = [
    ("PATCH", "/api/v1/tracks/{id}"),
    ("DELETE", "/api/v1/tracks/{id}"),
    ("PUT", "/api/v1/tracks/{id}/source"),
    ("POST", "/api/v1/tracks/{id}/publish"),
    ("POST", "/api/v1/tracks/{id}/unlist"),
    ("POST", "/api/v1/tracks/{id}/retry"),
    ("GET", "/api/v1/tracks/{id}/status"),
    ("GET", "/api/v1/tracks/{id}/events"),
    ("GET", "/api/v1/tracks/{id}/versions"),
    ("POST", "/api/v1/tracks/{id}/versions/0000000000000000000000000000000000000000/restore"),
    ("POST", "/api/v1/tracks/{id}/share"),
    ("GET", "/api/v1/tracks/{id}/share"),
    ("DELETE", "/api/v1/tracks/{id}/share/shr_00000000000000000000000000"),
    ("PUT", "/api/v1/tracks/{id}/lyrics"),
    ("DELETE", "/api/v1/tracks/{id}/lyrics"),
    ("GET", "/api/v1/tracks/{id}/stats"),
    ("POST", "/api/v1/tracks/{id}/plays"),
    ("PUT", "/api/v1/tracks/{id}/artwork"),
    ("DELETE", "/api/v1/tracks/{id}/artwork"),
];

fn patch(api: &Api, id: &str, changes: &serde_json::Value) {
    let (status, track) = api.json(Who::One, "PATCH", &format!("/api/v1/tracks/{id}"), changes);
    assert_eq!(status, 200, "{track}");
}

#[test]
fn a_private_track_is_nothing_to_anybody_else_on_sqlite() {
    a_private_track_is_nothing_to_anybody_else(&Site::new());
}

#[test]
fn a_private_track_is_nothing_to_anybody_else_on_postgresql() {
    a_private_track_is_nothing_to_anybody_else(&Site::on_postgresql());
}

fn a_private_track_is_nothing_to_anybody_else(site: &Site) {
    let api = site.serve();
    let id = api.track(&json!({ "visibility": "private" }), "published");
    for who in [Who::Two, Who::Nobody] {
        for path in ways(&id) {
            let (it, never) = (api.get(who, &path), api.get(who, &path.replace(&id, "trk_never")));
            assert_eq!(it.status, 404, "{who:?} {path}");
            // Byte for byte what a track that never was gets, but for its name and the number of the request.
            let told = |reply: &crate::support::Reply, id: &str| {
                let lines = reply.head.lines().filter(|line| !line.to_lowercase().starts_with("x-request-id"));
                let varies =
                    |line: &str| ["date", "ratelimit:"].iter().any(|name| line.to_lowercase().starts_with(name));
                let lines = lines.filter(|line| !varies(line));
                (lines.map(str::to_owned).collect::<Vec<_>>(), reply.text().replace(id, ""))
            };
            assert_eq!(told(&it, &id), told(&never, "trk_never"), "{who:?} {path}");
        }
        for (method, path) in OWNERS {
            let status = api.send(who, method, &path.replace("{id}", &id), &[], b"{}").status;
            let anonymous = who == Who::Nobody && !path.ends_with("/plays");
            assert_eq!(status, if anonymous { 401 } else { 404 }, "{who:?} {method} {path}");
        }
        let oembed = format!("/oembed?url=http%3A%2F%2F{}%2Fwatch%2F{id}", api.addr.to_string().replace(':', "%3A"));
        assert_eq!(api.get(who, &oembed).status, 404);
    }
    // Its owner hears it, and no cache keeps what they hear.
    for (path, status) in [
        ("/watch/{id}", 200),
        ("/tracks/{id}/master.m3u8", 302),
        ("/tracks/{id}/stream", 200),
        ("/tracks/{id}/stream?preview=30", 200),
        ("/tracks/{id}/download", 200),
        ("/tracks/{id}/waveform", 200),
    ] {
        let reply = api.get(Who::One, &path.replace("{id}", &id));
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        let caching = reply.header("cache-control").unwrap();
        assert!(caching.contains("no-store"), "{path}: {caching}");
    }
    shares_open_it(&api, &id);
}

#[test]
fn what_strangers_knew_of_a_track_is_gone_when_it_is_private() {
    what_strangers_knew_of_a_track_is_gone_when_it_is_private_at(&Site::new());
}

#[test]
fn what_strangers_knew_of_a_track_is_gone_when_it_is_private_on_postgresql() {
    what_strangers_knew_of_a_track_is_gone_when_it_is_private_at(&Site::on_postgresql());
}

fn what_strangers_knew_of_a_track_is_gone_when_it_is_private_at(site: &Site) {
    let api = site.serve();
    let addresses = |id: &str| public(&api, id);
    let until = |status: u16, addresses: &[String]| until(&api, status, addresses);
    let id = api.track(&json!({}), "published");
    let known = addresses(&id);
    until(200, &known);
    patch(&api, &id, &json!({ "visibility": "private" }));
    until(404, &known);
    assert_eq!(api.get(Who::One, &format!("/tracks/{id}/stream?preview=30")).status, 200, "its owner hears it");
    patch(&api, &id, &json!({ "title": "As private as before" }));
    patch(&api, &id, &json!({ "visibility": "public" }));
    until(200, &known);
    let batch = json!({ "ids": [id], "changes": { "visibility": "private" } });
    assert_eq!(api.json(Who::One, "POST", "/api/v1/tracks/batch/update", &batch).1["items"][0]["result"], "done");
    until(404, &known);
    // What was never public is known to nobody until somebody is let in; then it takes a token, too.
    let shared = api.track(&json!({ "visibility": "private" }), "published");
    let known = addresses(&shared);
    let (status, share) = api.json(Who::One, "POST", &format!("/api/v1/tracks/{shared}/share"), &json!({}));
    assert_eq!(status, 201, "{share}");
    until(404, &known);
}

/// The addresses of what is public of a track: its preview, twice, and its waveform.
fn public(api: &Api, id: &str) -> [String; 3] {
    let alias = api.get(Who::One, &format!("/tracks/{id}/master.m3u8"));
    let to = alias.header("location").unwrap();
    let version = to.split(id).last().unwrap().split('/').nth(1).unwrap().to_owned();
    ["p/{at}/preview.m4a", "p/{at}/preview.m3u8", "w/{at}/peaks.bin"]
        .map(|path| format!("/{}", path.replace("{at}", &format!("{id}/{version}"))))
}

fn until(api: &Api, status: u16, addresses: &[String]) {
    for path in addresses {
        crate::support::until(|| api.get(Who::Nobody, path).status == status);
    }
}

#[test]
fn what_is_on_sale_costs_what_is_asked_for_it() {
    what_is_on_sale_costs_what_is_asked_for_it_at(&Site::new());
}

#[test]
fn what_is_on_sale_costs_what_is_asked_for_it_on_postgresql() {
    what_is_on_sale_costs_what_is_asked_for_it_at(&Site::on_postgresql());
}

fn what_is_on_sale_costs_what_is_asked_for_it_at(site: &Site) {
    let api = site.serve();
    let id = api.track(&json!({}), "published");
    let [preview, playlist, waveform] = public(&api, &id);
    let previews = [preview, playlist];
    let stream = format!("/tracks/{id}/stream");
    assert_eq!(api.get(Who::Nobody, &stream).status, 200, "it costs nothing");
    until(&api, 200, &previews);
    let offer = |key: &str, licences: &serde_json::Value| {
        let body = json!({ "title": "Song", "currency": "EUR", "track": id, "licences": licences });
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key)];
        let reply = api.send(Who::One, "POST", "/api/v1/products", &headers, body.to_string().as_bytes());
        assert_eq!(reply.status, 201, "{}", reply.text());
        serde_json::from_slice::<serde_json::Value>(&reply.body).unwrap()["id"].as_str().unwrap().to_owned()
    };
    let change = |product: &str, change: &serde_json::Value| {
        let (status, said) = api.json(Who::One, "PATCH", &format!("/api/v1/products/{product}"), change);
        assert_eq!(status, 200, "{said}");
    };
    let costs = |price_minor: i64| {
        for (who, status) in [(Who::Nobody, 401), (Who::Two, 402)] {
            for way in ["master.m3u8", "stream", "download"] {
                let reply = api.get(who, &format!("/tracks/{id}/{way}"));
                assert_eq!(reply.status, status, "{way}: {}", reply.text());
                let said: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
                assert_eq!(said["offer"], json!({ "price_minor": price_minor, "currency": "EUR" }));
            }
        }
    };
    let dear = json!([{ "kind": "commercial", "price_minor": 9900 }, { "kind": "personal", "price_minor": 990 }]);
    let first = offer("first", &dear);
    costs(990);
    // Nobody said that strangers may go on to hear thirty seconds of it; its page and its waveform they may see.
    until(&api, 404, &previews);
    assert_eq!(api.get(Who::Nobody, &format!("/tracks/{id}/stream?preview=30")).status, 401);
    assert_eq!(api.get(Who::One, &format!("/tracks/{id}/stream?preview=30")).status, 200, "its owner hears it");
    assert_eq!(api.get(Who::Nobody, &waveform).status, 200);
    let listed = run(["blocks", "--data", site.data().to_str().unwrap()]);
    assert_eq!(said(&listed).trim(), format!("{id} unheard"));
    // One wish, whether of the track or of what is sold.
    change(&first, &json!({ "preview_enabled": true }));
    until(&api, 200, &previews);
    assert_eq!(api.shown(Who::One, &format!("/api/v1/tracks/{id}"))["preview_enabled"], true);
    patch(&api, &id, &json!({ "preview_enabled": false }));
    until(&api, 404, &previews);
    assert_eq!(api.shown(Who::Nobody, &format!("/api/v1/products/{first}"))["preview_enabled"], false);
    let batch = |changes: &serde_json::Value| {
        let body = json!({ "ids": [id], "changes": changes });
        api.json(Who::One, "POST", "/api/v1/tracks/batch/update", &body)
    };
    assert_eq!(batch(&json!({ "preview_enabled": true })).0, 200);
    until(&api, 200, &previews);
    // The cheapest counts; what one offer says, the track cannot take back.
    let second = offer("second", &json!([{ "kind": "personal", "price_minor": 500 }]));
    costs(500);
    until(&api, 200, &previews);
    for price in [json!(null), json!({ "price_minor": 1, "currency": "EUR" })] {
        let (status, refused) =
            api.json(Who::One, "PATCH", &format!("/api/v1/tracks/{id}"), &json!({ "price": price }));
        assert_eq!((status, &refused["type"]), (422, &json!("/problems/on-sale")), "{refused}");
        assert!(refused["detail"].as_str().unwrap().contains(&first), "{refused}");
        assert_eq!(batch(&json!({ "price": price })).1["type"], "/problems/on-sale");
    }
    costs(500);
    change(&second, &json!({ "active": false }));
    costs(990);
    // Nothing is for free because it is not sold any more: that is for its owner to say.
    change(&first, &json!({ "active": false }));
    costs(990);
    patch(&api, &id, &json!({ "price": null }));
    assert_eq!(api.get(Who::Nobody, &stream).status, 200);
    until(&api, 200, &previews);
    // What is deleted is not sold.
    change(&first, &json!({ "active": true }));
    costs(990);
    assert_eq!(api.send(Who::One, "DELETE", &format!("/api/v1/tracks/{id}"), &[], b"").status, 204);
    assert_eq!(api.get(Who::Nobody, &format!("/api/v1/products/{first}")).status, 404);
    let body = json!({ "title": "Song", "currency": "EUR", "track": id, "licences": dear });
    let headers = [("Content-Type", "application/json"), ("Idempotency-Key", "third")];
    let reply = api.send(Who::One, "POST", "/api/v1/products", &headers, body.to_string().as_bytes());
    assert_eq!(reply.status, 422, "{}", reply.text());
}

fn shares_open_it(api: &Api, id: &str) {
    let path = format!("/api/v1/tracks/{id}/share");
    let (status, share) = api.json(Who::One, "POST", &path, &json!({ "label": "For Ada", "expires_in_s": 3600 }));
    assert_eq!(status, 201, "{share}");
    let token = share["token"].as_str().unwrap();
    for (way, status) in [
        ("/watch/{id}", 200),
        ("/tracks/{id}/master.m3u8", 302),
        ("/tracks/{id}/stream", 200),
        ("/tracks/{id}/download", 200),
        ("/tracks/{id}/waveform", 200),
        ("/api/v1/tracks/{id}", 200),
    ] {
        let way = way.replace("{id}", id);
        for who in [Who::Two, Who::Nobody] {
            assert_eq!(api.get(who, &format!("{way}?share={token}")).status, status, "{way}");
            assert_eq!(api.get(who, &format!("{way}?share={}", token.replace("sgs_", "sgs_0"))).status, 404, "{way}");
        }
    }
    // Listening is all: a token changes nothing, and opens no other track.
    let changed = api.json(Who::Two, "PATCH", &format!("/api/v1/tracks/{id}?share={token}"), &json!({ "title": "x" }));
    assert_eq!(changed.0, 404);
    let other = api.json(Who::One, "POST", "/api/v1/tracks", &json!({ "title": "Other", "visibility": "private" })).1;
    let other = other["id"].as_str().unwrap();
    assert_eq!(api.get(Who::Nobody, &format!("/api/v1/tracks/{other}?share={token}")).status, 404);
    let resolve = |token: &str| api.json(Who::Nobody, "POST", "/api/v1/shares/resolve", &json!({ "token": token }));
    assert_eq!(resolve(token).1["track"], id);
    assert_eq!(resolve("sgs_x").0, 404);
    let listed = api.get(Who::One, &path).text();
    assert!(listed.contains("For Ada") && !listed.contains(token), "{listed}");
    let revoke = format!("{path}/{}", share["id"].as_str().unwrap());
    assert_eq!(api.send(Who::Two, "DELETE", &revoke, &[], b"").status, 404);
    assert_eq!(api.send(Who::One, "DELETE", &revoke, &[], b"").status, 204);
    assert_eq!(api.get(Who::Nobody, &format!("/tracks/{id}/stream?share={token}")).status, 404, "at once");
    assert_eq!(resolve(token).0, 404);
    for wrong in
        [json!({ "expires_in_s": 1 }), json!({ "expires_in_s": 1_000_000_000 }), json!({ "label": "x".repeat(101) })]
    {
        assert_eq!(api.json(Who::One, "POST", &path, &wrong).0, 422, "{wrong}");
    }
}

#[test]
fn a_paid_track_has_a_price_a_preview_and_licences() {
    let site = Site::new();
    let api = site.serve();
    let id = api.track(&json!({ "price": { "price_minor": 990, "currency": "EUR" } }), "published");
    let full = ["master.m3u8", "stream", "stream?format=flac", "download"].map(|way| format!("/tracks/{id}/{way}"));
    // What was measured names the version, by which its preview would be heard.
    let full: Vec<String> = full.into_iter().chain([format!("/api/v1/tracks/{id}/media")]).collect();
    let refused = |who, path: &str, status: u16| {
        for method in ["GET", "HEAD"] {
            let reply = api.send(who, method, path, &[("Range", "bytes=0-0")], b"");
            assert_eq!(reply.status, status, "{who:?} {method} {path}");
            assert_eq!(reply.header("cache-control"), Some("no-store"));
            let policy = reply.header("content-security-policy");
            assert_eq!(policy, Some("default-src 'none'; frame-ancestors 'none'"), "{path}");
        }
        let offer: serde_json::Value = serde_json::from_slice(&api.get(who, path).body).unwrap();
        assert_eq!(offer["offer"], json!({ "price_minor": 990, "currency": "EUR" }), "{path}");
    };
    for path in &full {
        refused(Who::Nobody, path, 401);
        refused(Who::Two, path, 402);
        assert!(api.get(Who::One, path).status < 400, "its owner: {path}");
    }
    assert_eq!(api.get(Who::Two, &format!("/api/v1/loudness?tracks={id}")).status, 404, "it names the version, too");
    // It can be seen, with its price; no signed address is on the page.
    let page = api.get(Who::Nobody, &format!("/watch/{id}"));
    assert!(page.status == 200 && page.text().contains("9.90 EUR") && !page.text().contains("/a/"), "{}", page.text());
    // A preview is its owner's wish.
    let preview = format!("/tracks/{id}/stream?preview=30");
    refused(Who::Nobody, &preview, 401);
    patch(&api, &id, &json!({ "preview_enabled": true }));
    for who in [Who::Nobody, Who::Two] {
        let reply = api.get(who, &preview);
        assert_eq!((reply.status, reply.header("x-preview-cap-seconds")), (200, Some("30")));
    }
    assert!(api.get(Who::Nobody, &format!("/watch/{id}")).text().contains("preview=30"));
    refused(Who::Nobody, &full[1], 401);
    // Who bought it has all of it, until it is taken back.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let licence = |grant: bool| {
        runtime.block_on(async {
            let db = crate::postgres::ready(site.place()).await;
            let (mut tx, track) = (db.begin().await.unwrap(), id.parse().unwrap());
            match grant {
                true => segue::db::tracks::grant_licence(&mut tx, "two", track, 1).await.unwrap(),
                false => drop(segue::db::tracks::revoke_licence(&mut tx, "two", track, 2).await.unwrap()),
            }
            tx.commit().await.unwrap();
            db.close().await;
        });
    };
    licence(true);
    for path in &full {
        let reply = api.get(Who::Two, path);
        assert!(reply.status < 400 && reply.header("cache-control").unwrap().contains("no-store"), "{path}");
    }
    licence(false);
    refused(Who::Two, &full[1], 402);
    patch(&api, &id, &json!({ "price": null }));
    assert_eq!(api.get(Who::Nobody, &full[1]).status, 200, "it costs nothing any more");
}

#[test]
fn what_waits_for_its_owner_is_published_unlisted_and_deleted_for_good() {
    let site = Site::new();
    let api = site.serve();
    let id = api.track(&json!({ "publish": false }), "ready");
    let alias = format!("/tracks/{id}/master.m3u8");
    assert_eq!(api.get(Who::Nobody, &alias).status, 404, "its owner has not let it out");
    assert_eq!(api.get(Who::One, &alias).status, 302);
    let verb = |verb: &str| api.json(Who::One, "POST", &format!("/api/v1/tracks/{id}/{verb}"), &json!({}));
    assert_eq!(verb("publish").1["state"], "published");
    let media = api.get(Who::Nobody, &alias).header("location").unwrap().to_owned();
    assert_eq!(verb("unlist").1["state"], "unlisted");
    assert_eq!(verb("unlist").0, 200, "already");
    assert_eq!(api.get(Who::Nobody, &alias).status, 302, "who knows its address hears it");
    assert_eq!(verb("publish").1["state"], "published");
    assert_eq!(api.get(Who::Nobody, &media).status, 200);
    assert_eq!(api.send(Who::Two, "DELETE", &format!("/api/v1/tracks/{id}"), &[], b"").status, 404);
    assert_eq!(api.send(Who::One, "DELETE", &format!("/api/v1/tracks/{id}"), &[], b"").status, 204);
    for path in ways(&id) {
        assert_eq!(api.get(Who::One, &path).status, 404, "{path}");
    }
    // The origin was told too: what was signed before is dead within its two looks a second.
    while api.get(Who::Nobody, &media).status != 404 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(verb("publish").0, 404);
}

#[test]
fn a_blocked_track_is_closed_to_its_owner_too_by_every_way() {
    let site = Site::new();
    let api = site.serve();
    let id = api.track(&json!({}), "published");
    let media = api.get(Who::Nobody, &format!("/tracks/{id}/master.m3u8")).header("location").unwrap().to_owned();
    let data = site.data();
    let done = run(["block", &id, "--reason", "Example Ltd, 17 USC 512", "--data", data.to_str().unwrap()]);
    assert!(done.status.success(), "{}", said(&done));
    while api.get(Who::Nobody, &media).status != 451 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    for who in [Who::One, Who::Two, Who::Nobody] {
        for path in ways(&id) {
            if who == Who::One && path == format!("/api/v1/tracks/{id}") {
                assert_eq!(api.get(who, &path).status, 200, "its owner may know how it stands");
                continue;
            }
            let reply = api.get(who, &path);
            assert_eq!(reply.status, 451, "{who:?} {path}");
            assert_eq!(reply.header("cache-control"), Some("no-store"), "{path}");
            assert!(reply.header("link").unwrap().ends_with("rel=\"blocked-by\""), "{path}");
        }
    }
    let oembed = format!("/oembed?url=http%3A%2F%2F{}%2Fwatch%2F{id}", api.addr.to_string().replace(':', "%3A"));
    assert_eq!(api.get(Who::Nobody, &oembed).status, 404, "oEmbed knows no 451");
    assert!(api.metric("segue_origin_blocks_dark_seconds_count") >= 1.0);
}

/// The gate is the one place that asks the decision.
#[test]
fn no_route_decides_by_itself() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api");
    let mut dirs = vec![dir];
    while let Some(dir) = dirs.pop() {
        for path in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            let code: String = source.split("#[cfg(test)]").next().unwrap().into();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            for word in ["access::decide", "Access::", "track_seen", "tracks::read(", "Visibility::Private =>"] {
                assert!(name == "gate.rs" || !code.contains(word), "{name} uses {word}");
            }
        }
    }
}
