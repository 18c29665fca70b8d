//! Which gateways have a topic of their own: all of these, and no others, are sent copies of what they may need.
//! Looked at by the topics thread; a list that is too old sends nothing, since a gateway may have come.

use crate::limits::DIRECTORY_MS_MAX;
use proto::topics;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Gateways, by name.
pub(crate) type Gateways = Arc<[Arc<str>]>;

#[derive(Clone, Default)]
pub(crate) struct Directory(Arc<Mutex<Option<(Instant, Gateways)>>>);

impl Directory {
    /// What the broker had at `asked_at` or later.
    pub(crate) fn tell<'a>(&self, asked_at: Instant, topics: impl Iterator<Item = &'a str>) {
        let mut names: Vec<Arc<str>> =
            topics.filter_map(topics::gateway_of).map(Arc::from).collect();
        names.sort_unstable();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Mostly nothing has changed.
        let before = seen.take().map(|(_, gateways)| gateways);
        let gateways = before.filter(|it| **it == names[..]).unwrap_or_else(|| names.into());
        *seen = Some((asked_at, gateways));
    }

    /// The gateways that there are, as of a moment ago.
    pub(crate) fn gateways(&self) -> Result<Gateways, String> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*seen {
            None => Err("the gateways' topics were not looked at yet".to_owned()),
            Some((at, _)) if at.elapsed() > Duration::from_millis(DIRECTORY_MS_MAX) => {
                Err(format!("the gateways' topics were not seen for {DIRECTORY_MS_MAX} ms"))
            }
            Some((_, gateways)) => Ok(Arc::clone(gateways)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_used_while_it_is_fresh() {
        let directory = Directory::default();
        assert!(directory.gateways().is_err());
        let topics = ["chat.gateway.b.v1", topics::MESSAGE_CREATED, "chat.gateway.a.v1", "x"];
        directory.tell(Instant::now(), topics.into_iter());
        let gateways = directory.gateways().unwrap();
        assert_eq!(gateways.iter().map(|it| &**it).collect::<Vec<_>>(), ["a", "b"]);
        let long_ago = Instant::now().checked_sub(Duration::from_millis(DIRECTORY_MS_MAX + 1));
        directory.tell(long_ago.unwrap(), topics.into_iter());
        assert!(directory.gateways().unwrap_err().contains("not seen for"));
    }
}
