//! From a file that somebody sends to a track that plays, over sockets, on both databases.

use serde_json::{Value, json};

use super::site::{Api, JSON, Site, Who, wav};

#[test]
fn an_upload_becomes_a_track_that_plays_on_sqlite() {
    an_upload_becomes_a_track_that_plays(&Site::new());
}

#[test]
fn an_upload_becomes_a_track_that_plays_on_postgresql() {
    an_upload_becomes_a_track_that_plays(&Site::on_postgresql());
}

/// Events as (id, name, data), of one whole stream.
fn events(api: &Api, track: &str, last: Option<u64>) -> Vec<(Option<u64>, String, Value)> {
    let last = last.map(|last| last.to_string());
    let headers: Vec<(&str, &str)> = last.iter().map(|last| ("Last-Event-ID", last.as_str())).collect();
    let reply = api.send(Who::One, "GET", &format!("/api/v1/tracks/{track}/events"), &headers, b"");
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("text/event-stream")), "{}", reply.text());
    let text = unchunked(&reply.body);
    let field = |block: &str, name: &str| {
        block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
    };
    let event = |block: &str| {
        let name = field(block, "event")?;
        let data = serde_json::from_str(&field(block, "data")?).unwrap();
        Some((field(block, "id").map(|id| id.parse().unwrap()), name, data))
    };
    text.split("\n\n").filter_map(event).collect()
}

fn unchunked(body: &[u8]) -> String {
    let (mut text, mut rest) = (Vec::new(), body);
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let Ok(length) = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap_or("x"), 16) else {
            return String::from_utf8_lossy(body).into_owned(); // it was not in chunks
        };
        text.extend_from_slice(&rest[end + 2..end + 2 + length]);
        rest = &rest[(end + 4 + length).min(rest.len())..];
    }
    String::from_utf8(text).unwrap()
}

fn an_upload_becomes_a_track_that_plays(site: &Site) {
    let api = site.serve();
    let upload = api.upload("audio", "First light.wav", &wav(40, 440.0));
    // At once: nobody has looked at it yet, and its name is a title.
    let body = json!({ "upload": upload, "preview_start_s": 2.0 }).to_string();
    let key = [JSON, ("Idempotency-Key", "\"one\"")];
    let made = api.send(Who::One, "POST", "/api/v1/tracks", &key, body.as_bytes());
    assert_eq!(made.status, 201, "{}", made.text());
    let track: Value = serde_json::from_slice(&made.body).unwrap();
    let id = track["id"].as_str().unwrap();
    assert_eq!(
        (track["title"].as_str(), made.header("location")),
        (Some("First light"), Some(&*format!("/api/v1/tracks/{id}")))
    );
    let again = api.send(Who::One, "POST", "/api/v1/tracks", &key, body.as_bytes());
    let same: Value = serde_json::from_slice(&again.body).unwrap();
    assert_eq!((again.status, same["id"].as_str()), (200, Some(id)), "the same request is the same track");
    let other = api.send(Who::One, "POST", "/api/v1/tracks", &key, b"{\"title\":\"x\"}");
    assert_eq!(other.status, 422);

    // The whole way, as it happens: the stream ends by itself when nothing more can.
    let seen = events(&api, id, None);
    let names: Vec<&str> = seen.iter().filter(|(id, ..)| id.is_some()).map(|(_, name, _)| name.as_str()).collect();
    let states: Vec<&str> = seen
        .iter()
        .filter(|(_, name, _)| name == "state")
        .map(|(.., data)| data["data"]["to"].as_str().unwrap())
        .collect();
    assert_eq!(states, ["draft", "uploaded", "processing", "published"]);
    let rungs: Vec<&str> = seen
        .iter()
        .filter(|(_, name, _)| name == "rung")
        .map(|(.., data)| data["data"]["path"].as_str().unwrap())
        .collect();
    for rung in ["aac/64", "aac/96", "aac/160", "aac/256", "flac"] {
        assert!(rungs.contains(&rung), "{rung}: {rungs:?}");
    }
    let at = |name: &str| names.iter().position(|known| *known == name).unwrap_or_else(|| panic!("{name}: {names:?}"));
    assert!(at("queued") < at("started") && at("started") < at("rung") && at("rung") < at("published"), "{names:?}");
    let ids: Vec<u64> = seen.iter().filter_map(|(id, ..)| *id).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>(), "numbered without gaps");
    // Who lost the connection goes on behind what they have; who has everything is told not to come back.
    let middle = ids[ids.len() / 2];
    let rest = events(&api, id, Some(middle));
    assert_eq!(rest.iter().filter_map(|(id, ..)| *id).collect::<Vec<_>>(), ids[ids.len() / 2 + 1..]);
    let last = ids.len().to_string();
    let done = api.send(Who::One, "GET", &format!("/api/v1/tracks/{id}/events"), &[("Last-Event-ID", &last)], b"");
    assert_eq!(done.status, 204);
    let status = api.shown(Who::One, &format!("/api/v1/tracks/{id}/status"));
    assert_eq!((status["state"].as_str(), status["job"]["state"].as_str()), (Some("published"), Some("succeeded")));
    assert_eq!(status["rungs"].as_array().unwrap().len(), 5);

    it_is_heard(&api, id);
    it_is_measured(&api, id);
    it_is_counted(&api, id);
    versions_come_and_go(&api, id);
}

fn it_is_heard(api: &Api, id: &str) {
    let alias = api.get(Who::Nobody, &format!("/tracks/{id}/master.m3u8"));
    assert_eq!(alias.status, 302, "{}", alias.text());
    assert!(alias.header("cache-control").unwrap().starts_with("public") && alias.header("cdn-tag") == Some(id));
    assert_eq!(api.get(Who::Nobody, alias.header("location").unwrap()).status, 200);
    let whole = api.get(Who::Nobody, &format!("/tracks/{id}/stream"));
    assert_eq!((whole.status, whole.header("content-type")), (200, Some("audio/mp4")));
    let part = api.send(Who::Nobody, "GET", &format!("/tracks/{id}/stream"), &[("Range", "bytes=100-199")], b"");
    assert_eq!((part.status, part.body.as_slice()), (206, &whole.body[100..200]));
    let download = api.get(Who::Nobody, &format!("/tracks/{id}/download?format=flac"));
    assert!(download.header("content-disposition").unwrap().contains("First%20light.mp4"));
    assert!(download.header("repr-digest").is_some());
    // The preview is another file, thirty seconds at most, and no range of it is a byte of the whole.
    let preview = api.get(Who::Nobody, &format!("/tracks/{id}/stream?preview=30"));
    assert_eq!((preview.status, preview.header("x-preview-cap-seconds")), (200, Some("30")));
    assert!(preview.body.len() < whole.body.len());
    let media = |file: &[u8]| file.windows(4).position(|word| word == b"mdat").unwrap() + 200;
    let sample = &preview.body[media(&preview.body)..][..64];
    assert!(!whole.body.windows(64).any(|window| window == sample), "an encode of its own");
    let beyond = format!("bytes={}-", preview.body.len());
    let beyond = api.send(Who::Nobody, "GET", &format!("/tracks/{id}/stream?preview=30"), &[("Range", &beyond)], b"");
    assert_eq!(beyond.status, 416);
    for wrong in ["31", "", "030", "30&preview=30"] {
        assert_eq!(api.get(Who::Nobody, &format!("/tracks/{id}/stream?preview={wrong}")).status, 400, "{wrong}");
    }
    let head = api.send(Who::Nobody, "HEAD", &format!("/tracks/{id}/stream?preview=30"), &[], b"");
    assert_eq!((head.status, head.header("content-length")), (200, Some(&*preview.body.len().to_string())));
    let waveform = api.shown(Who::Nobody, &format!("/tracks/{id}/waveform"));
    assert!(waveform["data"].as_array().unwrap().len() > 100);
}

/// What players and programs need beside the sound: how loud it is, alone and in a row, and what to leave out of each rung.
fn it_is_measured(api: &Api, id: &str) {
    let media = api.shown(Who::Nobody, &format!("/api/v1/tracks/{id}/media"));
    let (source, rungs) = (&media["source"], media["rungs"].as_array().unwrap());
    assert_eq!((rungs.len(), source["sha256"].is_null()), (5, true), "{media:#}");
    for rung in rungs {
        let (aac, rate) = (rung["path"].as_str().unwrap().starts_with("aac/"), &rung["rate"]);
        assert_eq!((&rung["priming"], &rung["lossless"]), (&json!(if aac { 1024 } else { 0 }), &json!(!aac)), "{rung}");
        assert!(rate != &source["rate"] || rung["samples"] == source["samples"], "{rung}");
    }
    let alone = media["loudness"]["integrated_lufs"].as_f64().unwrap();
    assert!((-40.0..0.0).contains(&alone) && media["loudness"]["true_peak_dbtp"].is_f64(), "{media:#}");
    // Twice the same in a row is as loud as once, to the tenth that is kept.
    let row = api.shown(Who::Two, &format!("/api/v1/loudness?tracks={id},{id}"));
    let together = &row["together"];
    assert!((together["integrated_lufs"].as_f64().unwrap() - alone).abs() < 0.06, "{row:#}");
    assert_eq!(together["true_peak_dbtp"], media["loudness"]["true_peak_dbtp"]);
    assert_eq!(together["album_peak"], media["loudness"]["replay_gain"]["track_peak"]);
    assert_eq!(row["tracks"][1]["loudness"], media["loudness"]);
    let status = |who, tracks: &str| api.get(who, &format!("/api/v1/loudness?tracks={tracks}")).status;
    assert_eq!(status(Who::Nobody, id), 401);
    assert_eq!(status(Who::Two, &format!("{id},trk_unknown")), 404);
    assert_eq!((status(Who::Two, ","), status(Who::Two, &vec![id; 101].join(","))), (422, 422));
}

fn it_is_counted(api: &Api, id: &str) {
    // The ranges above were one play; so is everything that this listener asks for now.
    for range in ["bytes=0-", "bytes=0-99", "bytes=100-", "bytes=-50", "bytes=0-"] {
        api.send(Who::Nobody, "GET", &format!("/tracks/{id}/stream"), &[("Range", range)], b"");
    }
    let played = |who, agent: &str| {
        let path = format!("/api/v1/tracks/{id}/plays");
        assert_eq!(api.send(who, "POST", &path, &[("User-Agent", agent)], b"").status, 204);
    };
    (0..3).for_each(|_| played(Who::Nobody, ""));
    let stats = api.shown(Who::One, &format!("/api/v1/tracks/{id}/stats"));
    assert_eq!((&stats["plays"], &stats["days"][0]["listeners"]), (&json!(1), &json!(1)), "{stats}");
    (0..3).for_each(|_| played(Who::Two, "x"));
    played(Who::Two, "another program of the same person");
    let stats = api.shown(Who::One, &format!("/api/v1/tracks/{id}/stats"));
    assert_eq!(stats["plays"], 2, "{stats}");
    // Looking is not playing.
    api.send(Who::Nobody, "HEAD", &format!("/tracks/{id}/stream"), &[("User-Agent", "y")], b"");
    api.send(Who::Nobody, "GET", &format!("/tracks/{id}/stream?preview=30"), &[("User-Agent", "y")], b"");
    let nothing = [("User-Agent", "y"), ("Range", "bytes=99999999-")];
    assert_eq!(api.send(Who::Nobody, "GET", &format!("/tracks/{id}/stream"), &nothing, b"").status, 416);
    assert_eq!(api.shown(Who::One, &format!("/api/v1/tracks/{id}/stats"))["plays"], 2);
    assert_eq!(api.get(Who::Two, &format!("/api/v1/tracks/{id}/stats")).status, 404, "whose it is not");
}

fn versions_come_and_go(api: &Api, id: &str) {
    let of = |path: &str| api.get(Who::Nobody, path).header("location").unwrap().to_owned();
    let alias = format!("/tracks/{id}/master.m3u8");
    let version_in = |url: &str| url.split('/').find(|part| part.len() == 40).unwrap().to_owned();
    let first = version_in(&of(&alias));
    let upload = api.upload("audio", "second.wav", &wav(7, 880.0));
    let source = json!({ "upload": upload });
    let (status, track) = api.json(Who::One, "PUT", &format!("/api/v1/tracks/{id}/source"), &source);
    assert_eq!((status, track["state"].as_str()), (202, Some("published")), "{track}");
    assert_eq!(api.json(Who::Two, "PUT", &format!("/api/v1/tracks/{id}/source"), &source).0, 404);
    events(api, id, None); // ends when the job has
    let second = version_in(&of(&alias));
    assert_ne!(first, second);
    let versions = api.shown(Who::One, &format!("/api/v1/tracks/{id}/versions"));
    let listed: Vec<_> = versions["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["id"].as_str().unwrap(), one["current"] == true))
        .collect();
    assert_eq!(listed, [(&*second, true), (&*first, false)]);
    let restore = |who, version: &str| {
        api.json(who, "POST", &format!("/api/v1/tracks/{id}/versions/{version}/restore"), &json!({})).0
    };
    assert_eq!(restore(Who::Two, &first), 404);
    assert_eq!(restore(Who::One, &"0".repeat(40)), 404);
    assert_eq!(restore(Who::One, &first), 200);
    assert_eq!(version_in(&of(&alias)), first);
    // It keeps the name that its owner gave it, in the record too.
    let renamed = json!({ "title": "Last light" });
    assert_eq!(api.json(Who::One, "PATCH", &format!("/api/v1/tracks/{id}"), &renamed).1["title"], "Last light");
    assert!(api.get(Who::Nobody, &format!("/watch/{id}")).text().contains("Last light"));
}

#[test]
fn a_file_that_is_no_sound_fails_its_track_in_words_and_a_good_one_mends_it() {
    let site = Site::new();
    let api = site.serve();
    let upload = api.upload("audio", "notes.wav", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0 and then nothing at all");
    let (status, track) = api.json(Who::One, "POST", "/api/v1/tracks", &json!({ "title": "Notes", "upload": upload }));
    assert_eq!(status, 201, "{track}");
    let id = track["id"].as_str().unwrap();
    api.until(id, "failed");
    let failed = api.shown(Who::One, &format!("/api/v1/tracks/{id}"));
    let why = failed["error"].as_str().unwrap();
    assert!(why.contains("upload the file again") && !why.contains("/upl_"), "{why}");
    assert_eq!(api.get(Who::Nobody, &format!("/tracks/{id}/master.m3u8")).status, 404);
    assert_eq!(api.json(Who::One, "POST", &format!("/api/v1/tracks/{id}/publish"), &json!({})).0, 409);
    let good = api.upload("audio", "notes.wav", &wav(2, 300.0));
    let (status, _) = api.json(Who::One, "PUT", &format!("/api/v1/tracks/{id}/source"), &json!({ "upload": good }));
    assert_eq!(status, 202);
    api.until(id, "published");
}

#[test]
fn owners_list_change_group_and_delete() {
    let site = Site::new();
    let api = site.serve();
    let made = |title: &str| {
        let (status, track) = api.json(Who::One, "POST", "/api/v1/tracks", &json!({ "title": title }));
        assert_eq!((status, track["state"].as_str()), (201, Some("draft")), "{track}");
        track["id"].as_str().unwrap().to_owned()
    };
    let ids: Vec<String> = (0..5).map(|number| made(&format!("Draft {number}"))).collect();
    let (mut found, mut next) = (Vec::new(), String::new());
    loop {
        let page = api.shown(Who::One, &format!("/api/v1/tracks?limit=2{next}"));
        found.extend(page["items"].as_array().unwrap().iter().map(|track| track["id"].as_str().unwrap().to_owned()));
        let Some(after) = page["next"].as_str() else { break };
        next = format!("&after={after}");
    }
    found.reverse();
    assert_eq!(found, ids);
    assert!(api.shown(Who::Two, "/api/v1/tracks")["items"].as_array().unwrap().is_empty());
    assert_eq!(api.get(Who::Nobody, "/api/v1/tracks").status, 401);
    assert_eq!(api.get(Who::One, "/api/v1/tracks?after=x").status, 400);
    assert_eq!(api.get(Who::One, "/api/v1/tracks?state=strange").status, 400);
    // Several at once, each told for itself; nobody else's change.
    let changes = json!({ "ids": [ids[0], ids[1], "trk_none"], "changes": { "visibility": "private" } });
    let (status, done) = api.json(Who::One, "POST", "/api/v1/tracks/batch/update", &changes);
    let results: Vec<_> = done["items"].as_array().unwrap().iter().map(|one| one["result"].as_str().unwrap()).collect();
    assert_eq!((status, results), (200, vec!["done", "done", "not-found"]));
    let (_, done) = api.json(Who::Two, "POST", "/api/v1/tracks/batch/update", &changes);
    assert!(done["items"].as_array().unwrap().iter().all(|one| one["result"] == "not-found"), "{done}");
    let gone = json!({ "ids": [ids[0], ids[2]] });
    let (_, done) = api.json(Who::Two, "POST", "/api/v1/tracks/batch/delete", &gone);
    assert!(done["items"].as_array().unwrap().iter().all(|one| one["result"] == "not-found"), "{done}");
    assert_eq!(api.json(Who::One, "POST", "/api/v1/tracks/batch/delete", &gone).0, 200);
    assert_eq!(api.get(Who::One, &format!("/api/v1/tracks/{}", ids[0])).status, 404);
    assert_eq!(api.shown(Who::One, "/api/v1/tracks")["items"].as_array().unwrap().len(), 3);
    for wrong in [json!({ "ids": [] }), json!({ "ids": vec!["trk_1"; 101] })] {
        assert_eq!(api.json(Who::One, "POST", "/api/v1/tracks/batch/delete", &wrong).0, 422);
    }
    // What cannot be is refused in words.
    for (wrong, name) in [
        (json!({ "title": "" }), "title"),
        (json!({ "title": "a\nb" }), "title"),
        (json!({ "price": { "price_minor": 0, "currency": "EUR" } }), "price"),
        (json!({ "price": { "price_minor": 5, "currency": "eur" } }), "price"),
        (json!({ "price": { "price_minor": 5, "currency": "XXZ" } }), "price"),
        (json!({ "price": [5, "EUR"] }), "body-invalid"),
        (json!(["First light"]), "body-invalid"),
        (json!({ "preview_start_s": -1 }), "preview-start"),
        (json!({ "nonsense": 1 }), "body-invalid"),
    ] {
        let (status, problem) = api.json(Who::One, "PATCH", &format!("/api/v1/tracks/{}", ids[3]), &wrong);
        assert!(matches!(status, 400 | 422) && problem["type"] == format!("/problems/{name}"), "{wrong}: {problem}");
        assert!(!problem.to_string().contains("struct"), "{problem}");
    }
    let words = json!({ "text": "[00:01.00] La\n[00:02.50] la", "language": "fr" });
    let lyrics = format!("/api/v1/tracks/{}/lyrics", ids[3]);
    assert_eq!(api.json(Who::One, "PUT", &lyrics, &words).1["synced"], true);
    assert_eq!(api.shown(Who::One, &lyrics)["language"], "fr");
    assert_eq!(api.get(Who::Nobody, &lyrics).status, 404, "of a draft");
    assert_eq!(api.send(Who::One, "DELETE", &lyrics, &[], b"").status, 204);
    assert_eq!(api.get(Who::One, &lyrics).status, 404);
}

/// Uploads and their tracks of one owner cannot be made use of by another.
#[test]
fn nobody_makes_a_track_of_anothers_upload_or_over_anothers_track() {
    let site = Site::new();
    let api = site.serve();
    let upload = api.upload("audio", "song.wav", &wav(2, 440.0));
    let (status, problem) = api.json(Who::Two, "POST", "/api/v1/tracks", &json!({ "title": "Mine", "upload": upload }));
    assert_eq!((status, problem["type"].as_str()), (422, Some("/problems/source")), "{problem}");
    let id = api.track(&json!({}), "published");
    // The other way in: a pipeline that names a track.
    let wish = json!({ "source": { "upload": upload }, "track": id, "title": "Stolen" });
    let stolen = |who| {
        let key = [JSON, ("Idempotency-Key", "k")];
        api.send(who, "POST", "/api/v1/transcodes", &key, wish.to_string().as_bytes())
    };
    assert_eq!(stolen(Who::Two).status, 422, "whose upload it is not");
    let file = wav(2, 500.0);
    let source = site.directory.path().join("theirs.wav");
    std::fs::write(&source, file).unwrap();
    let theirs = json!({ "source": source, "track": id, "title": "Stolen" });
    drop(api);
    let dirs = format!("[\"{}\"]", site.directory.path().display());
    let site = site.with("SEGUE_API__SOURCE_DIRS", &dirs);
    let api = site.serve();
    let key = [JSON, ("Idempotency-Key", "k")];
    let reply = api.send(Who::Two, "POST", "/api/v1/transcodes", &key, theirs.to_string().as_bytes());
    assert_eq!(reply.status, 404, "{}", reply.text());
    let reply = api.send(Who::One, "POST", "/api/v1/transcodes", &key, theirs.to_string().as_bytes());
    assert_eq!(reply.status, 202, "{}", reply.text());
    assert_eq!(api.shown(Who::One, &format!("/api/v1/tracks/{id}"))["title"], "Song", "its owner's word counts");
}

#[test]
fn pictures_are_made_anew_and_handed_out_in_three_sizes() {
    let site = Site::new();
    let api = site.serve();
    let id = api.track(&json!({}), "published");
    let path = format!("/api/v1/tracks/{id}/artwork");
    // 100 × 100 pixels of nothing, as a PNG that zlib stores without compressing.
    let png = png(100);
    let put = |who, file: &[u8]| api.send(who, "PUT", &path, &[("Content-Type", "image/png")], file);
    assert_eq!(put(Who::Two, &png).status, 404);
    assert_eq!(put(Who::Nobody, &png).status, 401);
    let refused = put(Who::One, b"<svg/>");
    assert!(refused.status == 422 && refused.text().contains("JPEG, PNG or WebP"), "{}", refused.text());
    let done = put(Who::One, &png);
    assert_eq!(done.status, 200, "{}", done.text());
    let track: Value = serde_json::from_slice(&done.body).unwrap();
    let medium = track["artwork"]["medium"].as_str().unwrap().to_owned();
    let picture = api.get(Who::Nobody, &medium);
    assert_eq!((picture.status, picture.header("content-type")), (200, Some("image/jpeg")));
    assert_eq!(
        (picture.header("cache-control"), picture.header("cdn-tag")),
        (Some("public, max-age=86400"), Some(id.as_str()))
    );
    assert_eq!(&picture.body[..2], [0xff, 0xd8]);
    let etag = picture.header("etag").unwrap().to_owned();
    assert_eq!(api.send(Who::Nobody, "GET", &medium, &[("If-None-Match", &etag)], b"").status, 304);
    assert_eq!(api.get(Who::Nobody, &medium.replace("-640", "-641")).status, 404);
    api.json(Who::One, "PATCH", &format!("/api/v1/tracks/{id}"), &json!({ "visibility": "private" }));
    assert_eq!(api.get(Who::Nobody, &medium).status, 404, "as its track");
    assert_eq!(api.get(Who::One, &medium).header("cache-control"), Some("private, no-store"));
    assert_eq!(api.send(Who::One, "DELETE", &path, &[], b"").status, 204);
    assert_eq!(api.get(Who::One, &medium).status, 404);
    assert_eq!(std::fs::read_dir(site.data().join("store/artwork").join(&id)).unwrap().count(), 0, "nothing is left");
    let bomb = vec![0x89; 11 << 20];
    assert_eq!(put(Who::One, &bomb).status, 413);
}

/// A black square.
pub(crate) fn png(side: u32) -> Vec<u8> {
    fn crc(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
        })
    }
    let chunk = |name: &[u8], data: &[u8]| {
        let body = [name, data].concat();
        [&(data.len() as u32).to_be_bytes()[..], &body, &crc(&body).to_be_bytes()].concat()
    };
    let rows = vec![0_u8; ((side * 3 + 1) * side) as usize];
    let length = rows.len() as u16;
    let adler = {
        let b = (rows.len() % 65_521) as u32;
        (b << 16 | 1).to_be_bytes()
    };
    let stored = [&[0x78, 1, 1][..], &length.to_le_bytes(), &(!length).to_le_bytes(), &rows, &adler].concat();
    let header = [&side.to_be_bytes()[..], &side.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &header), &chunk(b"IDAT", &stored), &chunk(b"IEND", b"")].concat()
}

/// control.md §2, issue 6 item 8: however many ask, each costs the database little.
#[test]
fn a_look_at_a_track_and_its_alias_cost_one_statement_each() {
    let site = Site::new();
    let api = site.serve();
    let id = api.track(&json!({}), "published");
    let statements = |route: &str| api.metric(&format!("segue_control_statements_total{{route=\"{route}\"}}"));
    for (route, who) in [
        ("/api/v1/tracks/{id}", Who::One),
        ("/api/v1/tracks/{id}", Who::Nobody),
        ("/tracks/{id}/master.m3u8", Who::One),
        ("/tracks/{id}/master.m3u8", Who::Nobody),
        ("/watch/{id}", Who::Nobody),
        ("/embed/track/{id}", Who::Nobody),
    ] {
        let before = statements(route);
        for _ in 0..10 {
            let status = api.get(who, &route.replace("{id}", &id)).status;
            assert!(status < 400, "{route}: {status}");
        }
        let each = (statements(route) - before) / 10.0;
        assert!(each <= 2.0, "{route} as {who:?}: {each} statements");
        eprintln!("{route} as {who:?}: {each} statements");
    }
    // A key of somebody: who has it, the track, and now and then its limit, which every answer tells.
    let tokens = crate::auth::creator_bearer(api.addr, &site.data());
    let bearer = format!("Bearer {tokens}");
    let body = br#"{"name":"player","scopes":["read"]}"#;
    let made = api.send(Who::Nobody, "POST", "/api/v1/api-keys", &[("Authorization", &bearer), JSON], body);
    assert_eq!(made.status, 201, "{}", made.text());
    let key = serde_json::from_slice::<Value>(&made.body).unwrap()["key"].as_str().unwrap().to_owned();
    for route in ["/api/v1/tracks/{id}", "/tracks/{id}/master.m3u8", "/watch/{id}"] {
        let before = statements(route);
        for _ in 0..40 {
            let path = route.replace("{id}", &id);
            let reply = api.send(Who::Nobody, "GET", &path, &[("X-Api-Key", &key)], b"");
            assert!(reply.status < 400, "{route}: {}", reply.text());
            assert_eq!(reply.header("ratelimit-policy"), Some("\"key-read\";q=1000;w=3600"), "{route}");
        }
        let each = (statements(route) - before) / 40.0;
        assert!(each <= 2.2, "{route} with a key: {each} statements");
        eprintln!("{route} with a key: {each} statements");
    }
    let stranger = api.get(Who::Nobody, &format!("/tracks/{id}/master.m3u8"));
    assert_eq!(stranger.header("ratelimit"), None, "strangers are not counted where players ask");
}

/// Issue 6 item 8: a query for each line of a list would show as soon as there are more lines.
#[test]
fn a_list_costs_as_many_statements_for_many_as_for_few() {
    let site = Site::new();
    let inbox = site.directory.path().join("inbox");
    std::fs::create_dir(&inbox).unwrap();
    std::fs::write(inbox.join("no-song.wav"), "these are words").unwrap();
    let site = site.with("SEGUE_API__SOURCE_DIRS", &format!("[{:?}]", inbox.to_str().unwrap()));
    let api = site.serve();
    let admin = format!("Bearer {}", crate::auth::admin_bearer(api.addr, &site.data()));
    let by_admin = |method: &str, path: &str, body: &str| {
        let headers = [("Authorization", admin.as_str()), JSON];
        api.send(Who::Nobody, method, path, &headers[..if body.is_empty() { 1 } else { 2 }], body.as_bytes())
    };
    let (status, track) = api.json(Who::One, "POST", "/api/v1/tracks", &json!({ "title": "Shared" }));
    assert_eq!(status, 201, "{track}");
    let shared = format!("/api/v1/tracks/{}/share", track["id"].as_str().unwrap());
    let mut number = 0;
    // One more of everything that is listed.
    let mut more = |times: usize| {
        for _ in 0..times {
            number += 1;
            let made = |(status, body): (u16, Value)| assert!((200..300).contains(&status), "{body}");
            made(api.json(Who::One, "POST", "/api/v1/tracks", &json!({ "title": format!("Song {number}") })));
            made(api.json(Who::One, "POST", &shared, &json!({ "label": format!("{number}") })));
            let upload = json!({ "kind": "audio", "bytes": 100 + number, "name": "a.wav" });
            made(api.json(Who::One, "POST", "/api/v1/uploads", &upload));
            let wish = json!({ "source": inbox.join("no-song.wav") }).to_string();
            let key = [JSON, ("Idempotency-Key", &*format!("\"{number}\""))];
            let enqueued = api.send(Who::One, "POST", "/api/v1/transcodes", &key, wish.as_bytes());
            assert_eq!(enqueued.status, 202, "{}", enqueued.text());
            let created = by_admin("POST", "/api/v1/api-keys", &json!({ "name": "k", "scopes": ["read"] }).to_string());
            assert_eq!(created.status, 201, "{}", created.text());
        }
    };
    // What a limit takes now and then is no part of a list: the fewest statements of several looks.
    let cost = |route: &str, look: &dyn Fn() -> crate::support::Reply| {
        let statements = || api.metric(&format!("segue_control_statements_total{{route=\"{route}\"}}"));
        let each = (0..5).map(|_| {
            let before = statements();
            let reply = look();
            assert_eq!(reply.status, 200, "{route}: {}", reply.text());
            let items = serde_json::from_slice::<Value>(&reply.body).unwrap()["items"].as_array().unwrap().len();
            (statements() - before, items)
        });
        each.min_by(|one, other| one.0.total_cmp(&other.0)).unwrap()
    };
    type Look<'a> = Box<dyn Fn() -> crate::support::Reply + 'a>;
    let looks: Vec<(&str, Look<'_>)> = vec![
        ("/api/v1/tracks", Box::new(|| api.get(Who::One, "/api/v1/tracks"))),
        ("/api/v1/tracks/{id}/share", Box::new(|| api.get(Who::One, &shared))),
        ("/api/v1/uploads", Box::new(|| api.get(Who::One, "/api/v1/uploads"))),
        ("/api/v1/transcodes", Box::new(|| api.get(Who::One, "/api/v1/transcodes"))),
        ("/api/v1/admin/jobs", Box::new(|| by_admin("GET", "/api/v1/admin/jobs", ""))),
        ("/api/v1/api-keys", Box::new(|| by_admin("GET", "/api/v1/api-keys", ""))),
    ];
    more(1);
    let few: Vec<_> = looks.iter().map(|(route, look)| cost(route, look)).collect();
    more(9);
    // A page says where the next one begins, and the last that there is none.
    let page = api.shown(Who::One, &format!("{shared}?limit=2"));
    let rest = api.shown(Who::One, &format!("{shared}?before={}", page["next"].as_str().unwrap()));
    let listed = |page: &Value| page["items"].as_array().unwrap().len();
    assert_eq!((listed(&page), listed(&rest), &rest["next"]), (2, 8, &Value::Null), "{page} {rest}");
    assert_eq!(api.get(Who::One, &format!("{shared}?before=x")).status, 400);
    let versions = api.shown(Who::One, &shared.replace("/share", "/versions?limit=1"));
    assert_eq!(versions, json!({ "items": [], "next": null }));
    for ((route, look), (few, items)) in looks.iter().zip(few) {
        let (many, listed) = cost(route, look);
        assert!(listed >= items + 9, "{route}: {items}, then {listed}");
        assert!(many <= few && few > 0.0, "{route}: {few} statements for {items}, {many} for {listed}");
    }
}
