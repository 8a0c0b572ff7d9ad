//! Accounts from outside: over real sockets, with mails read as their receiver would, on both databases.

mod books;
mod closing;
mod email;
mod enumeration;
mod factor;
mod flows;
mod leaving;
mod limits;
mod mail;
mod notices;
mod provider;
mod rows;
mod safe;
mod scopes;
mod traces;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::postgres::Postgres;
use crate::support::{Reply, Server, answer, run, said};

/// A password that nobody would try first.
pub(crate) const PASSWORD: &str = "violet anchors hum at noon";
const OTHER_PASSWORD: &str = "seven grey kites over Lund";

/// A data directory and what servers need to start in it.
pub(crate) struct Site {
    directory: tempfile::TempDir,
    env: Vec<(String, String)>,
    _postgres: Option<Postgres>,
}

impl Site {
    pub(crate) fn embedded() -> Site {
        let site = Site { directory: tempfile::tempdir().unwrap(), env: vec![], _postgres: None };
        // The log has what mails say.
        site.with("SEGUE_LOG__FILTER", "warn,segue::providers::mail=info").with("SEGUE_MAIL__POLL_MS", "20")
    }

    fn on_postgresql() -> Site {
        let server = Postgres::start();
        let url = server.database("site");
        Site { _postgres: Some(server), ..Site::embedded().with("DATABASE_URL", &url) }
    }

    fn with(mut self, name: &str, value: &str) -> Site {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.into(), value.into()));
        self
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub(crate) fn serve(&self) -> Api {
        self.serve_as("log")
    }

    /// Another one for the same rows, as on another machine.
    fn serve_as(&self, log: &str) -> Api {
        let log = self.directory.path().join(log);
        let env: Vec<_> = self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let server = Server::start_logging_to(Stdio::from(File::create(&log).unwrap()), &self.data(), &[], &env);
        Api { addr: server.addr, log, _server: server }
    }

    /// Runs `segue user …` beside the server.
    fn user(&self, args: &[&str]) -> String {
        let mut command = crate::support::segue();
        command.arg("user").args(args).arg("--data").arg(self.data());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    }
}

/// The same on SQLite and on PostgreSQL.
fn on_both(test: impl Fn(Site)) {
    test(Site::embedded());
    test(Site::on_postgresql());
}

/// A server, and what it said.
pub(crate) struct Api {
    pub(crate) addr: SocketAddr,
    log: PathBuf,
    _server: Server,
}

impl Api {
    /// One request with JSON, or without.
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Reply {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut all = vec![("Content-Type", "application/json")];
        if body.is_empty() {
            all.clear();
        }
        all.extend(headers);
        self.raw(method, path, &all, body.as_bytes())
    }

    fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut stream = TcpStream::connect(self.addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n",
            self.addr,
            body.len()
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        answer(stream)
    }

    fn post(&self, path: &str, body: Value) -> Reply {
        self.send("POST", &format!("/api/v1/{path}"), &[], Some(&body))
    }

    /// The same by somebody who is logged in.
    fn by(&self, bearer: &str, method: &str, path: &str, body: Option<Value>) -> Reply {
        let bearer = format!("Bearer {bearer}");
        self.send(method, &format!("/api/v1/{path}"), &[("Authorization", &bearer)], body.as_ref())
    }

    /// The log so far; its last line may be half written, even in the middle of a character.
    fn logged(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// Waits until the log says it: its writer is a thread of its own. The test runner's own limit ends a wait in vain.
    fn until_logged(&self, words: &str) {
        while !self.logged().contains(words) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the `n`th mail to an address and returns what it says; the test runner's own limit ends a wait in vain.
    fn mail(&self, address: &str, n: usize) -> String {
        loop {
            let log = self.logged();
            let mails: Vec<&str> =
                log.split("mail.smtp is unset").filter(|text| text.contains("the mail says")).collect();
            // The fields of a line of the log come behind its words.
            let mut to = mails.iter().filter(|mail| mail.contains(&format!("to=\"{address}\"")));
            if let Some(mail) = to.nth(n) {
                return (*mail).to_owned();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What stands behind the # of the link in the `n`th mail to an address.
    pub(crate) fn link(&self, address: &str, n: usize) -> String {
        let mail = self.mail(address, n);
        let token = mail.split_once('#').unwrap_or_else(|| panic!("no link: {mail}")).1;
        token.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect()
    }

    /// Registers, follows the link, logs in.
    fn member(&self, address: &str) -> Tokens {
        let registered = self.post("auth/register", json!({ "email": address, "password": PASSWORD }));
        assert_eq!(registered.status, 202, "{}", registered.text());
        let token = self.link(address, 0);
        let verified = self.send("POST", "/api/v1/auth/verify-email", &[("X-Verify-Token", &token)], None);
        assert_eq!(verified.status, 200, "{}", verified.text());
        self.login(address, PASSWORD)
    }

    fn login(&self, address: &str, password: &str) -> Tokens {
        let reply = self.post("auth/login", json!({ "email": address, "password": password }));
        assert_eq!(reply.status, 200, "{}", reply.text());
        Tokens::of(&reply)
    }

    fn me(&self, bearer: &str) -> u16 {
        self.by(bearer, "GET", "users/me", None).status
    }
}

/// What a login brings.
#[derive(Clone, Debug)]
struct Tokens {
    access: String,
    refresh: String,
    session: String,
}

impl Tokens {
    fn of(reply: &Reply) -> Tokens {
        let body = json_of(reply);
        let text = |key: &str| body[key].as_str().unwrap_or_else(|| panic!("{key}: {body:#}")).to_owned();
        Tokens { access: text("access_token"), refresh: text("refresh_token"), session: text("session") }
    }
}

/// Makes a creator from a terminal and logs them in: an access token.
pub(crate) fn creator_bearer(addr: SocketAddr, data: &std::path::Path) -> String {
    logged_in(addr, data, "creator").0
}

/// Makes an admin from a terminal, logs them in and adds a second factor: an access token of that session.
pub(crate) fn admin_bearer(addr: SocketAddr, data: &std::path::Path) -> String {
    admin(addr, data).0
}

/// The same: access token, password, authenticator.
pub(crate) fn admin(addr: SocketAddr, data: &std::path::Path) -> (String, String, Authenticator) {
    let (bearer, password) = logged_in(addr, data, "admin");
    let bearer_field = format!("Bearer {bearer}");
    let by = |path: &str, body: Value| {
        let fields = [("Authorization", bearer_field.as_str()), ("Content-Type", "application/json")];
        crate::support::send(addr, "POST", path, &fields, body.to_string().as_bytes())
    };
    let enrolled = json_of(&by("/api/v1/auth/mfa/enrol", json!({ "password": password })));
    let authenticator = Authenticator::of(enrolled["secret"].as_str().unwrap_or_else(|| panic!("{enrolled:#}")));
    // By the code of the step before, so that the one of now is still good for a login.
    early_in_a_step();
    let confirmed = by("/api/v1/auth/mfa/confirm", json!({ "code": authenticator.code(1) }));
    assert_eq!(confirmed.status, 200, "{}", confirmed.text());
    (bearer, password, authenticator)
}

/// Makes a creator from a terminal: address and password.
pub(crate) fn creator(data: &std::path::Path) -> (String, String) {
    made(data, "creator")
}

/// Somebody made from a terminal, `{role}@example.org`: address and password.
fn made(data: &std::path::Path, role: &str) -> (String, String) {
    let email = format!("{role}@example.org");
    let made = run(["user", "create", &email, "--role", role, "--data", data.to_str().unwrap()]);
    let made = said(&made);
    let password = made.lines().find_map(|line| line.strip_prefix("password, shown once: "));
    let password = password.unwrap_or_else(|| panic!("{made}")).to_owned();
    (email, password)
}

/// The same, logged in: access token and password.
fn logged_in(addr: SocketAddr, data: &std::path::Path, role: &str) -> (String, String) {
    let (email, password) = made(data, role);
    let body = json!({ "email": email, "password": password }).to_string();
    let fields = [("Content-Type", "application/json")];
    let reply = crate::support::send(addr, "POST", "/api/v1/auth/login", &fields, body.as_bytes());
    (Tokens::of(&reply).access, password)
}

/// A browser: keeps cookies, says where its requests come from.
struct Browser<'a> {
    api: &'a Api,
    jar: RefCell<BTreeMap<String, String>>,
}

impl Browser<'_> {
    fn of(api: &Api) -> Browser<'_> {
        Browser { api, jar: RefCell::default() }
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Reply {
        let cookies: Vec<String> = self.jar.borrow().iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = cookies.join("; ");
        let mut all = vec![("Cookie", cookies.as_str())];
        if cookies.is_empty() {
            all.clear();
        }
        all.extend(headers);
        let reply = self.api.send(method, path, &all, body);
        for line in reply.head.lines().filter_map(|line| line.split_once(": ")) {
            let (name, set) = line;
            if !name.eq_ignore_ascii_case("set-cookie") {
                continue;
            }
            assert!(set.contains("; Path=/; Secure") && !set.contains("Domain"), "{set}");
            let (name, value) = set.split(';').next().unwrap().split_once('=').unwrap();
            assert!(name.starts_with("__Host-"), "{set}");
            match set.contains("Max-Age=0") {
                true => _ = self.jar.borrow_mut().remove(name),
                false => _ = self.jar.borrow_mut().insert(name.to_owned(), value.to_owned()),
            }
        }
        reply
    }

    fn cookie(&self, name: &str) -> Option<String> {
        self.jar.borrow().get(name).cloned()
    }
}

fn json_of(reply: &Reply) -> Value {
    serde_json::from_slice(&reply.body).unwrap_or_else(|_| panic!("no JSON: {} {}", reply.head, reply.text()))
}

/// What kind of error it is: `/problems/credentials`.
fn problem(reply: &Reply) -> (u16, String) {
    assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{}", reply.head);
    let kind = json_of(reply)["type"].as_str().unwrap().to_owned();
    (reply.status, kind.strip_prefix("/problems/").unwrap().to_owned())
}

fn is(reply: &Reply, status: u16, kind: &str) {
    assert_eq!(problem(reply), (status, kind.to_owned()), "{}", reply.text());
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// An authenticator with this secret.
pub(crate) struct Authenticator(totp_rs::Totp, String);

impl Authenticator {
    fn of(base32: &str) -> Authenticator {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
        let (mut bits, mut held, mut bytes) = (0u32, 0, Vec::new());
        for c in base32.bytes() {
            bits = bits << 5 | alphabet.iter().position(|a| *a == c).unwrap() as u32;
            held += 5;
            if held >= 8 {
                held -= 8;
                bytes.push((bits >> held & 0xff) as u8);
            }
        }
        Authenticator(totp_rs::Builder::new().with_secret(bytes).build().unwrap(), base32.to_owned())
    }

    /// What it was set up with, base32.
    pub(crate) fn secret(&self) -> &str {
        &self.1
    }

    /// The code of so many steps ago.
    pub(crate) fn code(&self, ago: u64) -> String {
        self.0.generate(now_s() - 30 * ago).to_string()
    }
}

/// Waits until a step of 30 seconds has begun not long ago, so that it and the one before are both taken for a while.
fn early_in_a_step() {
    while now_s() % 30 > 15 {
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn the_first_admin_is_made_from_a_terminal_and_sees_how() {
    let help = said(&run(["user", "create", "--help"]));
    assert!(help.contains("--role") && help.contains("password"), "{help}");
    on_both(|site| {
        let api = site.serve();
        let made = site.user(&["create", "root@example.org", "--role", "creator"]);
        let password = made.lines().find_map(|line| line.strip_prefix("password, shown once: ")).unwrap();
        let tokens = api.login("root@example.org", password);
        assert_eq!(json_of(&api.by(&tokens.access, "GET", "users/me", None))["role"], "creator");
        site.user(&["grant", "ROOT@example.org", "admin"]);
        assert_eq!(api.me(&tokens.access), 401, "a grant is used in another session");
        let tokens = api.login("root@example.org", password);
        assert_eq!(json_of(&api.by(&tokens.access, "GET", "users/me", None))["role"], "admin");
        for (args, word) in [
            (vec!["user", "create", "root@example.org"], "already"),
            (vec!["user", "create", "nobody"], "no @"),
            (vec!["user", "grant", "nobody@example.org", "admin"], "no account"),
        ] {
            let mut command = crate::support::segue();
            command.args(&args).arg("--data").arg(site.data()).envs(site.env.iter().map(|(n, v)| (n, v)));
            let output = command.stdin(Stdio::null()).output().unwrap();
            assert!(!output.status.success() && said(&output).contains(word), "{args:?}: {}", said(&output));
        }
    });
}
