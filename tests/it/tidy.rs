//! Reads the sources and checks the house rules that a compiler does not: the direction rule of
//! `lib.rs`, and the doors (what may be used in one place only). docs/ARCHITECTURE.md explains both.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules of `lib.rs`, in its order.
fn modules() -> Vec<String> {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let modules: Vec<_> =
        lib.lines().filter_map(|line| Some(line.strip_prefix("pub mod ")?.strip_suffix(';')?.to_owned())).collect();
    assert!(modules.len() > 8, "lib.rs lists the modules as `pub mod name;`: {modules:?}");
    modules
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

struct Source {
    /// Path below `src/`.
    path: PathBuf,
    /// Top-level module it belongs to: `hls`, `main`.
    module: String,
    /// Its lines without comments and without the test module at its end.
    code: Vec<(usize, String)>,
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    let mut dirs = vec![root().join("src")];
    while let Some(dir) = dirs.pop() {
        for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let below = path.strip_prefix(root().join("src")).unwrap().to_owned();
                let first = below.components().next().unwrap().as_os_str().to_str().unwrap();
                let module = first.trim_end_matches(".rs").to_owned();
                found.push(Source { module, code: code(&fs::read_to_string(&path).unwrap()), path: below });
            }
        }
    }
    assert!(found.len() > 20, "only {} sources found", found.len());
    found
}

/// Lines before the test module, comments and string literals blanked.
fn code(text: &str) -> Vec<(usize, String)> {
    let tests = text.find("#[cfg(test)]\nmod tests").or_else(|| text.find("#[cfg(test)]\npub(crate) mod tests"));
    let text = &text[..tests.unwrap_or(text.len())];
    text.lines()
        .enumerate()
        .map(|(number, line)| {
            let mut kept = String::new();
            for (index, piece) in line.split('"').enumerate() {
                if index % 2 == 0 {
                    kept.push_str(piece);
                }
            }
            let kept = kept.split("//").next().unwrap_or_default().to_owned();
            (number + 1, kept)
        })
        .collect()
}

/// Every `crate::name` in a line of code, groups (`use crate::{a, b}`) included.
fn imports(line: &str) -> Vec<String> {
    let mut names = Vec::new();
    for piece in line.split("crate::").skip(1) {
        let group = piece.strip_prefix('{').map(|rest| rest.split('}').next().unwrap_or(rest));
        let heads: Vec<&str> = match group {
            Some(group) => group.split(',').collect(),
            None => vec![piece],
        };
        for head in heads {
            let name: String = head.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            names.push(name);
        }
    }
    names
}

#[test]
fn a_module_imports_only_from_modules_above_it() {
    let order = modules();
    let place = |name: &str| order.iter().position(|m| m == name);
    let mut broken = Vec::new();
    for source in sources() {
        let Some(here) = place(&source.module) else { continue }; // main.rs and lib.rs see everything
        for (number, line) in &source.code {
            for name in imports(line) {
                if place(&name).is_some_and(|there| there > here) {
                    broken.push(format!("src/{}:{number}: {} imports {name}", source.path.display(), source.module));
                }
            }
        }
    }
    assert!(broken.is_empty(), "the direction rule is broken:\n{}", broken.join("\n"));
}

#[test]
fn every_source_belongs_to_a_module_of_lib_rs() {
    let order = modules();
    for source in sources() {
        let known = order.contains(&source.module) || ["lib", "main"].contains(&source.module.as_str());
        assert!(known, "src/{} is in no module of lib.rs", source.path.display());
    }
}

/// What may be used, and the only places that may use it (prefixes of paths below `src/`).
const DOORS: &[(&[&str], &[&str])] = &[
    // child.rs calls our own module `gst`, which has the crate's name.
    (&["gst::"], &["transcode/gst", "transcode/child.rs"]),
    (&["gst_app", "gst_audio", "gst_base", "gstreamer"], &["transcode/gst"]),
    (
        &["unsafe ", "unsafe{"],
        &["base/memory.rs", "store/mapped.rs", "server/socket.rs", "transcode/sandbox.rs", "transcode/gst/libav.rs"],
    ),
    (&["env::var", "env::vars", "env::set_var"], &["config.rs"]),
    (&["sqlx", "rusqlite"], &["db/"]),
    (&["aws_sdk_s3", "aws_smithy_async"], &["store/s3.rs"]),
    (&["aws_credential_types"], &["store/credentials.rs", "cdn/purge/cloudfront.rs"]),
    (&["aws_sigv4"], &["cdn/purge/cloudfront.rs"]),
    (&["tokio_uring"], &["server/runtime.rs"]),
    (&["image::"], &["pictures.rs"]),
    (&["rustls", "tokio_rustls"], &["server/tls.rs", "server/core.rs", "transcode/fetch.rs", "workers/http.rs"]),
    (&["process::exit"], &["main.rs", "cli/", "transcode/child.rs"]),
];

#[test]
fn each_door_is_used_only_where_it_stands() {
    let mut broken = Vec::new();
    for source in sources() {
        let path = source.path.to_str().unwrap();
        for (number, line) in &source.code {
            for (words, places) in DOORS {
                let used = words.iter().find(|word| contains_word(line, word));
                if let Some(word) = used
                    && !places.iter().any(|place| path.starts_with(place))
                {
                    broken.push(format!("src/{path}:{number}: `{word}` belongs in {}", places.join(" or ")));
                }
            }
        }
    }
    assert!(broken.is_empty(), "doors used elsewhere:\n{}", broken.join("\n"));
}

/// What a statement of SQL looks like; string literals count here, comments do not.
fn is_sql(line: &str) -> bool {
    let line = line.split("//").next().unwrap_or_default().to_lowercase();
    let has = |words: &[&str]| {
        let mut rest = line.as_str();
        words.iter().all(|word| match rest.find(word) {
            Some(at) => {
                rest = &rest[at + word.len()..];
                true
            }
            None => false,
        })
    };
    [&["select ", " from "][..], &["insert into "], &["update ", " set "], &["delete from "], &["create table "]]
        .into_iter()
        .any(has)
}

#[test]
fn sql_is_only_in_db() {
    let mut broken = Vec::new();
    for source in sources().into_iter().filter(|source| source.module != "db") {
        let text = fs::read_to_string(root().join("src").join(&source.path)).unwrap();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| line.contains('"') && is_sql(line)) {
            broken.push(format!("src/{}:{}: {}", source.path.display(), number + 1, line.trim()));
        }
    }
    assert!(broken.is_empty(), "SQL outside src/db:\n{}", broken.join("\n"));
    assert!(
        is_sql("tx.all(\"select id from job\")") && is_sql("\"UPDATE job SET x\"") && !is_sql("// select a from b")
    );
}

/// Whether `word` stands in `line` and is not the tail of a longer name.
fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[test]
fn the_checks_can_fail() {
    assert_eq!(imports("use crate::{api, base::Error};"), ["api", "base"]);
    assert_eq!(imports("    crate::cli::main()"), ["cli"]);
    assert!(contains_word("let x = unsafe { y };", "unsafe "));
    assert!(!contains_word("rust_unsafe x", "unsafe "));
    assert_eq!(code("a // crate::cli\n\"crate::api\"\n#[cfg(test)]\nmod tests {\n crate::cli\n}").len(), 2);
    assert!(code("a // crate::cli").iter().all(|(_, line)| imports(line).is_empty()));
}

#[test]
fn the_top_level_stays_as_it_was_drawn() {
    const KNOWN: &[&str] = &[
        "Cargo.toml",
        "Cargo.lock",
        "Makefile",
        "README.md",
        "Dockerfile",
        "build.rs",
        "src",
        "pipelines",
        "benches",
        "fuzz",
        "tests",
        "k8s",
        "docs",
        "web",
    ];
    let listed = std::process::Command::new("git").args(["ls-files"]).current_dir(root()).output().unwrap();
    assert!(listed.status.success(), "git ls-files works in the repository");
    for path in String::from_utf8(listed.stdout).unwrap().lines() {
        let top = path.split('/').next().unwrap();
        assert!(KNOWN.contains(&top) || top.starts_with('.'), "{path}: `{top}` is new at the top level");
    }
}

#[test]
fn no_registry_hosts_or_machine_paths_are_committed() {
    let listed = std::process::Command::new("git").args(["ls-files"]).current_dir(root()).output().unwrap();
    // Spelled in two halves so that this file does not find itself.
    let forbidden =
        [["/work", "/"], ["registry.npm", "js.org"], ["pypi", ".org"], ["/root/", "."], ["deb.deb", "ian.org"]];
    let mut found = Vec::new();
    for path in String::from_utf8(listed.stdout).unwrap().lines() {
        let Ok(text) = fs::read_to_string(root().join(path)) else { continue };
        for halves in &forbidden {
            if text.contains(&halves.concat()) {
                found.push(format!("{path}: {}", halves.concat()));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
