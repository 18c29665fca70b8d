//! Rows in the binary format of PostgreSQL's `COPY ... FROM STDIN (FORMAT binary)`; see "File
//! Formats" under COPY in its manual. Many rows cost the server about half of what an `INSERT` of
//! arrays costs: it fills a page under one lock and writes one log record for it.

use proto::Uuid;

/// Signature, flags, length of the header's extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// In place of a row's number of columns.
const TRAILER: i16 = -1;
/// In place of a value's length.
const NULL: i32 = -1;

/// Rows to copy. Each row begins with [`CopyRows::row`] and has as many values as that says.
pub(crate) struct CopyRows {
    bytes: Vec<u8>,
}

impl CopyRows {
    /// `bytes`: about how many they will be.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        let mut rows = Self { bytes: Vec::with_capacity(HEADER.len() + bytes) };
        rows.bytes.extend_from_slice(HEADER);
        rows
    }

    pub(crate) fn row(&mut self, columns: i16) {
        self.bytes.extend_from_slice(&columns.to_be_bytes());
    }

    pub(crate) fn uuid(&mut self, value: &Uuid) {
        self.value(value.as_bytes());
    }

    pub(crate) fn bigint(&mut self, value: i64) {
        self.value(&value.to_be_bytes());
    }

    pub(crate) fn smallint(&mut self, value: i16) {
        self.value(&value.to_be_bytes());
    }

    /// A `text` or a `bytea`.
    pub(crate) fn value(&mut self, value: &[u8]) {
        // Far below: no request is that large.
        let length = i32::try_from(value.len()).unwrap_or(i32::MAX);
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(value);
    }

    /// A value, or NULL.
    pub(crate) fn maybe(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => self.value(value),
            None => self.bytes.extend_from_slice(&NULL.to_be_bytes()),
        }
    }

    /// What is sent.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&TRAILER.to_be_bytes());
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_between_header_and_trailer() {
        let mut rows = CopyRows::with_capacity(0);
        rows.row(3);
        rows.smallint(1);
        rows.maybe(None);
        rows.maybe(Some(b"ab"));
        let expected: &[u8] = &[
            &b"PGCOPY\n\xff\r\n\0"[..],
            &[0, 0, 0, 0, 0, 0, 0, 0],
            &[0, 3, 0, 0, 0, 2, 0, 1, 255, 255, 255, 255, 0, 0, 0, 2, b'a', b'b'],
            &[255, 255],
        ]
        .concat();
        assert_eq!(rows.finish(), expected);
    }
}
