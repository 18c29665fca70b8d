//! The metrics registry, in Prometheus' text format.

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::{Metric, Registry};
use std::sync::{Arc, Mutex, PoisonError};

/// What Prometheus asks for as the content type of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Metrics of one daemon; names come from the daemon's own `metrics.rs`.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    /// Every metric is named `realchat_<daemon>_...`.
    #[must_use]
    pub fn new(daemon: &str) -> Self {
        let registry = Registry::with_prefix(format!("realchat_{daemon}"));
        Self { registry: Arc::new(Mutex::new(registry)) }
    }

    /// Registers `metric` and hands it back; keep it and count with it, it is shared.
    pub fn register<M: Metric + Clone>(&self, name: &'static str, help: &str, metric: M) -> M {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.register(name, help, metric.clone());
        metric
    }

    /// All metrics as they stand.
    #[must_use]
    pub fn text(&self) -> String {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &registry);
        text
    }
}
