//! Money that really moves, as far as we can tell: flows against providers in every mood, on every database.

mod api;
mod described;
mod fakes;
mod flows;
mod kills;
pub(crate) mod shelf;
mod simulation;
mod slate;
mod traces;

use std::fs;
use std::path::Path;

/// Tables whose `status` has one writer each.
const TABLES: [&str; 6] = ["sale_order", "refund", "dispute", "transfer", "subscription", "invoice"];

/// The tables whose status a source writes in an `update`, once for each statement.
fn written(source: &str) -> Vec<&'static str> {
    let source = source.split("#[cfg(test)]\nmod tests").next().unwrap().to_lowercase();
    let source = source.split_whitespace().collect::<Vec<_>>().join(" "); // however it is broken into lines
    let source = source.replace("update only ", "update ");
    let mut found = Vec::new();
    for table in TABLES {
        for (at, _) in source.match_indices(&format!("update {table} ")) {
            let statement = source[at..].split('"').next().unwrap();
            let set = statement.split("where").next().unwrap();
            if set.contains("status") {
                found.push(table);
            }
        }
    }
    // An upsert is an update in disguise, and so is what removes a row and puts another in its place.
    for (at, _) in source.match_indices("do update set") {
        if source[at..].split('"').next().unwrap().contains("status") {
            found.push("an upsert");
        }
    }
    for table in TABLES {
        let replaced = ["or replace into", "replace into", "merge into"].map(|verb| format!("{verb} {table} "));
        if replaced.iter().any(|statement| source.contains(statement)) {
            found.push("a replacement");
        }
    }
    found
}

#[test]
fn a_status_is_written_in_one_place() {
    let mut dirs = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut seen = 0;
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let Ok(text) = fs::read_to_string(&path) else { continue };
            seen += 1;
            match path.ends_with("db/money.rs") {
                true => assert_eq!(written(&text), TABLES, "one statement for each"),
                false => assert!(written(&text).is_empty(), "{}: {:?}", path.display(), written(&text)),
            }
        }
    }
    assert!(seen > 100, "{seen} sources");
    assert_eq!(written("\"update refund set\n  error = $1, STATUS = 'failed' where id = $2\""), ["refund"]);
    assert_eq!(written("\"update refund set error = $1 where status = 'failed'\""), [""; 0]);
    assert_eq!(written("\"update\n  only transfer\n  set\n status = $1\""), ["transfer"]);
    assert_eq!(written("\"insert or replace into invoice (id, status) values ($1, 'paid')\""), ["a replacement"]);
    assert_eq!(written("\"insert into x on conflict (id) do update set status = 'paid'\""), ["an upsert"]);
}
