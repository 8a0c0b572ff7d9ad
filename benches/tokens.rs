//! What verifying a token costs, and that it allocates nothing.
//!
//! ```text
//! cargo bench --bench tokens [-- --smoke]
//! ```
//! One thread, the best of many rounds: what else the machine does only makes a round slower. `--smoke` only
//! checks that every answer is the expected one and that no answer allocates; that fails the run in either mode.
#![allow(clippy::print_stdout, reason = "the table is the product")]
#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Instant;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use base64::Engine as _;
use segue::base::secret::Secret;
use segue::cdn::bunny::{self, Grant};
use segue::cdn::{Presented, Refused, Verifier, cloudflare, cloudfront, rsa};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as above.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const NOW_S: u64 = 1_800_000_000;
const BASE: &str = "https://media.example.com";
const TRACK: &str = "/a/trk_0000000000000000test/00112233445566778899aabbccddeeff00112233/";

fn main() -> ExitCode {
    let smoke = std::env::args().any(|argument| argument == "--smoke");
    let secret = Secret::new(*b"SecurityKey");
    let bunny = bunny::Key::new(&secret).expect("a key");
    let cloudflare = cloudflare::Key::new(&secret).expect("a key");
    let pair = private_pair();
    let verifier = Verifier {
        bunny: Some(bunny::Keys::new(bunny.clone(), None)),
        cloudfront: Some(cloudfront::Keys::new(pair.clone(), None, BASE)),
        cloudflare: Some(cloudflare::Keys::new(cloudflare.clone(), None, 600)),
    };
    let (directory, segment) = (format!("{TRACK}aac/"), format!("{TRACK}aac/96/00007.mp4"));
    let component = bunny::sign_directory(&bunny, &directory, NOW_S)[1..].to_owned();
    let object = bunny.sign_params(&Grant { path: &segment, expires_s: NOW_S, ..Grant::default() });
    let exactly = cloudflare.sign(&segment, NOW_S, cloudflare::Encoding::UrlSafe);
    let below = cloudflare.sign(&directory, NOW_S, cloudflare::Encoding::UrlSafe);
    let wildcard = format!("{directory}*");
    let policy = cloudfront::Grant { path: &wildcard, expires_s: NOW_S + 1, address: None };
    let policy = pair.sign_params(BASE, &policy).expect("a private key");
    let swapped = if &component[30..31] == "A" { "B" } else { "A" };
    let forged = format!("{}{swapped}{}", &component[..30], &component[31..]);
    let forged_policy = policy.replace("Key-Pair-Id=K1", "Key-Pair-Id=K2");

    let cases = [
        ("bunny, directory, seen before", Presented::Path(&component), Ok(())),
        ("bunny, object (HMAC every time)", Presented::Query(&object), Ok(())),
        ("bunny, forged", Presented::Path(&forged), Err(Refused::Mismatch)),
        ("cloudflare, directory, seen before", Presented::Query(&below), Ok(())),
        ("cloudflare, object (HMAC every time)", Presented::Query(&exactly), Ok(())),
        ("cloudfront, directory, seen before", Presented::Query(&policy), Ok(())),
        ("cloudfront, unknown key", Presented::Query(&forged_policy), Err(Refused::Mismatch)),
    ];
    let peer: IpAddr = [192, 0, 2, 7].into();
    let mut failed = false;
    for (name, presented, expected) in cases {
        let ask = || verifier.verify(presented, &segment, peer, NOW_S);
        let first = ask(); // remembers
        let before = ALLOCATIONS.get();
        let again = ask();
        let allocations = ALLOCATIONS.get() - before;
        let fine = first == expected && again == expected && allocations == 0;
        failed |= !fine;
        let time = if smoke { String::new() } else { format!("{:7.0} ns", best_ns(ask)) };
        let verdict = if fine { "ok".into() } else { format!("NOT AS EXPECTED: {again:?}") };
        println!("{name:<38} {time} {allocations} allocations  {verdict}");
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Nanoseconds a call takes: the best of 200 rounds of 2,000.
fn best_ns<R>(mut call: impl FnMut() -> R) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..200 {
        let started = Instant::now();
        for _ in 0..2_000 {
            std::hint::black_box(call());
        }
        best = best.min(started.elapsed().as_nanos() as f64 / 2_000.0);
    }
    best
}

fn private_pair() -> cloudfront::KeyPair {
    let pair = aws_lc_rs::signature::RsaKeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).expect("a key pair");
    let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).expect("PKCS #8");
    let body = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----");
    cloudfront::KeyPair { id: "K1".into(), key: rsa::Key::from_pem(&pem).expect("our own PEM") }
}
