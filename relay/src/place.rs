//! Where PostgreSQL keeps a row: its `ctid`.

use bytes::{BufMut, BytesMut};
use postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use std::error::Error;

/// A row's place as PostgreSQL sends it: the page's number and the row's on the page.
///
/// A row that was read is deleted by it, without looking for it in the index again. An update or a
/// rewrite of the table moves a row, and another may come where it was: whoever goes by a place
/// checks what is found there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place([u8; 6]);

/// What a row is deleted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowId {
    pub id: i64,
    pub place: Place,
}

impl<'a> FromSql<'a> for Place {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw.try_into()?))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TID
    }
}

impl ToSql for Place {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TID
    }

    to_sql_checked!();
}
