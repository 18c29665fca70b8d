//! A request's target: path and query as they stand on the wire (RFC 9112 section 3.2.1).

/// Decoded path segments and query fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Target {
    pub(crate) segments: Vec<String>,
    pub(crate) query: Vec<(String, String)>,
}

impl Target {
    /// Nothing if the percent-encoding or the UTF-8 in it is broken.
    pub(crate) fn parse(target: &str) -> Option<Self> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let segments = path.strip_prefix('/')?.split('/').map(|it| decode(it, false));
        let fields = query.split('&').filter(|it| !it.is_empty()).map(|field| {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            Some((decode(name, true)?, decode(value, true)?))
        });
        Some(Self {
            segments: segments.collect::<Option<_>>()?,
            query: fields.collect::<Option<_>>()?,
        })
    }
}

/// Percent-decoding; in queries a plus sign is a space.
fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'+' if plus_is_space => bytes.push(b' '),
            b'%' => {
                let [high, low, tail @ ..] = rest else { return None };
                let digit = |byte: u8| char::from(byte).to_digit(16);
                bytes.push(u8::try_from(digit(*high)? * 16 + digit(*low)?).ok()?);
                rest = tail;
            }
            byte => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_split_and_decoded() {
        let target = Target::parse("/v1/users?query=a%20b+c&limit=5&empty=&x").unwrap();
        assert_eq!(target.segments, ["v1", "users"]);
        let query: Vec<_> =
            target.query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(query, [("query", "a b c"), ("limit", "5"), ("empty", ""), ("x", "")]);
        assert_eq!(Target::parse("/a%2Fb/c+d").unwrap().segments, ["a/b", "c+d"]);
    }

    #[test]
    fn broken_encodings_are_refused() {
        for target in ["", "v1/users", "/%", "/%2", "/%zz", "/a?b=%ff", "/%c3"] {
            assert_eq!(Target::parse(target), None, "{target}");
        }
    }
}
