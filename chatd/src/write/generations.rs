//! A map by conversation that is bounded by what its entries weigh, and forgets those that are not used:
//! when the newer generation has half of the weight it becomes the older one, whose entries are gone
//! with the next change unless somebody asked for them.

use proto::Uuid;
use std::collections::HashMap;

#[derive(Debug)]
pub(super) struct Generations<V> {
    weight_max: usize,
    newer: HashMap<Uuid, (V, usize)>,
    older: HashMap<Uuid, (V, usize)>,
    newer_weight: usize,
}

impl<V> Generations<V> {
    pub(super) fn new(weight_max: usize) -> Self {
        Self { weight_max, newer: HashMap::new(), older: HashMap::new(), newer_weight: 0 }
    }

    pub(super) fn get(&mut self, id: &Uuid) -> Option<&V> {
        if !self.newer.contains_key(id) {
            let (value, weight) = self.older.remove(id)?;
            self.put(*id, value, weight);
        }
        self.newer.get(id).map(|(value, _)| value)
    }

    pub(super) fn put(&mut self, id: Uuid, value: V, weight: usize) {
        if self.newer_weight + weight > self.weight_max / 2 {
            self.older = std::mem::take(&mut self.newer);
            self.newer_weight = 0;
        }
        self.newer_weight += weight;
        if let Some((_, before)) = self.newer.insert(id, (value, weight)) {
            self.newer_weight = self.newer_weight.saturating_sub(before);
        }
    }

    pub(super) fn forget(&mut self, id: &Uuid) {
        if let Some((_, weight)) = self.newer.remove(id) {
            self.newer_weight = self.newer_weight.saturating_sub(weight);
        }
        self.older.remove(id);
    }

    /// Entries of both generations.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.newer.len() + self.older.len()
    }
}
