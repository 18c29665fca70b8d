//! The webhook over HTTP: one signed POST at a time.

use super::answer::Answer;
use super::batch::{id, signature};
use crate::config::Webhook;
use crate::limits::WEBHOOK_ANSWER_BYTES_MAX;
use daemon::clock::now_us;
use std::sync::Arc;
use ureq::Agent;
use ureq::http::Response;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

const BATCH_ID: &str = "X-RealChat-Batch-Id";
const SIGNATURE: &str = "X-RealChat-Signature";

pub(super) struct Client {
    agent: Agent,
    webhook: Webhook,
}

impl Client {
    pub(super) fn new(webhook: Webhook) -> Self {
        let mut tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()));
        if webhook.url.starts_with("https:") {
            // Those that cannot be read are not believed.
            let system = rustls_native_certs::load_native_certs().certs;
            let roots = system.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
            tls = tls.root_certs(RootCerts::Specific(Arc::new(roots)));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .tls_config(tls.build())
            .timeout_global(Some(webhook.timeout))
            .user_agent(concat!("realchat-relay/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.new_agent(), webhook }
    }

    pub(super) fn post(&self, body: &str) -> Answer {
        let unix_s = now_us() / 1_000_000;
        let sent = self
            .agent
            .post(&self.webhook.url)
            .header("Content-Type", "application/json")
            .header(BATCH_ID, id(body))
            .header(SIGNATURE, signature(&self.webhook.secret, unix_s, body))
            .send(body);
        match sent {
            Ok(mut response) => {
                // So that the connection can be used again; what is in it says nothing more.
                let rest = response.body_mut().with_config().limit(WEBHOOK_ANSWER_BYTES_MAX);
                let _ = rest.read_to_vec();
                answer(&response)
            }
            Err(error) => Answer::Nothing(error.to_string()),
        }
    }
}

fn answer<T>(response: &Response<T>) -> Answer {
    let retry_after = response.headers().get("Retry-After");
    let retry_after = retry_after.and_then(|it| it.to_str().ok()).map(str::to_owned);
    Answer::Status { code: response.status().as_u16(), retry_after }
}
