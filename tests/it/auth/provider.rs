//! Logging in by a provider of identities, against one that is made here: state, PKCE, nonce, signatures, linking.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Api, Authenticator, Browser, PASSWORD, Site, early_in_a_step, is, json_of, now_s, on_both};

/// What it knows of a code that it gave out.
#[derive(Clone)]
struct Given {
    challenge: String,
    redirect_uri: String,
    claims: Value,
    /// What signs the identity token: its own key, or another.
    honest: bool,
}

/// A provider: discovery, keys, and codes that are redeemed once, by whoever has the verifier and the secret.
struct Fake {
    addr: SocketAddr,
    codes: Arc<Mutex<HashMap<String, Given>>>,
}

struct Keys {
    own: Vec<u8>,
    foreign: Vec<u8>,
    public: Vec<u8>,
}

impl Fake {
    fn start() -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let made = || EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let (own, foreign) = (made(), made());
        let pkcs8 = |pair: &EcdsaKeyPair| pair.to_pkcs8v1().unwrap().as_ref().to_vec();
        let keys = Keys { own: pkcs8(&own), foreign: pkcs8(&foreign), public: own.public_key().as_ref().to_vec() };
        let codes: Arc<Mutex<HashMap<String, Given>>> = Arc::default();
        let known = Arc::clone(&codes);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                serve(stream, addr, &keys, &known);
            }
        });
        Fake { addr, codes }
    }

    fn settings(&self) -> String {
        format!(
            "[{{ name = \"example\", issuer = \"http://{}\", client_id = \"segue at 1\", client_secret = \"hush: 2\" }}]",
            self.addr
        )
    }

    /// As if somebody logged in there: what the browser is sent back with.
    fn consent(&self, location: &str, change: impl Fn(&mut Given)) -> String {
        let (page, query) = location.split_once('?').unwrap();
        assert_eq!(page, format!("http://{}/authorize", self.addr));
        let asked: HashMap<&str, String> = query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap())
            .map(|(k, v)| (k, percent_encoding::percent_decode_str(v).decode_utf8().unwrap().into_owned()))
            .collect();
        assert_eq!(asked["response_type"], "code");
        assert_eq!(asked["client_id"], "segue at 1");
        assert_eq!(asked["code_challenge_method"], "S256");
        assert!(asked["scope"].split(' ').any(|scope| scope == "openid"));
        let mut given = Given {
            challenge: asked["code_challenge"].clone(),
            redirect_uri: asked["redirect_uri"].clone(),
            claims: json!({
                "iss": format!("http://{}", self.addr), "aud": "segue at 1", "sub": "s-1", "nonce": asked["nonce"],
                "exp": now_s() + 300, "iat": now_s(), "email": "maria@example.org", "email_verified": true,
                "name": "Maria",
            }),
            honest: true,
        };
        change(&mut given);
        let code = format!("code{}", self.codes.lock().unwrap().len());
        self.codes.lock().unwrap().insert(code.clone(), given);
        let state = &asked["state"];
        format!("/api/v1/auth/oauth/example/callback?code={code}&state={state}&iss=http%3A%2F%2F{}", self.addr)
    }
}

fn serve(mut stream: TcpStream, addr: SocketAddr, keys: &Keys, codes: &Mutex<HashMap<String, Given>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut first, mut length, mut authorization) = (String::new(), 0, String::new());
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => value.clone_into(&mut authorization),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let base = format!("http://{addr}");
    let (status, answer) = match first.split(' ').nth(1).unwrap_or_default() {
        "/.well-known/openid-configuration" => (
            200,
            json!({
                "issuer": base, "authorization_endpoint": format!("{base}/authorize"),
                "token_endpoint": format!("{base}/token"), "jwks_uri": format!("{base}/keys"),
            }),
        ),
        "/keys" => {
            let part = |range| URL_SAFE_NO_PAD.encode(&keys.public[range]);
            (
                200,
                json!({ "keys": [{
                "kty": "EC", "crv": "P-256", "kid": "k1", "alg": "ES256", "use": "sig", "x": part(1..33), "y": part(33..65),
            }] }),
            )
        }
        "/token" => redeem(&String::from_utf8(body).unwrap(), &authorization, keys, codes),
        _ => (404, json!({})),
    };
    let text = answer.to_string();
    let head =
        format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", text.len());
    let _ = stream.write_all(format!("{head}{text}").as_bytes());
}

/// RFC 6749 §4.1.3 and RFC 7636 §4.6, as a careful provider does it.
fn redeem(form: &str, authorization: &str, keys: &Keys, codes: &Mutex<HashMap<String, Given>>) -> (u16, Value) {
    let refused = |why: &str| (400, json!({ "error": why }));
    let basic = format!("Basic {}", STANDARD.encode("segue%20at%201:hush%3A%202"));
    if authorization != basic {
        return refused("invalid_client");
    }
    let fields: HashMap<&str, String> = form
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(k, v)| (k, percent_encoding::percent_decode_str(v).decode_utf8().unwrap().into_owned()))
        .collect();
    let Some(given) = codes.lock().unwrap().remove(&fields["code"]) else { return refused("invalid_grant") };
    let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(fields["code_verifier"].as_bytes()));
    if challenge != given.challenge || fields["redirect_uri"] != given.redirect_uri {
        return refused("invalid_grant");
    }
    let header = Header { kid: Some("k1".into()), ..Header::new(Algorithm::ES256) };
    let key = EncodingKey::from_ec_der(if given.honest { &keys.own } else { &keys.foreign });
    let token = jsonwebtoken::encode(&header, &given.claims, &key).unwrap();
    (200, json!({ "id_token": token, "access_token": "theirs-and-secret", "token_type": "Bearer" }))
}

fn leave(browser: &Browser<'_>, path: &str) -> String {
    let sent = browser.send("GET", path, &[], None);
    assert_eq!(sent.status, 302, "{}", sent.text());
    sent.header("location").unwrap().to_owned()
}

const OUT: &str = "/api/v1/auth/oauth/example?return_to=/studio";

#[test]
fn somebody_comes_back_as_who_they_are_there() {
    on_both(|site| {
        let fake = Fake::start();
        let site = site.with("SEGUE_AUTH__PROVIDERS", &fake.settings());
        let api = site.serve();
        let browser = Browser::of(&api);
        let back = fake.consent(&leave(&browser, OUT), |_| {});
        // A link that somebody else began logs nobody in.
        is(&Browser::of(&api).send("GET", &back, &[], None), 400, "login-unknown");
        is(&browser.send("GET", &back, &[], None), 400, "login-unknown"); // and is used up by it

        let back = fake.consent(&leave(&browser, OUT), |_| {});
        let logged_in = browser.send("GET", &back, &[], None);
        assert_eq!((logged_in.status, logged_in.header("location")), (302, Some("/studio")), "{}", logged_in.text());
        let me = json_of(&browser.send("GET", "/api/v1/users/me", &[], None));
        assert_eq!((me["email"].as_str(), me["name"].as_str()), (Some("maria@example.org"), Some("Maria")));
        assert_eq!(me["has_password"], false);
        assert!(browser.cookie("__Host-segue_provider").is_none());
        is(&browser.send("GET", &back, &[], None), 400, "login-unknown");
        // The same person again, whatever their address is called by now.
        let other = Browser::of(&api);
        let back = fake.consent(&leave(&other, OUT), |given| given.claims["email"] = json!("new@example.org"));
        assert_eq!(other.send("GET", &back, &[], None).status, 302);
        assert_eq!(json_of(&other.send("GET", "/api/v1/users/me", &[], None))["id"], me["id"]);
        // Who has no password yet sets one by mail.
        assert_eq!(api.post("auth/password/reset-request", json!({ "email": "maria@example.org" })).status, 200);
        let token = api.link("maria@example.org", 0);
        assert_eq!(api.post("auth/password/reset", json!({ "token": token, "password": PASSWORD })).status, 204);
        api.login("maria@example.org", PASSWORD);
        // What the provider gave us lies sealed.
        if !site.env.iter().any(|(name, _)| name == "DATABASE_URL") {
            let rows = ["segue.db", "segue.db-wal"]
                .map(|name| std::fs::read(site.data().join(name)).unwrap_or_default())
                .concat();
            assert!(!rows.windows(17).any(|bytes| bytes == b"theirs-and-secret"));
        }
    });
}

#[test]
fn an_account_is_linked_by_an_address_that_the_provider_vouches_for() {
    let fake = Fake::start();
    let site = Site::embedded().with("SEGUE_AUTH__PROVIDERS", &fake.settings());
    let api = site.serve();
    let tokens = api.member("maria@example.org");
    let browser = Browser::of(&api);
    let back = fake.consent(&leave(&browser, OUT), |given| given.claims["email_verified"] = json!(false));
    is(&browser.send("GET", &back, &[], None), 403, "provider-refused");
    let back = fake.consent(&leave(&browser, OUT), |_| {});
    assert_eq!(browser.send("GET", &back, &[], None).status, 302);
    let me = |api: &Api| json_of(&api.by(&tokens.access, "GET", "users/me", None))["id"].clone();
    assert_eq!(json_of(&browser.send("GET", "/api/v1/users/me", &[], None))["id"], me(&api));
    assert!(api.mail("maria@example.org", 1).contains("example"), "its owner hears of it");
    // The second factor is asked for however somebody comes.
    let enrol = api.by(&tokens.access, "POST", "auth/mfa/enrol", Some(json!({ "password": PASSWORD })));
    let authenticator = Authenticator::of(json_of(&enrol)["secret"].as_str().unwrap());
    early_in_a_step();
    let code = json!({ "code": authenticator.code(1) });
    assert_eq!(api.by(&tokens.access, "POST", "auth/mfa/confirm", Some(code)).status, 200);
    let browser = Browser::of(&api);
    // Where nobody said, it ends on a page that is there and asks for the code.
    let back = fake.consent(&leave(&browser, "/api/v1/auth/oauth/example"), |_| {});
    let half = browser.send("GET", &back, &[], None);
    assert_eq!(half.header("location"), Some("/studio?mfa_required=1"));
    assert_eq!(browser.send("GET", "/studio?mfa_required=1", &[], None).status, 200);
    assert!(browser.cookie("__Host-segue_access").is_none());
    let code = json!({ "code": authenticator.code(0) });
    assert_eq!(browser.send("POST", "/api/v1/auth/mfa/verify", &[], Some(&code)).status, 200);
    assert_eq!(browser.send("GET", "/api/v1/users/me", &[], None).status, 200);
}

#[test]
fn what_the_provider_did_not_say_to_us_now_logs_nobody_in() {
    let fake = Fake::start();
    let site = Site::embedded()
        .with("SEGUE_AUTH__PROVIDERS", &fake.settings())
        .with("SEGUE_AUTH__RETURN_TO", "[\"https://app.example.org/\"]");
    let api = site.serve();
    type Wrong = (&'static str, fn(&mut Given));
    let wrong: [Wrong; 9] = [
        ("another key", |given| given.honest = false),
        ("another issuer", |given| given.claims["iss"] = json!("https://evil.example")),
        ("another audience", |given| given.claims["aud"] = json!("somebody else")),
        ("another party", |given| given.claims["azp"] = json!("somebody else")),
        ("another login", |given| given.claims["nonce"] = json!("x")),
        ("no login", |given| _ = given.claims.as_object_mut().unwrap().remove("nonce")),
        ("long ago", |given| given.claims["exp"] = json!(now_s() - 3_600)),
        ("another verifier", |given| given.challenge = "x".into()),
        ("another address", |given| given.redirect_uri = "https://evil.example/".into()),
    ];
    for (what, change) in wrong {
        let browser = Browser::of(&api);
        let back = fake.consent(&leave(&browser, OUT), change);
        let refused = browser.send("GET", &back, &[], None);
        assert_eq!(refused.status, 400, "{what}: {}", refused.text());
        is(&refused, 400, "login-unknown");
        assert!(browser.cookie("__Host-segue_access").is_none(), "{what}");
    }
    let browser = Browser::of(&api);
    let mixed = fake.consent(&leave(&browser, OUT), |_| {}).replace("&iss=http", "&iss=https");
    is(&browser.send("GET", &mixed, &[], None), 400, "login-unknown");
    let denied = leave(&browser, OUT);
    let state = denied.split("state=").nth(1).unwrap().split('&').next().unwrap().to_owned();
    let denied = format!("/api/v1/auth/oauth/example/callback?error=access_denied&state={state}");
    is(&browser.send("GET", &denied, &[], None), 403, "provider-refused");
    for (path, status, kind) in [
        ("/api/v1/auth/oauth/nobody", 404, "not-found"),
        ("/api/v1/auth/oauth/nobody/callback?state=x", 404, "not-found"),
        ("/api/v1/auth/oauth/example/callback", 400, "login-unknown"),
        ("/api/v1/auth/oauth/example?return_to=//evil.example", 400, "return-to"),
        ("/api/v1/auth/oauth/example?return_to=https://evil.example/", 400, "return-to"),
        ("/api/v1/auth/oauth/example?return_to=https://app.example.org.evil/", 400, "return-to"),
        ("/api/v1/auth/oauth/example?return_to=https://app.example.org/in/../x", 400, "return-to"),
        ("/api/v1/auth/oauth/example?return_to=https://app.example.org/in/%252e%252E/x", 400, "return-to"),
    ] {
        is(&browser.send("GET", path, &[], None), status, kind);
    }
    let listed = leave(&browser, "/api/v1/auth/oauth/example?return_to=https://app.example.org/in");
    let end = browser.send("GET", &fake.consent(&listed, |_| {}), &[], None);
    assert_eq!(end.header("location"), Some("https://app.example.org/in"));
}

#[test]
fn a_provider_that_is_away_is_said_to_be() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings =
        format!("[{{ name = \"example\", issuer = \"http://{gone}\", client_id = \"a\", client_secret = \"b\" }}]");
    let site = Site::embedded().with("SEGUE_AUTH__PROVIDERS", &settings);
    let refused = site.serve().send("GET", OUT, &[], None);
    is(&refused, 503, "provider-unavailable");
    assert!(refused.header("retry-after").is_some());
}
