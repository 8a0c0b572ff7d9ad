//! Everything of one person: taken away as an archive, and forgotten. What is left is looked for in every column of every
//! table and in every file of the data directory.

use std::path::Path;
use std::process::Command;

use segue::auth::UserId;
use segue::auth::email::Email;
use segue::auth::opaque::OpaqueToken;
use segue::auth::principal::Role;
use segue::db::leaving::{Archive, ExportState, TakenBack};
use segue::db::users::Registration;
use segue::db::{Db, Place, people};
use segue::jobs::backoff::Backoff;
use segue::jobs::person::{self, ERASE, EXPORT};
use segue::jobs::{Cost, Job, Lease, Outcome};
use segue::uploads::Place as Stored;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::{Api, PASSWORD, Site, Tokens, is, json_of, on_both};
use crate::databases::{self, Case, cases};
use crate::support::Reply;
use crate::tracks::site::wav;

const CASES: &[Case] = cases![
    every_table_says_what_becomes_of_people_in_it,
    one_archive_at_a_time_is_made_and_told_of_once,
    nobody_is_forgotten_before_their_day,
    who_comes_back_stays_whatever_runs,
];

#[test]
fn leaving_keeps_its_word_on_sqlite() {
    databases::on_sqlite(CASES);
}

#[test]
fn leaving_keeps_its_word_on_postgresql() {
    databases::on_postgresql(CASES);
}

const NOW: i64 = 1_700_000_000_000_000;
const HOUR: i64 = 3_600_000_000;

async fn member(db: &Db, address: &str) -> UserId {
    let id = UserId::new(NOW);
    let email = Email::decode(address).unwrap();
    let new = Registration { id: id.clone(), email, name: None, password: "hash".into() };
    assert!(db.create_user(&new, Role::Creator, NOW).await.unwrap());
    id
}

async fn lease(db: &Db, kind: &str, now_us: i64) -> Option<(Lease, Job)> {
    let room = Cost { cpu_milli: 1_000, memory_bytes: 1 << 30 };
    db.lease(kind, "test", room, now_us, now_us + HOUR).await.unwrap().map(|(lease, job, _)| (lease, job))
}

/// The lists of `db/people.rs` are whole: a new table has to say whether anybody is in it.
async fn every_table_says_what_becomes_of_people_in_it(db: Db) {
    let mut said: Vec<&str> = people::emptied();
    said.extend(people::KEPT.iter().map(|(table, _)| *table).chain(people::NOBODYS.iter().copied()));
    said.sort_unstable();
    said.dedup();
    assert_eq!(db.tables().await.unwrap(), said);
    // And every file of an archive can be made.
    let user = member(&db, "a@b.example").await;
    for part in people::PARTS {
        let (rows, more) =
            db.rows_of(part, &user, 0).await.unwrap_or_else(|error| panic!("{}: {}", part.name, error.chain()));
        assert_eq!((rows.len(), more), (usize::from(part.name == "account"), false), "{}", part.name);
    }
    let (account, _) = db.rows_of(&people::PARTS[0], &user, 0).await.unwrap();
    assert_eq!(
        (&account[0]["email"], &account[0]["created_at"]),
        (&json!("a@b.example"), &json!("2023-11-14T22:13:20.000Z"))
    );
}

async fn one_archive_at_a_time_is_made_and_told_of_once(db: Db) {
    let user = member(&db, "a@b.example").await;
    let (first, new) = db.want_export(&user, NOW).await.unwrap();
    let (again, new_again) = db.want_export(&user, NOW + 1).await.unwrap();
    assert!(new && !new_again && again == first);
    let (held, job) = lease(&db, EXPORT, NOW + 1).await.unwrap();
    assert_eq!(person::named::<person::ExportId>(&job.input).unwrap(), first.id);
    assert!(lease(&db, EXPORT, NOW + 1).await.is_none(), "the second wish made no second job");
    let archive = Archive { place: Stored::Local, bytes: 7, sha256: "00".into() };
    let lost = Lease { attempt: held.attempt + 1, ..held.clone() };
    assert!(!db.settle_export(&lost, &first.id, &archive, (NOW + HOUR, NOW)).await.unwrap(), "another has the lease");
    assert!(db.settle_export(&held, &first.id, &archive, (NOW + HOUR, NOW)).await.unwrap());
    assert!(!db.settle_export(&held, &first.id, &archive, (NOW + HOUR, NOW)).await.unwrap(), "twice");
    let mails = db.take_mails(9, NOW, NOW + HOUR).await.unwrap();
    assert_eq!(mails.iter().map(|mail| mail.kind.as_str()).collect::<Vec<_>>(), ["export-ready"]);
    // The link opens until the archive is removed, as often as it is used.
    let token = OpaqueToken::random();
    assert!(db.arm_export(first.id.as_str(), &token.hash(), NOW).await.unwrap());
    for _ in 0..2 {
        let found = db.export_by_token(&token.hash(), NOW + HOUR - 1).await.unwrap().unwrap();
        assert_eq!(found.state, ExportState::Ready(archive.clone()));
    }
    assert!(db.export_by_token(&token.hash(), NOW + HOUR).await.unwrap().is_none(), "its time is over");
    assert!(db.exports_over(NOW + HOUR - 1).await.unwrap().is_empty());
    assert_eq!(db.exports_over(NOW + HOUR).await.unwrap().len(), 1);
    // One whose job a person would have to look at is failed, and does not stand in the way.
    let (second, _) = db.want_export(&user, NOW + 2).await.unwrap();
    let (held, _) = lease(&db, EXPORT, NOW + 2).await.unwrap();
    let dead = Outcome::Refused(segue::jobs::Reason::Internal, "broken".into());
    db.settle(&held, &dead, Backoff::default(), NOW + 2).await.unwrap();
    assert_eq!(db.export(&second.id).await.unwrap().unwrap().state, ExportState::Failed);
    let (third, new) = db.want_export(&user, NOW + 3).await.unwrap();
    assert!(new && third.id != second.id);
}

async fn nobody_is_forgotten_before_their_day(db: Db) {
    let user = member(&db, "a@b.example").await;
    let wanted = db.want_erasure(&user, false, NOW + HOUR, NOW).await.unwrap();
    let (held, job) = lease(&db, ERASE, NOW).await.unwrap();
    assert_eq!(person::named::<person::ErasureId>(&job.input).unwrap(), wanted.id);
    assert!(!job.input.contains(user.as_str()) && job.client != user.as_str(), "the job outlives the person");
    assert!(!db.erase(&held, &wanted.id, NOW + HOUR - 1).await.unwrap());
    assert!(db.put_off_erasure(&held, &wanted.id, wanted.due_us, NOW).await.unwrap());
    assert!(lease(&db, ERASE, NOW + HOUR - 1).await.is_none(), "it sleeps");
    // Asked again it is no later, and another job does it.
    let again = db.want_erasure(&user, true, NOW + 2 * HOUR, NOW + 1).await.unwrap();
    assert_eq!((again.due_us, again.asked_us, again.keep_tracks), (NOW + HOUR, NOW, true));
    assert!(db.erasure(&wanted.id).await.unwrap().is_none());
    let (held, job) = lease(&db, ERASE, NOW + 1).await.unwrap();
    assert_eq!(person::named::<person::ErasureId>(&job.input).unwrap(), again.id);
    let lost = Lease { attempt: held.attempt + 1, ..held.clone() };
    assert!(!db.erase(&lost, &again.id, NOW + HOUR).await.unwrap(), "another has the lease");
    assert!(db.user(&user).await.unwrap().is_some());
    assert!(db.erase(&held, &again.id, NOW + HOUR).await.unwrap());
    assert!(db.user(&user).await.unwrap().is_none());
    assert!(db.erasure_of(&user).await.unwrap().is_none());
}

async fn who_comes_back_stays_whatever_runs(db: Db) {
    let user = member(&db, "a@b.example").await;
    let wanted = db.want_erasure(&user, false, NOW + HOUR, NOW).await.unwrap();
    let token = OpaqueToken::random();
    assert!(db.arm_erasure(wanted.id.as_str(), &token.hash()).await.unwrap());
    // While a worker is at it: what it wants to sleep on goes on at once.
    let (held, _) = lease(&db, ERASE, NOW).await.unwrap();
    assert_eq!(db.take_erasure_back(TakenBack::Token(&token.hash()), NOW + 1).await.unwrap(), Some(user.clone()));
    assert_eq!(db.take_erasure_back(TakenBack::Token(&token.hash()), NOW + 1).await.unwrap(), None, "twice");
    assert!(db.put_off_erasure(&held, &wanted.id, wanted.due_us, NOW + 2).await.unwrap());
    let (held, _) = lease(&db, ERASE, NOW + 2).await.expect("it does not sleep");
    assert!(!db.erase(&held, &wanted.id, NOW + 9 * HOUR).await.unwrap(), "they stay, whatever the time");
    assert!(db.erasure(&wanted.id).await.unwrap().unwrap().taken_back);
    // Who changes their mind once more is not forgotten by what they said first.
    let again = db.want_erasure(&user, false, NOW + 3 * HOUR, NOW + 3).await.unwrap();
    assert_eq!((again.due_us, again.asked_us), (NOW + 3 * HOUR, NOW + 3));
    db.end_erasure(&again.id).await.unwrap();
    assert!(db.erasure_of(&user).await.unwrap().is_some(), "what was not taken back does not end");
    // While it sleeps.
    let (held, _) = lease(&db, ERASE, NOW + 3).await.unwrap();
    assert!(db.put_off_erasure(&held, &again.id, again.due_us, NOW + 3).await.unwrap());
    assert_eq!(db.take_erasure_back(TakenBack::Owner(&user), NOW + 4).await.unwrap(), Some(user.clone()));
    assert!(lease(&db, ERASE, NOW + 4).await.is_some(), "it is awake");
    db.end_erasure(&again.id).await.unwrap();
    assert!(db.erasure(&again.id).await.unwrap().is_none() && db.user(&user).await.unwrap().is_some());
}

/// What only this person has: looked for everywhere afterwards.
const ADDRESS: &str = "Leaving.Person@example.org";
const NAME: &str = "Quillonia Vex";
const TITLE: &str = "Ballad of the unforgotten";
const WORDS: &str = "my own words why I want it back";

/// Somebody with everything that somebody can have.
pub(super) struct Member {
    pub(super) tokens: Tokens,
    pub(super) id: String,
    pub(super) track: String,
    pub(super) kept: String,
    pub(super) key: String,
    pub(super) file: Vec<u8>,
}

impl Member {
    /// `heard`: the track that everybody hears can be.
    pub(super) fn of(site: &Site, api: &Api, heard: bool) -> Member {
        let tokens = api.member(ADDRESS);
        let by = |method: &str, path: &str, body: Value| {
            let reply = api.by(&tokens.access, method, path, Some(body));
            assert!(reply.status < 300, "{path}: {}", reply.text());
            json_of(&reply)
        };
        let me = by("PATCH", "users/me", json!({ "name": NAME, "role": "creator" }));
        let id = me["id"].as_str().unwrap().to_owned();
        let key =
            by("POST", "api-keys", json!({ "name": NAME, "scopes": ["read"] }))["key"].as_str().unwrap().to_owned();
        let file = wav(2, 440.0);
        let upload = send_file(api, &tokens.access, &file);
        let make = |title: &str, more: Value| {
            let mut body = json!({ "title": title });
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            by("POST", "tracks", body)["id"].as_str().unwrap().to_owned()
        };
        let track = make(TITLE, json!({ "visibility": "private" }));
        let kept = make("Everybody's", if heard { json!({ "upload": upload }) } else { json!({}) });
        if heard {
            until(|| by_of(api, &tokens.access, &format!("tracks/{kept}"))["state"] == "published");
        }
        by("PUT", &format!("tracks/{track}/lyrics"), json!({ "text": WORDS }));
        by("POST", &format!("tracks/{track}/share"), json!({ "label": WORDS }));
        sold(site, &id, &track);
        Member { tokens, id, track, kept, key, file }
    }
}

/// Rows of money as sales leave them, for somebody who bought and sold.
fn sold(site: &Site, user: &str, track: &str) {
    let address = ADDRESS.to_lowercase();
    let statements = [
        format!("insert into product (id, seller, track, title, currency, created_us, updated_us) values ('prd_1', '{user}', '{track}', '{TITLE}', 'USD', 1, 1)"),
        "insert into product_image (product_id, position, url) values ('prd_1', 0, 'https://x.example/y')".into(),
        format!("insert into sale_order (id, buyer, status, currency, total_minor, created_us, updated_us) values ('ord_1', '{user}', 'refunded', 'USD', 100, 1, 1)"),
        format!("insert into order_item (order_id, line, product_id, title, kind, seller, price_minor, seller_minor, fee_minor, tax_minor) values ('ord_1', 1, 'prd_1', 'A song', 'personal', '{user}', 100, 90, 10, 0)"),
        format!("insert into licence (id, order_id, line, holder, product_id, kind, granted_us) values ('lic_1', 'ord_1', 1, '{user}', 'prd_1', 'personal', 1)"),
        "insert into payment (id, order_id, amount_minor, currency, fingerprint, client_secret, created_us, updated_us) values ('pay_quill', 'ord_1', 100, 'USD', 'f', 'pay_quill_secret_abc', 1, 1)".into(),
        format!("insert into refund (id, order_id, payment_id, amount_minor, status, requested_by, reason, created_us, updated_us) values ('ref_1', 'ord_1', 'pay_quill', 100, 'succeeded', '{user}', '{WORDS}', 1, 1)"),
        format!("insert into seller_account (seller, destination, updated_us) values ('{user}', 'acct_quill', 1)"),
        format!("insert into entitlement (subject, track, granted_us) values ('{user}', 'trk_other', 1)"),
        format!("insert into webhook_delivery (id, provider, payload, signature_valid, result, source_ip, request_id, received_us, processed_us) values ('whd_1', 'hyperswitch', 'about pay_quill of {address}', 1, 'ok', '192.0.2.77', 'r', 9000000000000000, 9000000000000000)"),
        "insert into webhook_delivery (id, provider, payload, signature_valid, result, request_id, received_us) values ('whd_2', 'hyperswitch', 'of somebody else', 1, 'ok', 'r', 9000000000000000)".into(),
    ];
    let done = rows(site, &statements.map(|sql| format!("{sql};")).concat(), true);
    assert!(done.is_empty());
}

/// Sends a file as a form, and waits for nothing.
fn send_file(api: &Api, bearer: &str, file: &[u8]) -> String {
    let boundary = "x-segue-test-boundary";
    let mut body = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"kind\"\r\n\r\naudio\r\n--{boundary}\r\n\
         Content-Disposition: form-data; name=\"file\"; filename=\"{NAME}.wav\"\r\n\r\n"
    )
    .into_bytes();
    body.extend_from_slice(file);
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    let (form, bearer) = (format!("multipart/form-data; boundary={boundary}"), format!("Bearer {bearer}"));
    let reply = api.raw("POST", "/api/v1/uploads", &[("Content-Type", &form), ("Authorization", &bearer)], &body);
    assert_eq!(reply.status, 201, "{}", reply.text());
    json_of(&reply)["id"].as_str().unwrap().to_owned()
}

pub(super) fn by_of(api: &Api, bearer: &str, path: &str) -> Value {
    json_of(&api.by(bearer, "GET", path, None))
}

/// Waits for a state; the test runner's own limit ends a wait in vain.
pub(super) fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        std::thread::sleep(std::time::Duration::from_millis(150)); // below the limit of a person
    }
}

/// Runs SQL beside the server: what it changes (`write`), or every text of its answer.
pub(super) fn rows(site: &Site, sql: &str, write: bool) -> Vec<Vec<String>> {
    let place = match site.env.iter().find(|(name, _)| name == "DATABASE_URL") {
        Some((_, url)) => Place::Postgres(url.clone()),
        None => Place::Sqlite(site.data().join("segue.db")),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        match place {
            Place::Sqlite(file) => {
                let url = format!("sqlite://{}", file.display());
                let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
                if write {
                    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
                    return vec![];
                }
                let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
                rows.iter().map(|row| (0..row.len()).map(|at| row.try_get(at).unwrap_or_default()).collect()).collect()
            }
            Place::Postgres(url) => {
                let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
                if write {
                    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
                    return vec![];
                }
                let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
                rows.iter().map(|row| (0..row.len()).map(|at| row.try_get(at).unwrap_or_default()).collect()).collect()
            }
        }
    })
}

/// Where a text stands in the database: `table.column`, any case, each once.
fn traces(site: &Site, needle: &str) -> Vec<String> {
    let on_postgres = site.env.iter().any(|(name, _)| name == "DATABASE_URL");
    let columns = match on_postgres {
        true => rows(
            site,
            "select cast(table_name as text), cast(column_name as text) from information_schema.columns
             where table_schema = current_schema() order by 1, 2",
            false,
        ),
        false => rows(
            site,
            "select m.name, p.name from sqlite_master m join pragma_table_info(m.name) p
             where m.type = 'table' and m.name not like 'sqlite_%' order by 1, 2",
            false,
        ),
    };
    assert!(columns.len() > 300, "{} columns", columns.len());
    let mut found = Vec::new();
    for column in columns {
        let (table, column) = (&column[0], &column[1]);
        let needle = needle.to_lowercase();
        let sql = format!("select 'x' from {table} where lower(cast({column} as text)) like '%{needle}%' limit 1");
        if !rows(site, &sql, false).is_empty() {
            found.push(format!("{table}.{column}"));
        }
    }
    found
}

/// Files of a directory, with whatever is below.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return vec![] };
    entries
        .flat_map(|entry| {
            let path = entry.unwrap().path();
            if path.is_dir() { files(&path) } else { vec![path] }
        })
        .collect()
}

/// What is in a ZIP, as Python reads it: names and SHA-256, then the texts of the files of JSON.
fn unpacked(archive: &[u8]) -> (Vec<(String, String)>, Value) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), archive).unwrap();
    let script = "import sys, zipfile, hashlib, json\nz = zipfile.ZipFile(sys.argv[1])\nassert z.testzip() is None\n\
                  print(json.dumps([[(i.filename, hashlib.sha256(z.read(i)).hexdigest()) for i in z.infolist()],\n\
                  {i.filename: json.loads(z.read(i)) for i in z.infolist() if i.filename.endswith('.json')}]))";
    let output = Command::new("python3").args(["-c", script]).arg(file.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The answer to the form of the page that the link in a mail leads to.
fn opened(api: &Api, token: &str) -> Reply {
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    api.raw("POST", "/api/v1/users/exports/open", &form, format!("token={token}").as_bytes())
}

/// Product T6, control.md §10.
#[test]
fn an_archive_has_everything_and_opens_for_its_owner_alone() {
    on_both(|site| {
        let site = site.with("SEGUE_WORKER__POLL_MS", "30");
        let api = site.serve();
        let member = Member::of(&site, &api, false);
        until(|| by_of(&api, &member.tokens.access, "uploads")["items"][0]["state"] == "ready");
        let by = |method: &str, path: &str, body: Option<Value>| api.by(&member.tokens.access, method, path, body);
        let proof = || Some(json!({ "password": PASSWORD }));
        is(&by("POST", "users/me/exports", Some(json!({ "password": "a wrong one" }))), 403, "password-wrong");
        is(&by("POST", "users/me/exports", None), 403, "again");
        let by_key = [("X-Api-Key", member.key.as_str())];
        assert_eq!(api.send("POST", "/api/v1/users/me/exports", &by_key, None).status, 403, "no key does this");
        let asked = by("POST", "users/me/exports", proof());
        assert_eq!(asked.status, 202, "{}", asked.text());
        let id = json_of(&asked)["id"].as_str().unwrap().to_owned();
        let standing = || by_of(&api, &member.tokens.access, "users/me/exports")["items"][0].clone();
        until(|| standing()["state"] == "ready");
        // The mail's link, the page that it leads to, and its form.
        let token = api.link(ADDRESS, 1);
        let page = api.send("GET", "/account/export", &[], None);
        assert!(page.text().contains("action=\"/api/v1/users/exports/open\""), "{}", page.text());
        let archive = opened(&api, &token);
        assert_eq!(
            (archive.status, archive.header("content-type")),
            (200, Some("application/zip")),
            "{}",
            archive.head
        );
        assert!(archive.header("content-disposition").unwrap().contains("attachment"));
        let standing = standing();
        assert_eq!(standing["bytes"], archive.body.len());
        let sha256 = |bytes: &[u8]| {
            use sha2::Digest as _;
            segue::base::hex::encode(&sha2::Sha256::digest(bytes))
        };
        assert_eq!(standing["sha256"], sha256(&archive.body));
        let (names, json) = unpacked(&archive.body);
        let original = names.iter().find(|(name, _)| name.starts_with("originals/upl_")).unwrap();
        assert!(original.0.ends_with(&format!("-{NAME}.wav")), "{}", original.0);
        assert_eq!(original.1, sha256(&member.file), "the file as it was sent");
        assert_eq!(
            (&json["account.json"][0]["email"], &json["account.json"][0]["name"]),
            (&json!(ADDRESS), &json!(NAME))
        );
        assert!(json["tracks.json"].as_array().unwrap().iter().any(|track| track["title"] == TITLE));
        assert_eq!(json["tracks_lyrics.json"][0]["text"], WORDS);
        assert_eq!(json["refunds.json"][0]["reason"], WORDS);
        assert_eq!(json["account_sessions.json"].as_array().unwrap().len(), 1);
        let all = json.to_string();
        for secret in ["$argon2", "secret_abc", &member.tokens.refresh, &member.tokens.access] {
            assert!(!all.contains(secret), "{secret} is in the archive");
        }
        // In parts, with the session; for nobody else.
        let path = format!("/api/v1/users/me/exports/{id}/archive");
        let bearer = format!("Bearer {}", member.tokens.access);
        let mine = [("Authorization", bearer.as_str()), ("Range", "bytes=1-2")];
        let part = api.send("GET", &path, &mine, None);
        assert_eq!((part.status, &part.body[..]), (206, &archive.body[1..3]), "{}", part.head);
        assert_eq!(part.header("content-range"), Some(format!("bytes 1-2/{}", archive.body.len()).as_str()));
        let other = api.member("other@example.org");
        is(&api.by(&other.access, "GET", path.strip_prefix("/api/v1/").unwrap(), None), 404, "not-found");
        is(&api.send("GET", &path, &[], None), 401, "unauthorized");
        is(&opened(&api, OpaqueToken::random().expose()), 400, "token-invalid");
        is(&opened(&api, "x"), 400, "token-invalid");
        // Three a day.
        for number in 1..3 {
            assert_eq!(by("POST", "users/me/exports", proof()).status, 202, "{number}");
            until(|| by_of(&api, &member.tokens.access, "users/me/exports")["items"][0]["state"] == "ready");
        }
        let page = by_of(&api, &member.tokens.access, "users/me/exports?limit=2");
        let path = format!("users/me/exports?before={}", page["next"].as_str().unwrap());
        let rest = by_of(&api, &member.tokens.access, &path);
        assert!(rest["items"][0]["id"] == id && rest["next"].is_null(), "the first is the last: {rest}");
        let refused = by("POST", "users/me/exports", proof());
        assert_eq!((refused.status, refused.header("retry-after").is_some()), (429, true), "{}", refused.text());
    });
}

/// Product T6, control.md §10: who comes back has everything; who does not leaves ids behind, and nothing that says whose.
#[test]
fn who_leaves_may_come_back_and_is_forgotten_afterwards() {
    on_both(|site| {
        let site = site.with("SEGUE_AUTH__RECOVERY_S", "3600").with("SEGUE_WORKER__POLL_MS", "30");
        let api = site.serve();
        let member = Member::of(&site, &api, true);
        let served =
            |track: &str| api.send("GET", &format!("/tracks/{track}/stream"), &[("Range", "bytes=0-0")], None).status;
        assert_eq!((served(&member.kept), served(&member.track)), (206, 404));
        let leave = json!({ "password": PASSWORD });
        is(&api.by(&member.tokens.access, "DELETE", "users/me", Some(json!({}))), 403, "again");
        let left = api.by(&member.tokens.access, "DELETE", "users/me", Some(leave.clone()));
        assert_eq!(left.status, 202, "{}", left.text());
        assert_eq!(api.me(&member.tokens.access), 401, "sessions end");
        let by_key = || api.send("GET", "/api/v1/users/me", &[("X-Api-Key", &member.key)], None).status;
        assert_eq!(by_key(), 401, "keys rest");
        until(|| served(&member.kept) == 404);
        // Back by the mail; everything is as it was.
        let token = api.link(ADDRESS, 1);
        let cancel = |token: &str| api.send("POST", "/api/v1/users/erasure/cancel", &[("X-Keep-Token", token)], None);
        is(&cancel(OpaqueToken::random().expose()), 400, "token-invalid");
        assert_eq!(cancel(&token).status, 204);
        is(&cancel(&token), 400, "token-invalid");
        until(|| served(&member.kept) == 206);
        assert_eq!(by_key(), 200);
        // Away again, back by logging in.
        let tokens = api.login(ADDRESS, PASSWORD);
        assert_eq!(by_of(&api, &tokens.access, "users/me/erasure")["erase_at"], Value::Null);
        assert_eq!(api.by(&tokens.access, "DELETE", "users/me", Some(leave.clone())).status, 202);
        let tokens = api.login(ADDRESS, PASSWORD);
        assert_eq!(by_of(&api, &tokens.access, "users/me/erasure")["keep_tracks"], false);
        assert_eq!(api.by(&tokens.access, "DELETE", "users/me/erasure", None).status, 204);
        until(|| served(&member.kept) == 206);
        // An archive lies there, too, when they leave for good.
        assert_eq!(api.by(&tokens.access, "POST", "users/me/exports", Some(leave.clone())).status, 202);
        until(|| by_of(&api, &tokens.access, "users/me/exports")["items"][0]["state"] == "ready");
        for needle in [ADDRESS, NAME, TITLE, WORDS, &member.id, "secret_abc", "acct_quill"] {
            assert!(
                !traces(&site, needle).is_empty(),
                "{needle} is nowhere: the search would find nothing afterwards either"
            );
        }
        drop(api);

        let site = site.with("SEGUE_AUTH__RECOVERY_S", "0");
        let api = site.serve_as("log-2");
        let tokens = api.login(ADDRESS, PASSWORD);
        assert_eq!(api.by(&tokens.access, "DELETE", "users/me", Some(leave)).status, 202);
        until(|| rows(&site, &format!("select id from users where id = '{}'", member.id), false).is_empty());
        let login = api.post("auth/login", json!({ "email": ADDRESS, "password": PASSWORD }));
        is(&login, 401, "credentials");
        for needle in [ADDRESS, NAME, TITLE, WORDS, "secret_abc", "acct_quill", &member.track, "192.0.2.77"] {
            assert_eq!(traces(&site, needle), Vec::<String>::new(), "{needle}");
        }
        assert_eq!(
            traces(&site, &member.id),
            ["licence.holder", "order_item.seller", "product.seller", "refund.requested_by", "sale_order.buyer"],
            "ids alone, where money was"
        );
        assert_eq!(
            rows(&site, "select payload from webhook_delivery where id = 'whd_2'", false),
            [["of somebody else"]]
        );
        // The stores: nothing of the file, nothing of the tracks, no archive.
        let store = site.data().join("store");
        for directory in ["uploads", "exports", "v", "tracks", "artwork", "staging"] {
            let left = files(&store.join(directory));
            assert!(left.is_empty(), "{left:?}");
        }
        // SQLite's log is emptied, too, while the server goes on.
        let log = site.data().join("segue.db-wal");
        let tells = |bytes: &[u8]| bytes.windows(ADDRESS.len()).any(|window| window == ADDRESS.as_bytes());
        until(|| !std::fs::read(&log).is_ok_and(|bytes| tells(&bytes)));
        drop(api);
        let piece = &member.file[1_000..1_064];
        for path in files(&site.data()) {
            let bytes = std::fs::read(&path).unwrap();
            for needle in
                [ADDRESS.as_bytes(), ADDRESS.to_lowercase().as_bytes(), NAME.as_bytes(), TITLE.as_bytes(), piece]
            {
                assert!(
                    !bytes.windows(needle.len()).any(|window| window == needle),
                    "{} has {:?}",
                    path.display(),
                    String::from_utf8_lossy(needle)
                );
            }
        }
    });
}

/// What everybody hears may stay, as nobody's.
#[test]
fn who_leaves_may_leave_what_everybody_hears() {
    let site = Site::embedded().with("SEGUE_AUTH__RECOVERY_S", "0").with("SEGUE_WORKER__POLL_MS", "30");
    let api = site.serve();
    let member = Member::of(&site, &api, true);
    let leave = json!({ "password": PASSWORD, "keep_tracks": true });
    assert_eq!(api.by(&member.tokens.access, "DELETE", "users/me", Some(leave)).status, 202);
    until(|| rows(&site, &format!("select id from users where id = '{}'", member.id), false).is_empty());
    let stream = |track: &str| api.send("GET", &format!("/tracks/{track}/stream"), &[], None).status;
    assert_eq!((stream(&member.kept), stream(&member.track)), (200, 404));
    assert_eq!(traces(&site, TITLE), Vec::<String>::new());
    assert!(!traces(&site, &member.id).iter().any(|place| place.starts_with("track")), "it is nobody's");
}

/// The same in a bucket: the archive opens by a URL that the bucket signs, and of who has left no object is there, none that
/// an upload had begun, and nothing in the disk cache of an origin. What others have stays.
#[cfg(feature = "s3")]
#[test]
fn in_a_bucket_an_archive_opens_and_of_who_leaves_no_object_stays() {
    use crate::store::rgw::{ACCESS_KEY, Rgw, SECRET_KEY};
    let rgw = Rgw::start();
    let bucket = rgw.bucket("people");
    let site = [
        ("SEGUE_STORE__KIND", "s3"),
        ("SEGUE_STORE__S3__BUCKET", "people"),
        ("SEGUE_STORE__S3__ENDPOINT", &rgw.endpoint()),
        ("SEGUE_STORE__S3__PATH_STYLE", "true"),
        ("SEGUE_STORE__S3__ACCESS_KEY", ACCESS_KEY),
        ("SEGUE_STORE__S3__SECRET_KEY", SECRET_KEY),
        ("SEGUE_AUTH__RECOVERY_S", "0"),
        ("SEGUE_WORKER__POLL_MS", "30"),
    ]
    .into_iter()
    .fold(Site::on_postgresql(), |site, (name, value)| site.with(name, value));
    let api = site.serve();
    let keys = || {
        let list = bucket.wait(|bucket| async move { bucket.list("", None, 1_000).await }).unwrap();
        assert!(list.next.is_none(), "one page");
        list.objects.into_iter().map(|object| object.key).collect::<std::collections::BTreeSet<String>>()
    };
    let unfinished = || {
        let asked = bucket.wait(|bucket| async move { bucket.unfinished(std::time::Duration::ZERO).await });
        asked.unwrap().len()
    };

    // Somebody else, who stays, and then who leaves: a published track that was heard, its picture, a file half sent.
    let other = api.member("other@example.org");
    let by_other = |method: &str, path: &str, body: Value| json_of(&api.by(&other.access, method, path, Some(body)));
    by_other("PATCH", "users/me", json!({ "role": "creator" }));
    let upload = send_file(&api, &other.access, &wav(2, 330.0));
    rows(&site, "update upload set name = 'other.wav'", true); // every file is sent under the name of who leaves
    let theirs =
        by_other("POST", "tracks", json!({ "title": "Stays", "upload": upload }))["id"].as_str().unwrap().to_owned();
    until(|| by_of(&api, &other.access, &format!("tracks/{theirs}"))["state"] == "published");
    let before = keys();
    let member = Member::of(&site, &api, true);
    let bearer = format!("Bearer {}", member.tokens.access);
    let picture = [("Authorization", bearer.as_str()), ("Content-Type", "image/png")];
    let path = format!("/api/v1/tracks/{}/artwork", member.kept);
    let put = api.raw("PUT", &path, &picture, &crate::tracks::making::png(64));
    assert_eq!(put.status, 200, "{}", put.text());
    let begun = [("Authorization", bearer.as_str()), ("Tus-Resumable", "1.0.0"), ("Upload-Length", "40000000")];
    let begun = api.raw("POST", "/api/v1/uploads/tus", &begun, b"");
    let at = begun.header("location").unwrap_or_else(|| panic!("{}", begun.head)).to_owned();
    let at = at.split_once("/api/").map(|(_, rest)| format!("/api/{rest}")).unwrap();
    let patch = [
        ("Authorization", bearer.as_str()),
        ("Tus-Resumable", "1.0.0"),
        ("Upload-Offset", "0"),
        ("Content-Type", "application/offset+octet-stream"),
    ];
    let patched = api.raw("PATCH", &at, &patch, &vec![7; 9 << 20]);
    assert_eq!((patched.status, unfinished()), (204, 1), "{}", patched.head);
    let heard = |track: &str| {
        let alias = api.send("GET", &format!("/tracks/{track}/master.m3u8"), &[], None);
        let to = alias.header("location").unwrap_or_else(|| panic!("{}", alias.head)).to_owned();
        let path = to.split_once("://").map_or(to.as_str(), |(_, rest)| &rest[rest.find('/').unwrap()..]).to_owned();
        assert_eq!(api.send("GET", &path, &[], None).status, 200);
    };
    heard(&theirs);
    heard(&member.kept);
    let cached = |track: &str| !files(&site.data().join("cache").join(track)).is_empty();
    assert!(cached(&theirs) && cached(&member.kept), "{:?}", files(&site.data().join("cache")));

    // The archive.
    let asked = api.by(&member.tokens.access, "POST", "users/me/exports", Some(json!({ "password": PASSWORD })));
    assert_eq!(asked.status, 202, "{}", asked.text());
    let standing = || by_of(&api, &member.tokens.access, "users/me/exports")["items"][0].clone();
    until(|| standing()["state"] == "ready");
    let led = opened(&api, &api.link(ADDRESS, 1));
    let url = led.header("location").unwrap_or_else(|| panic!("{}", led.head)).to_owned();
    let signed = url.strip_prefix(&rgw.endpoint()).expect("the bucket's own address");
    let gateway = ([127, 0, 0, 1], rgw.port()).into();
    let archive = crate::support::request(gateway, "GET", signed, &[]);
    assert_eq!(
        (archive.status, archive.header("content-type"), standing()["bytes"].as_u64()),
        (200, Some("application/zip"), Some(archive.body.len() as u64)),
        "{}",
        archive.head
    );
    assert!(archive.header("content-disposition").unwrap().contains("attachment"));
    let unsigned = signed.split_once('?').unwrap().0;
    assert_eq!(crate::support::request(gateway, "GET", unsigned, &[]).status, 403, "nobody else opens it");
    let (names, json) = unpacked(&archive.body);
    let sha256 = {
        use sha2::Digest as _;
        segue::base::hex::encode(&sha2::Sha256::digest(&member.file))
    };
    let original = names.iter().find(|(name, _)| name.starts_with("originals/upl_")).unwrap();
    assert_eq!(original.1, sha256, "the file as it was sent");
    assert!(names.iter().any(|(name, _)| *name == format!("artwork/{}.jpg", member.kept)), "{names:?}");
    assert_eq!(json["account.json"][0]["email"], ADDRESS);
    let mine: Vec<String> = keys().difference(&before).cloned().collect();
    for prefix in ["exports/", "uploads/", &format!("v/{}/", member.kept), "artwork/"] {
        assert!(mine.iter().any(|key| key.starts_with(prefix)), "{prefix}: {mine:?}");
    }

    // Gone.
    assert_eq!(api.by(&member.tokens.access, "DELETE", "users/me", Some(json!({ "password": PASSWORD }))).status, 202);
    until(|| rows(&site, &format!("select id from users where id = '{}'", member.id), false).is_empty());
    until(|| !cached(&member.kept));
    let left: Vec<String> = keys().difference(&before).filter(|key| !key.starts_with("blocks.")).cloned().collect();
    assert_eq!((left, unfinished()), (vec![], 0), "objects, and parts of objects");
    let blocks = bucket.wait(|bucket| async move { bucket.get_all("blocks.json", 1 << 20).await }).unwrap().0;
    let blocks = String::from_utf8(blocks.to_vec()).unwrap();
    assert!(blocks.contains(&member.kept) && !blocks.contains(TITLE), "an id, so that no cache shows it: {blocks}");
    for needle in [ADDRESS, NAME, TITLE, WORDS, "secret_abc", &member.track] {
        assert_eq!(traces(&site, needle), Vec::<String>::new(), "{needle}");
    }
    assert!(cached(&theirs));
    heard(&theirs);
}
