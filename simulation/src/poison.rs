//! Records in the log that nobody of ours wrote: each reader must say so, and go on behind them.

use crate::broker::LogRecord;
use fastrand::Rng;
use proto::client::{Event, ServerFrame, server_frame::Frame};
use proto::record::RecordHeaders;
use proto::{Message, headers, topics};

/// One record, wrong in one way.
pub(crate) fn record(random: &mut Rng) -> LogRecord {
    let key = random.u128(..).to_be_bytes();
    let event = Event { conversation_id: key.to_vec(), ..Event::default() };
    let value = ServerFrame { request_id: 0, frame: Some(Frame::Event(event)) }.encode_to_vec();
    let named = RecordHeaders { recipients: key.to_vec(), ..RecordHeaders::default() };
    let good = LogRecord::new(topics::MESSAGE_CREATED, &key, &value, &named);
    let wrong = match random.u8(..5) {
        0 => LogRecord { value: random.u128(..).to_be_bytes().to_vec(), ..good },
        1 => LogRecord { value: Vec::new(), ..good },
        2 => LogRecord { key: key[1..].to_vec(), ..good },
        3 => LogRecord { headers: Vec::new(), ..good },
        _ => LogRecord { headers: vec![(headers::SEQUENCE_NUMBER, b"-1".to_vec())], ..good },
    };
    LogRecord { is_poison: true, ..wrong }
}
