//! Mail by a real SMTP server: what arrives, what is tried again, what is given up.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use super::{PASSWORD, Site, on_both};
use crate::support::{run, said};

/// aiosmtpd, which takes mails, or refuses them by what stands in front of the @ (tests/mail/sink.py).
struct Sink {
    child: Child,
    port: u16,
    mails: Receiver<Value>,
}

impl Sink {
    fn start() -> Sink {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/mail");
        let mut child = Command::new("python3")
            .arg(format!("{root}/sink.py"))
            .env("PYTHONPATH", format!("{root}/python"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().expect("aiosmtpd starts (.ci/setup test)").unwrap();
        let port = first.parse().unwrap_or_else(|_| panic!("no port: {first}"));
        let (sender, mails) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        Sink { child, port, mails }
    }

    /// Waits for the next mail that it took or refused.
    fn next(&self) -> Value {
        self.mails.recv().expect("the sink lives")
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn mails_arrive_and_their_links_open() {
    on_both(|site| {
        let sink = Sink::start();
        let site = site
            .with("SEGUE_MAIL__SMTP", &format!("smtp+plain://127.0.0.1:{}", sink.port))
            .with("SEGUE_MAIL__FROM", "Segue <music@example.org>")
            .with("SEGUE_SERVER__PUBLIC_BASE_URL", "https://music.example.org");
        let api = site.serve();
        let asked = api.post("auth/register", json!({ "email": "maria@example.org", "password": PASSWORD }));
        assert_eq!(asked.status, 202);
        let mail = sink.next();
        assert_eq!(
            (mail["from"].as_str(), mail["to"].as_str()),
            (Some("music@example.org"), Some("maria@example.org"))
        );
        assert_eq!(mail["answer"], "250 OK");
        let text = mail["text"].as_str().unwrap();
        assert!(mail["message_id"].as_str().unwrap().starts_with("<mai_"), "{mail:#}");
        let link = text.split_whitespace().find(|word| word.starts_with("https://music.example.org/account/verify#"));
        let token = link.unwrap_or_else(|| panic!("no link: {text}")).split_once('#').unwrap().1;
        let verified = api.send("POST", "/api/v1/auth/verify-email", &[("X-Verify-Token", token)], None);
        assert_eq!(verified.status, 200, "{}", verified.text());
        api.login("maria@example.org", PASSWORD);
        let log = api.logged();
        assert!(!log.contains(token), "what opens an account stands in no log");
    });
}

#[test]
fn a_server_that_is_away_or_busy_is_asked_again_and_nobody_waits_for_it() {
    let sink = Sink::start();
    let site = Site::embedded().with("SEGUE_MAIL__SMTP", &format!("smtp+plain://127.0.0.1:{}", sink.port));
    let api = site.serve();
    let ask = |email: &str| api.post("auth/register", json!({ "email": email, "password": PASSWORD })).status;
    // Refused for now: tried again, and the answer was the same.
    assert_eq!(ask("later@example.org"), 202);
    assert_eq!(sink.next()["answer"], "451 try again");
    // Refused for good: not tried again.
    assert_eq!(ask("never@example.org"), 202);
    assert_eq!(sink.next()["answer"], "550 no such address");
    assert_eq!(ask("maria@example.org"), 202);
    let mail = sink.next();
    assert_eq!((mail["to"].as_str(), mail["answer"].as_str()), (Some("maria@example.org"), Some("250 OK")));
    // After the first wait of some seconds it is taken, with the same name and another link.
    let again = sink.next();
    assert_eq!((again["to"].as_str(), again["answer"].as_str()), (Some("later@example.org"), Some("250 OK")));
}

#[test]
fn production_does_not_start_without_mail_secrets_and_an_address() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("segue.toml");
    std::fs::write(&file, "profile = \"production\"\n").unwrap();
    let checked = run(["config", "check", "--config", file.to_str().unwrap()]);
    assert_eq!(checked.status.code(), Some(2));
    for word in
        ["mail.smtp is unset in production", "auth.secrets is unset in production", "server.public_base_url is unset"]
    {
        assert!(said(&checked).contains(word), "{word}: {}", said(&checked));
    }
}
