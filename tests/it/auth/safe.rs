//! ASVS 3.5.3: whatever is asked with a safe method, nothing that somebody has is another afterwards.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::leaving::{Member, by_of, rows, until};
use super::{PASSWORD, Site, admin_bearer};

/// What may differ although nobody changed anything: what is left of limits, when somebody was last here, what was heard,
/// who works, and what remembers a way to a provider until its answer.
const MOVES: [&str; 8] =
    ["rate_limit", "session", "api_key", "play_listener", "play_salt", "play_day", "worker", "singleton"];

/// Every row of every other table.
fn everything(site: &Site) -> BTreeMap<String, String> {
    let columns = rows(
        site,
        "select m.name, p.name from sqlite_master m join pragma_table_info(m.name) p
         where m.type = 'table' and m.name not like 'sqlite_%' order by 1, p.cid",
        false,
    );
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for column in columns.iter().filter(|column| !MOVES.contains(&column[0].as_str())) {
        tables.entry(column[0].clone()).or_default().push(format!("quote(\"{}\")", column[1]));
    }
    tables
        .into_iter()
        .map(|(table, columns)| {
            let sql = format!("select {} from {table} order by 1", columns.join(" || ' | ' || "));
            let text: Vec<String> = rows(site, &sql, false).into_iter().flatten().collect();
            (table, text.join("\n"))
        })
        .collect()
}

#[test]
fn what_is_asked_with_a_safe_method_changes_nothing() {
    let site = Site::embedded().with("SEGUE_WORKER__POLL_MS", "30");
    let api = site.serve();
    let member = Member::of(&site, &api, false);
    let list = |path: &str| by_of(&api, &member.tokens.access, path)["items"].clone();
    until(|| list("uploads")[0]["state"] == "ready");
    let asked = api.by(&member.tokens.access, "POST", "users/me/exports", Some(json!({ "password": PASSWORD })));
    assert_eq!(asked.status, 202, "{}", asked.text());
    until(|| list("users/me/exports")[0]["state"] == "ready");
    let id = |items: &Value| items[0]["id"].as_str().unwrap().to_owned();
    let (upload, export) = (id(&list("uploads")), id(&list("users/me/exports")));
    let admin = admin_bearer(api.addr, &site.data());
    until(|| rows(&site, "select id from mail where state = 'pending'", false).is_empty());

    // Rows of sales that never were would be no answers.
    let sales = ["product_image", "licence", "refund", "payment", "order_item", "sale_order", "product", "entitlement"];
    let forget = sales.map(|table| format!("delete from {table};")).concat();
    rows(&site, &format!("pragma foreign_keys = off; {forget}"), true);

    let document: Value = serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let before = everything(&site);
    assert!(before.len() > 40 && before["track"].contains("Ballad"), "{} tables", before.len());
    let (mut found, mut all) = (0, 0);
    for (path, item) in paths.iter().filter(|(_, item)| item.get("get").is_some()) {
        // Streams of events end by themselves only when there is nothing more to tell; a provider is asked by its own test.
        if path.ends_with("/events") || path.contains("oauth") {
            continue;
        }
        let named = match path {
            path if path.contains("/tracks/") || path.contains("/track/") || path.contains("/watch/") => &member.track,
            path if path.contains("/uploads/") => &upload,
            path if path.contains("/exports/") => &export,
            path if path.contains("/users/") => &member.id,
            _ => "ord_1",
        };
        let path = path.replace("{id}", named).split('{').next().unwrap_or_default().to_owned();
        for bearer in [&member.tokens.access, &admin] {
            for method in ["GET", "HEAD", "OPTIONS"] {
                let bearer = format!("Bearer {bearer}");
                let reply = api.send(method, &path, &[("Authorization", &bearer)], None);
                assert!(reply.status < 500, "{method} {path}: {}", reply.text());
                found += usize::from(method == "GET" && reply.status == 200);
            }
        }
        all += usize::from(item.get("get").is_some());
    }
    assert!(all > 30 && found > 30, "{found} answers of {all} routes show something");
    let after = everything(&site);
    for (table, rows) in &before {
        assert_eq!(rows, &after[table], "{table} is another");
    }
}
