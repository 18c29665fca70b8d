//! Who asks.

use proto::Uuid;

/// A user on a device, as an access token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user_id: Uuid,
    pub(crate) device_id: Uuid,
}
