//! Rules of the house that a compiler does not know: layers, sizes, leftovers. They hold for the whole workspace.

#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: usize = 70;

/// Longer functions than the limit allows, with how long each may be. The list may only shrink.
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[
    // One arm for each operation or packet of the wire, and no more than that.
    ("node/core/src/proto/client/request.rs", "read", 115),
    ("node/core/src/proto/quorum.rs", "from_wire", 84),
    ("node/core/src/proto/quorum.rs", "to_wire", 79),
    ("node/src/driver.rs", "effect", 75),
    // One line for each metric.
    ("node/src/metrics.rs", "new", 85),
    ("node/src/net/client.rs", "read", 89),
];

/// What a part of the code must know nothing of: modules of its own crate.
const LAYERS: &[(&str, &[&str])] = &[
    // What goes over the wire, and what everything is counted by.
    ("node/core/src/zxid.rs", &["*"]),
    ("node/core/src/jute.rs", &["* but zxid"]),
    ("node/core/src/proto", &["* but jute zxid"]),
    ("node/core/src/path.rs", &["* but proto"]),
    ("node/core/src/acl.rs", &["* but proto"]),
    ("node/core/src/quorum", &["* but proto zxid"]),
    // The half that agrees on a history does not know what is in a transaction.
    (
        "node/core/src/election",
        &[
            "acl", "member", "path", "peer", "prep", "read", "replica", "session", "tree", "watch",
            "zab",
        ],
    ),
    (
        "node/core/src/zab",
        &[
            "acl", "election", "member", "path", "peer", "prep", "read", "replica", "session",
            "tree", "watch",
        ],
    ),
    (
        "node/core/src/peer",
        &[
            "acl", "member", "path", "prep", "read", "replica", "session", "tree", "watch",
        ],
    ),
    // The half that holds the tree does not know that there are other servers.
    ("node/core/src/tree", &["* but acl jute path proto zxid"]),
    ("node/core/src/watch", &["* but path proto tree zxid"]),
    ("node/core/src/replica.rs", &["* but proto tree zxid"]),
    (
        "node/core/src/read.rs",
        &["* but acl jute proto replica tree watch zxid"],
    ),
    (
        "node/core/src/prep",
        &[
            "effect", "election", "local", "member", "peer", "watch", "zab",
        ],
    ),
    // The shell: files know nothing of sockets, and nothing knows who drives it but what reports to the driver.
    ("node/src/limits.rs", &["*"]),
    ("node/src/storage", &["* but limits"]),
    ("node/src/config", &["* but limits storage"]),
    // The operator: what decides never touches a backend.
    ("operator/src/validate", &["* but cluster crd"]),
    ("operator/src/desired.rs", &["* but cluster render"]),
    (
        "operator/src/render.rs",
        &["* but cluster desired membership"],
    ),
    (
        "operator/src/safety.rs",
        &["* but cluster membership observed plan"],
    ),
    (
        "operator/src/plan",
        &[
            "backend",
            "client",
            "ensemble",
            "kubernetes",
            "local",
            "reconcile",
            "status",
        ],
    ),
    (
        "operator/src/status",
        &[
            "backend",
            "client",
            "ensemble",
            "kubernetes",
            "local",
            "reconcile",
        ],
    ),
];

/// Words that must not stand in a part of the code.
const ABSENT: &[(&str, &[&str])] = &[
    (
        "node/core/src",
        &[
            "async fn",
            ".await",
            "tokio",
            "std::fs",
            "std::net::Tcp",
            "std::net::Udp",
            "std::thread",
            "std::sync::Mutex",
            "println!",
        ],
    ),
    ("node/src", &["println!(", "process::exit"]),
    (
        "operator/src/plan",
        &["async fn", ".await", "std::fs", "tokio"],
    ),
    (
        "operator/src/validate",
        &["async fn", ".await", "std::fs", "tokio"],
    ),
    (
        "operator/src/safety.rs",
        &["async fn", ".await", "std::fs", "tokio"],
    ),
    (
        "operator/src/status",
        &["async fn", ".await", "std::fs", "tokio"],
    ),
];

/// Words that must stand nowhere; spelled in two halves so that this list does not find itself.
const LEFTOVERS: &[(&str, &str)] = &[
    ("TO", "DO"),
    ("FIX", "ME"),
    ("XX", "X:"),
    ("todo", "!("),
    ("dbg", "!("),
    ("<<<<", "<<<"),
    ("#[ign", "ore"),
    // A place of one machine, or of one download site.
    ("/wo", "rk/"),
    ("/ro", "ot/"),
    ("/ho", "me/"),
    ("pypi", ".org"),
    ("repo1", ".maven"),
    ("repo.", "maven"),
    ("static.", "crates.io"),
    ("proxy.", "golang"),
    ("npm", "js.org"),
];

struct Source {
    path: String,
    text: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// All files of the repository that people write.
fn sources() -> Vec<Source> {
    let root = root();
    let mut sources = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                let hidden = name.starts_with('.') && name != ".ci";
                let made = ["golden", "target", "__pycache__"].contains(&name.as_str());
                if !hidden && !made && !name.ends_with(".zke") {
                    folders.push(path);
                }
                continue;
            }
            let written = ["rs", "toml", "md", "py", "yaml", "txt"];
            let extension = path.extension().map(|e| e.to_string_lossy().into_owned());
            if name == "run" || extension.is_some_and(|e| written.contains(&e.as_str())) {
                let text = fs::read_to_string(&path).unwrap();
                let path = path
                    .strip_prefix(&root)
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                sources.push(Source { path, text });
            }
        }
    }
    assert!(sources.len() > 100, "the whole repository is read");
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn rust() -> impl Iterator<Item = Source> {
    let is_rust = |source: &Source| source.path.ends_with(".rs");
    sources().into_iter().filter(is_rust)
}

/// Lines that are code: no comments, no strings of a line of their own.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    numbered.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn check(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

/// Whether a layer's rule forbids a module: a name, `*` for all, or `* but` those.
fn forbids(rule: &str, module: &str) -> bool {
    match rule.strip_prefix('*') {
        Some(but) => !but
            .split_whitespace()
            .skip(1)
            .any(|allowed| allowed == module),
        None => rule == module,
    }
}

#[test]
fn layers_know_only_what_is_below_them() {
    let mut problems = Vec::new();
    for (layer, rules) in LAYERS {
        let own = layer.rsplit('/').next().unwrap().trim_end_matches(".rs");
        let mut files = 0;
        for source in rust().filter(|source| source.path.starts_with(layer)) {
            files += 1;
            for (number, line) in code(&source.text) {
                let named = line.split("crate::").skip(1).filter_map(|rest| {
                    let end = rest.find(|c: char| c != '_' && !c.is_ascii_lowercase());
                    rest.get(..end?)
                        .filter(|name| !["", "record", own].contains(name))
                });
                for module in named.filter(|module| rules.iter().any(|rule| forbids(rule, module)))
                {
                    problems.push(format!(
                        "{}:{number}: {layer} must not know {module}",
                        source.path
                    ));
                }
            }
        }
        assert!(files > 0, "{layer} is gone: change the rule");
    }
    check(&problems);
}

#[test]
fn what_must_be_absent_is_absent() {
    let mut problems = Vec::new();
    for (part, words) in ABSENT {
        for source in rust().filter(|source| source.path.starts_with(part)) {
            for (number, line) in code(&source.text) {
                for word in words.iter().filter(|word| line.contains(*word)) {
                    let allowed = *word == "println!(" && line.contains("eprintln!(");
                    if !allowed {
                        problems.push(format!("{}:{number}: no {word:?} in {part}", source.path));
                    }
                }
            }
        }
    }
    check(&problems);
}

#[test]
fn files_are_short() {
    let long = rust().filter_map(|Source { path, text }| {
        let lines = text.lines().count();
        (lines > FILE_LINES_MAX)
            .then(|| format!("{path}: {lines} lines, {FILE_LINES_MAX} are allowed"))
    });
    check(&long.collect::<Vec<_>>());
}

/// Name and length of every function, as rustfmt lays it out: it ends at the brace below its beginning.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut functions = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let indent = &line[..line.len() - trimmed.len()];
        let qualifiers = ["pub", "pub(crate)", "pub(super)", "async", "const", "fn"];
        let mut words = trimmed
            .split(' ')
            .skip_while(|word| *word != "fn" && qualifiers.contains(word));
        let (Some("fn"), Some(rest)) = (words.next(), words.next()) else {
            continue;
        };
        if trimmed.ends_with(['}', ';']) {
            continue;
        }
        let ends = |line: &&str| {
            line.strip_prefix(indent)
                .is_some_and(|l| l == "}" || l.starts_with(')') && l.ends_with(';'))
        };
        let length = lines[start..].iter().position(ends).unwrap() + 1;
        let name = rest.split(['(', '<']).next().unwrap().to_owned();
        functions.push((name, length));
    }
    functions
}

#[test]
fn functions_fit_a_screen() {
    let mut problems = Vec::new();
    let mut known: Vec<_> = LONG_FUNCTIONS.to_vec();
    for Source { path, text } in rust() {
        for (name, lines) in functions(&text)
            .into_iter()
            .filter(|(_, lines)| *lines > FUNCTION_LINES_MAX)
        {
            let at = known
                .iter()
                .position(|(file, function, _)| *file == path && *function == name);
            let allowed = at.map_or(FUNCTION_LINES_MAX, |at| known.swap_remove(at).2);
            if lines > allowed {
                problems.push(format!(
                    "{path}: {name} has {lines} lines, {allowed} are allowed"
                ));
            }
        }
    }
    for (path, name, _) in known {
        problems.push(format!(
            "{path}: {name} is short now: take it from the list"
        ));
    }
    check(&problems);
}

#[test]
fn nothing_is_left_over() {
    let mut problems = Vec::new();
    for Source { path, text } in sources() {
        for (number, line) in text.lines().enumerate() {
            for (a, b) in LEFTOVERS {
                if line.contains(&format!("{a}{b}")) {
                    problems.push(format!("{path}:{}: {a}{b}", number + 1));
                }
            }
        }
    }
    check(&problems);
}

#[test]
fn every_file_says_what_it_is() {
    let silent = rust().filter(|source| !source.text.starts_with("//!"));
    check(
        &silent
            .map(|source| format!("{}: no words at the top", source.path))
            .collect::<Vec<_>>(),
    );
}
