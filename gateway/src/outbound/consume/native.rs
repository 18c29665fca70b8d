//! The two things of librdkafka that the safe bindings do not offer as needed: a record's headers
//! without a check of their names that panics, and the watermarks that are known without asking.

use rdkafka::bindings;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
use std::ffi::{CStr, CString, c_void};
use std::ptr;

/// The headers of a record in their order. Names and values are whatever the producer wrote; a
/// header without a value has an empty one.
pub(super) fn headers<'m>(
    message: &'m BorrowedMessage<'_>,
) -> impl Iterator<Item = (&'m [u8], &'m [u8])> + use<'m> {
    let mut list = ptr::null_mut();
    // SAFETY: the message is alive while it is borrowed; `list` is an out parameter, which stays
    // null or is set to a list owned by the message.
    let error = unsafe { bindings::rd_kafka_message_headers(message.ptr(), &raw mut list) };
    let has_headers = error == RD_KAFKA_RESP_ERR_NO_ERROR && !list.is_null();
    (0..).map_while(move |index| {
        if !has_headers {
            return None;
        }
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null::<c_void>(), 0);
        // SAFETY: the list belongs to the message, which is borrowed for 'm; the rest are out
        // parameters. An index past the end is an error.
        let error = unsafe {
            bindings::rd_kafka_header_get_all(
                list,
                index,
                &raw mut name,
                &raw mut value,
                &raw mut size,
            )
        };
        if error != RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
            return None;
        }
        // SAFETY: librdkafka terminates a header's name with a zero; it lives as long as the list.
        let name: &'m [u8] = unsafe { CStr::from_ptr(name) }.to_bytes();
        let value: &'m [u8] = if value.is_null() {
            &[]
        } else {
            // SAFETY: the value is `size` bytes that live as long as the list.
            unsafe { std::slice::from_raw_parts(value.cast(), size) }
        };
        Some((name, value))
    })
}

/// The offset of the record that will be produced next, as of the last fetch; None before it.
pub(super) fn high_watermark<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topic: &str,
    partition: i32,
) -> Option<i64> {
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the client is alive while the consumer is borrowed; the rest are a terminated name
    // and out parameters.
    let error = unsafe {
        bindings::rd_kafka_get_watermark_offsets(
            consumer.client().native_ptr(),
            topic.as_ptr(),
            partition,
            &raw mut low,
            &raw mut high,
        )
    };
    (error == RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(high)
}
