//! Embeds the web chat and the JavaScript client: writes a table of paths, content types, entity
//! tags and `include_bytes!` for every file under `client/web` and `client/js`.

use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Folder, and what its files' paths begin with on the wire.
const FOLDERS: [(&str, &str); 2] = [("../client/web", "/"), ("../client/js", "/js/")];
/// Extension and content type; other files are not served.
const CONTENT_TYPES: [(&str, &str); 9] = [
    ("css", "text/css; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("ico", "image/x-icon"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("png", "image/png"),
    ("svg", "image/svg+xml"),
    ("webmanifest", "application/manifest+json"),
];
/// Folders and files that are there for development alone.
const NOT_SERVED: [&str; 6] =
    ["node_modules", "test", "tests", "package.json", "package-lock.json", "tsconfig.json"];

struct Asset {
    path: String,
    content_type: &'static str,
    entity_tag: String,
    file: PathBuf,
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?);
    let mut assets = Vec::new();
    for (folder, prefix) in FOLDERS {
        println!("cargo:rerun-if-changed={folder}");
        let folder = root.join(folder);
        if folder.is_dir() {
            collect(&folder.canonicalize()?, prefix, &mut assets)?;
        }
    }
    assets.sort_by(|a, b| a.path.cmp(&b.path));
    let mut table = String::from("&[\n");
    for asset in &assets {
        let Asset { path, content_type, entity_tag, file } = asset;
        writeln!(
            table,
            "Asset {{ path: {path:?}, content_type: {content_type:?}, \
             entity_tag: {entity_tag:?}, body: include_bytes!({file:?}) }},"
        )?;
    }
    table.push(']');
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    fs::write(out.join("web_assets.rs"), table)?;
    Ok(())
}

fn collect(folder: &Path, prefix: &str, assets: &mut Vec<Asset>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let file = entry?.path();
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.is_empty() || name.starts_with('.') || NOT_SERVED.contains(&name) {
            continue;
        }
        if file.is_dir() {
            collect(&file, &format!("{prefix}{name}/"), assets)?;
            continue;
        }
        let extension = file.extension().and_then(|it| it.to_str()).unwrap_or_default();
        let known = CONTENT_TYPES.iter().find(|(it, _)| *it == extension);
        let Some((_, content_type)) = known else { continue };
        let path = format!("{prefix}{name}");
        let path = path.strip_suffix("index.html").unwrap_or(&path).to_owned();
        let entity_tag = format!("\"{:016x}\"", fnv1a(&fs::read(&file)?));
        assets.push(Asset { path, content_type, entity_tag, file });
    }
    Ok(())
}

/// FNV-1a, 64 bits: tells versions of a file apart, no more.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
