//! The web chat and the JavaScript client, embedded by build.rs: `client/web` is served at `/`,
//! `client/js` at `/js/`.

/// One embedded file.
#[derive(Debug)]
pub(crate) struct Asset {
    /// As in the request's target, without the query.
    pub(crate) path: &'static str,
    pub(crate) content_type: &'static str,
    /// The `ETag` header's value, quotes included; changes with the content.
    pub(crate) entity_tag: &'static str,
    pub(crate) body: &'static [u8],
}

/// Sorted by path.
static ASSETS: &[Asset] = include!(concat!(env!("OUT_DIR"), "/web_assets.rs"));

/// The file at a path (without its query), if there is one.
pub(crate) fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.binary_search_by(|asset| asset.path.cmp(path)).ok().map(|index| &ASSETS[index])
}

/// Whether the client has this version already: the value of `If-None-Match` names its tag (RFC
/// 9110 section 13.1.2), weak or strong.
pub(crate) fn is_fresh(asset: &Asset, if_none_match: &str) -> bool {
    if_none_match
        .split(',')
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == asset.entity_tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_file_is_found_at_its_own_path_only() {
        assert!(ASSETS.is_sorted_by(|a, b| a.path < b.path));
        for asset in ASSETS {
            assert!(asset.path.starts_with('/') && !asset.path.contains(".."));
            assert_eq!(find(asset.path).unwrap().path, asset.path);
            assert_eq!(asset.entity_tag.len(), 18);
        }
        assert!(find("/../Cargo.toml").is_none());
        assert!(find("").is_none());
    }

    #[test]
    fn a_client_that_names_the_tag_is_fresh() {
        let asset = Asset { path: "/", content_type: "", entity_tag: "\"0a\"", body: b"" };
        for fresh in ["\"0a\"", "W/\"0a\"", "\"1\", \"0a\"", "*"] {
            assert!(is_fresh(&asset, fresh), "{fresh}");
        }
        for stale in ["", "\"0b\"", "0a"] {
            assert!(!is_fresh(&asset, stale), "{stale}");
        }
    }
}
