//! Makes sure that the watch page's script and style are there to be embedded (`src/web`).
//!
//! In: `web/`. Out: `web/dist/{watch,film}.js` and `watch.css`, built with npm when missing or older than their sources.
//! Only pages need them: a build without the `control` feature does nothing here.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::time::SystemTime;

/// What the bundle is made from, below `web/`.
const SOURCES: [&str; 4] = ["src", "build.mjs", "package.json", "package-lock.json"];
/// What it is made into.
const BUNDLE: [&str; 8] = [
    "dist/watch.js",
    "dist/film.js",
    "dist/watch.css",
    "dist/embed.js",
    "dist/embed.css",
    "dist/studio.js",
    "dist/studio.css",
    "dist/admin.js",
];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var_os("CARGO_FEATURE_CONTROL").is_none() {
        return;
    }
    let web = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("web");
    for source in SOURCES {
        println!("cargo::rerun-if-changed={}", web.join(source).display());
    }
    if is_fresh(&web) {
        // Watched only now: a bundle made below would look changed, and everything would compile twice.
        for made in BUNDLE {
            println!("cargo::rerun-if-changed={}", web.join(made).display());
        }
        return;
    }
    if !(installed(&web) || npm(&web, &["ci", "--no-audit", "--no-fund"])) || !npm(&web, &["run", "build"]) {
        println!("cargo::error=web/dist is missing or older than web/src: run `make web` (needs node and npm)");
        exit(1);
    }
}

fn is_fresh(web: &Path) -> bool {
    let newest_source = SOURCES.iter().filter_map(|source| newest(&web.join(source))).max();
    BUNDLE.iter().all(|made| modified(&web.join(made)) >= newest_source)
}

/// Whether `node_modules` holds what the lock file asks for.
fn installed(web: &Path) -> bool {
    let done = modified(&web.join("node_modules/.package-lock.json"));
    done.is_some() && done >= modified(&web.join("package-lock.json"))
}

fn npm(web: &Path, arguments: &[&str]) -> bool {
    // stdout belongs to cargo's instructions; npm's words are only wanted when it fails.
    match Command::new("npm").args(arguments).current_dir(web).output() {
        Ok(run) if run.status.success() => true,
        Ok(run) => {
            eprintln!("npm {}: {}", arguments.join(" "), String::from_utf8_lossy(&run.stderr));
            false
        }
        Err(cause) => {
            eprintln!("npm {}: {cause}", arguments.join(" "));
            false
        }
    }
}

/// The latest change of a file, or of anything below a directory.
fn newest(path: &Path) -> Option<SystemTime> {
    let Ok(entries) = fs::read_dir(path) else { return modified(path) };
    entries.flatten().filter_map(|entry| newest(&entry.path())).max()
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|meta| meta.modified()).ok()
}
