//! Signing keys are replaced while a server serves.

use std::fs;
use std::time::Duration;

use crate::support::{Server, published};

#[test]
fn a_signing_key_is_replaced_without_a_restart_and_a_wrong_one_is_not_taken() {
    let published = published();
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    let (old, new) = ("0123456789abcdef-old", "0123456789abcdef-new");
    fs::write(&keys, format!("{old}\n")).unwrap();
    let server = Server::start(&published.data, &[], &[("SEGUE_ORIGIN__KEYS__BUNNY_FILE", keys.to_str().unwrap())]);
    let track = published.report["track_id"].as_str().unwrap();
    let signed = || {
        let redirect = server.get(&format!("/tracks/{track}/master.m3u8"));
        assert_eq!(redirect.status, 302, "{}", redirect.head);
        redirect.header("location").unwrap().to_owned()
    };
    let reloads = |outcome: &str| {
        let metrics = crate::support::request(server.admin, "GET", "/metrics", &[]).text();
        let line = format!("segue_key_reloads_total{{outcome=\"{outcome}\"}} ");
        metrics.lines().find_map(|text| text.strip_prefix(&line)?.parse::<u64>().ok()).unwrap()
    };
    let becomes = |keys_now: &str, outcome: &str, count: u64| {
        fs::write(&keys, keys_now).unwrap();
        server.signal("HUP");
        while reloads(outcome) < count {
            std::thread::sleep(Duration::from_millis(50)); // the runner's own limit ends a wait that is in vain
        }
    };
    let by_old = signed();
    assert_eq!(server.get(&by_old).status, 200);

    // The new key signs, both verify: nobody's URL breaks.
    becomes(&format!("{new}\n{old}\n"), "changed", 1);
    let by_new = signed();
    assert_eq!([server.get(&by_old).status, server.get(&by_new).status], [200, 200]);

    // The old one is gone, what was remembered of its tokens too.
    becomes(&format!("{new}\n"), "changed", 2);
    assert_eq!([server.get(&by_old).status, server.get(&by_new).status], [403, 200]);

    // Settings that cannot be used change nothing, and are complained about once.
    becomes("one-key-too-many\nanother-key-here\nand-a-third-one\n", "failed", 1);
    assert_eq!([server.get(&by_new).status, server.get(&signed()).status], [200, 200]);
    assert_eq!((reloads("changed"), reloads("failed")), (2, 1));
    becomes(&format!("{old}\n{new}\n"), "changed", 3);
    assert_eq!([server.get(&by_old).status, server.get(&by_new).status], [200, 200]);
}
