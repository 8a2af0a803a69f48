//! The boundary between the halves of Sinter, read off the sources: the engine knows no HTTP, no
//! SQL and no async, the service knows nothing of Burn, and `spec` does neither.

use std::path::{Path, PathBuf};

const SERVICE: [&str; 6] = ["api", "store", "worker", "integrate", "telemetry", "cli"];
const ENGINE: [&str; 10] = [
    "engine", "onnx", "graph", "host", "exec", "data", "train", "prune", "distill", "search",
];

fn sources(room: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return;
        };
        for entry in entries {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&source.join(room), &mut found);
    let root = source.join(format!("{room}.rs"));
    if root.exists() {
        found.push(root);
    }
    found
}

/// Lines of code (not of comments) in which one of `words` stands as a path segment.
fn mentions(room: &str, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for path in sources(room) {
        let text = std::fs::read_to_string(&path).expect("a readable source");
        for (number, line) in text.lines().enumerate() {
            let code = line.trim_start();
            if code.starts_with("//") {
                continue;
            }
            let names = |word: &&&str| {
                code.match_indices(**word).any(|(start, _)| {
                    let before = code[..start].chars().next_back();
                    let rest = &code[start + word.len()..];
                    let own = !before.is_some_and(|c| c.is_alphanumeric() || c == '_');
                    own && (rest.starts_with("::") || rest.starts_with(';'))
                })
            };
            if words.iter().any(|word| names(&word)) {
                found.push(format!("{}:{}: {code}", path.display(), number + 1));
            }
        }
    }
    found
}

#[test]
fn the_engine_knows_no_http_no_sql_and_no_async() {
    let mut seen = 0;
    for room in ENGINE {
        seen += sources(room).len();
        let found = mentions(
            room,
            &["axum", "tokio", "sqlx", "tower_http", "hyper", "ureq"],
        );
        assert!(found.is_empty(), "{found:#?}");
        let found = mentions(room, &["crate::api", "crate::store", "crate::worker"]);
        assert!(found.is_empty(), "{found:#?}");
    }
    assert!(seen > 40, "only {seen} sources of the engine were found");
}

#[test]
fn the_service_touches_no_tensor() {
    let mut seen = 0;
    for room in SERVICE {
        seen += sources(room).len();
        let engine = [
            "crate::exec",
            "crate::graph",
            "crate::onnx",
            "crate::train",
            "crate::data",
        ];
        let found = mentions(room, &engine);
        assert!(found.is_empty(), "{found:#?}");
        let found = mentions(room, &["burn", "safetensors", "npyz", "prost"]);
        assert!(found.is_empty(), "{found:#?}");
    }
    assert!(seen > 25, "only {seen} sources of the service were found");
}

#[test]
fn the_language_between_them_does_no_input_or_output() {
    assert!(sources("spec").len() > 8);
    let words = [
        "burn",
        "axum",
        "tokio",
        "sqlx",
        "std::fs",
        "std::net",
        "std::process",
    ];
    let found = mentions("spec", &words);
    assert!(found.is_empty(), "{found:#?}");
}
