//! The negotiation of permessage-deflate (RFC 7692 section 7.1).

const NAME: &str = "permessage-deflate";

/// What both ends will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// The client's window is smaller than ours: it gets messages as they are.
    small_window: Option<u8>,
}

impl Agreed {
    /// Whether what we send may be compressed.
    pub(crate) fn compresses(self) -> bool {
        self.small_window.is_none()
    }

    /// The client's window for what we send, as a power of two.
    pub(crate) fn window_bits(self) -> u8 {
        self.small_window.unwrap_or(15)
    }

    /// The response's header, ended by CR LF.
    pub(crate) fn header(self) -> String {
        let window = match self.small_window {
            Some(bits) => format!("; server_max_window_bits={bits}"),
            None => String::new(),
        };
        format!(
            "sec-websocket-extensions: {NAME}; server_no_context_takeover; client_no_context_takeover{window}\r\n"
        )
    }
}

/// The first offer that can be granted; `values` are those of Sec-WebSocket-Extensions.
pub(crate) fn negotiate<'a>(values: impl Iterator<Item = &'a str>) -> Option<Agreed> {
    values.flat_map(|value| value.split(',')).find_map(grant)
}

/// An offer with a parameter that is unknown, doubled or out of range is declined.
fn grant(offer: &str) -> Option<Agreed> {
    let mut parts = offer.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(NAME) {
        return None;
    }
    let mut agreed = Agreed { small_window: None };
    let mut seen = Vec::new();
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(value.trim().trim_matches('"'))),
            None => (part, None),
        };
        if seen.contains(&name) {
            return None;
        }
        seen.push(name);
        match (name, value) {
            ("server_no_context_takeover" | "client_no_context_takeover", None)
            | ("client_max_window_bits", None) => {}
            ("client_max_window_bits", Some(value)) => drop(bits(value)?),
            ("server_max_window_bits", Some(value)) => {
                agreed.small_window = Some(bits(value)?).filter(|bits| *bits < 15);
            }
            _ => return None,
        }
    }
    Some(agreed)
}

fn bits(value: &str) -> Option<u8> {
    let plain = value.len() <= 2 && value.bytes().all(|it| it.is_ascii_digit());
    value.parse().ok().filter(|it| plain && !value.starts_with('0') && (8..=15).contains(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreed(values: &[&str]) -> Option<String> {
        negotiate(values.iter().copied()).map(|it| it.header())
    }

    #[test]
    fn offers_are_granted_without_context_takeover() {
        let header = "sec-websocket-extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate;client_max_window_bits=10;server_max_window_bits=15",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            "x-webkit-deflate-frame, permessage-deflate",
            "permessage-deflate; server_max_window_bits=7, permessage-deflate",
            "permessage-deflate; server_max_window_bits=\"15\"",
        ] {
            assert_eq!(agreed(&[offer]), Some(format!("{header}\r\n")), "{offer}");
        }
        let small = agreed(&["other", "permessage-deflate; server_max_window_bits=9"]);
        assert_eq!(small, Some(format!("{header}; server_max_window_bits=9\r\n")));
        let small = negotiate(["permessage-deflate; server_max_window_bits=9"].into_iter());
        assert!(!small.unwrap().compresses());
    }

    #[test]
    fn offers_that_make_no_sense_are_declined() {
        for offer in [
            "",
            "permessage-bzip2",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=08",
            "permessage-deflate; client_max_window_bits=+9",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_max_window_bits; client_max_window_bits",
            "permessage-deflate; speed=9",
        ] {
            assert_eq!(agreed(&[offer]), None, "{offer}");
        }
    }
}
